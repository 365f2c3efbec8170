//! Who stays connected. A member that comes and goes must stay longer each time before it may
//! vote. What is known here is soft: a new leader begins anew.

use std::collections::BTreeMap;
use std::time::Duration;

/// Doublings of the time that a member must stay after it came and went.
const DOUBLINGS: u32 = 6;

/// Whether a member was connected for long enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steady {
    /// It was.
    Enough,
    /// Not yet.
    For {
        /// How long it is connected; zero when it is not.
        so_far: Duration,
        /// How long it must be.
        needed: Duration,
    },
}

#[derive(Clone, Copy, Debug)]
struct Record {
    /// When it came, on the leader's clock; `None` while it is away.
    since: Option<Duration>,
    gaps: u32,
}

/// How long each member has been connected without a gap. Times count from any fixed moment.
#[derive(Clone, Debug, Default)]
pub struct Steadiness {
    known: BTreeMap<u64, Record>,
}

impl Steadiness {
    /// Takes in who is there now: member id, and whether it is heard of. Those that are not named
    /// are forgotten.
    pub fn observe(&mut self, now: Duration, heard: impl IntoIterator<Item = (u64, bool)>, needed: Duration) {
        let before = std::mem::take(&mut self.known);
        for (id, there) in heard {
            let record = match (before.get(&id).copied(), there) {
                (None, there) => Record { since: there.then_some(now), gaps: 0 },
                (Some(Record { since: Some(_), gaps }), false) => {
                    Record { since: None, gaps: (gaps + 1).min(DOUBLINGS) }
                }
                (Some(Record { since: None, gaps }), true) => Record { since: Some(now), gaps },
                (Some(Record { since: Some(since), gaps }), true) => {
                    // Eight times as long as it had to: what was before is forgiven.
                    let forgiven = now.saturating_sub(since) >= needed_after(gaps, needed) * 8;
                    Record { since: Some(since), gaps: if forgiven { 0 } else { gaps } }
                }
                (Some(away), false) => away,
            };
            self.known.insert(id, record);
        }
    }

    /// Whether a member stayed long enough.
    pub fn of(&self, id: u64, now: Duration, needed: Duration) -> Steady {
        let record = self.known.get(&id).copied().unwrap_or(Record { since: None, gaps: 0 });
        let needed = needed_after(record.gaps, needed);
        let so_far = record.since.map_or(Duration::ZERO, |since| now.saturating_sub(since));
        if record.since.is_some() && so_far >= needed { Steady::Enough } else { Steady::For { so_far, needed } }
    }

    /// Forgets everyone: another leader begins.
    pub fn clear(&mut self) {
        self.known.clear();
    }
}

fn needed_after(gaps: u32, needed: Duration) -> Duration {
    needed * 2u32.pow(gaps.min(DOUBLINGS))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_member_that_stays_is_steady_and_one_that_flaps_never_is() {
        let mut seen = Steadiness::default();
        for tick in 0..600u32 {
            let now = SECOND * tick;
            // Member 2 is away for one second of each five.
            seen.observe(now, [(1, true), (2, tick % 5 != 4)], SECOND);
            if tick >= 1 {
                assert_eq!(seen.of(1, now, SECOND), Steady::Enough, "at {tick}");
            }
            if tick > 20 {
                assert_ne!(seen.of(2, now, SECOND), Steady::Enough, "at {tick}");
            }
        }
        assert_eq!(seen.of(3, SECOND, SECOND), Steady::For { so_far: Duration::ZERO, needed: SECOND });
    }

    #[test]
    fn what_is_long_ago_is_forgiven() {
        let mut seen = Steadiness::default();
        for tick in 0..8u32 {
            seen.observe(SECOND * tick, [(1, tick % 2 == 0)], SECOND);
        }
        let (back, gaps) = (SECOND * 8, 4);
        seen.observe(back, [(1, true)], SECOND);
        let needed = SECOND * 2u32.pow(gaps);
        assert_eq!(seen.of(1, back, SECOND), Steady::For { so_far: Duration::ZERO, needed });
        seen.observe(back + needed * 8, [(1, true)], SECOND);
        seen.observe(back + needed * 8 + SECOND, [(1, false)], SECOND);
        seen.observe(back + needed * 8 + SECOND * 2, [(1, true)], SECOND);
        let now = back + needed * 8 + SECOND * 4;
        assert_eq!(seen.of(1, now, SECOND), Steady::Enough);
        seen.clear();
        assert_ne!(seen.of(1, now, SECOND), Steady::Enough);
    }
}
