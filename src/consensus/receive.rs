//! Taking in a snapshot from the leader. One transfer at a time: a new one replaces what is left
//! of the one before. Nothing of it counts until all of it arrived and its checksum holds.

use std::sync::{MutexGuard, PoisonError};

use openraft::async_runtime::WatchReceiver as _;
use openraft::raft::SnapshotResponse;

use super::engine::Engine;
use super::message::{Piece, Response};
use crate::storage::{Incoming, SnapshotMeta, StorageError, Vote};

/// A transfer that is under way.
pub(super) struct Receiving {
    from: u64,
    transfer: u64,
    incoming: Incoming,
}

impl Engine {
    fn receiving(&self) -> MutexGuard<'_, Option<Receiving>> {
        self.inner.receiving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in a piece, and says where the next one starts.
    pub(super) async fn receive(&self, from: u64, piece: Piece) -> Response {
        let known = self.inner.raft.metrics().borrow_watched().vote;
        if piece.vote < known {
            // From a leader that was replaced: it must not disturb its successor's transfer.
            return Response::SnapshotDone(SnapshotResponse::new(known));
        }
        self.inner.peers.heard_leader();
        let vote = piece.vote;
        match self.take_in(from, piece) {
            Ok(Progress::Next(offset)) => Response::SnapshotNext(offset),
            Ok(Progress::Complete(incoming, meta)) => self.install(vote, incoming, meta).await,
            Err(error) => {
                tracing::warn!(%error, "a snapshot can not be received");
                Response::Failed(error.to_string())
            }
        }
    }

    fn take_in(&self, from: u64, piece: Piece) -> Result<Progress, StorageError> {
        let mut slot = self.receiving();
        let fits = slot.as_ref().is_some_and(|known| (known.from, known.transfer) == (from, piece.transfer));
        if !fits {
            let incoming = self.inner.state.receive()?;
            *slot = Some(Receiving { from, transfer: piece.transfer, incoming });
        }
        let Some(receiving) = slot.as_mut() else { return Ok(Progress::Next(0)) };
        if receiving.incoming.bytes() != piece.offset {
            return Ok(Progress::Next(receiving.incoming.bytes()));
        }
        if let Err(error) = receiving.incoming.push(&piece.bytes) {
            *slot = None;
            return Err(error);
        }
        let Some(meta) = piece.end else { return Ok(Progress::Next(receiving.incoming.bytes())) };
        Ok(match slot.take() {
            Some(complete) => Progress::Complete(complete.incoming, meta),
            None => Progress::Next(0),
        })
    }

    pub(super) async fn install(&self, vote: Vote, incoming: Incoming, meta: SnapshotMeta) -> Response {
        let snapshot = match incoming.finish().await {
            Ok(snapshot) => openraft::Snapshot { meta, snapshot },
            Err(error) => {
                tracing::warn!(%error, "a snapshot arrived damaged");
                return Response::Failed(error.to_string());
            }
        };
        match self.inner.raft.install_full_snapshot(vote, snapshot).await {
            Ok(response) => Response::SnapshotDone(response),
            Err(error) => Response::Failed(error.to_string()),
        }
    }
}

enum Progress {
    Next(u64),
    Complete(Incoming, SnapshotMeta),
}
