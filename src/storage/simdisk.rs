//! A disk in memory that loses power. It keeps what was synced apart from what was only written,
//! and a cut decides by a seed which of the rest reached the platter: each write whole, torn at a
//! sector, or not at all, and each name that was made, changed or removed. It never invents bytes.

mod change;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use self::change::Change;
pub(super) use self::change::splitmix;
use super::disk::{Disk, DiskFile};

/// Bytes that the kernel writes together.
const PAGE: usize = 4 << 10;

/// A disk in memory. Clones are the same disk.
#[derive(Clone)]
pub struct SimDisk {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Clone, Default)]
struct Inner {
    chance: u64,
    /// Grows with each cut; a handle of an earlier one is dead.
    epoch: u64,
    next_file: u64,
    files: BTreeMap<u64, File>,
    names: BTreeMap<PathBuf, u64>,
    safe_names: BTreeMap<PathBuf, u64>,
    dirs: BTreeSet<PathBuf>,
    safe_dirs: BTreeSet<PathBuf>,
    pending: Vec<NameChange>,
    /// Operations so far that change something.
    operations: u64,
    /// Bytes of the pages that were written out by syncs.
    written: u64,
    lose_power_at: Option<u64>,
    dark: bool,
    capacity: Option<u64>,
    latency: (Duration, Duration),
    failing: Failing,
}

/// Which operations fail with an I/O error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Failing {
    /// None.
    #[default]
    Nothing,
    /// `sync` and `sync_dir`.
    Syncs,
    /// Everything that writes.
    Writes,
    /// Reading too.
    Everything,
}

#[derive(Clone, Default)]
struct File {
    live: Vec<u8>,
    safe: Vec<u8>,
    pending: Vec<Change>,
}

/// Names that change together.
#[derive(Clone)]
enum NameChange {
    Names(Vec<(PathBuf, Option<u64>)>),
    Dir(PathBuf),
}

impl NameChange {
    fn touches(&self, dir: &Path) -> bool {
        match self {
            Self::Names(names) => names.iter().any(|(path, _)| path.parent() == Some(dir)),
            Self::Dir(path) => path.parent() == Some(dir),
        }
    }
}

fn not_found(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{} is not on the simulated disk", path.display()))
}

impl Inner {
    /// Counts an operation that changes something, and says whether it may go on; with the power
    /// going at it, it counts as begun and not as done.
    fn begin(&mut self, syncs: bool) -> io::Result<Begun> {
        if self.dark {
            return Err(io::Error::other("the simulated power is off"));
        }
        match self.failing {
            Failing::Nothing => {}
            Failing::Syncs if !syncs => {}
            _ => return Err(io::Error::other("the simulated disk has an I/O error")),
        }
        self.operations += 1;
        if self.lose_power_at == Some(self.operations) {
            self.dark = true;
            return Ok(Begun::LastBeforeDark);
        }
        Ok(Begun::Whole)
    }

    fn used(&self) -> u64 {
        self.names.values().filter_map(|id| self.files.get(id)).map(|file| file.live.len() as u64).sum()
    }

    fn room_for(&self, file: u64, end: usize) -> io::Result<()> {
        let have = self.files.get(&file).map_or(0, |file| file.live.len());
        let Some(capacity) = self.capacity.filter(|_| end > have) else { return Ok(()) };
        if self.used() + (end - have) as u64 <= capacity {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::StorageFull, "the simulated disk is full"))
    }

    fn change_names(&mut self, names: Vec<(PathBuf, Option<u64>)>) {
        set_names(&mut self.names, &names);
        self.pending.push(NameChange::Names(names));
    }

    fn change_file(&mut self, id: u64, change: Change) -> io::Result<()> {
        let file =
            self.files.get_mut(&id).ok_or_else(|| io::Error::other("the file is gone from the simulated disk"))?;
        change.apply(&mut file.live);
        file.pending.push(change);
        Ok(())
    }

    fn cut(&mut self, seed: u64) {
        let mut chance = seed ^ 0x5eed;
        for change in std::mem::take(&mut self.pending) {
            if !splitmix(&mut chance).is_multiple_of(2) {
                self.settle(&change);
            }
        }
        self.dirs = self.safe_dirs.clone();
        let dirs = &self.safe_dirs;
        self.safe_names.retain(|path, _| path.parent().is_some_and(|dir| dirs.contains(dir)));
        self.names = self.safe_names.clone();
        let used: BTreeSet<u64> = self.names.values().copied().collect();
        self.files.retain(|id, _| used.contains(id));
        for file in self.files.values_mut() {
            for change in std::mem::take(&mut file.pending) {
                change.land(&mut file.safe, &mut chance);
            }
            file.live = file.safe.clone();
        }
        self.epoch += 1;
        self.dark = false;
        self.lose_power_at = None;
    }

    fn settle(&mut self, change: &NameChange) {
        match change {
            NameChange::Names(names) => set_names(&mut self.safe_names, names),
            NameChange::Dir(path) => {
                self.safe_dirs.insert(path.clone());
            }
        }
    }
}

