//! What the engine knows of itself and of the fleet, for people and for tests.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::Duration;

use openraft::Instant as _;
use openraft::async_runtime::WatchReceiver as _;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::engine::Engine;
use super::message::{Response, ToLeader};
use crate::identity::Member;
use crate::storage::{StateFigures, StorageError};
use crate::store::StateHash;

/// The engine's view of the fleet. Indexes are of log entries, counted from 0.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Members that do not, and can be made to at once.
    pub learners: BTreeMap<u64, Member>,
    /// Members that follow at a distance.
    pub mirrors: BTreeMap<u64, Member>,
    /// On a mirror: whom it pulls from.
    pub upstream: Option<u64>,
    /// On the leader: the last entry that each other member has.
    pub matching: BTreeMap<u64, Option<u64>>,
    /// On the leader: how many entries each other member is behind.
    pub lag: BTreeMap<u64, u64>,
    /// On the leader: how long ago the first entry was written that each other member misses.
    pub lag_age: BTreeMap<u64, Duration>,
    /// On the leader: why each member that does not vote does not.
    pub bench: BTreeMap<u64, String>,
    /// On the leader: time since each other member answered; since it began to lead, for one that never did.
    pub last_heard: BTreeMap<u64, Duration>,
    /// Time since each other member gave this very device a sign of life, if it ever did.
    pub heard: BTreeMap<u64, Duration>,
    /// On everyone else: time since a leader was heard; `None` when not since the agent started.
    pub contact_age: Option<Duration>,
    /// On the leader: what keeps the voters from being as they should, or the last step taken.
    pub pilot: String,
    /// On a mirror: what keeps it from following.
    pub mirror: String,
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
        let (voters, learners): (BTreeMap<u64, Member>, BTreeMap<u64, Member>) =
            nodes.partition(|(id, _)| voting.contains(id));

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
        let mut mirrors = (**self.inner.state.mirrors().borrow()).clone();
        mirrors.retain(|id, _| !voters.contains_key(id) && !learners.contains_key(id));
        if leadership.is_leader {
            last_heard.extend(mirrors.keys().map(|&id| (id, self.mirror_silence(id))));
        }
        let next = metrics.last_log_index.map_or(0, |last| last + 1);
        let behind = |matched: Option<u64>| next.saturating_sub(matched.map_or(0, |index| index + 1));
        let mut lag: BTreeMap<u64, u64> = matching.iter().map(|(&id, &matched)| (id, behind(matched))).collect();
        if leadership.is_leader {
            lag.extend(mirrors.keys().filter_map(|&id| Some((id, self.inner.mirroring.behind(id)?))));
        }
        let memory = self.inner.pilot.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let age = |matched: Option<u64>| memory.lag.behind(matched.map_or(0, |index| index + 1), now);
        let lag_age = matching.iter().map(|(&id, &matched)| (id, age(matched))).collect();
        let (pilot, bench) =
            if leadership.is_leader { (memory.note.clone(), memory.bench.clone()) } else { Default::default() };
        drop(memory);
        EngineStatus {
            member_id: self.inner.id,
            leader: leadership.leader,
            term: leadership.term,
            last_log: metrics.last_log_index,
            applied: metrics.last_applied.map(|applied| applied.index),
            revision: *self.inner.state.revision().borrow(),
            voters,
            learners,
            mirrors,
            upstream: self.inner.mirroring.upstream(),
            mirror: self.inner.mirroring.note(),
            matching,
            lag,
            lag_age,
            bench,
            heard: self.inner.peers.silences(),
            last_heard,
            contact_age: if leadership.is_leader { None } else { self.inner.peers.leader_silence() },
            pilot,
            failure: self.failure(),
        }
    }

    /// What the leader knows of everyone; what this device knows, when no leader answers in time.
    pub async fn observe(&self, within: Duration) -> EngineStatus {
        match self.at_leader(ToLeader::Observe, Instant::now() + within).await {
            Some(Response::Observed(status)) => *status,
            _ => self.status(),
        }
    }

    /// How long this device has led, if it does.
    pub(super) fn led_for(&self) -> Duration {
        let since = *self.inner.led_since.lock().unwrap_or_else(PoisonError::into_inner);
        since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// How much this device's log and state hold, bytes of the log, and bytes that their disk has left.
    pub fn storage_figures(&self) -> Result<(StateFigures, u64, u64), StorageError> {
        let state = &self.inner.state;
        Ok((state.figures()?, self.inner.log.bytes(), state.free_bytes()?))
    }

    /// The hash of all documents at the replica's revision. Reads the whole state, on another thread.
    pub async fn state_hash(&self) -> Result<StateHash, StorageError> {
        self.inner.state.hash_apart().await
    }

    /// The same on this thread, for a simulation that looks between two steps.
    #[cfg(any(test, feature = "simulation"))]
    pub fn state_hash_now(&self) -> Result<StateHash, StorageError> {
        self.inner.state.hash()
    }

    /// Why a mirror is not served, in a sentence for people.
    fn why_mirror(&self) -> Option<String> {
        if !self.is_mirror() || self.inner.peers.members().borrow().is_empty() {
            return None;
        }
        let silence = match self.inner.peers.leader_silence() {
            Some(silence) => format!("the leader's last word is {} s old", silence.as_secs()),
            None => "no leader was heard since this agent started".into(),
        };
        Some(match (self.inner.mirroring.upstream(), self.inner.mirroring.note()) {
            (Some(upstream), _) => format!("this device follows {}; {silence}", self.inner.peers.name(upstream)),
            (None, note) if note.is_empty() => format!("this device looks for one to follow; {silence}"),
            (None, note) => format!("no device serves this one ({note}); {silence}"),
        })
    }

    /// Why there is no quorum, in a sentence for people: who answers, who does not, and how many
    /// votes are missing.
    pub(super) fn why(&self) -> String {
        if let Some(why) = self.why_mirror() {
            return why;
        }
        let server = self.inner.raft.server_metrics().borrow_watched().clone();
        let voters: Vec<u64> = server.membership_config.voter_ids().collect();
        if let Some(why) = self.apart() {
            return why;
        }
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
