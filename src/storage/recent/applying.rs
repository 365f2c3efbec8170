//! The state while entries are applied: the layers in memory, and the file below them.

use std::collections::BTreeMap;

use redb::{ReadableTable, ReadableTableMetadata};

use super::super::keys;
use super::super::raft::StoredMembership;
use super::super::table::{self, Fault, MEMBERSHIP, Progress};
use super::layer::Layer;
use super::{Base, Recent};
use crate::identity::Member;
use crate::store::{Client, Counters, Document, Key, Outcome, Table};

/// What entries are applied to. Only the layer on top is changed.
pub(in super::super) struct Applying<'a> {
    pub(super) recent: &'a mut Recent,
    pub(super) base: &'a Base,
    pub(in super::super) progress: Progress,
    /// Mirrors that were set or removed, in order.
    pub(in super::super) mirror_changes: Vec<(u64, Option<Member>)>,
}

impl Applying<'_> {
    /// Hands out a member id.
    pub(in super::super) fn next_member(&mut self) -> u64 {
        self.progress.hand_out_member()
    }

    /// Records a mirror, and that its id is taken.
    pub(in super::super) fn set_mirror(&mut self, id: u64, member: &Member) {
        self.progress.next_member = self.progress.next_member.max(id + 1);
        self.change_mirror(id, Some(member.clone()));
    }

    /// Forgets a mirror; one that is not there is no error.
    pub(in super::super) fn remove_mirror(&mut self, id: u64) {
        self.change_mirror(id, None);
    }

    fn change_mirror(&mut self, id: u64, member: Option<Member>) {
        self.recent.top.mirrors.insert(id, member.clone());
        self.mirror_changes.push((id, member));
    }

    /// Records a membership, and that its ids are taken. Whoever newly stands in it is a mirror no
    /// more, by the same entry: at no point of the log is a member in neither place.
    pub(in super::super) fn set_membership(&mut self, membership: StoredMembership) -> Result<(), Fault> {
        let known = match self.recent.membership() {
            Some(known) => known.clone(),
            None => table::meta(&self.base.meta, MEMBERSHIP)?.unwrap_or_default(),
        };
        for (&id, _) in membership.nodes() {
            if !known.nodes().any(|(&earlier, _)| earlier == id) {
                self.remove_mirror(id);
            }
        }
        self.progress.take_members(&membership);
        self.recent.top.membership = Some(membership);
        Ok(())
    }

    fn sent(&self) -> Option<&Layer> {
        self.recent.sent.as_deref()
    }

    /// The clients that differ from the file.
    fn clients(&self) -> BTreeMap<u64, Option<Client>> {
        let mut clients = self.sent().map_or_else(BTreeMap::new, |layer| layer.clients.clone());
        clients.extend(&self.recent.top.clients);
        clients
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
        if let Some(found) = self.recent.document(key) {
            return Ok(found.clone());
        }
        match self.base.documents.get(keys::encode(key).as_slice())? {
            Some(bytes) => Ok(Some(table::document(key.clone(), bytes.value())?)),
            None => Ok(None),
        }
    }

    fn put_document(&mut self, document: &Document) -> Result<(), Fault> {
        self.recent.top.set_document(document.key.clone(), Some(document.clone()));
        Ok(())
    }

    fn remove_document(&mut self, key: &Key) -> Result<(), Fault> {
        self.recent.top.set_document(key.clone(), None);
        Ok(())
    }

    fn outcome(&self, client: u64, sequence: u64) -> Result<Option<Outcome>, Fault> {
        let place = (client, sequence);
        let sent = self.sent().and_then(|layer| layer.outcomes.get(&place));
        if let Some(found) = self.recent.top.outcomes.get(&place).or(sent) {
            return Ok(found.clone());
        }
        match self.base.outcomes.get(place)? {
            Some(bytes) => Ok(Some(table::outcome(client, sequence, bytes.value())?)),
            None => Ok(None),
        }
    }

    fn put_outcome(&mut self, client: u64, sequence: u64, outcome: &Outcome) -> Result<(), Fault> {
        self.recent.top.outcomes.insert((client, sequence), Some(outcome.clone()));
        Ok(())
    }

    fn forget_outcomes(&mut self, client: u64, below: u64) -> Result<(), Fault> {
        // What is below the old mark was forgotten when that was set.
        let from = (client, self.client(client)?.map_or(0, |known| known.settled));
        let below = (client, below);
        if from >= below {
            return Ok(());
        }
        let top = &mut self.recent.top.outcomes;
        let gone: Vec<(u64, u64)> = top.range(from..below).map(|(&place, _)| place).collect();
        for place in gone {
            top.remove(&place);
        }
        if let Some(sent) = &self.recent.sent {
            top.extend(sent.outcomes.range(from..below).map(|(&place, _)| (place, None)));
        }
        for entry in self.base.outcomes.range(from..below)? {
            top.insert(entry?.0.value(), None);
        }
        Ok(())
    }

    fn client(&self, client: u64) -> Result<Option<Client>, Fault> {
        let sent = self.sent().and_then(|layer| layer.clients.get(&client));
        match self.recent.top.clients.get(&client).or(sent) {
            Some(found) => Ok(*found),
            None => self.base.client(client),
        }
    }

    fn put_client(&mut self, client: u64, record: Client) -> Result<(), Fault> {
        self.recent.top.clients.insert(client, Some(record));
        Ok(())
    }

    fn remove_client(&mut self, client: u64) -> Result<(), Fault> {
        self.recent.top.clients.insert(client, None);
        Ok(())
    }

    fn client_count(&self) -> Result<u64, Fault> {
        let mut count = self.base.clients.len()?;
        for (client, record) in self.clients() {
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
        for (client, record) in self.clients() {
            match record {
                Some(record) => turns.insert(client, record.turn),
                None => turns.remove(&client),
            };
        }
        Ok(turns.into_iter().map(|(client, turn)| (turn, client)).min().map(|(_, client)| client))
    }
}