fn set_names(names: &mut BTreeMap<PathBuf, u64>, changes: &[(PathBuf, Option<u64>)]) {
    for (path, id) in changes {
        match id {
            Some(id) => names.insert(path.clone(), *id),
            None => names.remove(path),
        };
    }
}

#[derive(PartialEq, Eq)]
enum Begun {
    Whole,
    LastBeforeDark,
}

impl Begun {
    fn end<T>(&self, done: T) -> io::Result<T> {
        match self {
            Self::Whole => Ok(done),
            Self::LastBeforeDark => Err(io::Error::other("the simulated power went")),
        }
    }
}

impl SimDisk {
    /// An empty disk; the seed decides how long work on it takes.
    pub fn new(seed: u64) -> Self {
        Self { inner: Arc::new(Mutex::new(Inner { chance: seed, ..Inner::default() })) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the power and gives it back: what was not synced is kept, torn or lost as the seed
    /// decides. Files that were open are not any more.
    pub fn cut(&self, seed: u64) {
        self.lock().cut(seed);
    }

    /// Another disk that holds the same, and what is not synced there is not synced here either.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self { inner: Arc::new(Mutex::new(self.lock().clone())) }
    }

    /// Takes the power at the given operation, counted as in [`SimDisk::operations`]: it is begun
    /// and not finished, and all after it fail until [`SimDisk::cut`].
    pub fn lose_power_at(&self, operation: Option<u64>) {
        self.lock().lose_power_at = operation;
    }

    /// Operations so far that changed something.
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// Bytes that syncs made a disk with pages of 4 KiB write.
    pub fn written(&self) -> u64 {
        self.lock().written
    }

    /// Whether the power is off.
    pub fn is_dark(&self) -> bool {
        self.lock().dark
    }

    /// How many bytes all files together may have; `None` for no limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.lock().capacity = bytes;
    }

    /// Bytes that all files have.
    pub fn used(&self) -> u64 {
        self.lock().used()
    }

    /// How long work takes, from and to.
    pub fn set_latency(&self, from: Duration, to: Duration) {
        self.lock().latency = (from, to);
    }

    /// Which operations fail from now on.
    pub fn set_failing(&self, failing: Failing) {
        self.lock().failing = failing;
    }

    /// What a file holds.
    pub fn contents(&self, path: &Path) -> io::Result<Vec<u8>> {
        let inner = self.lock();
        let id = inner.names.get(path).ok_or_else(|| not_found(path))?;
        Ok(inner.files.get(id).map(|file| file.live.clone()).unwrap_or_default())
    }

    /// Changes what a file holds behind everybody's back, for good.
    pub fn harm(&self, path: &Path, harm: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        let mut inner = self.lock();
        let id = *inner.names.get(path).ok_or_else(|| not_found(path))?;
        let file = inner.files.entry(id).or_default();
        harm(&mut file.live);
        file.pending.clear();
        file.safe = file.live.clone();
        Ok(())
    }

