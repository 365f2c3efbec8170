//! Clears away what no name needs and nobody uses.

#![expect(clippy::disallowed_methods, reason = "clears files away")]

use std::collections::BTreeSet;
use std::fs::{self, DirEntry, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::blobs::remove_file;
use super::names::StoreLock;
use super::{Digest, ImageError, ImageStore};

/// Age after which a draft that nobody holds was left by a process that died.
const DRAFT_AGE: Duration = Duration::from_mins(10);

/// Age after which a download that broke is not waited for any more.
const PART_AGE: Duration = Duration::from_hours(24);

/// Blobs and unpacked layers of images.
#[derive(Default)]
pub(super) struct Needed {
    pub(super) blobs: BTreeSet<Digest>,
    pub(super) layers: BTreeSet<Digest>,
}

impl Needed {
    pub(super) fn add(&mut self, store: &ImageStore, manifest: &Digest) -> Result<(), ImageError> {
        let document = store.manifest(manifest)?;
        self.layers.extend(store.config_file(&document)?.rootfs.diff_ids);
        self.blobs.insert(manifest.clone());
        self.blobs.insert(document.config.digest);
        self.blobs.extend(document.layers.into_iter().map(|layer| layer.digest));
        Ok(())
    }
}

impl ImageStore {
    /// Removes blobs and unpacked layers that no name leads to, unless somebody holds them.
    pub(super) fn clear_unnamed(&self, _: &StoreLock) -> Result<(), ImageError> {
        let mut kept_images = self.names()?.images;
        // What ran last stays for a rollback, also when its name has moved on.
        kept_images.extend(self.ran()?.workloads.into_values().flatten());
        let mut needed = Needed::default();
        for named in &kept_images {
            // An image that can not be read stops this: better too much on the disk than too little.
            needed.add(self, &named.manifest)?;
        }
        let Needed { blobs, layers } = needed;
        let kept = |entry: &DirEntry, kept: &BTreeSet<Digest>| {
            entry.file_name().to_str().is_none_or(|hex| kept.iter().any(|digest| digest.hex() == hex))
        };
        for entry in entries(&self.blob_dir())? {
            if !kept(&entry, &blobs) {
                remove_unheld(&entry.path())?;
            }
        }
        for entry in entries(&self.layer_dir())? {
            if !is_draft(&entry) && !kept(&entry, &layers) {
                remove_unheld(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Removes drafts of processes that died.
    pub(super) fn clear_drafts(&self) -> Result<(), ImageError> {
        let ingested = entries(&self.ingest_dir())?.into_iter();
        let unpacked = entries(&self.layer_dir())?.into_iter().filter(is_draft);
        for entry in ingested.chain(unpacked) {
            let changed = entry.metadata().and_then(|metadata| metadata.modified());
            let age = changed.ok().and_then(|changed| SystemTime::now().duration_since(changed).ok());
            let is_part = entry.path().extension().is_some_and(|ending| ending == "part");
            if age.is_some_and(|age| age > if is_part { PART_AGE } else { DRAFT_AGE }) {
                remove_unheld(&entry.path())?;
            }
        }
        Ok(())
    }
}

pub(super) fn is_draft(entry: &DirEntry) -> bool {
    entry.file_name().as_encoded_bytes().starts_with(b".")
}

pub(super) fn entries(dir: &Path) -> Result<Vec<DirEntry>, ImageError> {
    let listed = fs::read_dir(dir).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    listed.map_err(ImageError::io(format!("list {}", dir.display())))
}

/// Removes a file or folder whose exclusive lock is to be had at once.
pub(super) fn remove_unheld(path: &Path) -> Result<(), ImageError> {
    let step = || ImageError::io(format!("remove {}", path.display()));
    let handle = match File::open(path) {
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => return Ok(()),
        result => result.map_err(step())?,
    };
    if handle.try_lock().is_err() {
        return Ok(());
    }
    if handle.metadata().map_err(step())?.is_dir() {
        // Out of sight first: a folder that is half gone must not be taken for a layer.
        let grave: PathBuf =
            path.with_file_name(format!(".old-{}", path.file_name().unwrap_or_default().to_string_lossy()));
        let _ = fs::remove_dir_all(&grave);
        fs::rename(path, &grave).map_err(step())?;
        fs::remove_dir_all(&grave).map_err(step())
    } else {
        remove_file(path)
    }
}
