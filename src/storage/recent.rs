//! What was applied since the last transaction of the state file: entries change this first, in
//! memory, and many of them reach the file in one transaction, with the progress that they made.
//! It decides nothing about durability: the log is what a power cut leaves.

use std::collections::BTreeMap;

use redb::{Database, ReadOnlyTable, ReadableDatabase, ReadableTable, ReadableTableMetadata};

use super::keys;
use super::raft::StoredMembership;
use super::table::{self, CLIENTS, DOCUMENTS, Fault, MEMBERSHIP, META, OUTCOMES, Progress, WriteTable};
use crate::identity::Member;
use crate::store::{Client, Counters, Document, Key, Outcome, Table};

/// Entries after which they are folded into the file.
const MAX_ENTRIES: usize = 512;
/// Bytes of documents after which they are.
const MAX_BYTES: usize = 512 << 10;

/// What differs from the file. `None` stands for what the file has and the state has not.
#[derive(Default)]
pub(super) struct Recent {
    documents: BTreeMap<Key, Option<Document>>,
    clients: BTreeMap<u64, Option<Client>>,
    outcomes: BTreeMap<(u64, u64), Option<Outcome>>,
    membership: Option<StoredMembership>,
    mirrors: BTreeMap<u64, Option<Member>>,
    progress: Progress,
    entries: usize,
    bytes: usize,
    /// An entry was applied by half: none of this may reach the file.
    broken: bool,
    /// The file as it was when the first of this was applied.
    base: Option<Base>,
}

struct Base {
    documents: ReadOnlyTable<&'static [u8], &'static [u8]>,
    clients: ReadOnlyTable<u64, (u64, u64, u32)>,
    outcomes: ReadOnlyTable<(u64, u64), &'static [u8]>,
    meta: ReadOnlyTable<&'static str, &'static [u8]>,
}

impl Base {
    fn open(database: &Database) -> Result<Self, Fault> {
        let txn = database.begin_read()?;
        Ok(Self {
            documents: txn.open_table(DOCUMENTS)?,
            clients: txn.open_table(CLIENTS)?,
            outcomes: txn.open_table(OUTCOMES)?,
            meta: txn.open_table(META)?,
        })
    }

    fn client(&self, client: u64) -> Result<Option<Client>, Fault> {
        self.clients.get(client)?.map(|record| table::client(client, record.value())).transpose()
    }
}

impl Recent {
    /// Nothing differs from a file that has come so far.
    pub(super) fn at(progress: Progress) -> Self {
        Self { progress, ..Self::default() }
    }

    pub(super) fn progress(&self) -> Progress {
        self.progress
    }

    pub(super) fn membership(&self) -> Option<&StoredMembership> {
        self.membership.as_ref()
    }

