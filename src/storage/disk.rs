//! The files under the log and the state: the seam where a simulation puts a disk that loses power.
//! It decides when bytes are asked to be safe, never what they mean. Nothing in this room reaches
//! a file, a thread or the free space of a disk except through it.
#![expect(clippy::disallowed_methods, reason = "this is where files come from")]

use std::fmt;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::oneshot;

use crate::metrics::counted::{self, Written};

/// A disk with files.
pub trait Disk: Send + Sync + fmt::Debug + 'static {
    /// Opens a file that exists, for reading and writing. It has one owner at a time.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// Makes a new and empty file; it replaces one of the same name.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// Whether there is a file or folder of that name.
    fn exists(&self, path: &Path) -> io::Result<bool>;
    /// The names of the files in a folder, sorted.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Makes a folder and those around it; one that exists is left alone.
    fn make_dir(&self, dir: &Path) -> io::Result<()>;
    /// Gives a file or folder another name; it replaces a file of that name, whole.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty folder.
    fn remove_dir(&self, dir: &Path) -> io::Result<()>;
    /// Makes what was created, renamed and removed in a folder safe from a power cut.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Bytes that are left for files in a folder.
    fn free_bytes(&self, dir: &Path) -> io::Result<u64>;
    /// Runs work that may wait for the disk: off the runtime's thread on a device, on simulated time
    /// in a simulation. Work that was started ends, also when nobody waits for it any more.
    fn run(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()>;
}

/// An open file.
pub trait DiskFile: Send + Sync + fmt::Debug {
    /// Its length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether it has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Fills `out` with the bytes from `offset` on; fewer are an `UnexpectedEof`.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;
    /// Writes all bytes at `offset`; safe from a power cut after the next `sync`.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Cuts it off, or makes it longer by zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Makes what was written, and the length, safe from a power cut.
    fn sync(&self) -> io::Result<()>;
}

/// Runs work that may wait for the disk, and hands on its answer.
pub(crate) async fn run_on<T: Send + 'static>(
    disk: &dyn Disk,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let (done, answer) = oneshot::channel();
    disk.run(Box::new(move || {
        // Nobody listens when the caller was cancelled.
        drop(done.send(work()));
    }))
    .await;
    answer.await.map_err(|_| io::Error::other("the work on the disk ended without an answer"))
}

/// The disk of this device.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

#[derive(Debug)]
struct RealFile {
    file: File,
    /// Where its writes are counted.
    written: &'static Written,
}

impl RealFile {
    fn new(file: File, path: &Path) -> Self {
        let named = |path: Option<&Path>, name: &str| path.is_some_and(|path| path.ends_with(name));
        let state = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(super::FILE.as_bytes()));
        let written = match (state, named(path.parent(), super::LOG)) {
            (true, _) => &counted::STATE,
            (_, true) => &counted::LOG,
            _ => &counted::OTHER,
        };
        Self { file, written }
    }
}

/// One owner for each file: a second process would overwrite what the first is writing. The kernel
/// lets go of the lock when the owner ends, however it ends.
fn lock(file: File, path: &Path) -> io::Result<File> {
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(io::Error::new(io::ErrorKind::WouldBlock, format!("{} is in use by another agent", path.display())))
        }
        Err(TryLockError::Error(error)) => Err(error),
    }
}

impl Disk for RealDisk {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Arc::new(RealFile::new(lock(file, path)?, path)))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let file = lock(file, path)?;
        file.set_len(0)?;
        Ok(Arc::new(RealFile::new(file, path)))
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        path.try_exists()
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    fn make_dir(&self, dir: &Path) -> io::Result<()> {
        std::fs::create_dir_all(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        std::fs::remove_dir(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        let stat = nix::sys::statvfs::statvfs(dir)?;
        #[expect(clippy::useless_conversion, reason = "the counts are of 32 bits on some machines")]
        let free = u64::from(stat.blocks_available()).saturating_mul(u64::from(stat.fragment_size()));
        Ok(free)
    }

    fn run(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        // A panic in the work shows to whoever waits for its answer.
        tokio::task::spawn_blocking(work).map(drop).boxed()
    }
}

impl DiskFile for RealFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.written.bytes.add(bytes.len() as u64);
        self.file.write_all_at(bytes, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        let begun = std::time::Instant::now();
        self.file.sync_data()?;
        self.written.syncs.record(begun.elapsed());
        Ok(())
    }
}
