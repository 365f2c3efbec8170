//! The store's table inside one redb write transaction.

use redb::{ReadableTable, ReadableTableMetadata, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};

use super::keys;
use super::raft::{LogId, StoredMembership};
use crate::identity::Member;
use crate::store::codec::{self, CodecError};
use crate::store::{Client, Counters, Document, Key, Outcome, Table};

/// Key bytes to value bytes, both as `keys` lays them out.
pub(super) const DOCUMENTS: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("documents");
/// Client to (settled, turn, checksum).
pub(super) const CLIENTS: TableDefinition<'static, u64, (u64, u64, u32)> = TableDefinition::new("clients");
/// (client, sequence) to outcome.
pub(super) const OUTCOMES: TableDefinition<'static, (u64, u64), &[u8]> = TableDefinition::new("outcomes");
/// Member id to a mirror's `Member`: members that stand outside of openraft's membership.
pub(super) const MIRRORS: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("mirrors");
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

impl Progress {
    /// Hands out a member id.
    pub(super) fn hand_out_member(&mut self) -> u64 {
        let id = self.next_member.max(1);
        self.next_member = id + 1;
        id
    }

    /// Notes that the ids of a membership are taken.
    pub(super) fn take_members(&mut self, membership: &StoredMembership) {
        let highest = membership.nodes().map(|(&id, _)| id).max().unwrap_or(0);
        #[cfg(feature = "seeded-bugs")]
        if super::seeded::has(super::seeded::Bug::ReusedMemberId) {
            self.next_member = highest + 1;
            return;
        }
        self.next_member = self.next_member.max(highest + 1);
    }
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

/// Encodes a record with a checksum over it and over where it is kept.
fn seal<T: Serialize>(what: &'static str, place: &[u8], value: &T) -> Result<Vec<u8>, Fault> {
    let mut bytes = encode(what, value)?;
    let sum = checksum(place, &bytes);
    bytes.extend_from_slice(&sum.to_be_bytes());
    Ok(bytes)
}

fn unseal<T: serde::de::DeserializeOwned>(what: &'static str, place: &[u8], bytes: &[u8]) -> Result<T, Fault> {
    match bytes.split_last_chunk::<4>() {
        Some((bytes, sum)) if checksum(place, bytes).to_be_bytes() == *sum => decode(what, bytes),
        _ => Err(Fault::Damaged(what, CodecError::Checksum)),
    }
}

fn checksum(place: &[u8], bytes: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(place);
    sum.update(bytes);
    sum.finalize()
}

fn outcome_place(client: u64, sequence: u64) -> [u8; 16] {
    ((u128::from(client) << 64) | u128::from(sequence)).to_be_bytes()
}

/// The outcome that is kept for a client and a sequence.
pub(super) fn outcome(client: u64, sequence: u64, bytes: &[u8]) -> Result<Outcome, Fault> {
    unseal("an outcome", &outcome_place(client, sequence), bytes)
}

/// The client that is kept under an id.
pub(super) fn client(id: u64, (settled, turn, sum): (u64, u64, u32)) -> Result<Client, Fault> {
    if client_sum(id, settled, turn) == sum {
        Ok(Client { settled, turn })
    } else {
        Err(Fault::Damaged("a client's record", CodecError::Checksum))
    }
}

fn client_sum(id: u64, settled: u64, turn: u64) -> u32 {
    checksum(&id.to_be_bytes(), &outcome_place(settled, turn))
}

/// Reads a record of `META`.
pub(super) fn meta<T: serde::de::DeserializeOwned>(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
    name: &'static str,
) -> Result<Option<T>, Fault> {
    match table.get(name)? {
        Some(bytes) => Ok(Some(unseal(name, name.as_bytes(), bytes.value())?)),
        None => Ok(None),
    }
}

/// The document behind a key.
pub(super) fn document(key: Key, bytes: &[u8]) -> Result<Document, Fault> {
    keys::decode_value(key, bytes).ok_or(Fault::Damaged("a document", CodecError::Checksum))
}

/// The documents of the file whose keys start with a prefix.
pub(super) fn documents(
    txn: &redb::ReadTransaction,
    prefix: &[u8],
) -> Result<impl Iterator<Item = Result<Document, Fault>>, Fault> {
    let mut entries = txn.open_table(DOCUMENTS)?.range(prefix..)?;
    Ok(std::iter::from_fn(move || match entries.next()? {
        Ok((key, _)) if !key.value().starts_with(prefix) => None,
        Ok((key, bytes)) => Some(read_document(key.value(), bytes.value())),
        Err(error) => Some(Err(Fault::from(error))),
    }))
}

fn read_document(key: &[u8], bytes: &[u8]) -> Result<Document, Fault> {
    let key = keys::decode(key).ok_or(Fault::Damaged("a key", CodecError::Empty))?;
    document(key, bytes)
}

/// The tables of one write transaction.
pub(super) struct WriteTable<'txn> {
    documents: redb::Table<'txn, &'static [u8], &'static [u8]>,
    clients: redb::Table<'txn, u64, (u64, u64, u32)>,
    outcomes: redb::Table<'txn, (u64, u64), &'static [u8]>,
    mirrors: redb::Table<'txn, u64, &'static [u8]>,
    meta: redb::Table<'txn, &'static str, &'static [u8]>,
    pub(super) progress: Progress,
    /// Mirrors that this transaction sets or removes, in order.
    pub(super) mirror_changes: Vec<(u64, Option<Member>)>,
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
            mirrors: txn.open_table(MIRRORS)?,
            meta: meta_table,
            progress,
            mirror_changes: Vec::new(),
        })
    }

    /// Forgets one outcome.
    pub(super) fn remove_outcome(&mut self, client: u64, sequence: u64) -> Result<(), Fault> {
        self.outcomes.remove((client, sequence))?;
        Ok(())
    }

    /// Records a mirror, and that its id is taken.
    pub(super) fn set_mirror(&mut self, id: u64, member: &Member) -> Result<(), Fault> {
        self.progress.next_member = self.progress.next_member.max(id + 1);
        self.mirrors.insert(id, encode("a mirror", member)?.as_slice())?;
        self.mirror_changes.push((id, Some(member.clone())));
        Ok(())
    }

    /// Forgets a mirror; one that is not there is no error.
    pub(super) fn remove_mirror(&mut self, id: u64) -> Result<(), Fault> {
        if self.mirrors.remove(id)?.is_some() {
            self.mirror_changes.push((id, None));
        }
        Ok(())
    }

    /// Forgets all mirrors.
    pub(super) fn clear_mirrors(&mut self) -> Result<(), Fault> {
        self.mirrors.retain(|_, _| false)?;
        Ok(())
    }

    /// Records a membership, and that its ids are taken.
    pub(super) fn set_membership(&mut self, membership: &StoredMembership) -> Result<(), Fault> {
        self.progress.take_members(membership);
        self.meta.insert(MEMBERSHIP, seal(MEMBERSHIP, MEMBERSHIP.as_bytes(), membership)?.as_slice())?;
        Ok(())
    }

    /// Records what the latest snapshot covers.
    pub(super) fn set_snapshot(&mut self, upto: Option<LogId>) -> Result<(), Fault> {
        self.meta.insert(SNAPSHOT, seal(SNAPSHOT, SNAPSHOT.as_bytes(), &upto)?.as_slice())?;
        Ok(())
    }

    /// Records the progress; the last write of a transaction.
    pub(super) fn finish(mut self) -> Result<Progress, Fault> {
        self.meta.insert(PROGRESS, seal(PROGRESS, PROGRESS.as_bytes(), &self.progress)?.as_slice())?;
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
            Some(bytes) => Ok(Some(self::outcome(client, sequence, bytes.value())?)),
            None => Ok(None),
        }
    }

    fn put_outcome(&mut self, client: u64, sequence: u64, outcome: &Outcome) -> Result<(), Fault> {
        let bytes = seal("an outcome", &outcome_place(client, sequence), outcome)?;
        self.outcomes.insert((client, sequence), bytes.as_slice())?;
        Ok(())
    }

    fn forget_outcomes(&mut self, client: u64, below: u64) -> Result<(), Fault> {
        self.outcomes.retain_in((client, 0)..(client, below), |_, _| false)?;
        Ok(())
    }

    fn client(&self, client: u64) -> Result<Option<Client>, Fault> {
        self.clients.get(client)?.map(|record| self::client(client, record.value())).transpose()
    }

    fn put_client(&mut self, client: u64, record: Client) -> Result<(), Fault> {
        let sum = client_sum(client, record.settled, record.turn);
        self.clients.insert(client, (record.settled, record.turn, sum))?;
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
