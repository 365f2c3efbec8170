//! Contact with the leader that both sides count from: a device that keeps to a time without contact, and
//! a leader that waits until that time is surely over. The leader notes the question when it comes, and
//! answers once a quorum has confirmed after that that it leads; so what the leader counts from is never
//! before what the device counts from, and a leader that was replaced meanwhile gives no answer.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::engine::Engine;
use super::message::{Response, ToLeader};

impl Engine {
    /// Asks the leader itself, and nobody on the way to it, how far to read, and catches up to there.
    /// Whether that worked in time: then this device was in contact at a moment after it asked.
    pub async fn speak(&self, within: Duration) -> bool {
        if self.apart().is_some() {
            return false;
        }
        let deadline = Instant::now() + within;
        let Some(Response::ReadIndex(next)) = self.at_leader(ToLeader::ReadIndex, deadline).await else {
            return false;
        };
        // On a mirror, the next poll brings what is missing.
        self.hurry();
        let mut applied = self.inner.state.applied();
        matches!(tokio::time::timeout_at(deadline, applied.wait_for(|&has| has >= next)).await, Ok(Ok(_)))
    }

    /// Time since each other member last asked this device how far to read; those who never did are missing.
    pub fn asked(&self) -> BTreeMap<u64, Duration> {
        self.inner.peers.readers()
    }
}
