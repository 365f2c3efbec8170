//! Mistakes that the simulation must find, one at a time, chosen by the thread that runs it. Only
//! there with the feature `seeded-bugs`, which no release has. It decides nothing by itself.

use std::cell::Cell;

use redb::Durability;

use super::StorageError;
use super::raft::Entry;
use super::state::{State, fault};
use super::table::{Fault, WriteTable};

/// A mistake that a fleet must not make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// Entries count as safe before they are synced.
    AcknowledgeBeforeFsync,
    /// The applied index is in another transaction than the effects.
    SplitAppliedIndex,
    /// A leader counts a peer that did not answer.
    CommitWithoutQuorum,
    /// The id of a removed member is handed out again.
    ReusedMemberId,
    /// A leader answers reads without asking whether it still leads.
    StaleRead,
    /// The state is made in place, so that a power cut leaves half of it.
    NonAtomicCreation,
    /// A retry is a new transaction.
    RetryAnew,
}

thread_local! {
    static CHOSEN: Cell<Option<Bug>> = const { Cell::new(None) };
}

/// Makes this thread make a mistake, or none.
pub fn choose(bug: Option<Bug>) {
    CHOSEN.set(bug);
}

/// Whether this thread makes the mistake.
pub(crate) fn has(bug: Bug) -> bool {
    CHOSEN.get() == Some(bug)
}

/// Writes the applied index without its effects, if that is the mistake.
pub(super) fn split_index(state: &State, entries: &[Entry]) -> Result<(), StorageError> {
    if !has(Bug::SplitAppliedIndex) {
        return Ok(());
    }
    let run = || -> Result<(), Fault> {
        let txn = state.begin(Durability::Immediate)?;
        let mut table = WriteTable::open(&txn)?;
        table.progress.applied = entries.last().map(|entry| entry.log_id);
        table.finish()?;
        Ok(txn.commit()?)
    };
    run().map_err(|error| fault("write", state.dir(), error))
}
