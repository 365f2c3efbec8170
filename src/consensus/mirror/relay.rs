//! What a mirror wants from the leader goes up the tree: the leader has as many connections as it
//! has followers, however many devices write and read. An upstream that does not answer is passed
//! by.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::super::engine::Engine;
use super::super::message::{Proposed, Request, Response, ToLeader};
use super::super::timing::{BARRIER_TIMEOUT, PROPOSE_TIMEOUT};
use crate::store::Txn;

impl Engine {
    /// As a mirror: whom to ask instead of the leader.
    fn above(&self, leader: Option<u64>) -> Option<u64> {
        let upstream = self.inner.mirroring.upstream()?;
        (self.is_mirror() && Some(upstream) != leader).then_some(upstream)
    }

    /// As a mirror: polls at once.
    pub(in crate::consensus) fn hurry(&self) {
        self.inner.mirroring.hurry.notify_one();
    }

    /// As a mirror: offers transactions through the upstream. `None` when that does not work.
    pub(in crate::consensus) async fn offer_above(
        &self,
        leader: Option<u64>,
        txns: &[Txn],
        left: Duration,
    ) -> Option<Vec<Proposed>> {
        let upstream = self.above(leader)?;
        self.inner.mirroring.hurry.notify_one();
        let request = Request::Relay(ToLeader::Propose(txns.to_vec()));
        match self.inner.peers.ask(upstream, None, request, left / 2).await {
            Ok(Response::Proposed(proposed)) => Some(proposed),
            _ => None,
        }
    }

    /// As a mirror: how far to read, confirmed by a quorum, through the upstream.
    pub(in crate::consensus) async fn read_index_above(&self) -> Option<u64> {
        let upstream = self.above(self.leadership().borrow().leader)?;
        let request = Request::Relay(ToLeader::ReadIndex);
        match self.inner.peers.ask(upstream, None, request, BARRIER_TIMEOUT / 2).await {
            Ok(Response::ReadIndex(next)) => {
                // The upstream has it all: the next poll brings it.
                self.inner.mirroring.hurry.notify_one();
                Some(next)
            }
            _ => None,
        }
    }

    /// Takes a mirror's request to the leader. Readers from below wait together with this device's
    /// own, so that the leader is asked once for all of them.
    pub(in crate::consensus) async fn relay(&self, request: ToLeader) -> Response {
        match request {
            ToLeader::Propose(txns) => {
                let deadline = Instant::now() + PROPOSE_TIMEOUT / 2;
                match self.at_leader(ToLeader::Propose(txns), deadline).await {
                    Some(proposed) => proposed,
                    None => Response::Failed(self.why()),
                }
            }
            ToLeader::ReadIndex => {
                let (answer, confirmed) = oneshot::channel();
                let stopping = || Err("this agent is stopping".to_owned());
                let asked = match self.inner.reads.send(answer).await {
                    Ok(()) => confirmed.await.unwrap_or_else(|_| stopping()),
                    Err(_) => stopping(),
                };
                match asked {
                    Ok(next) => Response::ReadIndex(next),
                    Err(why) => Response::Failed(why),
                }
            }
            _ => Response::Failed("this is for the leader itself".into()),
        }
    }
}
