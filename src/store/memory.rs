//! A table in memory: the store of tests, and of whoever wants to try a transaction without a disk.

use std::collections::BTreeMap;
use std::convert::Infallible;

use super::hash::{StateHash, StateHasher};
use super::table::{Client, Counters, Table};
use super::{Document, Key, Outcome};

/// Documents, sessions and counters in ordered maps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    counters: Counters,
    documents: BTreeMap<Key, Document>,
    clients: BTreeMap<u64, Client>,
    outcomes: BTreeMap<(u64, u64), Outcome>,
}

impl Memory {
    /// An empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// The current revision.
    pub fn revision(&self) -> u64 {
        self.counters.revision
    }

    /// One document.
    pub fn get(&self, key: &Key) -> Option<&Document> {
        self.documents.get(key)
    }

    /// Documents of a kind, of one namespace or of all, sorted by namespace and name.
    pub fn list<'a>(&'a self, kind: &'a str, namespace: Option<&'a str>) -> impl Iterator<Item = &'a Document> {
        self.documents.values().filter(move |document| {
            document.key.kind == kind && namespace.is_none_or(|wanted| document.key.namespace == wanted)
        })
    }

    /// All documents, in key order.
    pub fn documents(&self) -> impl Iterator<Item = &Document> {
        self.documents.values()
    }

    /// The hash of the documents at the current revision.
    pub fn hash(&self) -> StateHash {
        let mut hasher = StateHasher::new(self.counters.revision);
        self.documents.values().for_each(|document| hasher.document(document));
        hasher.finish()
    }
}

impl Table for Memory {
    type Error = Infallible;

    fn counters(&self) -> Result<Counters, Infallible> {
        Ok(self.counters)
    }

    fn set_counters(&mut self, counters: Counters) -> Result<(), Infallible> {
        self.counters = counters;
        Ok(())
    }

    fn document(&self, key: &Key) -> Result<Option<Document>, Infallible> {
        Ok(self.documents.get(key).cloned())
    }

    fn put_document(&mut self, document: &Document) -> Result<(), Infallible> {
        self.documents.insert(document.key.clone(), document.clone());
        Ok(())
    }

    fn remove_document(&mut self, key: &Key) -> Result<(), Infallible> {
        self.documents.remove(key);
        Ok(())
    }

    fn outcome(&self, client: u64, sequence: u64) -> Result<Option<Outcome>, Infallible> {
        Ok(self.outcomes.get(&(client, sequence)).cloned())
    }

    fn put_outcome(&mut self, client: u64, sequence: u64, outcome: &Outcome) -> Result<(), Infallible> {
        self.outcomes.insert((client, sequence), outcome.clone());
        Ok(())
    }

    fn forget_outcomes(&mut self, client: u64, below: u64) -> Result<(), Infallible> {
        self.outcomes.retain(|&(owner, sequence), _| owner != client || sequence >= below);
        Ok(())
    }

    fn client(&self, client: u64) -> Result<Option<Client>, Infallible> {
        Ok(self.clients.get(&client).copied())
    }

    fn put_client(&mut self, client: u64, record: Client) -> Result<(), Infallible> {
        self.clients.insert(client, record);
        Ok(())
    }

    fn remove_client(&mut self, client: u64) -> Result<(), Infallible> {
        self.clients.remove(&client);
        Ok(())
    }

    fn client_count(&self) -> Result<u64, Infallible> {
        Ok(self.clients.len() as u64)
    }

    fn oldest_client(&self) -> Result<Option<u64>, Infallible> {
        Ok(self.clients.iter().min_by_key(|&(&id, client)| (client.turn, id)).map(|(&id, _)| id))
    }
}
