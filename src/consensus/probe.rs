//! What a simulation sees of an engine and nobody else may: its vote, its log, how far it came.
//! Only there with the feature `simulation`. It decides nothing.

use std::collections::BTreeSet;

use openraft::RaftLogReader;
use openraft::async_runtime::WatchReceiver as _;
use openraft::storage::RaftLogStorage;

use super::engine::Engine;
use crate::storage::Entry;

/// An engine at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Term and member id of the latest vote.
    pub vote: (u64, u64),
    /// Whether this engine leads by that vote.
    pub leads: bool,
    /// Index of the last entry of its log.
    pub last_log: Option<u64>,
    /// Last entry in its state.
    pub applied: Option<u64>,
    /// Last entry in its state that a power cut can not take.
    pub durable: Option<u64>,
    /// Who votes, as its log has it.
    pub voters: BTreeSet<u64>,
    /// Why its consensus has stopped, if it has.
    pub failure: Option<String>,
}

impl Engine {
    /// What there is to see.
    pub fn probe(&self) -> Probe {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let leader_id = metrics.vote.leader_id();
        let applied = *self.inner.state.applied().borrow();
        Probe {
            vote: (leader_id.term, leader_id.node_id),
            leads: self.inner.leadership.borrow().is_leader,
            last_log: metrics.last_log_index,
            applied: applied.checked_sub(1),
            durable: self.inner.state.durable_index(),
            voters: metrics.membership_config.voter_ids().collect(),
            failure: metrics.running_state.as_ref().err().map(ToString::to_string),
        }
    }

    /// Entries of its log from an index on, as far as it still has them.
    pub async fn log_entries(&self, start: u64) -> std::io::Result<Vec<Entry>> {
        let mut log = self.inner.log.clone();
        let known = log.get_log_state().await?;
        let first = known.last_purged_log_id.map_or(0, |purged| purged.index + 1).max(start);
        let end = known.last_log_id.map_or(0, |last| last.index + 1);
        if first >= end {
            return Ok(Vec::new());
        }
        log.try_get_log_entries(first..end).await
    }

    /// Makes the state durable as a snapshot.
    pub async fn snapshot_now(&self) -> Result<(), String> {
        self.inner.raft.trigger().snapshot().await.map_err(|error| error.to_string())
    }

    /// Forgets the log up to the latest snapshot: who is late needs one then.
    pub async fn forget_log(&self) -> Result<(), String> {
        let snapshot = self.inner.raft.metrics().borrow_watched().snapshot;
        let Some(snapshot) = snapshot else { return Ok(()) };
        self.inner.raft.trigger().purge_log(snapshot.index).await.map_err(|error| error.to_string())
    }
}
