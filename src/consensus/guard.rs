//! Whether a message comes from the device that the fleet means, and whether this device may take
//! part itself. It compares what a message says of its sender (epoch, and which start of the agent
//! it is) with what the fleet has recorded; it never decides what becomes of a device: the leader's
//! agent does.
//!
//! What this rules out, and what not:
//! - An **epoch** is the fleet between two recoveries. A vote, an entry or an answer of another epoch
//!   is refused on both sides, so votes of an old epoch never count in a new one.
//! - Each **run** (start of an agent) has a higher counter than the one before, on the disk before
//!   it is used. Of one member only the recorded run, or a later one, is heard. An older image of a
//!   disk comes with an older counter: neither its votes nor its acknowledgements count with anyone
//!   whose replica has the record. A candidate whose own replica is older than the record can still
//!   take them; the record is committed at the start of each run, so this needs the device to have
//!   been rolled back by a whole run *and* every up-to-date voter to be away at once.
//! - Two **copies** that run at once have different runs. Each peer hears only one of them: the one
//!   with the higher counter, and with equal counters the one that came first. A copy on other
//!   hardware takes no part before the leader has looked at it, so it never votes. Two copies whose
//!   hardware can not be told apart (a virtual machine that was cloned with its serial number and
//!   its network addresses) can vote twice in one term only if they vote for two candidates that
//!   can not hear each other, before either of them was recorded by a leader.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::identity::{Epoch, Run, Stamp};

/// What the fleet has recorded of one member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Its latest run that a leader has registered.
    pub run: Run,
    /// Why it is fenced: nobody hears it, whichever run it is.
    pub fenced: Option<String>,
}

/// The fleet's records, by member id.
pub type Roll = BTreeMap<u64, Record>;

/// With what a device enters the engine.
#[derive(Clone, Debug, Default)]
pub struct Presence {
    /// Its epoch and its run.
    pub stamp: Stamp,
    /// Whether it may take part; [`Verdict::Clear`] for one that nothing speaks against.
    pub verdict: Verdict,
}

/// Whether this device may take part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Verdict {
    /// It may.
    #[default]
    Clear,
    /// Not before the leader has looked at it.
    Unproven {
        /// What speaks against it.
        why: String,
    },
    /// The fleet goes on in a later epoch.
    OldEpoch {
        /// That one.
        current: Epoch,
    },
    /// The fleet knows a later run of this device.
    OldRun {
        /// That one.
        recorded: Run,
    },
    /// The fleet hears nobody with this device's key.
    Fenced {
        /// Why.
        reason: String,
    },
}

impl Verdict {
    /// Why this device takes no part, for people; empty when it may.
    pub fn why(&self) -> String {
        match self {
            Self::Clear => String::new(),
            Self::Unproven { why } => why.clone(),
            Self::OldEpoch { current } => format!("the fleet was recovered and goes on in epoch {current}"),
            Self::OldRun { recorded } => format!("the fleet knows a later run of this device, {recorded}"),
            Self::Fenced { reason } => format!("this device is fenced: {reason}"),
        }
    }
}

/// Why a message is not heard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Objection {
    /// The sender lives in another epoch than the receiver.
    Epoch { receiver: Epoch },
    /// The fleet knows a later run of the sender.
    Run { recorded: Run },
    /// The sender is fenced.
    Fenced { reason: String },
}

/// Runs of one member whose signs of life are remembered.
const SIGNS: usize = 4;

/// A run gave a sign of life.
#[derive(Clone, Copy, Debug)]
struct Sign {
    run: Run,
    at: Instant,
}

/// The guard of one engine.
pub(super) struct Guard {
    own: Stamp,
    verdict: watch::Sender<Verdict>,
    /// Somebody lives in another epoch of the same number.
    rival: AtomicBool,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    roll: Roll,
    heard: BTreeMap<u64, Run>,
    /// The latest runs of each member that gave a sign of life, whether it counted or not.
    signs: BTreeMap<u64, Vec<Sign>>,
}

