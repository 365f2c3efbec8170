//! One layer of what was applied and is not in the file: what differs, and how far it has come. It
//! decides nothing; it is changed while it is on top, and only read once it is on its way.

use std::collections::BTreeMap;

use super::super::raft::StoredMembership;
use super::super::table::{Fault, Progress, WriteTable};
use crate::identity::Member;
use crate::store::{Client, Document, Key, Outcome, Table};

/// What differs from what is below. `None` stands for what is there below and not in the state.
#[derive(Clone, Default)]
pub(in super::super) struct Layer {
    pub(super) documents: BTreeMap<Key, Option<Document>>,
    pub(super) clients: BTreeMap<u64, Option<Client>>,
    pub(super) outcomes: BTreeMap<(u64, u64), Option<Outcome>>,
    pub(super) membership: Option<StoredMembership>,
    pub(super) mirrors: BTreeMap<u64, Option<Member>>,
    pub(super) progress: Progress,
    pub(super) entries: usize,
    /// Bytes of its keys and documents.
    pub(super) bytes: usize,
}

impl Layer {
    /// Nothing differs from what has come so far.
    pub(super) fn at(progress: Progress) -> Self {
        Self { progress, ..Self::default() }
    }

    /// Sets what a key has.
    pub(super) fn set_document(&mut self, key: Key, document: Option<Document>) {
        let key_bytes = key.kind.len() + key.namespace.len() + key.name.len();
        let body_bytes = |known: &Option<Document>| known.as_ref().map_or(0, |document| document.body.len());
        self.bytes += body_bytes(&document);
        match self.documents.insert(key, document) {
            Some(earlier) => self.bytes -= body_bytes(&earlier),
            None => self.bytes += key_bytes,
        }
    }

    /// Puts a later layer on top of this one.
    pub(super) fn cover(&mut self, later: Self) {
        for (key, document) in later.documents {
            self.set_document(key, document);
        }
        self.clients.extend(later.clients);
        self.outcomes.extend(later.outcomes);
        self.membership = later.membership.or(self.membership.take());
        self.mirrors.extend(later.mirrors);
        self.progress = later.progress;
        self.entries += later.entries;
    }

    /// Writes everything into a transaction of the file.
    pub(in super::super) fn write_to(&self, table: &mut WriteTable<'_>) -> Result<(), Fault> {
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
