//! The replicated state of this device in one redb file: documents, sessions, and how far the log
//! was applied, changed together in one transaction for each batch of entries. A batch is not
//! fsynced: the log is, and replays what a power cut took. Durable commits come in between, so that
//! the log can be purged.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::{Builder, Database, Durability, ReadableDatabase, ReadableTable};
use tokio::sync::watch;

use super::raft::{Command, Entry, LogId, Reply, SnapshotMeta, StoredMembership};
use super::table::{self, DOCUMENTS, Fault, MEMBERSHIP, META, PROGRESS, Progress, SNAPSHOT, WriteTable};
use super::{StorageError, keys};
use crate::resource::Timestamp;
use crate::store::{self, Document, Event, Gone, Key, Ring, StateHash, StateHasher};

/// redb's page cache, in bytes. Pages outside of it are in the kernel's.
const CACHE_BYTES: usize = 1 << 20;
/// Entries applied before they are made durable.
const MAX_VOLATILE_ENTRIES: u64 = 1024;
/// The file of the state.
const FILE: &str = "state.redb";

/// The state of this device. Clones share it.
#[derive(Clone)]
pub struct State {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    dir: PathBuf,
    database: Database,
    ring: Mutex<Ring>,
    /// Held across every write. Whoever applies waits for it without blocking its thread, so a slow
    /// durable commit never holds up heartbeats.
    writer: Arc<tokio::sync::Mutex<()>>,
    progress: Mutex<Progress>,
    revision: watch::Sender<u64>,
    applied: watch::Sender<u64>,
    /// One more than the index of the last entry that a power cut can not take; zero for none.
    durable: AtomicU64,
}

/// A consistent view of the whole state, and what it covers.
pub(super) struct View {
    pub(super) txn: redb::ReadTransaction,
    pub(super) meta: SnapshotMeta,
    pub(super) progress: Progress,
}

