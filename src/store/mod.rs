//! The replicated document store as a pure state machine: transactions, revisions,
//! preconditions, events. It decides whether a write applies and what it changes; it never looks
//! inside a document, reads a clock or touches a file. `storage` gives it a table to live in.

mod apply;
pub mod codec;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
#[cfg(test)]
pub(crate) mod golden;
pub mod hash;
pub mod memory;
pub mod octets;
pub mod ring;
pub mod table;

#[cfg(test)]
mod tests;

pub use apply::apply;
pub use hash::{StateHash, StateHasher};
pub use ring::{MAX_BYTES as EVENT_BYTES, Ring};
pub use table::{Client, Counters, Table};

use serde::{Deserialize, Serialize};

use crate::resource::Timestamp;

/// The address of a document.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    /// `Kind` for the core group, `group/Kind` elsewhere: `Pod`, `apps/Deployment`, `kith.dev/Token`.
    pub kind: String,
    /// Namespace; empty for kinds that have none.
    pub namespace: String,
    /// Name, unique within kind and namespace.
    pub name: String,
}

impl Key {
    /// A key from its three parts.
    pub fn new(kind: impl Into<String>, namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { kind: kind.into(), namespace: namespace.into(), name: name.into() }
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

/// A stored document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    /// Where it stands.
    pub key: Key,
    /// Canonical JSON, as the writer gave it.
    #[serde(with = "octets")]
    pub body: Vec<u8>,
    /// Revision that created it.
    pub created: u64,
    /// Revision that last changed it.
    pub modified: u64,
}

/// What a transaction requires of a document before it applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Precondition {
    /// The document does not exist.
    Absent,
    /// The document exists, at whatever revision.
    Present,
    /// The document was last modified at exactly this revision.
    AtRevision(u64),
}

/// A precondition on one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// The document that is checked.
    pub key: Key,
    /// What must hold.
    pub expect: Precondition,
}

/// One change to one document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Write {
    /// Create or replace.
    Put {
        /// Where.
        key: Key,
        /// Canonical JSON.
        #[serde(with = "octets")]
        body: Vec<u8>,
    },
    /// Remove; removing what is absent changes nothing.
    Delete {
        /// Where.
        key: Key,
    },
}

/// Checks and writes that apply whole or not at all: a transaction before it is stamped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// All must hold.
    pub checks: Vec<Check>,
    /// Applied in order, at one revision.
    pub writes: Vec<Write>,
}

/// A stamped transaction: what travels through the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Txn {
    /// The proposer; drawn at random when its process starts.
    pub client: u64,
    /// Counts up by one for each new transaction of this client; a retry repeats it.
    pub sequence: u64,
    /// The client waits for no answer below this sequence: their outcomes may be forgotten.
    pub settled: u64,
    /// The proposer's wall clock. `apply` has no other.
    pub at: Timestamp,
    /// What to check and write.
    pub batch: Batch,
}

/// What became of a transaction. A repeated transaction gets its first outcome again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Applied whole, at this revision (the current one when nothing changed).
    Applied {
        /// Fleet-wide revision.
        revision: u64,
    },
    /// Nothing was applied: these checks did not hold.
    Refused {
        /// Each check that failed, in the transaction's order.
        conflicts: Vec<Conflict>,
    },
}

/// A check that failed, and what was found instead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflict {
    /// The document.
    pub key: Key,
    /// What the transaction required.
    pub expected: Precondition,
    /// The revision found; `None` when the document does not exist.
    pub found: Option<u64>,
}

/// How an event changed its document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// The document is new.
    Created,
    /// The document has a new body.
    Updated,
    /// The document is gone; the event's body is the last it had.
    Deleted,
}

/// One applied change, as watchers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The revision of the transaction; several events may share one.
    pub revision: u64,
    /// How.
    pub change: Change,
    /// What.
    pub key: Key,
    /// The new body, or the last one for a deletion.
    pub body: std::sync::Arc<[u8]>,
    /// The body before the change: a selector that matched before and not after is a deletion to its watcher.
    pub previous: Option<std::sync::Arc<[u8]>>,
    /// Revision that created the document.
    pub created: u64,
}

/// The events asked for are older than what is kept: list again, then watch from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("events since revision {asked} are gone, the oldest kept is {oldest}")]
pub struct Gone {
    /// What the watcher asked for.
    pub asked: u64,
    /// The oldest revision that can still be resumed from.
    pub oldest: u64,
}
