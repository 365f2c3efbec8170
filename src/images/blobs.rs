//! Blobs by digest: written whole after their digest is known, and never changed.

#![expect(clippy::disallowed_methods, reason = "the content store is files")]

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use super::digest::Hashing;
use super::manifest::{ConfigFile, Manifest};
use super::{Digest, ImageError, ImageStore, LOOKS};

/// Largest blob, in bytes.
pub(super) const BLOB_MAX: u64 = 64 << 30;

/// Largest manifest, index or configuration, in bytes.
pub(super) const JSON_MAX: u64 = 8 << 20;

/// A blob that is not cleared away as long as this lives, named or not.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) file: File,
}

impl Held {
    /// The blob's bytes from their start.
    pub(super) fn reader(&self) -> Result<File, ImageError> {
        let rewound = self.file.try_clone().and_then(|mut file| {
            file.seek(SeekFrom::Start(0))?;
            Ok(file)
        });
        rewound.map_err(ImageError::io(format!("read blob {}", self.digest)))
    }
}

impl ImageStore {
    /// Stores what a reader yields, and checks it against the digest that it must have.
    pub(super) fn put(&self, reader: impl Read, expected: Option<&Digest>) -> Result<Held, ImageError> {
        let step = || ImageError::io(format!("write a blob in {}", self.dir.display()));
        let mut draft = tempfile::NamedTempFile::new_in(self.ingest_dir()).map_err(step())?;
        draft.as_file().lock_shared().map_err(step())?;
        let mut source = Hashing::new(reader, BLOB_MAX);
        io::copy(&mut source, draft.as_file_mut()).map_err(step())?;
        let (digest, size) = source.finish().map_err(step())?;
        if let Some(expected) = expected.filter(|expected| **expected != digest) {
            return Err(ImageError::damaged(format!("blob {expected}"), format!("its bytes have the digest {digest}")));
        }
        if let Some(held) = self.hold(&digest)? {
            return Ok(held);
        }
        draft.as_file().sync_all().map_err(step())?;
        let (file, path) = draft.into_parts();
        self.settle(&path, Held { digest, size, file })
    }

    /// Makes a file that is whole and held a blob under its digest, and holds the one that is there already
    /// otherwise. Whoever clears blobs away removes them by their path: it never changes what it leads to.
    pub(super) fn settle(&self, draft: &Path, whole: Held) -> Result<Held, ImageError> {
        let target = self.blob_dir().join(whole.digest.hex());
        let step = || ImageError::io(format!("write blob {}", whole.digest));
        for _ in 0..LOOKS {
            match fs::hard_link(draft, &target) {
                Err(there) if there.kind() == io::ErrorKind::AlreadyExists => {
                    if let Some(held) = self.hold(&whole.digest)? {
                        remove_file(draft)?;
                        return Ok(held);
                    }
                }
                linked => {
                    linked.map_err(step())?;
                    remove_file(draft)?;
                    sync_dir(&self.blob_dir())?;
                    return Ok(whole);
                }
            }
        }
        Err(step()(io::Error::other("it is cleared away again and again")))
    }

    /// Holds a blob that is here already.
    pub(super) fn hold(&self, digest: &Digest) -> Result<Option<Held>, ImageError> {
        use std::os::unix::fs::MetadataExt;
        let step = || ImageError::io(format!("open blob {digest}"));
        let file = match File::open(self.blob_dir().join(digest.hex())) {
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => return Ok(None),
            result => result.map_err(step())?,
        };
        file.lock_shared().map_err(step())?;
        let metadata = file.metadata().map_err(step())?;
        // It may have been cleared away before the lock was ours.
        Ok((metadata.nlink() > 0).then_some(Held { digest: digest.clone(), size: metadata.len(), file }))
    }

    /// A small blob, verified.
    pub(super) fn read(&self, digest: &Digest) -> Result<Vec<u8>, ImageError> {
        let step = || ImageError::io(format!("read blob {digest}"));
        let file = File::open(self.blob_dir().join(digest.hex())).map_err(step())?;
        let mut bytes = Vec::new();
        file.take(JSON_MAX + 1).read_to_end(&mut bytes).map_err(step())?;
        let found = Digest::of(&bytes);
        if found != *digest {
            return Err(ImageError::damaged(format!("blob {digest}"), format!("its bytes have the digest {found}")));
        }
        Ok(bytes)
    }

    pub(super) fn manifest(&self, digest: &Digest) -> Result<Manifest, ImageError> {
        parse(&self.read(digest)?, &format!("manifest {digest}"))
    }

    pub(super) fn config_file(&self, manifest: &Manifest) -> Result<ConfigFile, ImageError> {
        let digest = &manifest.config.digest;
        parse(&self.read(digest)?, &format!("image configuration {digest}"))
    }
}

/// Parses a JSON document of an image.
pub(super) fn parse<T: for<'de> serde::Deserialize<'de>>(bytes: &[u8], what: &str) -> Result<T, ImageError> {
    serde_json::from_slice(bytes).map_err(|error| ImageError::damaged(what, error))
}

/// Replaces a small file of a folder, whole.
pub(super) fn write_whole(dir: &Path, name: &str, value: &impl serde::Serialize) -> Result<(), ImageError> {
    use std::io::Write;
    let path = dir.join(name);
    let step = || ImageError::io(format!("write {}", path.display()));
    let bytes = serde_json::to_vec_pretty(value).map_err(|error| step()(error.into()))?;
    let mut draft = tempfile::NamedTempFile::new_in(dir).map_err(step())?;
    draft.write_all(&bytes).and_then(|()| draft.as_file().sync_all()).map_err(step())?;
    draft.persist(&path).map_err(|error| step()(error.error))?;
    sync_dir(dir)
}

/// Makes renames in a folder durable.
pub(super) fn sync_dir(dir: &Path) -> Result<(), ImageError> {
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(ImageError::io(format!("sync {}", dir.display())))
}

/// Removes a file that may be gone already.
pub(super) fn remove_file(path: &Path) -> Result<(), ImageError> {
    match fs::remove_file(path) {
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.map_err(ImageError::io(format!("remove {}", path.display()))),
    }
}