impl State {
    /// Opens `dir/state.redb`. A new file is made aside and moved in place when it is whole,
    /// because redb can not open one whose creation was cut short.
    pub(super) fn open(dir: &Path) -> Result<Self, StorageError> {
        let path = dir.join(FILE);
        let failed = |action| {
            let path = path.clone();
            move |source| StorageError::File { action, path, source }
        };
        std::fs::create_dir_all(dir).map_err(failed("create the folder of"))?;
        super::snapshot::sweep(dir)?;
        if !path.try_exists().map_err(failed("look for"))? {
            create(&path)?;
        }
        let database = Builder::new()
            .set_cache_size(CACHE_BYTES)
            .open(&path)
            .map_err(|error| fault("open", &path, Fault::from(error)))?;
        let progress = read_progress(&database).map_err(|error| fault("read", &path, error))?;
        let inner = Inner {
            dir: dir.to_owned(),
            database,
            writer: Arc::default(),
            ring: Mutex::new(Ring::new(progress.counters.revision)),
            revision: watch::Sender::new(progress.counters.revision),
            applied: watch::Sender::new(next_index(progress.applied)),
            durable: AtomicU64::new(next_index(progress.applied)),
            progress: Mutex::new(progress),
            path,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    pub(super) fn dir(&self) -> &Path {
        &self.inner.dir
    }

    /// Bytes that this device's disk has left for the log and the state.
    pub fn free_bytes(&self) -> Result<u64, StorageError> {
        let stat = nix::sys::statvfs::statvfs(&self.inner.dir).map_err(|errno| StorageError::File {
            action: "measure the disk of",
            path: self.inner.dir.clone(),
            source: errno.into(),
        })?;
        #[expect(clippy::useless_conversion, reason = "the counts are of 32 bits on some machines")]
        let free = u64::from(stat.blocks_available()).saturating_mul(u64::from(stat.fragment_size()));
        Ok(free)
    }

    /// One document.
    pub fn get(&self, key: &Key) -> Result<Option<Document>, StorageError> {
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
        self.reading(|txn| {
            let prefix = keys::prefix(kind, namespace);
            let mut found = Vec::new();
            for entry in txn.open_table(DOCUMENTS)?.range(prefix.as_slice()..)? {
                let (key, bytes) = entry?;
                if !key.value().starts_with(&prefix) {
                    break;
                }
                found.push(read_document(key.value(), bytes.value())?);
            }
            Ok((progress_of(txn)?.counters.revision, found))
        })
    }

    /// The hash of all documents at the current revision. Reads the whole state.
    pub fn hash(&self) -> Result<StateHash, StorageError> {
        self.reading(|txn| {
            let mut hasher = StateHasher::new(progress_of(txn)?.counters.revision);
            for entry in txn.open_table(DOCUMENTS)?.iter()? {
                let (key, bytes) = entry?;
                hasher.document(&read_document(key.value(), bytes.value())?);
            }
            Ok(hasher.finish())
        })
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

    /// The wall clock of the latest applied transaction's proposer.
    pub fn last_change(&self) -> Timestamp {
        self.progress().counters.at
    }

    /// Index of the last entry that is safe from a power cut.
    pub(super) fn durable_index(&self) -> Option<u64> {
        self.inner.durable.load(Ordering::Acquire).checked_sub(1)
    }

    pub(super) fn applied_state(&self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        self.reading(|txn| {
            let meta = txn.open_table(META)?;
            Ok((progress_of(txn)?.applied, table::meta(&meta, MEMBERSHIP)?.unwrap_or_default()))
        })
    }

    /// Applies entries in one transaction; answers come in their order.
    pub(super) async fn apply(&self, entries: &[Entry]) -> Result<Vec<Reply>, StorageError> {
        let _writing = self.inner.writer.lock().await;
        let (replies, events, progress) = self.writing(Durability::None, |table| {
            let mut replies = Vec::with_capacity(entries.len());
            let mut events = Vec::new();
            for entry in entries {
                replies.push(apply_entry(table, entry, &mut events)?);
            }
            Ok((replies, events, table.progress))
        })?;
        self.ring().push(events);
        self.publish(progress);
        Ok(replies)
    }

    /// Whether so much is volatile that it should be made durable.
    pub(super) fn wants_durable(&self) -> bool {
        *self.inner.applied.borrow() >= self.inner.durable.load(Ordering::Acquire) + MAX_VOLATILE_ENTRIES
    }

    /// Commits what was applied so far so that a power cut can not take it. The disk may take its
    /// time: it works on another thread.
    pub(super) async fn make_durable(&self) -> Result<(), StorageError> {
        self.off_thread("commit", |state| state.writing(Durability::Immediate, |_| Ok(()))).await
    }

    /// Makes durable what is not yet; for a stop that is not a crash.
    pub async fn settle(&self) -> Result<(), StorageError> {
        if *self.inner.applied.borrow() == self.inner.durable.load(Ordering::Acquire) {
            return Ok(());
        }
        self.make_durable().await
    }

    /// Makes the state durable, and records that a snapshot covers it.
    pub(super) async fn snapshot(&self) -> Result<View, StorageError> {
        self.off_thread("snapshot", |state| {
            state.writing(Durability::Immediate, |table| table.set_snapshot(table.progress.applied))?;
            state.view()
        })
        .await
    }

    /// A view of the state, if a snapshot was ever asked for.
    pub(super) fn current_snapshot(&self) -> Result<Option<View>, StorageError> {
        let taken: Option<Option<LogId>> = self.reading(|txn| table::meta(&txn.open_table(META)?, SNAPSHOT))?;
        if taken.is_some() { self.view().map(Some) } else { Ok(None) }
    }

    fn view(&self) -> Result<View, StorageError> {
        let read = || {
            let txn = self.inner.database.begin_read()?;
            let progress = progress_of(&txn)?;
            let last_membership = table::meta(&txn.open_table(META)?, MEMBERSHIP)?.unwrap_or_default();
            let meta = SnapshotMeta { last_log_id: progress.applied, last_membership };
            Ok(View { txn, meta, progress })
        };
        read().map_err(|error| fault("read", &self.inner.path, error))
    }

    /// Replaces the whole state, atomically and durably.
    pub(super) fn replace(
        &self,
        fill: impl FnOnce(&mut WriteTable<'_>) -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        let failed = |error| fault("replace", &self.inner.path, error);
        let txn = self.begin(Durability::Immediate).map_err(failed)?;
        let clear = || -> Result<(), Fault> {
            txn.delete_table(DOCUMENTS)?;
            txn.delete_table(table::CLIENTS)?;
            txn.delete_table(table::OUTCOMES)?;
            txn.delete_table(META)?;
            Ok(())
        };
        clear().map_err(failed)?;
        let mut table = WriteTable::open(&txn).map_err(failed)?;
        fill(&mut table)?;
        let progress = table.finish().map_err(failed)?;
        txn.commit().map_err(|error| failed(Fault::from(error)))?;
        *self.ring() = Ring::new(progress.counters.revision);
        self.publish(progress);
        self.inner.durable.store(next_index(progress.applied), Ordering::Release);
        Ok(())
    }

    fn publish(&self, progress: Progress) {
        *self.progress() = progress;
        self.inner.applied.send_replace(next_index(progress.applied));
        self.inner.revision.send_if_modified(|known| {
            let changed = *known != progress.counters.revision;
            *known = progress.counters.revision;
            changed
        });
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.inner.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.inner.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reading<T>(&self, read: impl FnOnce(&redb::ReadTransaction) -> Result<T, Fault>) -> Result<T, StorageError> {
        let txn = self.inner.database.begin_read().map_err(Fault::from);
        txn.and_then(|txn| read(&txn)).map_err(|error| fault("read", &self.inner.path, error))
    }

    fn begin(&self, durability: Durability) -> Result<redb::WriteTransaction, Fault> {
        let mut txn = self.inner.database.begin_write()?;
        txn.set_durability(durability)?;
        // After a power cut the file is then opened without walking it.
        txn.set_quick_repair(matches!(durability, Durability::Immediate));
        Ok(txn)
    }

    fn writing<T>(
        &self,
        durability: Durability,
        write: impl FnOnce(&mut WriteTable<'_>) -> Result<T, Fault>,
    ) -> Result<T, StorageError> {
        let run = || {
            let txn = self.begin(durability)?;
            let mut table = WriteTable::open(&txn)?;
            let answer = write(&mut table)?;
            let progress = table.finish()?;
            txn.commit()?;
            if matches!(durability, Durability::Immediate) {
                self.inner.durable.fetch_max(next_index(progress.applied), Ordering::AcqRel);
            }
            Ok(answer)
        };
        run().map_err(|error| fault("write", &self.inner.path, error))
    }

    /// Writes on a thread that may block on the disk.
    pub(super) async fn off_thread<T: Send + 'static>(
        &self,
        action: &'static str,
        work: impl FnOnce(&Self) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, StorageError> {
        let state = self.clone();
        let path = self.inner.path.clone();
        tokio::task::spawn_blocking(move || work(&state)).await.map_err(|source| StorageError::File {
            action,
            path,
            source: std::io::Error::other(source),
        })?
    }
}

fn apply_entry(table: &mut WriteTable<'_>, entry: &Entry, events: &mut Vec<Event>) -> Result<Reply, Fault> {
    table.progress.applied = Some(entry.log_id);
    match &entry.payload {
        openraft::EntryPayload::Blank => Ok(Reply::Nothing),
        openraft::EntryPayload::Normal(Command::Txn(txn)) => {
            let (outcome, changed) = store::apply(table, txn)?;
            events.extend(changed);
            Ok(Reply::Outcome(outcome))
        }
        openraft::EntryPayload::Normal(Command::NextMemberId) => Ok(Reply::MemberId(table.next_member())),
        openraft::EntryPayload::Membership(membership) => {
            table.set_membership(&StoredMembership::new(Some(entry.log_id), membership.clone()))?;
            Ok(Reply::Nothing)
        }
    }
}

fn create(path: &Path) -> Result<(), StorageError> {
    let aside = path.with_extension("redb.new");
    let failed = |action| {
        let path = aside.clone();
        move |source| StorageError::File { action, path, source }
    };
    match std::fs::remove_file(&aside) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed("remove")(error)),
        _ => {}
    }
    let make = || -> Result<(), Fault> {
        let database = Builder::new().set_cache_size(CACHE_BYTES).create(&aside)?;
        let txn = database.begin_write()?;
        WriteTable::open(&txn)?.finish()?;
        txn.commit()?;
        Ok(())
    };
    make().map_err(|error| fault("create", &aside, error))?;
    let file = std::fs::OpenOptions::new().write(true).open(&aside).map_err(failed("open"))?;
    file.sync_all().map_err(failed("sync"))?;
    std::fs::rename(&aside, path).map_err(failed("move in place"))?;
    sync_parent(path)
}

/// Makes the name of a new file safe.
#[expect(clippy::disallowed_methods, reason = "storage owns its files")]
pub(super) fn sync_parent(path: &Path) -> Result<(), StorageError> {
    let dir = path.parent().unwrap_or(Path::new("."));
    std::fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(|source| StorageError::File {
        action: "sync the folder",
        path: dir.to_owned(),
        source,
    })
}

fn read_document(key: &[u8], bytes: &[u8]) -> Result<Document, Fault> {
    let key = keys::decode(key).ok_or(Fault::Damaged("a key", store::codec::CodecError::Empty))?;
    table::document(key, bytes)
}

fn read_progress(database: &Database) -> Result<Progress, Fault> {
    progress_of(&database.begin_read()?)
}

fn progress_of(txn: &redb::ReadTransaction) -> Result<Progress, Fault> {
    Ok(table::meta(&txn.open_table(META)?, PROGRESS)?.unwrap_or_default())
}

fn next_index(applied: Option<LogId>) -> u64 {
    applied.map_or(0, |id| id.index + 1)
}

pub(super) fn fault(action: &'static str, path: &Path, fault: Fault) -> StorageError {
    match fault {
        Fault::Redb(source) => StorageError::State { action, path: path.to_owned(), source },
        Fault::Damaged(what, source) => StorageError::Damaged { what, source },
        Fault::Encode(what, source) => StorageError::Encode { what, source },
    }
}
