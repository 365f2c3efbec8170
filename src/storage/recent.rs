//! What was applied since the last transaction of the state file: entries change this first, in
//! memory, and many of them reach the file in one transaction, with the progress that they made.
//! While one layer is on its way to the file, the next one gathers on top of it. It decides nothing
//! about durability: the log is what a power cut leaves.

mod applying;
mod layer;

use std::collections::BTreeMap;
use std::sync::Arc;

use redb::{Database, ReadOnlyTable, ReadableDatabase};

use super::raft::StoredMembership;
use super::table::{self, CLIENTS, DOCUMENTS, Fault, META, OUTCOMES, Progress};
use crate::store::{Client, Document, Key};
pub(super) use applying::Applying;
use layer::Layer;

/// How much may differ from the file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    /// Entries after which they are written to the file.
    pub(crate) entries: usize,
    /// Bytes of documents after which they are.
    pub(crate) bytes: usize,
    /// Bytes of documents that may stay in memory while nothing is applied any more.
    pub(crate) kept: usize,
}

impl Default for Sizes {
    fn default() -> Self {
        if cfg!(feature = "simulation") {
            // A simulated device lives for minutes: as often as another one in a day.
            return Self { entries: 64, bytes: 16 << 10, kept: 4 << 10 };
        }
        // Documents that lie apart cost a page each when they are written alone: the more there are
        // at once, the more of them share one.
        Self { entries: 4096, bytes: 2 << 20, kept: 256 << 10 }
    }
}

/// What differs from the file.
#[derive(Default)]
pub(super) struct Recent {
    top: Layer,
    /// Below it: what a transaction of the file is about to take in.
    sent: Option<Arc<Layer>>,
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
        Self { top: Layer::at(progress), ..Self::default() }
    }

    pub(super) fn progress(&self) -> Progress {
        self.top.progress
    }

    pub(super) fn membership(&self) -> Option<&StoredMembership> {
        self.layers().find_map(|layer| layer.membership.as_ref())
    }

    /// The later one first.
    fn layers(&self) -> impl Iterator<Item = &Layer> {
        std::iter::once(&self.top).chain(self.sent.as_deref())
    }

    /// How many times what may be gathered has been gathered.
    pub(super) fn fullness(&self, sizes: Sizes) -> usize {
        (self.top.entries / sizes.entries).max(self.top.bytes / sizes.bytes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.top.entries == 0
    }

    /// Bytes of documents that are gathered.
    pub(super) fn bytes(&self) -> usize {
        self.top.bytes
    }

    /// One document as this has it; nothing when the file has the answer.
    pub(super) fn document(&self, key: &Key) -> Option<&Option<Document>> {
        self.layers().find_map(|layer| layer.documents.get(key))
    }

    /// Documents of a kind, of one namespace or of all, that differ from the file.
    pub(super) fn under(&self, kind: &str, namespace: Option<&str>) -> Vec<(Key, Option<Document>)> {
        let from = Key::new(kind, namespace.unwrap_or_default(), "");
        let inside = |key: &Key| key.kind == kind && namespace.is_none_or(|namespace| key.namespace == namespace);
        self.merged(|layer| layer.documents.range(from.clone()..).take_while(|(key, _)| inside(key)))
    }

    /// All documents that differ from the file.
    pub(super) fn all(&self) -> Vec<(Key, Option<Document>)> {
        self.merged(|layer| layer.documents.iter())
    }

    fn merged<'a, I>(&'a self, pick: impl Fn(&'a Layer) -> I) -> Vec<(Key, Option<Document>)>
    where
        I: Iterator<Item = (&'a Key, &'a Option<Document>)>,
    {
        let mut found: BTreeMap<&Key, &Option<Document>> = BTreeMap::new();
        for layer in self.sent.as_deref().into_iter().chain([&self.top]) {
            found.extend(pick(layer));
        }
        found.into_iter().map(|(key, document)| (key.clone(), document.clone())).collect()
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
        let progress = self.progress();
        let mut applying = Applying { progress, base: &base, recent: self, mirror_changes: Vec::new() };
        let done = step(&mut applying);
        let progress = applying.progress;
        self.base = Some(base);
        if done.is_ok() {
            (self.top.progress, self.top.entries) = (progress, self.top.entries + entries);
        } else {
            self.broken = true;
        }
        done
    }

    /// Hands out what was gathered, for a transaction of the file. One of them at a time: then
    /// [`Recent::landed`] or [`Recent::came_back`].
    pub(super) fn send(&mut self) -> Result<Option<Arc<Layer>>, Fault> {
        if self.broken {
            let source = std::io::Error::other("an entry could not be applied");
            return Err(Fault::from(redb::Error::Io(source)));
        }
        if self.top.entries > 0 {
            let progress = self.progress();
            self.sent = Some(Arc::new(std::mem::replace(&mut self.top, Layer::at(progress))));
        }
        Ok(self.sent.clone())
    }

    /// The file has what was sent.
    pub(super) fn landed(&mut self) {
        if self.sent.take().is_some() {
            self.base = None;
        }
    }

    /// The file has not got what was sent.
    pub(super) fn came_back(&mut self) {
        if let Some(sent) = self.sent.take() {
            let later = std::mem::replace(&mut self.top, Arc::unwrap_or_clone(sent));
            self.top.cover(later);
        }
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

#[cfg(test)]
mod tests;
