//! The disk of one device through all of its starts: storage's simulated disk, which takes time,
//! shows in the trace, and whose power can fail in the middle of a write. A start that lost its
//! power gets errors ever after.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use kith::storage::{Disk, DiskFile, SimDisk};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::trace::{Trace, digest};

/// What runs when the power fails in the middle of a write.
pub type Alarm = Box<dyn Fn() + Send>;

/// A device's disk. Clones are the same one.
#[derive(Clone)]
pub struct DeviceDisk {
    number: u64,
    disk: SimDisk,
    trace: Trace,
    /// Counts up when a start ends.
    life: Arc<AtomicU64>,
    chance: Arc<Mutex<StdRng>>,
    /// Shortest and longest wait for the disk, in milliseconds.
    latency: Arc<Mutex<(u64, u64)>>,
    alarm: Arc<Mutex<Option<Alarm>>>,
    limited: Arc<AtomicBool>,
    full: Arc<AtomicBool>,
}

impl DeviceDisk {
    pub fn new(number: u64, seed: u64, latency: (u64, u64), trace: Trace) -> Self {
        Self {
            number,
            disk: SimDisk::new(seed),
            trace,
            life: Arc::default(),
            chance: Arc::new(Mutex::new(StdRng::seed_from_u64(seed))),
            latency: Arc::new(Mutex::new(latency)),
            alarm: Arc::default(),
            limited: Arc::default(),
            full: Arc::default(),
        }
    }

    /// The disk for one start of the device.
    pub fn mount(&self) -> Arc<dyn Disk> {
        self.full.store(self.limited.load(Ordering::Relaxed), Ordering::Relaxed);
        Arc::new(Mount { disk: self.clone(), life: self.life.load(Ordering::Relaxed) })
    }

    /// Ends one start in order: nothing is lost.
    pub fn unmount(&self) {
        self.put_out_fuse();
        self.life.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes the power away.
    pub fn cut(&self) {
        self.unmount();
        let seed = self.chance.lock().unwrap().random();
        self.disk.cut(seed);
    }

    /// Lets the power fail in the middle of one of the next operations that change something.
    pub fn light_fuse(&self, operations: u64, alarm: Alarm) {
        *self.alarm.lock().unwrap() = Some(alarm);
        self.disk.lose_power_at(Some(self.disk.operations() + operations));
    }

    pub fn put_out_fuse(&self) {
        *self.alarm.lock().unwrap() = None;
        self.disk.lose_power_at(None);
    }

    pub fn set_latency(&self, latency: (u64, u64)) {
        *self.latency.lock().unwrap() = latency;
    }

    /// Leaves so much room, or as much as anyone wants.
    pub fn leave_room(&self, bytes: Option<u64>) {
        self.disk.set_capacity(bytes.map(|bytes| self.disk.used() + bytes));
        self.limited.store(bytes.is_some(), Ordering::Relaxed);
        self.full.fetch_or(bytes.is_some(), Ordering::Relaxed);
    }

    /// Whether it was full since the last start.
    pub fn was_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    fn wait(&self) -> Duration {
        let (shortest, longest) = *self.latency.lock().unwrap();
        Duration::from_millis(self.chance.lock().unwrap().random_range(shortest..=longest))
    }
}

/// The disk as one start of the device sees it.
#[derive(Clone)]
struct Mount {
    disk: DeviceDisk,
    life: u64,
}

impl fmt::Debug for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the disk of device {}", self.disk.number)
    }
}

impl Mount {
    fn lives(&self) -> io::Result<()> {
        if self.disk.life.load(Ordering::Relaxed) == self.life {
            return Ok(());
        }
        Err(io::Error::other("the power is gone"))
    }

    /// Does something that changes the disk, and raises the alarm if the power failed at it.
    fn change<T>(
        &self,
        what: &'static str,
        details: impl std::hash::Hash + fmt::Debug,
        change: impl FnOnce(&SimDisk) -> io::Result<T>,
    ) -> io::Result<T> {
        self.lives()?;
        self.disk.trace.note(what, (self.disk.number, details));
        let done = change(&self.disk.disk);
        if self.disk.disk.is_dark() {
            let alarm = self.disk.alarm.lock().unwrap().take();
            self.disk.cut();
            if let Some(alarm) = alarm {
                alarm();
            }
        }
        done
    }

    fn handle(&self, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(Handle { mount: self.clone(), file })
    }
}

impl Disk for Mount {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.lives()?;
        self.disk.disk.open(path).map(|file| self.handle(file))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.change("create", path, |disk| disk.create(path)).map(|file| self.handle(file))
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.lives()?;
        self.disk.disk.exists(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.lives()?;
        self.disk.disk.list(dir)
    }

    fn make_dir(&self, dir: &Path) -> io::Result<()> {
        self.change("make folder", dir, |disk| disk.make_dir(dir))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change("rename", (from, to), |disk| disk.rename(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.change("remove", path, |disk| disk.remove(path))
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        self.change("remove folder", dir, |disk| disk.remove_dir(dir))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.change("sync folder", dir, |disk| disk.sync_dir(dir))
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        self.lives()?;
        self.disk.disk.free_bytes(dir)
    }

    fn run(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        let wait = self.disk.wait();
        // Work that was begun ends, also when nobody waits for it any more.
        let running = tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            work();
        });
        Box::pin(async move { drop(running.await) })
    }
}

/// An open file as one start of the device sees it.
#[derive(Debug)]
struct Handle {
    mount: Mount,
    file: Arc<dyn DiskFile>,
}

impl DiskFile for Handle {
    fn len(&self) -> io::Result<u64> {
        self.mount.lives()?;
        self.file.len()
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.mount.lives()?;
        self.file.read_at(offset, out)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.mount.change("write", (offset, bytes.len(), digest(bytes)), |_| self.file.write_at(offset, bytes))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.mount.change("set length", len, |_| self.file.set_len(len))
    }

    fn sync(&self) -> io::Result<()> {
        self.mount.change("sync", (), |_| self.file.sync())
    }
}
