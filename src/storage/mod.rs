//! The replicated log (an append-only WAL), the state it leads to (redb), and snapshots. The only
//! owner of those files: it decides when bytes are safe, never what they mean.

mod backend;
mod disk;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod guarded;
mod keys;
mod latency;
mod log;
mod machine;
mod raft;
mod recent;
mod reseat;
mod runtime;
mod scratch;
#[cfg(feature = "seeded-bugs")]
pub mod seeded;
#[cfg(any(test, feature = "simulation"))]
mod simdisk;
mod sizes;
mod snapshot;
mod state;
mod table;
#[cfg(any(test, feature = "simulation"))]
pub mod torture;
mod unsound;
mod wal;

#[cfg(test)]
pub(crate) mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use disk::{Disk, DiskFile, RealDisk};
pub use latency::SyncTimes;
pub use log::Log;
pub use machine::Machine;
pub use raft::{Command, Entry, LogId, Reply, SnapshotMeta, StoredMembership, TypeConfig, Vote};
pub use reseat::{Seat, Spooled, reseat, seed, spool};
pub use runtime::{Runtime, ThreadChance, seed_randomness};
pub use scratch::Scratch;
#[cfg(any(test, feature = "simulation"))]
pub use simdisk::{Failing, SimDisk};
pub use snapshot::{Incoming, SnapshotSource};
pub use state::{Mirrors, State};
pub use unsound::{Left, SetAside, set_aside};

use crate::resource::chain;
use crate::store::codec::CodecError;
pub use sizes::Sizes;

/// The log or the state can not be used.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// A file or folder.
    #[error("{action} {path}")]
    File {
        /// What was done.
        action: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The state file.
    #[error("{action} the state in {path}")]
    State {
        /// What was done.
        action: &'static str,
        /// The state file.
        path: PathBuf,
        /// Why it failed.
        source: Box<redb::Error>,
    },
    /// Something stored does not decode.
    #[error("read {what}: it is damaged; move the data folder away and join this device to its fleet again")]
    Damaged {
        /// Which record.
        what: &'static str,
        /// Why.
        source: CodecError,
    },
    /// The log or the state is not what was written once. Nothing was changed.
    #[error("{path} can not be trusted: {reason}. What can still be read: {left}")]
    Unsound {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// What is left.
        left: Left,
    },
    /// A value can not be encoded.
    #[error("encode {what}")]
    Encode {
        /// Which value.
        what: &'static str,
        /// Why.
        source: CodecError,
    },
    /// A snapshot is cut short, changed, or not a snapshot.
    #[error("the snapshot {path} can not be used: {reason}")]
    Snapshot {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl From<StorageError> for std::io::Error {
    fn from(error: StorageError) -> Self {
        let kind = match &error {
            StorageError::File { source, .. } => source.kind(),
            StorageError::State { source, .. } => match source.as_ref() {
                redb::Error::Io(source) => source.kind(),
                _ => std::io::ErrorKind::Other,
            },
            _ => std::io::ErrorKind::InvalidData,
        };
        Self::new(kind, chain(&error))
    }
}

/// The state's file in a data folder.
const FILE: &str = "state.redb";
/// The log's folder in a data folder.
const LOG: &str = "log";

/// Opens the log in `dir/log` and the state in `dir/state.redb`, creating what is missing. What is
/// not what was written once is [`StorageError::Unsound`], and stays as it is.
pub fn open(disk: &Arc<dyn Disk>, dir: &Path) -> Result<(Log, Machine), StorageError> {
    open_sized(disk, dir, Sizes::default())
}

/// The same with other sizes than the usual ones.
pub fn open_sized(disk: &Arc<dyn Disk>, dir: &Path, sizes: Sizes) -> Result<(Log, Machine), StorageError> {
    let log_dir = dir.join(LOG);
    let unsound = |path: &Path, reason, left| StorageError::Unsound { path: path.to_owned(), reason, left };
    let there = wal::Wal::exists(disk.as_ref(), &log_dir);
    let there =
        there.map_err(|source| StorageError::File { action: "look for the log in", path: log_dir.clone(), source })?;
    let state = State::open(disk, dir, sizes).map_err(|error| match damage(&error) {
        Some(reason) => {
            let last_entry = if there { Log::last_in(disk, &log_dir, sizes.wal) } else { None };
            unsound(&dir.join(FILE), reason, Left { last_entry, ..Left::default() })
        }
        None => error,
    })?;
    let reached = state.reached();
    let left = |last: Option<LogId>| Left {
        last_entry: last.map(|id| id.index),
        applied: reached.applied.map(|id| id.index),
        revision: Some(reached.revision),
    };
    let log = Log::open(&log_dir, state.clone(), sizes.wal).map_err(|error| match error {
        log::LogError::Damaged { path, why, last_good } => unsound(&path, why, left(last_good)),
        log::LogError::File(error) => error,
    })?;
    let (last, purged) = log.bounds();
    unsound::fits(reached, there, last, purged).map_err(|reason| unsound(dir, reason, left(last)))?;
    Ok((log, Machine::new(state)))
}

/// What is wrong with the state, if it is the state and not its disk.
fn damage(error: &StorageError) -> Option<String> {
    let kind = std::io::ErrorKind::InvalidData;
    match error {
        StorageError::Damaged { .. } => Some(chain(error)),
        StorageError::State { source, .. } => match source.as_ref() {
            redb::Error::Io(io) if io.kind() != kind && io.kind() != std::io::ErrorKind::UnexpectedEof => None,
            redb::Error::PreviousIo | redb::Error::DatabaseAlreadyOpen => None,
            other => Some(other.to_string()),
        },
        StorageError::File { source, .. } if source.kind() == kind => Some(source.to_string()),
        _ => None,
    }
}
