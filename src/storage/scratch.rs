//! Files that exist only while a snapshot travels. One is gone when dropped; a restart sweeps away
//! what a power cut left.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::StorageError;
use super::disk::{Disk, DiskFile};

/// The folder of these files in the data folder.
const DIR: &str = "snapshot";

/// A file that is removed when dropped.
#[derive(Debug)]
pub struct Scratch {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    len: u64,
}

impl Scratch {
    /// Makes one. No other one that lives has the same number.
    pub(super) fn create(disk: &Arc<dyn Disk>, data_dir: &Path, number: u64) -> Result<Self, StorageError> {
        let dir = data_dir.join(DIR);
        let path = dir.join(format!("state-{number}"));
        let failed = |source| StorageError::File { action: "make the snapshot file", path: path.clone(), source };
        disk.make_dir(&dir).map_err(failed)?;
        let file = disk.create(&path).map_err(failed)?;
        Ok(Self { disk: disk.clone(), path, file, len: 0 })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes written so far.
    pub(super) fn bytes(&self) -> u64 {
        self.len
    }

    /// Up to `most` bytes from `offset` on; fewer only at the end.
    pub fn read_piece(&self, offset: u64, most: usize) -> io::Result<Vec<u8>> {
        let left = usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; most.min(left)];
        self.file.read_at(offset, &mut bytes)?;
        Ok(bytes)
    }

    /// Reads from an offset to the end.
    pub(super) fn reader(&self, offset: u64) -> Reader<'_> {
        Reader { scratch: self, offset }
    }
}

impl Write for Scratch {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_at(self.len, bytes)?;
        self.len += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What stays is swept away by the next start.
        let _ = self.disk.remove(&self.path);
    }
}

/// Reads one from the front to the back.
pub(super) struct Reader<'a> {
    scratch: &'a Scratch,
    offset: u64,
}

impl Read for Reader<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.scratch.len.saturating_sub(self.offset)).unwrap_or(usize::MAX);
        let count = out.len().min(left);
        self.scratch.file.read_at(self.offset, &mut out[..count])?;
        self.offset += count as u64;
        Ok(count)
    }
}

/// Removes what an earlier run left half way.
pub(super) fn sweep(disk: &dyn Disk, data_dir: &Path) -> Result<(), StorageError> {
    let dir = data_dir.join(DIR);
    let clear = || -> io::Result<()> {
        if disk.exists(&dir)? {
            for name in disk.list(&dir)? {
                disk.remove(&dir.join(name))?;
            }
        }
        Ok(())
    };
    clear().map_err(|source| StorageError::File { action: "empty the snapshot folder", path: dir.clone(), source })
}
