//! The device's wall clock, with a floor under one that can not be right: it never shows a moment
//! before this build was made. A clock that does, such as one that starts in 1970, counts on from the
//! latest write that the fleet's state holds instead. Nothing is written for it: the state is.
//! A clock that may be right is left alone: one device far ahead must not take the others with it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::resource::Timestamp;

/// 2026-11-01T00:00:00Z: no device that runs this release lives before it.
pub(crate) const BUILT_AFTER: Timestamp = Timestamp(1_793_491_200_000);

/// A wall clock that does not fall behind what is known.
#[derive(Debug)]
pub struct Clock {
    /// The latest moment that is known to be past, and when it was learned.
    floor: Mutex<(Timestamp, Instant)>,
}

impl Default for Clock {
    fn default() -> Self {
        Self { floor: Mutex::new((BUILT_AFTER, Instant::now())) }
    }
}

impl Clock {
    /// Now, in wall-clock time.
    pub fn now(&self) -> Timestamp {
        let system = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.over(Timestamp(u64::try_from(system.as_millis()).unwrap_or(u64::MAX)))
    }

    fn over(&self, system: Timestamp) -> Timestamp {
        if system >= BUILT_AFTER {
            return system;
        }
        let (floor, learned) = *self.floor();
        floor.plus(learned.elapsed())
    }

    /// Raises the floor to a moment that the fleet's state has proved to be past.
    pub fn raise(&self, seen: Timestamp) {
        let mut floor = self.floor();
        if seen > floor.0.plus(floor.1.elapsed()) {
            *floor = (seen, Instant::now());
        }
    }

    fn floor(&self) -> MutexGuard<'_, (Timestamp, Instant)> {
        self.floor.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const YEAR: std::time::Duration = std::time::Duration::from_hours(365 * 24);

    #[test]
    fn a_clock_in_1970_counts_on_from_what_the_fleet_knows() {
        let clock = Clock::default();
        assert!(clock.over(Timestamp(5)) >= BUILT_AFTER);
        let known = BUILT_AFTER.plus(YEAR * 3);
        clock.raise(known);
        clock.raise(BUILT_AFTER);
        let first = clock.over(Timestamp(5));
        assert!(first >= known);
        while clock.over(Timestamp(6)) == first {}
    }

    #[test]
    fn a_clock_that_may_be_right_is_not_moved_by_one_that_is_ahead() {
        let clock = Clock::default();
        clock.raise(BUILT_AFTER.plus(YEAR * 10));
        let own = BUILT_AFTER.plus(YEAR);
        assert_eq!(clock.over(own), own);
    }
}