    /// Whether it should be folded into the file.
    pub(super) fn is_full(&self) -> bool {
        self.entries >= MAX_ENTRIES || self.bytes >= MAX_BYTES
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// One document as this has it; nothing when the file has the answer.
    pub(super) fn document(&self, key: &Key) -> Option<&Option<Document>> {
        self.documents.get(key)
    }

    /// Documents of a kind, of one namespace or of all, that differ from the file.
    pub(super) fn under(&self, kind: &str, namespace: Option<&str>) -> Vec<(Key, Option<Document>)> {
        let from = Key::new(kind, namespace.unwrap_or_default(), "");
        let inside = |key: &Key| key.kind == kind && namespace.is_none_or(|namespace| key.namespace == namespace);
        let found = self.documents.range(from..).take_while(|(key, _)| inside(key));
        found.map(|(key, document)| (key.clone(), document.clone())).collect()
    }

    /// All documents that differ from the file.
    pub(super) fn all(&self) -> Vec<(Key, Option<Document>)> {
        self.documents.iter().map(|(key, document)| (key.clone(), document.clone())).collect()
    }

    /// Applies entries by `step`. After an error nothing of this reaches the file any more.
    pub(super) fn apply<T>(
        &mut self,
        database: &Database,
        entries: usize,
        step: impl FnOnce(&mut Applying<'_>) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let base = match self.base.take() {
            Some(base) => base,
            None => Base::open(database)?,
        };
        let mut applying = Applying { progress: self.progress, base: &base, recent: self, mirror_changes: Vec::new() };
        let done = step(&mut applying);
        let progress = applying.progress;
        self.base = Some(base);
        if done.is_ok() {
            (self.progress, self.entries) = (progress, self.entries + entries);
        } else {
            self.broken = true;
        }
        done
    }

    /// Writes everything into a transaction of the file.
    pub(super) fn fold_into(&self, table: &mut WriteTable<'_>) -> Result<(), Fault> {
        if self.broken {
            let source = std::io::Error::other("an entry could not be applied");
            return Err(Fault::from(redb::Error::Io(source)));
        }
        for (key, document) in &self.documents {
            match document {
                Some(document) => table.put_document(document)?,
                None => table.remove_document(key)?,
            }
        }
        for (&client, record) in &self.clients {
            match record {
                Some(record) => table.put_client(client, *record)?,
                None => table.remove_client(client)?,
            }
        }
        for (&(client, sequence), outcome) in &self.outcomes {
            match outcome {
                Some(outcome) => table.put_outcome(client, sequence, outcome)?,
                None => table.remove_outcome(client, sequence)?,
            }
        }
        if let Some(membership) = &self.membership {
            table.set_membership(membership)?;
        }
        for (&id, mirror) in &self.mirrors {
            match mirror {
                Some(member) => table.set_mirror(id, member)?,
                None => table.remove_mirror(id)?,
            }
        }
        table.progress = self.progress;
        Ok(())
    }
}

/// Documents of the file, in order, with what differs in its place.
pub(super) fn merged(
    file: impl Iterator<Item = Result<Document, Fault>>,
    recent: Vec<(Key, Option<Document>)>,
    mut each: impl FnMut(Document),
) -> Result<(), Fault> {
    let mut recent = recent.into_iter().peekable();
    for document in file {
        let document = document?;
        while let Some((_, newer)) = recent.next_if(|(key, _)| *key < document.key) {
            newer.into_iter().for_each(&mut each);
        }
        match recent.next_if(|(key, _)| *key == document.key) {
            Some((_, newer)) => newer.into_iter().for_each(&mut each),
            None => each(document),
        }
    }
    recent.filter_map(|(_, newer)| newer).for_each(each);
    Ok(())
}

/// The state while entries are applied: what differs from the file, and the file below.
pub(super) struct Applying<'a> {
    recent: &'a mut Recent,
    base: &'a Base,
    pub(super) progress: Progress,
    /// Mirrors that were set or removed, in order.
    pub(super) mirror_changes: Vec<(u64, Option<Member>)>,
}

impl Applying<'_> {
    /// Hands out a member id.
    pub(super) fn next_member(&mut self) -> u64 {
        self.progress.hand_out_member()
    }

    /// Records a mirror, and that its id is taken.
    pub(super) fn set_mirror(&mut self, id: u64, member: &Member) {
        self.progress.next_member = self.progress.next_member.max(id + 1);
        self.change_mirror(id, Some(member.clone()));
    }

    /// Forgets a mirror; one that is not there is no error.
    pub(super) fn remove_mirror(&mut self, id: u64) {
        self.change_mirror(id, None);
    }

    fn change_mirror(&mut self, id: u64, member: Option<Member>) {
        self.recent.mirrors.insert(id, member.clone());
        self.mirror_changes.push((id, member));
    }

    /// Records a membership, and that its ids are taken. Whoever newly stands in it is a mirror no
    /// more, by the same entry: at no point of the log is a member in neither place.
    pub(super) fn set_membership(&mut self, membership: StoredMembership) -> Result<(), Fault> {
        let known = match self.recent.membership.take() {
            Some(known) => known,
            None => table::meta(&self.base.meta, MEMBERSHIP)?.unwrap_or_default(),
        };
        for (&id, _) in membership.nodes() {
            if !known.nodes().any(|(&earlier, _)| earlier == id) {
                self.remove_mirror(id);
            }
        }
        self.progress.take_members(&membership);
        self.recent.membership = Some(membership);
        Ok(())
    }
}

