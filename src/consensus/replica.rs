//! What the rest of the device sees of the engine: propose a batch, read the local replica, and
//! know how fresh it is. The trait exists so that the API can be tested over a replica in memory.

use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::watch;

use crate::store::{Batch, Document, Event, Gone, Key, Outcome};

/// Why a batch has no outcome. It may still be applied later unless said otherwise; a retry through
/// the same `Replica` never applies it twice.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ProposeError {
    /// No leader answered in time.
    #[error("no leader with a quorum answered within {waited:?}: {why}")]
    Unavailable {
        /// How long the replica tried.
        waited: Duration,
        /// What it saw: who is reachable, how many votes are missing.
        why: String,
    },
    /// The batch is larger than one log entry may be.
    #[error("the write is {size} bytes, more than the {limit} that one write may have")]
    TooLarge {
        /// Encoded size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// This device may not write.
    #[error("{0}")]
    Forbidden(String),
    /// This device can not write to its disk.
    #[error("the local store failed: {0}")]
    Storage(String),
    /// The agent is shutting down.
    #[error("this agent is stopping")]
    Stopping,
}

/// The local replica can not be read.
#[derive(Clone, Debug, thiserror::Error)]
#[error("read the local replica: {0}")]
pub struct ReadError(pub String);

/// How current a read of the local replica is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Holds everything that was acknowledged before the question.
    Current,
    /// A quorum could not be asked.
    Stale {
        /// Time since this device last heard from a leader, as well as it knows.
        age: Duration,
        /// What it saw.
        why: String,
    },
}

/// Documents of one kind at one revision.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// The revision of the whole store when it was read.
    pub revision: u64,
    /// Sorted by namespace, then name.
    pub documents: Vec<Document>,
}

/// The replicated store as this device has it.
pub trait Replica: Send + Sync + 'static {
    /// Carries a batch to the leader and waits until a quorum has it on disk and this replica or the
    /// leader applied it. Gives up within two seconds when there is no quorum.
    fn propose(&self, batch: Batch) -> BoxFuture<'_, Result<Outcome, ProposeError>>;

    /// Waits until the local replica holds every write acknowledged before this call.
    fn barrier(&self) -> BoxFuture<'_, Freshness>;

    /// One document from the local replica.
    fn get(&self, key: &Key) -> Result<Option<Document>, ReadError>;

    /// All documents of a kind, of one namespace or of all.
    fn list(&self, kind: &str, namespace: Option<&str>) -> Result<Listing, ReadError>;

    /// The latest applied revision, as it moves.
    fn revision(&self) -> watch::Receiver<u64>;

    /// Events of one kind (all kinds with `None`) after a revision, oldest first. The caller waits
    /// on `revision()` and asks again, so a slow watcher holds no memory.
    fn events_since(&self, revision: u64, kind: Option<&str>) -> Result<Vec<Event>, Gone>;
}
