//! openraft wiring: the engine that carries batches through the log to every replica, and the
//! pilot that decides who votes. It never looks inside a document.

mod disk;
mod engine;
mod membership;
mod message;
mod network;
mod peers;
pub mod pilot;
mod propose;
mod read;
mod receive;
pub mod replica;
mod serve;
mod status;
mod timing;

#[cfg(test)]
mod tests;

use futures_util::future::BoxFuture;
use tokio::sync::watch;

pub use engine::{AppHandler, Engine, EngineConfig, EngineError, Leadership, WallClock};
pub use message::{MAX_MESSAGE_BYTES, Refusal};
pub use peers::Members;
pub use propose::MAX_WRITE_BYTES;
pub use replica::{Freshness, Listing, ProposeError, ReadError, Replica};
pub use status::EngineStatus;

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

/// The error with its causes.
fn explain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
