//! From memory into the file: what was applied reaches it in one transaction for many entries, on
//! a thread that may wait for the disk. Whoever applies goes on meanwhile, and waits only when as
//! much again has gathered.

use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use openraft::AsyncRuntime;
use redb::Durability;

use super::super::StorageError;
use super::super::runtime::Runtime;
use super::super::table::{Fault, WriteTable};
use super::{State, fault, next_index};

/// Nothing was applied for so long: the memory is given back.
const QUIET: Duration = Duration::from_secs(10);

impl State {
    /// Writes to the file what was gathered, when it is enough. At most twice as much waits.
    pub(super) async fn relieve(&self, fullness: usize) -> Result<(), StorageError> {
        if fullness == 0 {
            return Ok(());
        }
        let writing = match self.inner.writer.clone().try_lock_owned() {
            Ok(writing) => writing,
            // Somebody writes; what gathers meanwhile goes with the next transaction.
            Err(_) if fullness < 2 => return Ok(()),
            Err(_) => {
                let writing = self.inner.writer.clone().lock_owned().await;
                let fold = move |state: &Self| {
                    let _writing = writing;
                    // What went wrong first says more than what follows from it.
                    state.unfolded().take().map_or_else(|| state.fold(), Err)
                };
                return self.off_thread("write", fold).await;
            }
        };
        let state = self.clone();
        let fold = move || {
            let _writing = writing;
            if let Err(error) = state.fold() {
                // It stops whoever applies next.
                *state.unfolded() = Some(error);
            }
        };
        drop(Runtime::spawn(self.inner.disk.run(Box::new(fold))));
        Ok(())
    }

    /// Why what was applied did not reach the file, behind the back of whoever applies.
    pub(super) fn unfolded(&self) -> MutexGuard<'_, Option<StorageError>> {
        self.inner.unfolded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives back the memory of a busy time when that is over.
    pub(super) fn relieve_when_quiet(&self) {
        if self.inner.watching.swap(true, Ordering::AcqRel) {
            return;
        }
        // Who closes the state meanwhile need not wait for this.
        let state = Arc::downgrade(&self.inner);
        drop(Runtime::spawn(async move {
            let mut seen = None;
            while let Some(inner) = state.upgrade() {
                let state = Self { inner };
                if state.recent().bytes() <= state.inner.sizes.recent.kept {
                    state.inner.watching.store(false, Ordering::Release);
                    return;
                }
                let applied = state.recent().progress().applied;
                if applied == seen
                    && let Err(error) = state.relieve(2).await
                {
                    *state.unfolded() = Some(error);
                }
                seen = applied;
                drop(state);
                tokio::time::sleep(QUIET).await;
            }
        }));
    }

    /// Moves what is in memory into the file, in one transaction that is not fsynced. The caller
    /// holds the writer's lock.
    pub(super) fn fold(&self) -> Result<(), StorageError> {
        if self.recent().is_empty() {
            return Ok(());
        }
        self.writing(Durability::None, |_| Ok(()))
    }

    /// Writes, together with everything that was applied before. The caller holds the writer's
    /// lock.
    pub(in super::super) fn writing<T>(
        &self,
        durability: Durability,
        write: impl FnOnce(&mut WriteTable<'_>) -> Result<T, Fault>,
    ) -> Result<T, StorageError> {
        let run = || -> Result<T, Fault> {
            let sent = self.recent().send()?;
            let txn = self.begin(durability)?;
            let mut table = WriteTable::open(&txn)?;
            if let Some(sent) = sent {
                sent.write_to(&mut table)?;
            }
            let answer = write(&mut table)?;
            let progress = table.finish()?;
            txn.commit()?;
            self.recent().landed();
            if matches!(durability, Durability::Immediate) {
                self.inner.durable.fetch_max(next_index(progress.applied), Ordering::AcqRel);
            }
            Ok(answer)
        };
        run().map_err(|error| {
            self.recent().came_back();
            fault("write", &self.inner.path, error)
        })
    }
}
