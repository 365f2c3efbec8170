//! Exchanging the program under running containers: whether a file may take over, which program an
//! agent's start ends in, and the way back when the new one is not well. It never replaces the
//! installed program, which belongs to a package or lies on a file system that nobody writes to: a
//! newer one lies beside the data, and the installed one starts it.
//!
//! ```text
//! <dir>/record.json          what runs, what ran before, what is on trial; replaced whole
//! <dir>/slots/<digest>/kith  a program that was taken in, and its signature beside it
//! <dir>/incoming/            what has not been judged yet
//! ```
//!
//! A trial is written down before the new program is started for the first time, and ends with a
//! word of the new program itself: it is well. Without that word, the next starts try again, a few
//! times, and then the old program is started and stays. So nothing hangs on where the power goes:
//!
//! ```text
//! begin --record--> new program --well--> record: it stays
//!                     | ends, or is not well in time
//!                     \--> record: not it --> old program
//! ```

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
pub mod incoming;
pub mod launch;
pub mod record;
pub mod release;
pub mod rollout;
pub mod signature;
pub mod trial;

use std::io;
use std::path::{Path, PathBuf};

/// Why a program can not take over.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    /// Reading or writing failed.
    #[error("{step}")]
    Io {
        /// What was tried, and with which file.
        step: String,
        /// Why it failed.
        source: io::Error,
    },
    /// It is no program of Kith, or not for this device.
    #[error("{file} can not take over: {reason}")]
    Unfit {
        /// The file.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Nobody who is trusted here has signed it.
    #[error("{file} is refused: {reason}")]
    Unsigned {
        /// The file.
        file: String,
        /// What is wrong with its signature.
        reason: String,
    },
    /// It is too old, or too new.
    #[error("release {wanted} can not follow {running}: {reason}")]
    Order {
        /// The release that runs.
        running: String,
        /// The one in the file.
        wanted: String,
        /// Why not.
        reason: String,
    },
    /// The record of what runs can not be understood.
    #[error("{path} is damaged: {reason}")]
    Record {
        /// The record.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

pub(crate) fn io(step: impl Into<String>) -> impl FnOnce(io::Error) -> UpgradeError {
    let step = step.into();
    move |source| UpgradeError::Io { step, source }
}

/// Makes the names in a folder safe from a power cut.
#[expect(clippy::disallowed_methods, reason = "the programs are files")]
pub(crate) fn sync(folder: &Path) -> Result<(), UpgradeError> {
    let synced = std::fs::File::open(folder).and_then(|open| open.sync_all());
    synced.map_err(io(format!("sync {}", folder.display())))
}
