//! What the engine knows of itself and of the fleet, for people and for tests.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::Duration;

use openraft::Instant as _;
use openraft::async_runtime::WatchReceiver as _;
use serde::{Deserialize, Serialize};

use super::engine::Engine;
use crate::identity::Member;
use crate::storage::StorageError;
use crate::store::StateHash;

/// The engine's view of the fleet. Indexes are of log entries, counted from 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineStatus {
    /// This device.
    pub member_id: u64,
    /// Whom it follows, or itself; it may be gone already.
    pub leader: Option<u64>,
    /// The term.
    pub term: u64,
    /// Last entry in its log.
    pub last_log: Option<u64>,
    /// Last entry in its state.
    pub applied: Option<u64>,
    /// Revision of its state.
    pub revision: u64,
    /// Members that vote.
    pub voters: BTreeMap<u64, Member>,
    /// Members that do not.
    pub learners: BTreeMap<u64, Member>,
    /// On the leader: the last entry that each other member has.
    pub matching: BTreeMap<u64, Option<u64>>,
    /// On the leader: how many entries each other member is behind.
    pub lag: BTreeMap<u64, u64>,
    /// On the leader: time since each other member answered; since it began to lead, for one that never did.
    pub last_heard: BTreeMap<u64, Duration>,
    /// On everyone else: time since a leader was heard; `None` when not since the agent started.
    pub contact_age: Option<Duration>,
    /// On the leader: what keeps the voters from being as they should, or the last step taken.
    pub pilot: String,
    /// Why the consensus of this device has stopped, if it has.
    pub failure: Option<String>,
}

impl Engine {
    /// What the engine knows of itself and of the fleet.
    pub fn status(&self) -> EngineStatus {
        let metrics = self.inner.raft.metrics().borrow_watched().clone();
        let leadership = *self.inner.leadership.borrow();
        let voting: Vec<u64> = metrics.membership_config.voter_ids().collect();
        let nodes = metrics.membership_config.nodes().map(|(&id, member)| (id, member.clone()));
        let (voters, learners) = nodes.partition(|(id, _)| voting.contains(id));

        let since = self.led_for();
        let mut matching = BTreeMap::new();
        let mut last_heard = BTreeMap::new();
        if leadership.is_leader {
            let others = |id: &u64| *id != self.inner.id;
            let replication = metrics.replication.iter().flatten().filter(|(id, _)| others(id));
            matching = replication.map(|(&id, matched)| (id, matched.map(|at| at.index))).collect();
            let heartbeat = metrics.heartbeat.iter().flatten().filter(|(id, _)| others(id));
            last_heard = heartbeat.map(|(&id, acked)| (id, acked.map_or(since, |at| at.elapsed()))).collect();
        }
        let next = metrics.last_log_index.map_or(0, |last| last + 1);
        let behind = |matched: Option<u64>| next.saturating_sub(matched.map_or(0, |index| index + 1));
        let lag = matching.iter().map(|(&id, &matched)| (id, behind(matched))).collect();
        let pilot = self.inner.pilot_note.lock().unwrap_or_else(PoisonError::into_inner).clone();
        EngineStatus {
            member_id: self.inner.id,
            leader: leadership.leader,
            term: leadership.term,
            last_log: metrics.last_log_index,
            applied: metrics.last_applied.map(|applied| applied.index),
            revision: *self.inner.state.revision().borrow(),
            voters,
            learners,
            matching,
            lag,
            last_heard,
            contact_age: if leadership.is_leader { None } else { self.inner.peers.leader_silence() },
            pilot: if leadership.is_leader { pilot } else { String::new() },
            failure: self.failure(),
        }
    }

    /// How long this device has led, if it does.
    pub(super) fn led_for(&self) -> Duration {
        let since = *self.inner.led_since.lock().unwrap_or_else(PoisonError::into_inner);
        since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// The hash of all documents at the replica's revision. Reads the whole state.
    pub fn state_hash(&self) -> Result<StateHash, StorageError> {
        self.inner.state.hash()
    }

    /// Why there is no quorum, in a sentence for people: who answers, who does not, and how many
    /// votes are missing.
    pub(super) fn why(&self) -> String {
        let server = self.inner.raft.server_metrics().borrow_watched().clone();
        let voters: Vec<u64> = server.membership_config.voter_ids().collect();
        if voters.is_empty() {
            return "this device is not part of a fleet yet".into();
        }
        let limit = self.inner.timing.given_up_after();
        let answers =
            |id: u64| id == self.inner.id || self.inner.peers.silence(id).is_some_and(|silence| silence <= limit);
        let (present, silent): (Vec<u64>, Vec<u64>) = voters.iter().partition(|&&id| answers(id));
        let needed = voters.len() / 2 + 1;
        let names = |ids: &[u64]| {
            let name = |&id: &u64| {
                let name = self.inner.peers.name(id);
                if id == self.inner.id { format!("{name} (this device)") } else { name }
            };
            if ids.is_empty() { "none".into() } else { ids.iter().map(name).collect::<Vec<_>>().join(", ") }
        };
        let votes = format!("{} of {} votes are reachable and {needed} are needed", present.len(), voters.len());
        let who = format!("reachable: {}; silent: {}", names(&present), names(&silent));
        if present.len() < needed {
            format!("{votes} ({who})")
        } else if let Some(leader) = server.current_leader.filter(|&leader| leader != self.inner.id) {
            format!(
                "the leader {} does not answer, and no other was elected yet; {votes} ({who})",
                self.inner.peers.name(leader)
            )
        } else {
            format!("a leader is being elected or is not confirmed yet; {votes} ({who})")
        }
    }
}
