//! What `apply` needs of the place where the state lives. A table does as it is told and decides
//! nothing: every rule is in `apply`, so that two kinds of table can never come to two states.

use serde::{Deserialize, Serialize};

use super::{Document, Key, Outcome};
use crate::resource::Timestamp;

/// The counters of the whole store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Fleet-wide revision: the number of transactions that changed something.
    pub revision: u64,
    /// Transactions seen for the first time, refused ones included. It orders the clients by their
    /// last use without trusting anyone's clock.
    pub turn: u64,
    /// The latest wall clock that a transaction carried.
    pub at: Timestamp,
}

/// What is remembered of a client besides its outcomes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Client {
    /// Outcomes below this sequence are forgotten, and a transaction below it never applies.
    pub settled: u64,
    /// The turn of its last transaction.
    pub turn: u64,
}

/// Documents, sessions and counters, read and written within one transaction of the table's own.
pub trait Table {
    /// Why the table can not be read or written.
    type Error;

    /// The counters; all zero in a new table.
    fn counters(&self) -> Result<Counters, Self::Error>;
    /// Replaces the counters.
    fn set_counters(&mut self, counters: Counters) -> Result<(), Self::Error>;

    /// One document.
    fn document(&self, key: &Key) -> Result<Option<Document>, Self::Error>;
    /// Creates or replaces a document.
    fn put_document(&mut self, document: &Document) -> Result<(), Self::Error>;
    /// Removes a document; removing what is absent does nothing.
    fn remove_document(&mut self, key: &Key) -> Result<(), Self::Error>;

    /// The remembered outcome of a client's transaction.
    fn outcome(&self, client: u64, sequence: u64) -> Result<Option<Outcome>, Self::Error>;
    /// Remembers an outcome.
    fn put_outcome(&mut self, client: u64, sequence: u64, outcome: &Outcome) -> Result<(), Self::Error>;
    /// Forgets a client's outcomes below a sequence.
    fn forget_outcomes(&mut self, client: u64, below: u64) -> Result<(), Self::Error>;

    /// What is known of a client.
    fn client(&self, client: u64) -> Result<Option<Client>, Self::Error>;
    /// Remembers a client.
    fn put_client(&mut self, client: u64, record: Client) -> Result<(), Self::Error>;
    /// Forgets a client; its outcomes are forgotten separately.
    fn remove_client(&mut self, client: u64) -> Result<(), Self::Error>;
    /// How many clients are remembered.
    fn client_count(&self) -> Result<u64, Self::Error>;
    /// The client with the lowest turn, the lowest id among equals.
    fn oldest_client(&self) -> Result<Option<u64>, Self::Error>;
}
