//! The store's table inside one redb write transaction.

use redb::{ReadableTable, ReadableTableMetadata, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};

use super::keys;
use super::raft::{LogId, StoredMembership};
use crate::store::codec::{self, CodecError};
use crate::store::{Client, Counters, Document, Key, Outcome, Table};

/// Key bytes to value bytes, both as `keys` lays them out.
pub(super) const DOCUMENTS: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("documents");
/// Client to (settled, turn).
pub(super) const CLIENTS: TableDefinition<'static, u64, (u64, u64)> = TableDefinition::new("clients");
/// (client, sequence) to outcome.
pub(super) const OUTCOMES: TableDefinition<'static, (u64, u64), &[u8]> = TableDefinition::new("outcomes");
/// Single records by name.
pub(super) const META: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("meta");

/// `META`: a `Progress`.
pub(super) const PROGRESS: &str = "progress";
/// `META`: a `StoredMembership`.
pub(super) const MEMBERSHIP: &str = "membership";
/// `META`: the log id of the latest snapshot.
pub(super) const SNAPSHOT: &str = "snapshot";

/// How far the state has come. Written with every batch, so it is small.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Progress {
    pub(super) applied: Option<LogId>,
    pub(super) counters: Counters,
    /// The next member id to hand out. Above every id that was ever in the membership.
    pub(super) next_member: u64,
}

/// What can go wrong inside a table, before the file's name is known.
#[derive(Debug)]
pub(super) enum Fault {
    Redb(Box<redb::Error>),
    Damaged(&'static str, CodecError),
    Encode(&'static str, CodecError),
}

impl<E: Into<redb::Error>> From<E> for Fault {
    fn from(error: E) -> Self {
        Self::Redb(Box::new(error.into()))
    }
}

/// Encodes a record, naming it in the error.
pub(super) fn encode<T: Serialize>(what: &'static str, value: &T) -> Result<Vec<u8>, Fault> {
    codec::encode(value).map_err(|error| Fault::Encode(what, error))
}

/// Decodes a record, naming it in the error.
pub(super) fn decode<T: serde::de::DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, Fault> {
    codec::decode(bytes).map_err(|error| Fault::Damaged(what, error))
}

/// Reads a record of `META`.
pub(super) fn meta<T: serde::de::DeserializeOwned>(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
    name: &'static str,
) -> Result<Option<T>, Fault> {
    match table.get(name)? {
        Some(bytes) => Ok(Some(decode(name, bytes.value())?)),
        None => Ok(None),
    }
}

/// The document behind a key.
pub(super) fn document(key: Key, bytes: &[u8]) -> Result<Document, Fault> {
    keys::decode_value(key, bytes).ok_or(Fault::Damaged("a document", CodecError::Empty))
}

/// The tables of one write transaction.
pub(super) struct WriteTable<'txn> {
    documents: redb::Table<'txn, &'static [u8], &'static [u8]>,
    clients: redb::Table<'txn, u64, (u64, u64)>,
    outcomes: redb::Table<'txn, (u64, u64), &'static [u8]>,
    meta: redb::Table<'txn, &'static str, &'static [u8]>,
    pub(super) progress: Progress,
}

impl<'txn> WriteTable<'txn> {
    /// Opens the tables, creating those that are missing.
    pub(super) fn open(txn: &'txn WriteTransaction) -> Result<Self, Fault> {
        let meta_table = txn.open_table(META)?;
        let progress = meta(&meta_table, PROGRESS)?.unwrap_or_default();
        Ok(Self {
            documents: txn.open_table(DOCUMENTS)?,
            clients: txn.open_table(CLIENTS)?,
            outcomes: txn.open_table(OUTCOMES)?,
            meta: meta_table,
            progress,
        })
    }

    /// Hands out a member id.
    pub(super) fn next_member(&mut self) -> u64 {
        let id = self.progress.next_member.max(1);
        self.progress.next_member = id + 1;
        id
    }

    /// Records a membership, and that its ids are taken.
    pub(super) fn set_membership(&mut self, membership: &StoredMembership) -> Result<(), Fault> {
        let highest = membership.nodes().map(|(&id, _)| id).max().unwrap_or(0);
        self.progress.next_member = self.progress.next_member.max(highest + 1);
        self.meta.insert(MEMBERSHIP, encode(MEMBERSHIP, membership)?.as_slice())?;
        Ok(())
    }

    /// Records what the latest snapshot covers.
    pub(super) fn set_snapshot(&mut self, upto: Option<LogId>) -> Result<(), Fault> {
        self.meta.insert(SNAPSHOT, encode(SNAPSHOT, &upto)?.as_slice())?;
        Ok(())
    }

    /// Records the progress; the last write of a transaction.
    pub(super) fn finish(mut self) -> Result<Progress, Fault> {
        self.meta.insert(PROGRESS, encode(PROGRESS, &self.progress)?.as_slice())?;
        Ok(self.progress)
    }
}

impl Table for WriteTable<'_> {
    type Error = Fault;

    fn counters(&self) -> Result<Counters, Fault> {
        Ok(self.progress.counters)
    }

    fn set_counters(&mut self, counters: Counters) -> Result<(), Fault> {
        self.progress.counters = counters;
        Ok(())
    }

    fn document(&self, key: &Key) -> Result<Option<Document>, Fault> {
        match self.documents.get(keys::encode(key).as_slice())? {
            Some(bytes) => Ok(Some(document(key.clone(), bytes.value())?)),
            None => Ok(None),
        }
    }

    fn put_document(&mut self, document: &Document) -> Result<(), Fault> {
        self.documents.insert(keys::encode(&document.key).as_slice(), keys::encode_value(document).as_slice())?;
        Ok(())
    }

    fn remove_document(&mut self, key: &Key) -> Result<(), Fault> {
        self.documents.remove(keys::encode(key).as_slice())?;
        Ok(())
    }

    fn outcome(&self, client: u64, sequence: u64) -> Result<Option<Outcome>, Fault> {
        match self.outcomes.get((client, sequence))? {
            Some(bytes) => Ok(Some(decode("an outcome", bytes.value())?)),
            None => Ok(None),
        }
    }

    fn put_outcome(&mut self, client: u64, sequence: u64, outcome: &Outcome) -> Result<(), Fault> {
        self.outcomes.insert((client, sequence), encode("an outcome", outcome)?.as_slice())?;
        Ok(())
    }

    fn forget_outcomes(&mut self, client: u64, below: u64) -> Result<(), Fault> {
        self.outcomes.retain_in((client, 0)..(client, below), |_, _| false)?;
        Ok(())
    }

    fn client(&self, client: u64) -> Result<Option<Client>, Fault> {
        Ok(self.clients.get(client)?.map(|record| {
            let (settled, turn) = record.value();
            Client { settled, turn }
        }))
    }

    fn put_client(&mut self, client: u64, record: Client) -> Result<(), Fault> {
        self.clients.insert(client, (record.settled, record.turn))?;
        Ok(())
    }

    fn remove_client(&mut self, client: u64) -> Result<(), Fault> {
        self.clients.remove(client)?;
        Ok(())
    }

    fn client_count(&self) -> Result<u64, Fault> {
        Ok(self.clients.len()?)
    }

    fn oldest_client(&self) -> Result<Option<u64>, Fault> {
        let mut oldest: Option<(u64, u64)> = None;
        for entry in self.clients.iter()? {
            let (id, record) = entry?;
            let candidate = (record.value().1, id.value());
            oldest = Some(oldest.map_or(candidate, |known| known.min(candidate)));
        }
        Ok(oldest.map(|(_, id)| id))
    }
}
