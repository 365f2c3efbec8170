//! When a leader should let another device lead, and which one. It hands the lead over when this
//! device is about to stop, drained, a witness, labelled `never`, nearly out of disk space, or much
//! slower to disk than another; never to a device that would rather not lead either, and at most
//! once a minute, so that the lead does not wander.

use std::sync::PoisonError;
use std::time::Duration;

use futures_util::future::join_all;
use openraft::async_runtime::WatchReceiver as _;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::engine::Engine;
use super::message::{Request, Response};
use crate::identity::Preference;

/// Between two hand-overs of one device, and from the begin of leading to one that can wait.
const SETTLE: Duration = Duration::from_mins(1);

/// How much faster to disk another device must be for the lead to go there.
const FASTER: u32 = 4;

/// Why a device would rather not lead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reluctance {
    /// It is about to stop.
    Stopping,
    /// What somebody else on this device said, such as that it is drained.
    Told(String),
    /// It only votes.
    Witness,
    /// Its label says so.
    Never,
    /// Its disk is nearly full.
    Full(String),
    /// Its disk takes this long to make entries safe.
    Slow(Duration),
    /// Others would rather lead.
    NotPreferred,
}

impl std::fmt::Display for Reluctance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Stopping => f.write_str("it is about to stop"),
            Self::Told(why) | Self::Full(why) => f.write_str(why),
            Self::Witness => f.write_str("it is a witness"),
            Self::Never => f.write_str("its label says kith.dev/voter=never"),
            Self::Slow(took) => write!(f, "its disk takes {} ms to make a write safe", took.as_millis()),
            Self::NotPreferred => f.write_str("another device is labelled kith.dev/voter=prefer"),
        }
    }
}

impl Reluctance {
    /// Whether the lead may go now. What can wait does so until this device has led for a while;
    /// nothing but stopping makes the same device hand over twice a minute.
    pub(super) fn is_due(&self, led_for: Duration, last: Option<Duration>) -> bool {
        let rested = last.is_none_or(|last| last >= SETTLE);
        match self {
            Self::Stopping => true,
            Self::Told(_) | Self::Witness | Self::Never => rested,
            Self::Full(_) | Self::Slow(_) | Self::NotPreferred => rested && led_for >= SETTLE,
        }
    }
}

/// What a voter answers when it is asked whether it would lead.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Willing {
    /// Why it would rather not.
    pub(super) reluctant: Option<String>,
    /// How long its disk takes, if it knows.
    pub(super) disk: Option<Duration>,
}

/// A voter that might lead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) id: u64,
    pub(super) preference: Preference,
    pub(super) willing: Willing,
}

/// Who should lead instead; `None` when nobody would be better.
pub(super) fn successor(why: &Reluctance, candidates: &[Candidate]) -> Option<u64> {
    let better = |candidate: &&Candidate| match why {
        _ if candidate.willing.reluctant.is_some() => false,
        Reluctance::Slow(own) => candidate.willing.disk.is_some_and(|disk| disk * FASTER <= *own),
        Reluctance::NotPreferred => candidate.preference == Preference::Prefer,
        _ => true,
    };
    let fits = candidates.iter().filter(better);
    fits.min_by_key(|candidate| {
        let disk = candidate.willing.disk.unwrap_or(Duration::ZERO);
        // In steps, so that a hair's breadth does not decide.
        (candidate.preference != Preference::Prefer, disk.as_millis() / 10, candidate.id)
    })
    .map(|candidate| candidate.id)
}

/// What this device knows about leading.
#[derive(Debug, Default)]
pub(super) struct Will {
    stopping: bool,
    told: Option<String>,
    slow: bool,
    last: Option<Instant>,
}

impl Engine {
    /// Says why this device should not lead, or that nothing speaks against it any more. A leader
    /// hands over soon after, and nobody hands the lead here.
    pub fn set_reluctance(&self, why: Option<String>) {
        self.will().told = why;
    }

    fn will(&self) -> std::sync::MutexGuard<'_, Will> {
        self.inner.will.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why this device should not lead, the weightiest reason first.
    pub(super) fn reluctance(&self) -> Option<Reluctance> {
        let member = self.inner.peers.member(self.inner.id).unwrap_or_default();
        let slow = self.slow_disk();
        let will = self.will();
        match &will.told {
            _ if will.stopping => Some(Reluctance::Stopping),
            Some(why) => Some(Reluctance::Told(why.clone())),
            None if member.witness => Some(Reluctance::Witness),
            None if member.voter == Preference::Never => Some(Reluctance::Never),
            None => {
                drop(will);
                self.disk_trouble().map(Reluctance::Full).or(slow.map(Reluctance::Slow))
            }
        }
    }

    /// How slow the disk is, when it is slow: from the limit on, until it is well below it again.
    fn slow_disk(&self) -> Option<Duration> {
        let took = self.inner.log.sync_times().ninth_of_ten()?;
        let limit = self.inner.timing.slow_disk();
        let mut will = self.will();
        will.slow = took > if will.slow { limit / 2 } else { limit };
        will.slow.then_some(took)
    }

    /// What a leader hears that asks whether this device would take over.
    pub(super) fn willing(&self) -> Willing {
        let reluctant = self.reluctance().map(|why| why.to_string());
        Willing { reluctant, disk: self.inner.log.sync_times().ninth_of_ten() }
    }