impl Guard {
    pub(super) fn new(presence: Presence) -> Self {
        Self {
            own: presence.stamp,
            verdict: watch::Sender::new(presence.verdict),
            rival: AtomicBool::new(false),
            known: Mutex::default(),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn stamp(&self) -> Stamp {
        self.own
    }

    pub(super) fn verdict(&self) -> watch::Receiver<Verdict> {
        self.verdict.subscribe()
    }

    pub(super) fn is_clear(&self) -> bool {
        *self.verdict.borrow() == Verdict::Clear
    }

    /// The verdict from now on. A fence is never lifted, and a lesser doubt never hides a graver one.
    pub(super) fn judge(&self, now: Verdict) {
        self.verdict.send_if_modified(|known| {
            let final_word = matches!(known, Verdict::Fenced { .. });
            if final_word || *known == now {
                return false;
            }
            *known = now;
            true
        });
    }

    /// What the fleet has recorded. The own record counts too.
    pub(super) fn set_roll(&self, me: u64, roll: Roll) {
        if let Some(reason) = roll.get(&me).and_then(|record| record.fenced.clone()) {
            self.judge(Verdict::Fenced { reason });
        }
        let mut known = self.known();
        known.heard.retain(|id, _| roll.contains_key(id));
        known.signs.retain(|id, _| roll.contains_key(id));
        known.roll = roll;
    }

    /// Notes a sign of life of a run, whether it counts or not.
    pub(super) fn note(&self, id: u64, run: Run) {
        self.known().note(id, run);
    }

    /// A run of a member other than this one that gave a sign of life after a moment.
    pub(super) fn other_since(&self, id: u64, run: Run, since: Instant) -> Option<Run> {
        let known = self.known();
        let signs = known.signs.get(&id)?;
        signs.iter().find(|sign| sign.run != run && sign.at > since).map(|sign| sign.run)
    }

    /// The latest run of a member that is known here.
    pub(super) fn latest(&self, id: u64) -> Option<Run> {
        self.known().latest(id)
    }

    /// Whether a message of a member counts. One of a later epoch also tells this device that it
    /// has been left behind.
    pub(super) fn hear(&self, from: u64, sender: Stamp) -> Result<(), Objection> {
        if sender.epoch != self.own.epoch {
            self.learn_epoch(sender.epoch);
            return Err(Objection::Epoch { receiver: self.own.epoch });
        }
        self.known().hear(from, sender.run)
    }

    /// Takes in what a peer says against this device.
    pub(super) fn accused(&self, objection: &Objection) {
        match objection {
            Objection::Epoch { receiver } => self.learn_epoch(*receiver),
            Objection::Run { recorded } => {
                // Only a doubt about this very run: an objection may have been on its way for long.
                if *recorded != self.own.run && recorded.starts >= self.own.run.starts {
                    self.judge(Verdict::OldRun { recorded: *recorded });
                }
            }
            Objection::Fenced { reason } => self.judge(Verdict::Fenced { reason: reason.clone() }),
        }
    }

    /// Whether somebody was heard who lives in another epoch of the same number.
    pub(super) fn has_rival(&self) -> bool {
        self.rival.load(Ordering::Relaxed)
    }

    /// Two recoveries from one epoch have the same number: neither gives way by itself.
    fn learn_epoch(&self, other: Epoch) {
        if other != self.own.epoch && other.number() == self.own.epoch.number() {
            self.rival.store(true, Ordering::Relaxed);
        }
        if other.number() > self.own.epoch.number() {
            self.judge(Verdict::OldEpoch { current: other });
        }
    }
}

impl Known {
    fn latest(&self, id: u64) -> Option<Run> {
        let recorded = self.roll.get(&id).map(|record| record.run);
        let heard = self.heard.get(&id).copied();
        match (recorded, heard) {
            (Some(recorded), Some(heard)) => Some(if heard.starts > recorded.starts { heard } else { recorded }),
            (one, other) => one.or(other),
        }
    }

    fn note(&mut self, id: u64, run: Run) {
        let at = Instant::now();
        let signs = self.signs.entry(id).or_default();
        if let Some(sign) = signs.iter_mut().find(|sign| sign.run == run) {
            sign.at = at;
            return;
        }
        if signs.len() == SIGNS {
            signs.remove(0);
        }
        signs.push(Sign { run, at });
    }

    fn hear(&mut self, from: u64, run: Run) -> Result<(), Objection> {
        if run.starts > 0 {
            self.note(from, run);
        }
        if let Some(reason) = self.roll.get(&from).and_then(|record| record.fenced.clone()) {
            return Err(Objection::Fenced { reason });
        }
        if run.starts == 0 {
            return Ok(());
        }
        match self.latest(from) {
            Some(latest) if latest != run && latest.starts >= run.starts => Err(Objection::Run { recorded: latest }),
            _ => {
                self.heard.insert(from, run);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(starts: u64, nonce: u64) -> Run {
        Run { starts, nonce }
    }

    fn stamp(epoch: u64, run: Run) -> Stamp {
        Stamp { epoch: Epoch(epoch << 32), run }
    }

    fn guard() -> Guard {
        Guard::new(Presence { stamp: stamp(2, run(7, 1)), verdict: Verdict::Clear })
    }

    fn recorded(run: Run) -> Roll {
        [(3, Record { run, fenced: None })].into()
    }

    #[tokio::test]
    async fn another_epoch_is_refused_and_a_later_one_is_believed() {
        let guard = guard();
        let ours = Objection::Epoch { receiver: Epoch(2 << 32) };
        assert_eq!(guard.hear(3, stamp(1, run(1, 1))), Err(ours.clone()));
        assert!(guard.is_clear() && !guard.has_rival(), "an old epoch changes nothing here");
        let twin = Stamp { epoch: Epoch((2 << 32) + 9), run: run(1, 1) };
        assert_eq!(guard.hear(3, twin), Err(ours.clone()));
        assert!(guard.is_clear() && guard.has_rival(), "of two recoveries neither gives way");
        assert_eq!(guard.hear(3, stamp(3, run(1, 1))), Err(ours));
        assert_eq!(*guard.verdict().borrow(), Verdict::OldEpoch { current: Epoch(3 << 32) });
    }

    #[tokio::test]
    async fn only_the_recorded_run_or_a_later_one_is_heard() {
        let guard = guard();
        guard.set_roll(1, recorded(run(5, 50)));
        let stale = |recorded| Err(Objection::Run { recorded });
        assert_eq!(guard.hear(3, stamp(2, run(4, 40))), stale(run(5, 50)));
        assert_eq!(guard.hear(3, stamp(2, run(5, 51))), stale(run(5, 50)), "a copy with the same counter");
        assert_eq!(guard.hear(3, stamp(2, run(5, 50))), Ok(()));
        assert_eq!(guard.hear(3, stamp(2, run(6, 60))), Ok(()), "a restart that is not recorded yet");
        assert_eq!(guard.hear(3, stamp(2, run(6, 61))), stale(run(6, 60)), "its copy");
        assert_eq!(guard.hear(3, stamp(2, run(5, 50))), stale(run(6, 60)), "a run that should be over");
        assert_eq!(guard.latest(3), Some(run(6, 60)));
    }

    #[tokio::test]
    async fn a_fence_is_final_and_holds_for_every_run() {
        let guard = guard();
        let fenced = |id| Roll::from([(id, Record { run: run(5, 50), fenced: Some("two of it".into()) })]);
        guard.set_roll(1, fenced(3));
        assert_eq!(guard.hear(3, stamp(2, run(9, 90))), Err(Objection::Fenced { reason: "two of it".into() }));
        assert!(guard.is_clear());
        guard.set_roll(1, fenced(1));
        guard.judge(Verdict::Clear);
        assert_eq!(*guard.verdict().borrow(), Verdict::Fenced { reason: "two of it".into() });
    }

    #[tokio::test]
    async fn an_accusation_about_another_run_is_not_believed() {
        let guard = guard();
        guard.accused(&Objection::Run { recorded: run(7, 1) });
        guard.accused(&Objection::Run { recorded: run(6, 9) });
        assert!(guard.is_clear());
        guard.accused(&Objection::Run { recorded: run(7, 2) });
        assert_eq!(*guard.verdict().borrow(), Verdict::OldRun { recorded: run(7, 2) });
    }
}
