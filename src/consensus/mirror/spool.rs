//! One snapshot for many: written once, sent to all who ask within a while, to a few at a time. Who
//! finds no room is told to come back.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use openraft::storage::RaftLogStorage as _;
use tokio::time::Instant;

use super::super::engine::Engine;
use super::super::message::Response;
use super::{Pull, Pulled, lock};
use crate::storage::{Scratch, SnapshotMeta};

/// Bytes of a snapshot in one answer.
const PIECE_BYTES: usize = 256 << 10;
/// Mirrors that one device sends a snapshot to at once.
const PULLS: usize = 4;
/// A mirror that asked for nothing for so long has given up.
const PULL_IDLE: Duration = Duration::from_secs(10);
/// How long one snapshot is good for all who ask.
const SHARED_FOR: Duration = Duration::from_secs(30);
/// When to come back.
pub(super) const COME_BACK: Duration = Duration::from_secs(1);

/// The snapshot that is being sent, and to whom.
#[derive(Default)]
pub(in crate::consensus) struct Spool {
    /// Whoever makes it holds up those who want the same.
    shared: tokio::sync::Mutex<Option<Shared>>,
    pulls: Mutex<BTreeMap<u64, Instant>>,
    transfers: std::sync::atomic::AtomicU64,
}

struct Shared {
    transfer: u64,
    meta: SnapshotMeta,
    file: Scratch,
    made: Instant,
}

impl Spool {
    /// A place among the few; false when there is none.
    fn admit(&self, member: u64) -> bool {
        let mut pulls = lock(&self.pulls);
        pulls.retain(|_, last| last.elapsed() < PULL_IDLE);
        let admitted = pulls.len() < PULLS || pulls.contains_key(&member);
        if admitted {
            pulls.insert(member, Instant::now());
        }
        admitted
    }

    /// Snapshots written so far.
    #[cfg(test)]
    pub(in crate::consensus) fn written(&self) -> u64 {
        self.transfers.load(std::sync::atomic::Ordering::Relaxed)
    }

    fn done(&self, member: u64) {
        lock(&self.pulls).remove(&member);
    }

    /// Removes a file that nobody wants any more.
    pub(super) async fn sweep(&self) {
        let idle = lock(&self.pulls).values().all(|last| last.elapsed() > PULL_IDLE);
        let mut shared = self.shared.lock().await;
        if idle && shared.as_ref().is_some_and(|known| known.made.elapsed() > SHARED_FOR) {
            *shared = None;
        }
    }
}

impl Engine {
    /// Sends a piece of this device's state to a mirror.
    pub(in crate::consensus) async fn give(&self, member: u64, pull: Pull) -> Response {
        let vote = self.inner.raft.metrics();
        let vote = openraft::async_runtime::WatchReceiver::borrow_watched(&vote).vote;
        if !vote.committed || self.inner.state.last_applied().is_none() {
            return Response::Failed("this device has nothing to send yet".into());
        }
        if !self.inner.mirroring.spool.admit(member) {
            return Response::Busy(COME_BACK);
        }
        match self.piece(&pull).await {
            Ok((transfer, offset, bytes, end)) => {
                if end.is_some() {
                    self.inner.mirroring.spool.done(member);
                }
                Response::Pulled(Pulled { vote, transfer, offset, bytes, end })
            }
            Err(error) => {
                tracing::warn!(%error, "a snapshot can not be sent");
                Response::Failed(error.to_string())
            }
        }
    }

    async fn piece(&self, pull: &Pull) -> Result<(u64, u64, Vec<u8>, Option<SnapshotMeta>), std::io::Error> {
        let spool = &self.inner.mirroring.spool;
        let mut shared = spool.shared.lock().await;
        if let Some(known) = shared.as_ref()
            && known.transfer != pull.transfer
            && (known.made.elapsed() > SHARED_FOR || !self.covers(&known.meta).await)
        {
            *shared = None;
        }
        let known = if let Some(known) = shared.as_mut() {
            known
        } else {
            let (meta, file) = self.inner.state.spool_now().await?;
            let transfer = spool.transfers.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
            shared.insert(Shared { transfer, meta, file, made: Instant::now() })
        };
        let offset = if known.transfer == pull.transfer { pull.offset } else { 0 };
        let bytes = known.file.read_piece(offset, PIECE_BYTES)?;
        let end = (bytes.len() < PIECE_BYTES).then(|| known.meta.clone());
        Ok((known.transfer, offset, bytes, end))
    }

    /// Whether the log goes on where a snapshot ends.
    async fn covers(&self, meta: &SnapshotMeta) -> bool {
        let purged = self.inner.log.clone().get_log_state().await.ok().and_then(|state| state.last_purged_log_id);
        purged <= meta.last_log_id
    }
}