    /// As the leader, by and by: hands over when there is a reason and somebody better.
    pub(super) async fn consider_handover(&self) {
        let reason = self.reluctance().or_else(|| self.is_not_preferred().then_some(Reluctance::NotPreferred));
        let Some(reason) = reason else { return };
        let last = self.will().last.map(|at| at.elapsed());
        if reason.is_due(self.led_for(), last) {
            self.hand_away(&reason, self.inner.timing.transfer()).await;
        }
    }

    fn is_not_preferred(&self) -> bool {
        let members = self.inner.peers.members().borrow().clone();
        let prefers = |id: &u64| members.get(id).is_some_and(|member| member.voter == Preference::Prefer);
        !prefers(&self.inner.id) && self.voter_ids().iter().any(prefers)
    }

    fn voter_ids(&self) -> Vec<u64> {
        self.inner.raft.server_metrics().borrow_watched().membership_config.voter_ids().collect()
    }

    /// Before this device stops: nobody hands it the lead any more, and if it leads, another device
    /// does within this time, or the others elect one after it stopped. True when it does not lead
    /// any more.
    pub async fn step_aside(&self, within: Duration) -> bool {
        self.will().stopping = true;
        if !self.inner.leadership.borrow().is_leader {
            return true;
        }
        let deadline = Instant::now() + within;
        let _under_way = tokio::time::timeout_at(deadline, self.inner.membership.lock()).await;
        let left = deadline.saturating_duration_since(Instant::now());
        self.hand_away(&Reluctance::Stopping, left).await
    }

    /// Asks who would lead, hands the lead to the best of them, and waits until it has it.
    async fn hand_away(&self, why: &Reluctance, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        let Some(to) = successor(why, &self.candidates().await) else {
            tracing::debug!(%why, "this device would rather not lead, but nobody is better");
            return false;
        };
        tracing::info!(%why, to = self.inner.peers.name(to), "handing over the lead");
        self.will().last = Some(Instant::now());
        let mut leadership = self.leadership();
        if let Err(error) = self.inner.raft.trigger().transfer_leader(to).await {
            tracing::warn!(%error, "the lead can not be handed over");
            return false;
        }
        let led = leadership.wait_for(|known| !known.is_leader);
        matches!(tokio::time::timeout_at(deadline, led).await, Ok(Ok(_)))
    }

    /// The other voters that are there and up to date, with what they say. All are asked at once.
    async fn candidates(&self) -> Vec<Candidate> {
        let Some(view) = self.view() else { return Vec::new() };
        let alive_within = view.alive_within;
        let others = view.members.into_iter().filter(|(id, member)| {
            *id != self.inner.id && member.voter && member.caught_up && member.silence <= alive_within
        });
        let asked = others.map(|(id, member)| async move {
            let answer = self.inner.peers.ask(id, None, Request::WouldLead, alive_within).await;
            match answer {
                Ok(Response::Willing(willing)) => Some(Candidate { id, preference: member.preference, willing }),
                _ => None,
            }
        });
        join_all(asked).await.into_iter().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(id: u64, disk_ms: Option<u64>, reluctant: bool) -> Candidate {
        let reluctant = reluctant.then(|| "it is drained".to_owned());
        let willing = Willing { reluctant, disk: disk_ms.map(Duration::from_millis) };
        Candidate { id, preference: Preference::Auto, willing }
    }

    #[test]
    fn the_lead_goes_to_the_fastest_that_is_willing() {
        let mut others = [candidate(2, Some(1), true), candidate(3, Some(90), false), candidate(4, Some(2), false)];
        assert_eq!(successor(&Reluctance::Stopping, &others), Some(4));
        others[1].preference = Preference::Prefer;
        assert_eq!(successor(&Reluctance::Stopping, &others), Some(3));
        assert_eq!(successor(&Reluctance::Stopping, &others[..1]), None, "it would rather not lead either");
        assert_eq!(successor(&Reluctance::Witness, &[]), None);
    }

    #[test]
    fn a_slow_disk_only_gives_way_to_a_much_faster_one() {
        let slow = Reluctance::Slow(Duration::from_millis(100));
        assert_eq!(successor(&slow, &[candidate(2, Some(60), false), candidate(3, None, false)]), None);
        assert_eq!(successor(&slow, &[candidate(2, Some(60), false), candidate(3, Some(25), false)]), Some(3));
        let plain = [candidate(2, Some(1), false)];
        assert_eq!(successor(&Reluctance::NotPreferred, &plain), None);
    }

    #[test]
    fn the_lead_does_not_wander() {
        let second = Duration::from_secs(1);
        let slow = Reluctance::Slow(second);
        assert!(!slow.is_due(59 * second, None) && slow.is_due(60 * second, None));
        assert!(!slow.is_due(600 * second, Some(59 * second)));
        let drained = Reluctance::Told("it is drained".into());
        assert!(drained.is_due(Duration::ZERO, None) && !drained.is_due(Duration::ZERO, Some(second)));
        assert!(Reluctance::Stopping.is_due(Duration::ZERO, Some(Duration::ZERO)));
    }
}
