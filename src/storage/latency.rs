//! How long this device's disk takes to make entries safe: the last few times, and their
//! percentile. It only remembers; who leads is decided elsewhere.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Times that are remembered.
const WINDOW: usize = 64;
/// Fewer of them say nothing.
const ENOUGH: usize = 16;

/// The last times from an append until its entries were on the disk. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct SyncTimes(Arc<Mutex<VecDeque<Duration>>>);

impl SyncTimes {
    /// Notes how long one append took.
    pub fn record(&self, took: Duration) {
        let mut times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if times.len() == WINDOW {
            times.pop_front();
        }
        times.push_back(took);
    }

    /// The time that nine of ten of the last appends kept; `None` while there were too few.
    pub fn ninth_of_ten(&self) -> Option<Duration> {
        let times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if times.len() < ENOUGH {
            return None;
        }
        let mut sorted: Vec<Duration> = times.iter().copied().collect();
        sorted.sort_unstable();
        sorted.get(sorted.len() * 9 / 10).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slow_write_is_no_slow_disk() {
        let times = SyncTimes::default();
        let millis = Duration::from_millis;
        for _ in 0..ENOUGH - 1 {
            times.record(millis(1));
        }
        assert_eq!(times.ninth_of_ten(), None);
        times.record(millis(900));
        assert_eq!(times.ninth_of_ten(), Some(millis(1)));
        for _ in 0..WINDOW {
            times.record(millis(40));
        }
        assert_eq!(times.ninth_of_ten(), Some(millis(40)));
    }
}
