//! How old the first entry is that a member misses: a few samples of how the log grew.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// Samples kept: those that tell most, so that old ones are further apart than new ones.
const SAMPLES: usize = 128;

/// When the leader's log had reached which length.
#[derive(Debug, Default)]
pub(super) struct LagClock {
    samples: VecDeque<(u64, Instant)>,
}

impl LagClock {
    /// Notes that the log has this many entries now.
    pub(super) fn observe(&mut self, entries: u64, now: Instant) {
        if self.samples.back().is_some_and(|(known, _)| *known >= entries) {
            return;
        }
        self.samples.push_back((entries, now));
        if self.samples.len() > SAMPLES {
            let least = (1..self.samples.len() - 1).min_by_key(|&index| self.loss_without(index, now));
            least.and_then(|index| self.samples.remove(index));
        }
    }

    /// How much less would be known without a sample: the gap that it would leave, for its age.
    fn loss_without(&self, index: usize, now: Instant) -> u128 {
        let at = |index: usize| self.samples.get(index).map_or(now, |(_, at)| *at);
        let gap = at(index + 1).saturating_duration_since(at(index - 1)).as_micros();
        gap * 1_000_000 / (now.saturating_duration_since(at(index)).as_micros() + 1)
    }

    /// How long ago the log grew beyond this many entries: how far behind somebody is who has
    /// only those. At most as long as this device has led.
    pub(super) fn behind(&self, entries: u64, now: Instant) -> Duration {
        let missed = self.samples.iter().find(|(length, _)| *length > entries);
        missed.map_or(Duration::ZERO, |(_, at)| now.saturating_duration_since(*at))
    }

    /// Forgets everything: another leader begins.
    pub(super) fn clear(&mut self) {
        self.samples.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_as_late_as_the_first_entry_that_it_misses() {
        let mut clock = LagClock::default();
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        for second in 0..1000 {
            clock.observe(second * 10, at(second));
        }
        assert_eq!(clock.behind(9_990, at(1000)), Duration::ZERO);
        assert_eq!(clock.behind(9_985, at(1000)), Duration::from_secs(1));
        let old = clock.behind(5_000, at(1000)).as_secs();
        assert!((400..=500).contains(&old), "{old}");
        assert!(clock.samples.len() <= SAMPLES);
        clock.clear();
        assert_eq!(clock.behind(0, at(1000)), Duration::ZERO);
    }
}
