//! Reading the state: what is in the file, and over it what was applied last. It changes nothing.

use std::sync::atomic::Ordering;

use redb::ReadableTableMetadata;
use tokio::sync::watch;

use super::super::raft::{LogId, StoredMembership};
use super::super::recent::{Recent, merged};
use super::super::table::{self, DOCUMENTS, MEMBERSHIP, META};
use super::super::{StorageError, keys};
use super::{Mirrors, State};
use crate::resource::Timestamp;
use crate::store::{Document, Event, Gone, Key, StateHash, StateHasher};

/// How much of everything a state has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateFigures {
    /// Documents.
    pub documents: u64,
    /// Bytes of its file.
    pub bytes: u64,
    /// Latest events that are kept.
    pub ring_events: usize,
    /// Bytes of these.
    pub ring_bytes: usize,
}

impl State {
    /// One document.
    pub fn get(&self, key: &Key) -> Result<Option<Document>, StorageError> {
        if let Some(found) = self.recent().document(key) {
            return Ok(found.clone());
        }
        self.reading(|txn| {
            let documents = txn.open_table(DOCUMENTS)?;
            match documents.get(keys::encode(key).as_slice())? {
                Some(bytes) => Ok(Some(table::document(key.clone(), bytes.value())?)),
                None => Ok(None),
            }
        })
    }

    /// The revision, and the documents of a kind, of one namespace or of all, sorted.
    pub fn list(&self, kind: &str, namespace: Option<&str>) -> Result<(u64, Vec<Document>), StorageError> {
        let mut found = Vec::new();
        let revision = self.each(kind, namespace, |document| found.push(document))?;
        Ok((revision, found))
    }

    /// Shows the documents of a kind, of one namespace or of all, one after the other, as they were
    /// at the revision that it returns.
    pub fn each(&self, kind: &str, namespace: Option<&str>, show: impl FnMut(Document)) -> Result<u64, StorageError> {
        let pick = |recent: &Recent| (recent.progress().counters.revision, recent.under(kind, namespace));
        self.reading_with(pick, |txn, (revision, recent)| {
            merged(table::documents(txn, &keys::prefix(kind, namespace))?, recent, show)?;
            Ok(revision)
        })
    }

    /// The hash of all documents at the current revision. Reads the whole state, on a thread on
    /// which nobody waits for heartbeats.
    pub async fn hash_apart(&self) -> Result<StateHash, StorageError> {
        self.off_thread("read", Self::hash).await
    }

    /// The same on this thread.
    pub fn hash(&self) -> Result<StateHash, StorageError> {
        let pick = |recent: &Recent| (recent.progress().counters.revision, recent.all());
        self.reading_with(pick, |txn, (revision, recent)| {
            let mut hasher = StateHasher::new(revision);
            merged(table::documents(txn, &[])?, recent, |document| hasher.document(&document))?;
            Ok(hasher.finish())
        })
    }

    /// How much there is of everything.
    pub fn figures(&self) -> Result<StateFigures, StorageError> {
        let pick = |recent: &Recent| recent.all();
        let documents = self.reading_with(pick, |txn, recent| {
            let file = txn.open_table(DOCUMENTS)?;
            let mut count = file.len()?;
            for (key, newer) in recent {
                let older = file.get(keys::encode(&key).as_slice())?.is_some();
                match (older, newer.is_some()) {
                    (false, true) => count += 1,
                    (true, false) => count = count.saturating_sub(1),
                    _ => {}
                }
            }
            Ok(count)
        })?;
        let bytes = self.inner.file.len().map_err(|source| StorageError::File {
            action: "measure",
            path: self.inner.path.clone(),
            source,
        })?;
        let (ring_events, ring_bytes) = self.ring().size();
        Ok(StateFigures { documents, bytes, ring_events, ring_bytes })
    }

    /// Events after a revision.
    pub fn events_since(&self, revision: u64, kind: Option<&str>) -> Result<Vec<Event>, Gone> {
        self.ring().since(revision, kind)
    }

    /// The applied revision, as it moves.
    pub fn revision(&self) -> watch::Receiver<u64> {
        self.inner.revision.subscribe()
    }

    /// One more than the index of the last applied entry, as it moves; zero for none.
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.inner.applied.subscribe()
    }

    /// The last applied entry.
    pub fn last_applied(&self) -> Option<LogId> {
        self.progress().applied
    }

    /// Members outside of openraft's membership, as they change.
    pub fn mirrors(&self) -> watch::Receiver<Mirrors> {
        self.inner.mirrors.subscribe()
    }

    /// The wall clock of the latest applied transaction's proposer.
    pub fn last_change(&self) -> Timestamp {
        self.progress().counters.at
    }

    /// Index of the last entry that is safe from a power cut.
    pub(crate) fn durable_index(&self) -> Option<u64> {
        self.inner.durable.load(Ordering::Acquire).checked_sub(1)
    }

    /// Whether the applied membership, or the list of mirrors, has a member.
    pub fn lists(&self, id: u64) -> Result<bool, StorageError> {
        Ok(self.inner.mirrors.borrow().contains_key(&id)
            || self.applied_state()?.1.nodes().any(|(&known, _)| known == id))
    }

    pub(in super::super) fn applied_state(&self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        let pick = |recent: &Recent| (recent.progress().applied, recent.membership().cloned());
        self.reading_with(pick, |txn, (applied, membership)| match membership {
            Some(membership) => Ok((applied, membership)),
            None => Ok((applied, table::meta(&txn.open_table(META)?, MEMBERSHIP)?.unwrap_or_default())),
        })
    }
}
