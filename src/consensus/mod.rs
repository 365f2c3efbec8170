//! openraft wiring: the engine that carries batches through the log to every replica, and the
//! pilot that decides who votes. It never looks inside a document.

mod coalesce;
mod contact;
mod disk;
mod engine;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod gate;
mod guard;
mod handover;
mod lag;
mod membership;
mod message;
pub mod mirror;
mod network;
mod peers;
pub mod pilot;
mod presence;
#[cfg(feature = "simulation")]
mod probe;
mod propose;
mod pulse;
mod read;
mod receive;
pub mod replica;
mod serve;
mod status;
mod timing;
mod writer;

#[cfg(test)]
mod tests;

use futures_util::future::BoxFuture;
use tokio::sync::watch;

pub use engine::{AppHandler, Engine, EngineConfig, EngineError, Leadership, WallClock};
pub use guard::{Presence, Record, Roll, Verdict};
pub use message::{MAX_MESSAGE_BYTES, Refusal};
pub use mirror::MirrorSettings;
pub use peers::Members;
#[cfg(feature = "simulation")]
pub use probe::Probe;
pub use propose::MAX_WRITE_BYTES;
pub use replica::{Freshness, Listing, ProposeError, ReadError, Replica};
pub use status::EngineStatus;
pub use writer::{Writer, WriterConfig};

use crate::store::{Batch, Document, Event, Gone, Key, Outcome};

impl Replica for Engine {
    fn propose(&self, batch: Batch) -> BoxFuture<'_, Result<Outcome, ProposeError>> {
        Box::pin(self.propose_batch(batch))
    }

    fn barrier(&self) -> BoxFuture<'_, Freshness> {
        Box::pin(self.wait_current())
    }

    fn get(&self, key: &Key) -> Result<Option<Document>, ReadError> {
        self.inner.state.get(key).map_err(|error| ReadError(explain(&error)))
    }

    fn list(&self, kind: &str, namespace: Option<&str>) -> Result<Listing, ReadError> {
        let (revision, documents) =
            self.inner.state.list(kind, namespace).map_err(|error| ReadError(explain(&error)))?;
        Ok(Listing { revision, documents })
    }

    fn revision(&self) -> watch::Receiver<u64> {
        self.inner.state.revision()
    }

    fn events_since(&self, revision: u64, kind: Option<&str>) -> Result<Vec<Event>, Gone> {
        self.inner.state.events_since(revision, kind)
    }
}

impl Engine {
    /// Shows all documents of a kind, one after the other: who keeps little of each needs no memory
    /// for all. Returns the revision at which they were read.
    pub fn each_document(&self, kind: &str, show: impl FnMut(Document)) -> Result<u64, ReadError> {
        self.inner.state.each(kind, None, show).map_err(|error| ReadError(explain(&error)))
    }
}

/// The error with its causes.
fn explain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
