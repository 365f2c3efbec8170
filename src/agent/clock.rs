//! The device's wall clock, with a floor: it never shows a moment before this build was made, nor
//! one before the latest that it has seen written in the fleet's state.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::resource::Timestamp;

/// 2026-11-01T00:00:00Z: no device that runs this release lives before it.
const BUILT_AFTER: u64 = 1_793_491_200_000;

/// A wall clock that does not fall behind what is known.
#[derive(Debug)]
pub struct Clock {
    floor: AtomicU64,
}

impl Default for Clock {
    fn default() -> Self {
        Self { floor: AtomicU64::new(BUILT_AFTER) }
    }
}

impl Clock {
    /// Now, in wall-clock time.
    pub fn now(&self) -> Timestamp {
        let floor = self.floor.load(Ordering::Relaxed);
        let system = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(u64::try_from(system.as_millis()).unwrap_or(u64::MAX).max(floor))
    }

    /// Raises the floor to a moment that a peer or the state has proved to be past.
    pub fn raise(&self, seen: Timestamp) {
        self.floor.fetch_max(seen.0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_only_rises() {
        let clock = Clock::default();
        let far = clock.now().plus(std::time::Duration::from_hours(1));
        clock.raise(far);
        clock.raise(Timestamp(1));
        assert!(clock.now() >= far);
    }
}
