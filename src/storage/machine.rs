//! openraft's view of the state: apply committed entries in batches, hand out and install
//! snapshots.

use std::io;

use futures_util::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{OptionalSend, RaftSnapshotBuilder};

use super::raft::{LogId, SnapshotMeta, StoredMembership, TypeConfig};
use super::snapshot::SnapshotSource;
use super::state::State;

/// Entries applied in one redb transaction.
const BATCH_ENTRIES: usize = 256;

type Snapshot = openraft::alias::SnapshotOf<TypeConfig, SnapshotSource>;

/// The replicated state machine.
#[derive(Clone)]
pub struct Machine {
    state: State,
}

impl Machine {
    pub(super) fn new(state: State) -> Self {
        Self { state }
    }

    /// The state behind it, for reading.
    pub fn state(&self) -> &State {
        &self.state
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = SnapshotSource;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok(self.state.applied_state()?)
    }

    async fn apply<S>(&mut self, entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let mut batches = entries.ready_chunks(BATCH_ENTRIES);
        while let Some(batch) = batches.next().await {
            let mut entries = Vec::with_capacity(batch.len());
            let mut responders = Vec::with_capacity(batch.len());
            for item in batch {
                let (entry, responder) = item?;
                entries.push(entry);
                responders.push(responder);
            }
            let replies = self.state.apply(&entries).await?;
            for (responder, reply) in responders.into_iter().zip(replies) {
                if let Some(responder) = responder {
                    responder.send(reply);
                }
            }
            if self.state.wants_durable() {
                self.state.make_durable_soon();
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotSource) -> Result<(), io::Error> {
        let meta = meta.clone();
        let writing = self.state.writer().lock_owned().await;
        let install = move |state: &State| {
            let _writing = writing;
            snapshot.install(state, &meta)
        };
        Ok(self.state.off_thread("install a snapshot in", install).await?)
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        Ok(self.state.current_snapshot()?.map(|view| Snapshot { meta: view.meta.clone(), snapshot: view.into() }))
    }
}

impl RaftSnapshotBuilder<TypeConfig> for Machine {
    type SnapshotData = SnapshotSource;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let view = self.state.snapshot().await?;
        Ok(Snapshot { meta: view.meta.clone(), snapshot: view.into() })
    }
}
