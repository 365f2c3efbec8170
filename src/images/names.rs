//! The names: one file, replaced whole, changed under the store's lock.

#![expect(clippy::disallowed_methods, reason = "names live in a file")]

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::blobs::{parse, write_whole};
use super::{Digest, ImageError, ImageName, ImageStore};
use crate::resource::ImageUser;

/// Format of the file.
const VERSION: u32 = 1;

/// What one name points to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Named {
    pub(super) name: ImageName,
    pub(super) manifest: Digest,
    /// The image's user, looked up in its own files when it was stored.
    pub(super) user: ImageUser,
    /// The index through which it was found: the digest that its registry shows for the name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) index: Option<Digest>,
}

impl Named {
    /// Whether somebody who asks for `name` means this image.
    pub(super) fn is_meant_by(&self, name: &ImageName) -> bool {
        name.means(&self.name, &self.manifest, self.index.as_ref())
    }
}

/// All names, in order.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Names {
    version: u32,
    pub(super) images: Vec<Named>,
}

/// Tells one content of the names from another without reading it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NamesVersion {
    inode: u64,
    seconds: i64,
    nanoseconds: i64,
}

impl NamesVersion {
    /// Of a file that is replaced whole. Without it there are no names, which is a version too.
    fn of(path: &Path) -> Self {
        use std::os::unix::fs::MetadataExt;
        let found = fs::metadata(path).ok();
        found.map_or_else(Self::default, |found| Self {
            inode: found.ino(),
            seconds: found.mtime(),
            nanoseconds: found.mtime_nsec(),
        })
    }
}

/// The store's lock; gone with the handle.
pub(super) struct StoreLock(#[expect(dead_code, reason = "held, not read")] File);

impl ImageStore {
    pub(super) fn lock(&self) -> Result<StoreLock, ImageError> {
        let path = self.dir.join("lock");
        let locked = OpenOptions::new().create(true).truncate(false).write(true).open(&path).and_then(|file| {
            file.lock()?;
            Ok(file)
        });
        locked.map(StoreLock).map_err(ImageError::io(format!("lock {}", path.display())))
    }

    /// Which names are in force: another value after each import, load or removal.
    pub fn names_version(&self) -> NamesVersion {
        NamesVersion::of(&self.dir.join("names.json"))
    }

    /// The same of what ran.
    pub(super) fn ran_version(&self) -> NamesVersion {
        NamesVersion::of(&self.dir.join("ran.json"))
    }

    pub(super) fn names(&self) -> Result<Names, ImageError> {
        let path = self.dir.join("names.json");
        let bytes = match fs::read(&path) {
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => {
                return Ok(Names { version: VERSION, images: Vec::new() });
            }
            result => result.map_err(ImageError::io(format!("read {}", path.display())))?,
        };
        let names: Names = parse(&bytes, &path.display().to_string())?;
        if names.version > VERSION {
            return Err(ImageError::Unsupported {
                what: format!("version {} of {}", names.version, path.display()),
                hint: "a newer kith wrote it; run that one".into(),
            });
        }
        Ok(names)
    }

    pub(super) fn write_names(&self, names: &Names, _: &StoreLock) -> Result<(), ImageError> {
        write_whole(&self.dir, "names.json", names)
    }

    /// Points names at manifests, replacing what they pointed at.
    pub(super) fn point(&self, added: &[Named], lock: &StoreLock) -> Result<(), ImageError> {
        let mut names = self.names()?;
        if added.iter().all(|named| names.images.contains(named)) {
            // Other names would have everyone look at every image again.
            return Ok(());
        }
        names.images.retain(|named| !added.iter().any(|other| other.name == named.name));
        names.images.extend_from_slice(added);
        names.images.sort_by(|a, b| a.name.cmp(&b.name));
        self.write_names(&names, lock)
    }
}
