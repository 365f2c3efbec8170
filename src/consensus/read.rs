//! Reads that are as fresh as the fleet: the leader confirms with a quorum that it still leads and
//! says how far to read, and the local replica catches up to there. One confirmation serves
//! everyone who waited for it.

use std::time::Duration;

use openraft::async_runtime::WatchReceiver as _;
use openraft::errors::{LinearizableReadError, RaftError};
use openraft::{Instant as _, ReadPolicy};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::engine::Engine;
use super::message::{Response, ToLeader};
use super::replica::Freshness;
use super::timing::BARRIER_TIMEOUT;

/// Readers answered by one confirmation.
const GROUP: usize = 256;

impl Engine {
    /// Waits until the replica is current; see [`super::Replica::barrier`].
    pub(super) async fn wait_current(&self) -> Freshness {
        if self.given_up() || self.apart().is_some() {
            return self.stale(self.why());
        }
        let (answer, current) = oneshot::channel();
        let asked = async {
            self.inner.reads.send(answer).await.map_err(|_| "this agent is stopping".to_owned())?;
            current.await.unwrap_or_else(|_| Err("this agent is stopping".into()))
        };
        match tokio::time::timeout(BARRIER_TIMEOUT, asked).await {
            Ok(Ok(_)) => Freshness::Current,
            Ok(Err(why)) => self.stale(why),
            Err(_) => self.stale(self.why()),
        }
    }

    fn stale(&self, why: String) -> Freshness {
        Freshness::Stale { age: self.age(), why }
    }

    /// Whether nobody was heard for so long that waiting would only slow down who asks. When they
    /// are heard again, this ends by itself.
    fn given_up(&self) -> bool {
        let limit = self.patience();
        if self.failure().is_some() {
            return true;
        }
        if self.leadership().borrow().is_leader {
            return self.quorum_silence().is_some_and(|silence| silence > limit);
        }
        self.inner.peers.leader_wait() > limit
    }

    /// Silence of the leader after which nobody waits for it any more.
    pub(super) fn patience(&self) -> Duration {
        let limit = self.inner.timing.given_up_after();
        if self.is_mirror() { limit.max(self.inner.mirroring.given_up_after()) } else { limit }
    }

    /// How long ago a quorum answered this leader; `None` for one that votes alone and asks nobody.
    pub(super) fn quorum_silence(&self) -> Option<Duration> {
        // One that votes alone is its own quorum, and openraft notes its own answers only when it writes.
        if self.inner.raft.metrics().borrow_watched().membership_config.voter_ids().eq([self.inner.id]) {
            return Some(Duration::ZERO);
        }
        let metrics = self.inner.raft.data_metrics();
        if self.inner.raft.server_metrics().borrow_watched().membership_config.voter_ids().count() < 2 {
            return None;
        }
        let acked = metrics.borrow_watched().last_quorum_acked;
        acked.map(|at| at.elapsed())
    }

    /// Whether this device leads and a quorum said so not long ago.
    pub fn leads_for_sure(&self) -> bool {
        let limit = self.inner.timing.confirmed_within();
        self.leadership().borrow().is_leader && self.quorum_silence().is_some_and(|silence| silence <= limit)
    }

    /// Time since this device knew that it was current. After a restart only the wall clocks of
    /// the writers and of this device can tell.
    pub(super) fn age(&self) -> Duration {
        let heard = if self.leadership().borrow().is_leader { self.quorum_silence() } else { None };
        heard.or_else(|| self.inner.peers.leader_silence()).unwrap_or_else(|| {
            let now = (self.inner.wall)();
            now.since(self.inner.state.last_change())
        })
    }

    /// Answers readers, as many as came in while the round before was under way.
    pub(super) async fn answer_reads(self, mut asked: mpsc::Receiver<oneshot::Sender<Result<u64, String>>>) {
        let mut waiting = Vec::new();
        while asked.recv_many(&mut waiting, GROUP).await > 0 {
            let current = self.catch_up().await;
            for answer in waiting.drain(..) {
                let _ = answer.send(current.clone());
            }
        }
    }

    /// Lets the replica catch up with the fleet, and says how far that was.
    async fn catch_up(&self) -> Result<u64, String> {
        let deadline = Instant::now() + BARRIER_TIMEOUT;
        let next_index = match self.read_index_above().await {
            Some(next_index) => next_index,
            None => match self.at_leader(ToLeader::ReadIndex, deadline).await {
                Some(Response::ReadIndex(next_index)) => next_index,
                _ => return Err(self.why()),
            },
        };
        let mut applied = self.inner.state.applied();
        match tokio::time::timeout_at(deadline, applied.wait_for(|&next| next >= next_index)).await {
            Ok(Ok(_)) => Ok(next_index),
            _ => Err("the leader answers, but this device has not caught up with it yet".into()),
        }
    }

    /// How far the log must be applied before a read, confirmed by a quorum. Only a leader knows.
    pub(super) async fn read_index(&self) -> Response {
        #[cfg(feature = "seeded-bugs")]
        if crate::storage::seeded::has(crate::storage::seeded::Bug::StaleRead) {
            return Response::ReadIndex(*self.inner.state.applied().borrow());
        }
        match self.inner.raft.get_read_log_id(ReadPolicy::ReadIndex).await {
            Ok((read, _)) => Response::ReadIndex(read.index() + 1),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
                Response::NotLeader(forward.leader_id)
            }
            Err(error) => Response::Failed(error.to_string()),
        }
    }
}
