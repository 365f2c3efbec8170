//! Who was heard, on its way up the tree. Every poll carries the ids of those below that gave a sign
//! of life since the poll before, so the leader learns who is silent from a few short lists and
//! nothing is written anywhere.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// A sign of life of a member below.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::consensus) struct Sign {
    /// Its id, as the distance from the one before it in the list: a byte each in a dense fleet.
    step: u64,
    /// Entries that it is behind the one that it polled.
    pub(in crate::consensus) behind: u64,
}

#[cfg(test)]
impl Sign {
    pub(super) fn sample(step: u64, behind: u64) -> Self {
        Self { step, behind }
    }
}

/// Signs in the order of their ids.
pub(in crate::consensus) type Signs = Vec<Sign>;

/// What was heard and not yet passed on.
#[derive(Debug, Default)]
pub(in crate::consensus) struct Heard {
    waiting: Mutex<BTreeMap<u64, (Instant, u64)>>,
}

impl Heard {
    /// Notes signs that came up from below.
    pub(in crate::consensus) fn note(&self, now: Instant, signs: impl IntoIterator<Item = (u64, u64)>) {
        self.lock().extend(signs.into_iter().map(|(id, behind)| (id, (now, behind))));
    }

    /// Takes what is to be passed on. What is older than `within` says nothing any more.
    pub(in crate::consensus) fn take(&self, now: Instant, within: Duration) -> BTreeMap<u64, (Instant, u64)> {
        let mut taken = std::mem::take(&mut *self.lock());
        taken.retain(|_, (at, _)| now.saturating_duration_since(*at) <= within);
        taken
    }

    /// Puts back what could not be passed on; what was heard meanwhile is newer.
    pub(in crate::consensus) fn put_back(&self, taken: BTreeMap<u64, (Instant, u64)>) {
        let mut waiting = self.lock();
        for (id, sign) in taken {
            waiting.entry(id).or_insert(sign);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, (Instant, u64)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The list that travels.
pub(in crate::consensus) fn pack(taken: &BTreeMap<u64, (Instant, u64)>) -> Signs {
    let mut before = 0;
    let step = |(&id, &(_, behind)): (&u64, &(Instant, u64))| {
        let step = id - before;
        before = id;
        Sign { step, behind }
    };
    taken.iter().map(step).collect()
}

/// The ids of a list, and how far each is behind. A list that lies about its length ends early.
pub(in crate::consensus) fn unpack(signs: &[Sign]) -> impl Iterator<Item = (u64, u64)> {
    signs.iter().scan(0u64, |id, sign| {
        *id = id.checked_add(sign.step)?;
        Some((*id, sign.behind))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::codec;

    #[test]
    fn signs_travel_packed_and_old_ones_are_dropped() {
        let heard = Heard::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let within = Duration::from_secs(5);
        heard.note(at(0), [(40, 0), (7, 3)]);
        heard.note(at(3), [(41, 1)]);
        let taken = heard.take(at(3), within);
        assert_eq!(unpack(&pack(&taken)).collect::<Vec<_>>(), [(7, 3), (40, 0), (41, 1)]);
        assert!(heard.take(at(3), within).is_empty());

        heard.note(at(6), [(7, 0)]);
        heard.put_back(taken);
        let left = heard.take(at(6), within);
        assert_eq!(unpack(&pack(&left)).collect::<Vec<_>>(), [(7, 0), (41, 1)]);
    }

    #[test]
    fn a_thousand_signs_are_two_bytes_each() {
        let taken = (1..=1000).map(|id| (id, (Instant::now(), 0))).collect();
        assert!(codec::encode(&pack(&taken)).unwrap().len() < 2010);
        let wild = [Sign { step: u64::MAX, behind: 0 }, Sign { step: 9, behind: 0 }];
        assert_eq!(unpack(&wild).count(), 1);
    }
}