    /// All files, by path.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.lock().names.keys().cloned().collect()
    }

    fn handle(&self, id: u64, epoch: u64) -> Arc<dyn DiskFile> {
        Arc::new(SimFile { disk: self.clone(), id, epoch })
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.lock();
        write!(f, "SimDisk({} files, {} operations)", inner.names.len(), inner.operations)
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let inner = self.lock();
        if inner.dark {
            return Err(io::Error::other("the simulated power is off"));
        }
        let id = *inner.names.get(path).ok_or_else(|| not_found(path))?;
        let epoch = inner.epoch;
        drop(inner);
        Ok(self.handle(id, epoch))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut inner = self.lock();
        if !path.parent().is_some_and(|dir| inner.dirs.contains(dir)) {
            return Err(not_found(path.parent().unwrap_or(path)));
        }
        let begun = inner.begin(false)?;
        let id = if let Some(&id) = inner.names.get(path) {
            inner.change_file(id, Change::Length(0))?;
            id
        } else {
            inner.next_file += 1;
            let id = inner.next_file;
            inner.files.insert(id, File::default());
            inner.change_names(vec![(path.to_owned(), Some(id))]);
            id
        };
        let epoch = inner.epoch;
        drop(inner);
        begun.end(self.handle(id, epoch))
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        let inner = self.lock();
        Ok(inner.names.contains_key(path) || inner.dirs.contains(path))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let inner = self.lock();
        if !inner.dirs.contains(dir) {
            return Err(not_found(dir));
        }
        let inside = inner.names.keys().chain(&inner.dirs).filter(|path| path.parent() == Some(dir));
        let names = inside.filter_map(|path| path.file_name());
        let names: BTreeSet<String> = names.map(|name| name.to_string_lossy().into_owned()).collect();
        Ok(names.into_iter().collect())
    }

    fn make_dir(&self, dir: &Path) -> io::Result<()> {
        let mut inner = self.lock();
        if inner.dirs.contains(dir) {
            return Ok(());
        }
        let begun = inner.begin(false)?;
        inner.dirs.insert(dir.to_owned());
        if dir.parent().is_some_and(|parent| inner.dirs.contains(parent)) {
            inner.pending.push(NameChange::Dir(dir.to_owned()));
        } else {
            // The folder that the device got from its owner.
            inner.safe_dirs.insert(dir.to_owned());
        }
        begun.end(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut inner = self.lock();
        let begun = inner.begin(false)?;
        let id = *inner.names.get(from).ok_or_else(|| not_found(from))?;
        inner.change_names(vec![(from.to_owned(), None), (to.to_owned(), Some(id))]);
        begun.end(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.lock();
        let begun = inner.begin(false)?;
        if !inner.names.contains_key(path) {
            return Err(not_found(path));
        }
        inner.change_names(vec![(path.to_owned(), None)]);
        begun.end(())
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        let mut inner = self.lock();
        let begun = inner.begin(false)?;
        if inner.names.keys().any(|path| path.parent() == Some(dir)) {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        inner.dirs.remove(dir);
        inner.safe_dirs.remove(dir);
        begun.end(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut inner = self.lock();
        if inner.begin(true)? == Begun::LastBeforeDark {
            return Begun::LastBeforeDark.end(());
        }
        let (settled, pending) = std::mem::take(&mut inner.pending).into_iter().partition(|change| change.touches(dir));
        inner.pending = pending;
        let settled: Vec<NameChange> = settled;
        for change in &settled {
            inner.settle(change);
        }
        Ok(())
    }

    fn free_bytes(&self, _dir: &Path) -> io::Result<u64> {
        let inner = self.lock();
        Ok(inner.capacity.map_or(1 << 40, |capacity| capacity.saturating_sub(inner.used())))
    }

    fn run(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        let mut inner = self.lock();
        let (from, to) = inner.latency;
        let spread = u64::try_from(to.saturating_sub(from).as_micros()).unwrap_or(u64::MAX).max(1);
        let more = splitmix(&mut inner.chance) % spread;
        let latency = from + Duration::from_micros(more);
        async move {
            if latency.is_zero() {
                // The timer is coarser than that.
                tokio::task::yield_now().await;
            } else {
                tokio::time::sleep(latency).await;
            }
            work();
        }
        .boxed()
    }
}

/// An open file of a simulated disk.
#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    id: u64,
    epoch: u64,
}

impl SimFile {
    fn lock(&self) -> io::Result<MutexGuard<'_, Inner>> {
        let inner = self.disk.lock();
        if inner.epoch != self.epoch || inner.dark {
            return Err(io::Error::other("the simulated power went since this file was opened"));
        }
        Ok(inner)
    }
}

impl DiskFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.lock()?.files.get(&self.id).map_or(0, |file| file.live.len() as u64))
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let inner = self.lock()?;
        if inner.failing == Failing::Everything {
            return Err(io::Error::other("the simulated disk has an I/O error"));
        }
        let live = inner.files.get(&self.id).map_or(&[][..], |file| &file.live);
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let found = offset.checked_add(out.len()).and_then(|end| live.get(offset..end));
        out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut inner = self.lock()?;
        let offset = usize::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge)?;
        inner.room_for(self.id, offset + bytes.len())?;
        let begun = inner.begin(false)?;
        inner.change_file(self.id, Change::Write(offset, bytes.to_vec()))?;
        begun.end(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut inner = self.lock()?;
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge)?;
        inner.room_for(self.id, len)?;
        let begun = inner.begin(false)?;
        inner.change_file(self.id, Change::Length(len))?;
        begun.end(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut inner = self.lock()?;
        if inner.begin(true)? == Begun::LastBeforeDark {
            return Begun::LastBeforeDark.end(());
        }
        let Some(file) = inner.files.get_mut(&self.id) else { return Ok(()) };
        let mut pages = BTreeSet::new();
        for change in std::mem::take(&mut file.pending) {
            if let Change::Write(offset, bytes) = &change {
                pages.extend(offset / PAGE..(offset + bytes.len()).div_ceil(PAGE));
            }
            change.apply(&mut file.safe);
        }
        inner.written += (pages.len() * PAGE) as u64;
        Ok(())
    }
}
