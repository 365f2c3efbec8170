//! The replicated state of this device in one redb file: documents, sessions, and how far the log
//! was applied, changed together in one transaction for many entries; the latest of them are in
//! memory. Transactions are not fsynced: the log is, and replays what a power cut took. Durable
//! commits come in between, so that the log can be purged.

mod file;
mod fold;
mod read;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::AsyncRuntime;
use redb::{Database, Durability, ReadableDatabase};
use tokio::sync::watch;

use super::disk::{Disk, DiskFile, run_on};
use super::raft::{Command, Entry, LogId, Reply, SnapshotMeta, StoredMembership};
use super::recent::{Applying, Recent};
use super::runtime::Runtime;
use super::scratch::{self, Scratch};
use super::sizes::Sizes;
use super::table::{self, DOCUMENTS, Fault, MEMBERSHIP, META, MIRRORS, PROGRESS, Progress, SNAPSHOT, WriteTable};
use super::unsound::Reached;
use super::{FILE, StorageError};
use crate::identity::Member;
use crate::store::{self, Event, Ring};
use file::{corrupted, create, open_checked, read_mirrors, read_progress};

/// Entries applied before they are made durable.
const MAX_VOLATILE_ENTRIES: u64 = 8192;

/// Members outside of openraft's membership, by member id.
pub type Mirrors = Arc<BTreeMap<u64, Member>>;

/// The state of this device. Clones share it.
#[derive(Clone)]
pub struct State {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("path", &self.inner.path).finish_non_exhaustive()
    }
}

