//! The replicated log (an append-only WAL), the state it leads to (redb), and snapshots. The only
//! owner of those files: it decides when bytes are safe, never what they mean.

mod keys;
mod log;
mod machine;
mod raft;
mod snapshot;
mod state;
mod table;
mod wal;

#[cfg(test)]
pub(crate) mod tests;

use std::path::{Path, PathBuf};

pub use log::Log;
pub use machine::Machine;
pub use raft::{Command, Entry, LogId, Reply, SnapshotMeta, StoredMembership, TypeConfig, Vote};
pub use snapshot::{Incoming, SnapshotSource};
pub use state::State;

use crate::store::codec::CodecError;

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

/// The error and its causes in one line: openraft keeps only the text.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        let more = source.to_string();
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = source.source();
    }
    text
}

/// Opens the log in `dir/log` and the state in `dir/state.redb`, creating what is missing.
pub fn open(dir: &Path) -> Result<(Log, Machine), StorageError> {
    let state = State::open(dir)?;
    let log = Log::open(&dir.join("log"), state.clone())?;
    Ok((log, Machine::new(state)))
}
