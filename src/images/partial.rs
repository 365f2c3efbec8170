//! A blob on its way into the store: verified while it is written, and kept for later when the
//! connection breaks. One process writes it at a time, and others wait for what comes of it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

use sha2::{Digest as _, Sha256};

use super::blobs::Held;
use super::manifest::Descriptor;
use super::{Digest, ImageError, ImageStore};

/// The part of a blob that is here.
pub(super) struct Partial {
    file: File,
    path: PathBuf,
    hash: Sha256,
    length: u64,
    digest: Digest,
    size: u64,
}

/// What there is of a blob.
pub(super) enum Found {
    /// All of it.
    Whole(Held),
    /// A beginning, which may be empty.
    Part(Partial),
    /// Somebody else is bringing it.
    Busy,
}

impl ImageStore {
    /// Looks for a blob and takes hold of what is here of it. Blocks on the disk.
    pub(super) fn begin(&self, wanted: &Descriptor) -> Result<Found, ImageError> {
        if let Some(held) = self.hold(&wanted.digest)? {
            return Ok(Found::Whole(held));
        }
        let path = self.ingest_dir().join(format!("{}.part", wanted.digest.hex()));
        let step = || ImageError::io(format!("write {}", path.display()));
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = options.map_err(step())?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(Found::Busy),
            Err(TryLockError::Error(error)) => return Err(step()(error)),
        }
        // Whoever held it before may have finished it, or cleared it away, since the file was opened.
        if let Some(held) = self.hold(&wanted.digest)? {
            return Ok(Found::Whole(held));
        }
        if !same_file(&file, &path) {
            return Ok(Found::Busy);
        }
        let mut hash = Sha256::new();
        let mut length = 0;
        let mut buffer = vec![0; 64 << 10];
        loop {
            let count = file.read(&mut buffer).map_err(step())?;
            if count == 0 {
                break;
            }
            hash.update(&buffer[..count]);
            length += count as u64;
        }
        let mut part = Partial { file, path, hash, length, digest: wanted.digest.clone(), size: wanted.size };
        if length > wanted.size {
            part.restart()?;
        }
        Ok(Found::Part(part))
    }
}

fn same_file(file: &File, path: &std::path::Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let inode = |found: io::Result<fs::Metadata>| found.ok().map(|found| (found.dev(), found.ino()));
    inode(file.metadata()).is_some_and(|ours| inode(fs::metadata(path)) == Some(ours))
}

impl Partial {
    /// Bytes that are here.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    fn step(&self) -> impl FnOnce(io::Error) -> ImageError {
        ImageError::io(format!("write {}", self.path.display()))
    }

    /// Forgets what is here.
    pub(super) fn restart(&mut self) -> Result<(), ImageError> {
        let emptied = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        emptied.map_err(self.step())?;
        (self.hash, self.length) = (Sha256::new(), 0);
        Ok(())
    }

    /// Adds what came, and refuses more than the blob's size.
    pub(super) fn append(&mut self, pieces: &[bytes::Bytes]) -> Result<(), ImageError> {
        for piece in pieces {
            self.length += piece.len() as u64;
            if self.length > self.size {
                let size = self.size;
                self.restart()?;
                return Err(self.damaged(format!("more than the {size} bytes that the manifest promises were sent")));
            }
            self.hash.update(piece);
            self.file.write_all(piece).map_err(self.step())?;
        }
        Ok(())
    }

    /// Whether all bytes are here.
    pub(super) fn is_whole(&self) -> bool {
        self.length == self.size
    }

    fn damaged(&self, reason: String) -> ImageError {
        ImageError::damaged(format!("blob {}", self.digest), reason)
    }

    /// Checks the whole against its digest and makes it a blob; what is not what it claims to be goes.
    pub(super) fn finish(mut self, store: &ImageStore) -> Result<Held, ImageError> {
        use std::os::unix::fs::MetadataExt;
        let found = Digest::from_hash(&self.hash.finalize_reset());
        if found != self.digest {
            self.restart()?;
            return Err(self.damaged(format!("its bytes have the digest {found}")));
        }
        self.file.sync_all().map_err(self.step())?;
        let held = store.settle(&self.path, Held { digest: self.digest, size: self.size, file: self.file })?;
        let what = format!("blob {}", held.digest);
        // Held shared from now on, as every blob is that somebody uses. The kernel may let another in
        // between the two locks, and that one may clear it away.
        let shared = held.file.lock_shared().and_then(|()| held.file.metadata());
        if shared.map_err(ImageError::io(format!("hold {what}")))?.nlink() == 0 {
            return Err(ImageError::damaged(what, "it was cleared away at once"));
        }
        Ok(held)
    }
}