struct Inner {
    path: PathBuf,
    dir: PathBuf,
    disk: Arc<dyn Disk>,
    scratches: AtomicU64,
    file: Arc<dyn DiskFile>,
    database: Database,
    sizes: Sizes,
    /// Locked for moments only, never for a transaction of the file.
    recent: Mutex<Recent>,
    /// Somebody waits for the end of a busy time.
    watching: AtomicBool,
    /// Why a transaction in the background failed, until somebody is told.
    unfolded: Mutex<Option<StorageError>>,
    /// A durable commit is on its way in the background.
    settling: AtomicBool,
    ring: Mutex<Ring>,
    /// Held across every write. Whoever applies waits for it without blocking its thread, so a slow
    /// durable commit never holds up heartbeats.
    writer: Arc<tokio::sync::Mutex<()>>,
    progress: Mutex<Progress>,
    revision: watch::Sender<u64>,
    applied: watch::Sender<u64>,
    mirrors: watch::Sender<Mirrors>,
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
    pub(super) fn open(disk: &Arc<dyn Disk>, dir: &Path, sizes: Sizes) -> Result<Self, StorageError> {
        let path = dir.join(FILE);
        let failed = |action| {
            let path = path.clone();
            move |source| StorageError::File { action, path, source }
        };
        disk.make_dir(dir).map_err(failed("create the folder of"))?;
        scratch::sweep(disk.as_ref(), dir)?;
        if !disk.exists(&path).map_err(failed("look for"))? {
            create(disk.as_ref(), &path)?;
        }
        let file = disk.open(&path).map_err(failed("open the state in"))?;
        if file.is_empty().map_err(failed("measure"))? {
            // redb would start an empty one in silence, and this device forget what it had said.
            let source = std::io::Error::new(std::io::ErrorKind::InvalidData, "the file is empty");
            return Err(StorageError::File { action: "open the state in", path, source });
        }
        let noted = super::guarded::noted(disk.as_ref(), dir).map_err(failed("look for a note beside"))?;
        let opened = match noted {
            Some(note) => Err(corrupted(&note)),
            None => super::guarded::guarded(disk, dir, || open_checked(&file, sizes.cache))
                .unwrap_or_else(|| Err(corrupted("its pages make no sense"))),
        };
        let database = opened.map_err(|error| fault("open", &path, error))?;
        let progress = read_progress(&database).map_err(|error| fault("read", &path, error))?;
        let mirrors = read_mirrors(&database).map_err(|error| fault("read", &path, error))?;
        let inner = Inner {
            dir: dir.to_owned(),
            disk: disk.clone(),
            scratches: AtomicU64::new(0),
            file,
            database,
            sizes,
            recent: Mutex::new(Recent::at(progress)),
            watching: AtomicBool::new(false),
            unfolded: Mutex::default(),
            settling: AtomicBool::new(false),
            writer: Arc::default(),
            ring: Mutex::new(Ring::bounded(progress.counters.revision, sizes.events)),
            revision: watch::Sender::new(progress.counters.revision),
            applied: watch::Sender::new(next_index(progress.applied)),
            mirrors: watch::Sender::new(Arc::new(mirrors)),
            durable: AtomicU64::new(next_index(progress.applied)),
            progress: Mutex::new(progress),
            path,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    pub(super) fn dir(&self) -> &Path {
        &self.inner.dir
    }

    pub(super) fn disk(&self) -> &Arc<dyn Disk> {
        &self.inner.disk
    }

    /// Held across every write.
    pub(super) fn writer(&self) -> Arc<tokio::sync::Mutex<()>> {
        self.inner.writer.clone()
    }

    /// A new file for a snapshot that travels.
    pub(super) fn scratch(&self) -> Result<Scratch, StorageError> {
        Scratch::create(&self.inner.disk, &self.inner.dir, self.inner.scratches.fetch_add(1, Ordering::Relaxed))
    }

    /// Bytes that this device's disk has left for the log and the state.
    pub fn free_bytes(&self) -> Result<u64, StorageError> {
        self.inner.disk.free_bytes(&self.inner.dir).map_err(|source| StorageError::File {
            action: "measure the disk of",
            path: self.inner.dir.clone(),
            source,
        })
    }

    /// Applies entries, all or none; answers come in their order.
    pub(super) async fn apply(&self, entries: &[Entry]) -> Result<Vec<Reply>, StorageError> {
        #[cfg(feature = "seeded-bugs")]
        super::seeded::split_index(self, entries)?;
        if let Some(error) = self.unfolded().take() {
            return Err(error);
        }
        let (replies, events, mirrors, progress, fullness, bytes) = {
            let mut recent = self.recent();
            let applied = recent.apply(&self.inner.database, entries.len(), |table| {
                let mut replies = Vec::with_capacity(entries.len());
                let mut events = Vec::new();
                for entry in entries {
                    replies.push(apply_entry(table, entry, &mut events)?);
                }
                Ok((replies, events, std::mem::take(&mut table.mirror_changes), table.progress))
            });
            let (replies, events, mirrors, progress) =
                applied.map_err(|error| fault("apply to", &self.inner.path, error))?;
            (replies, events, mirrors, progress, recent.fullness(self.inner.sizes.recent), recent.bytes())
        };
        self.ring().push(events);
        self.note_mirrors(mirrors);
        self.publish(progress);
        if bytes > self.inner.sizes.recent.kept {
            self.relieve_when_quiet();
        }
        self.relieve(fullness).await?;
        Ok(replies)
    }

    /// Whether so much is volatile that it should be made durable.
    pub(super) fn wants_durable(&self) -> bool {
        *self.inner.applied.borrow() >= self.inner.durable.load(Ordering::Acquire) + MAX_VOLATILE_ENTRIES
    }

    /// Commits what was applied so far so that a power cut can not take it. The disk may take its
    /// time: it works on another thread.
    pub(super) async fn make_durable(&self) -> Result<(), StorageError> {
        // Most of it reaches the disk while others still write; what is left is short.
        self.off_thread("sync", |state| {
            state.inner.file.sync().map_err(|source| StorageError::File {
                action: "sync",
                path: state.inner.path.clone(),
                source,
            })
        })
        .await?;
        let writing = self.inner.writer.clone().lock_owned().await;
        self.off_thread("commit", move |state| {
            let _writing = writing;
            state.writing(Durability::Immediate, |_| Ok(()))
        })
        .await
    }

    /// Begins to make durable what was applied, behind the back of whoever applies on.
    pub(super) fn make_durable_soon(&self) {
        if self.inner.settling.swap(true, Ordering::AcqRel) {
            return;
        }
        let state = self.clone();
        drop(Runtime::spawn(async move {
            if let Err(error) = state.make_durable().await {
                // The next write to the file fails too, and stops whoever writes.
                tracing::error!(%error, "the state can not be made durable");
            }
            state.inner.settling.store(false, Ordering::Release);
        }));
    }

    /// How far it has come.
    pub(super) fn reached(&self) -> Reached {
        let progress = *self.progress();
        Reached { applied: progress.applied, revision: progress.counters.revision }
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
        let writing = self.inner.writer.clone().lock_owned().await;
        self.off_thread("snapshot", move |state| {
            let _writing = writing;
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

    /// A view with everything that was applied. The caller holds the writer's lock.
    pub(super) fn whole_view(&self) -> Result<View, StorageError> {
        self.fold()?;
        self.view()
    }

    pub(super) async fn lock_writer(&self) -> tokio::sync::OwnedMutexGuard<()> {
        self.inner.writer.clone().lock_owned().await
    }

    pub(super) fn view(&self) -> Result<View, StorageError> {
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
            txn.delete_table(MIRRORS)?;
            txn.delete_table(META)?;
            Ok(())
        };
        clear().map_err(failed)?;
        let mut table = WriteTable::open(&txn).map_err(failed)?;
        fill(&mut table)?;
        let mirrors = std::mem::take(&mut table.mirror_changes);
        let progress = table.finish().map_err(failed)?;
        let mut recent = self.recent();
        txn.commit().map_err(|error| failed(Fault::from(error)))?;
        *recent = Recent::at(progress);
        drop(recent);
        *self.ring() = Ring::bounded(progress.counters.revision, self.inner.sizes.events);
        self.inner.mirrors.send_replace(Mirrors::default());
        self.note_mirrors(mirrors);
        self.publish(progress);
        self.inner.durable.store(next_index(progress.applied), Ordering::Release);
        Ok(())
    }

    fn note_mirrors(&self, changes: Vec<(u64, Option<Member>)>) {
        if changes.is_empty() {
            return;
        }
        self.inner.mirrors.send_modify(|known| {
            let known = Arc::make_mut(known);
            for (id, member) in changes {
                match member {
                    Some(member) => known.insert(id, member),
                    None => known.remove(&id),
                };
            }
        });
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

    fn recent(&self) -> MutexGuard<'_, Recent> {
        // An entry that was applied by half is marked as such before anyone else looks.
        self.inner.recent.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Reads the file together with what `pick` takes of the rest, at one moment.
    fn reading_with<P, T>(
        &self,
        pick: impl FnOnce(&Recent) -> P,
        read: impl FnOnce(&redb::ReadTransaction, P) -> Result<T, Fault>,
    ) -> Result<T, StorageError> {
        let recent = self.recent();
        let txn = self.inner.database.begin_read().map_err(Fault::from);
        let picked = pick(&recent);
        drop(recent);
        txn.and_then(|txn| read(&txn, picked)).map_err(|error| fault("read", &self.inner.path, error))
    }

    pub(super) fn begin(&self, durability: Durability) -> Result<redb::WriteTransaction, Fault> {
        let mut txn = self.inner.database.begin_write()?;
        txn.set_durability(durability)?;
        // After a power cut the file is then opened without walking it.
        txn.set_quick_repair(matches!(durability, Durability::Immediate));
        Ok(txn)
    }

    /// Writes on a thread that may block on the disk.
    pub(super) async fn off_thread<T: Send + 'static>(
        &self,
        action: &'static str,
        work: impl FnOnce(&Self) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, StorageError> {
        let state = self.clone();
        let worked = run_on(self.inner.disk.as_ref(), move || work(&state)).await;
        worked.map_err(|source| StorageError::File { action, path: self.inner.path.clone(), source })?
    }
}

fn apply_entry(table: &mut Applying<'_>, entry: &Entry, events: &mut Vec<Event>) -> Result<Reply, Fault> {
    table.progress.applied = Some(entry.log_id);
    match &entry.payload {
        openraft::EntryPayload::Blank => Ok(Reply::Nothing),
        openraft::EntryPayload::Normal(Command::Txn(txn)) => {
            let (outcome, changed) = store::apply(table, txn)?;
            events.extend(changed);
            Ok(Reply::Outcome(outcome))
        }
        openraft::EntryPayload::Normal(Command::NextMemberId) => Ok(Reply::MemberId(table.next_member())),
        openraft::EntryPayload::Normal(Command::SetMirror(id, member)) => {
            table.set_mirror(*id, member);
            Ok(Reply::Nothing)
        }
        openraft::EntryPayload::Normal(Command::RemoveMirror(id)) => {
            table.remove_mirror(*id);
            Ok(Reply::Nothing)
        }
        openraft::EntryPayload::Membership(membership) => {
            table.set_membership(StoredMembership::new(Some(entry.log_id), membership.clone()))?;
            Ok(Reply::Nothing)
        }
    }
}

/// Makes the name of a new file safe.
pub(super) fn sync_parent(disk: &dyn Disk, path: &Path) -> Result<(), StorageError> {
    let dir = path.parent().unwrap_or(Path::new("."));
    disk.sync_dir(dir).map_err(|source| StorageError::File { action: "sync the folder", path: dir.to_owned(), source })
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