impl Table for Applying<'_> {
    type Error = Fault;

    fn counters(&self) -> Result<Counters, Fault> {
        Ok(self.progress.counters)
    }

    fn set_counters(&mut self, counters: Counters) -> Result<(), Fault> {
        self.progress.counters = counters;
        Ok(())
    }

    fn document(&self, key: &Key) -> Result<Option<Document>, Fault> {
        if let Some(found) = self.recent.documents.get(key) {
            return Ok(found.clone());
        }
        match self.base.documents.get(keys::encode(key).as_slice())? {
            Some(bytes) => Ok(Some(table::document(key.clone(), bytes.value())?)),
            None => Ok(None),
        }
    }

    fn put_document(&mut self, document: &Document) -> Result<(), Fault> {
        let key = &document.key;
        self.recent.bytes += document.body.len() + key.kind.len() + key.namespace.len() + key.name.len();
        self.recent.documents.insert(key.clone(), Some(document.clone()));
        Ok(())
    }

    fn remove_document(&mut self, key: &Key) -> Result<(), Fault> {
        self.recent.documents.insert(key.clone(), None);
        Ok(())
    }

    fn outcome(&self, client: u64, sequence: u64) -> Result<Option<Outcome>, Fault> {
        if let Some(found) = self.recent.outcomes.get(&(client, sequence)) {
            return Ok(found.clone());
        }
        match self.base.outcomes.get((client, sequence))? {
            Some(bytes) => Ok(Some(table::outcome(client, sequence, bytes.value())?)),
            None => Ok(None),
        }
    }

    fn put_outcome(&mut self, client: u64, sequence: u64, outcome: &Outcome) -> Result<(), Fault> {
        self.recent.outcomes.insert((client, sequence), Some(outcome.clone()));
        Ok(())
    }

    fn forget_outcomes(&mut self, client: u64, below: u64) -> Result<(), Fault> {
        // What is below the old mark was forgotten when that was set.
        let from = (client, self.client(client)?.map_or(0, |known| known.settled));
        let below = (client, below);
        if from >= below {
            return Ok(());
        }
        let gone: Vec<(u64, u64)> = self.recent.outcomes.range(from..below).map(|(&place, _)| place).collect();
        for place in gone {
            self.recent.outcomes.remove(&place);
        }
        for entry in self.base.outcomes.range(from..below)? {
            self.recent.outcomes.insert(entry?.0.value(), None);
        }
        Ok(())
    }

    fn client(&self, client: u64) -> Result<Option<Client>, Fault> {
        match self.recent.clients.get(&client) {
            Some(found) => Ok(*found),
            None => self.base.client(client),
        }
    }

    fn put_client(&mut self, client: u64, record: Client) -> Result<(), Fault> {
        self.recent.clients.insert(client, Some(record));
        Ok(())
    }

    fn remove_client(&mut self, client: u64) -> Result<(), Fault> {
        self.recent.clients.insert(client, None);
        Ok(())
    }

    fn client_count(&self) -> Result<u64, Fault> {
        let mut count = self.base.clients.len()?;
        for (&client, record) in &self.recent.clients {
            match (record.is_some(), self.base.clients.get(client)?.is_some()) {
                (true, false) => count += 1,
                (false, true) => count -= 1,
                _ => {}
            }
        }
        Ok(count)
    }

    fn oldest_client(&self) -> Result<Option<u64>, Fault> {
        let mut turns: BTreeMap<u64, u64> = BTreeMap::new();
        for entry in self.base.clients.iter()? {
            let (client, record) = entry?;
            turns.insert(client.value(), record.value().1);
        }
        for (&client, record) in &self.recent.clients {
            match record {
                Some(record) => turns.insert(client, record.turn),
                None => turns.remove(&client),
            };
        }
        Ok(turns.into_iter().map(|(client, turn)| (turn, client)).min().map(|(_, client)| client))
    }
}

#[cfg(test)]
mod tests;
