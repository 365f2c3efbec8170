//! Makes room: images that nothing needs go, those first that were not used for longest. What runs
//! stays, and what ran last for a workload of this device, so that a rollback works in the dark.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::SystemTime;

use super::clear::{Needed, entries, is_draft, remove_unheld};
use super::names::Named;
use super::{Digest, ImageError, ImageName, ImageStore, Room};
use crate::config::ImagesConfig;

/// When room is made, and how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Percent of the file system that may be taken; 0: any.
    pub above_percent: u8,
    /// Percent that is left taken.
    pub to_percent: u8,
    /// Bytes that images may take; 0: any.
    pub max_bytes: u64,
}

impl From<&ImagesConfig> for Limits {
    fn from(config: &ImagesConfig) -> Self {
        Self {
            above_percent: config.clear_above_percent,
            to_percent: config.clear_to_percent,
            max_bytes: config.max_bytes,
        }
    }
}

impl Limits {
    /// Bytes that are to go, when so much of the file system and so much by images is taken.
    pub fn wanted(&self, room: Room, images: u64) -> u64 {
        let share = |percent: u8| u64::try_from(u128::from(room.total) * u128::from(percent) / 100).unwrap_or(u64::MAX);
        let taken = room.total.saturating_sub(room.free);
        let over = self.above_percent > 0 && taken > share(self.above_percent);
        let by_percent = if over { taken.saturating_sub(share(self.to_percent)) } else { 0 };
        let by_bytes = if self.max_bytes > 0 { images.saturating_sub(self.max_bytes) } else { 0 };
        by_percent.max(by_bytes)
    }
}

/// What must stay, as far as the caller knows; what the store remembers stays beside it.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// Images that pods of this device are made of, as they name them.
    pub images: BTreeSet<ImageName>,
    /// Workloads of this device, whose last images stay; `None`: those of every workload that ever ran here.
    pub workloads: Option<BTreeSet<String>>,
}

/// What went, or would go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cleared {
    /// Images, the longest unused first.
    pub images: Vec<ImageName>,
    /// Bytes that this frees, about.
    pub bytes: u64,
}

impl ImageStore {
    /// Bytes that blobs, unpacked layers and downloads take.
    pub fn size(&self) -> u64 {
        let folders = [self.blob_dir(), self.layer_dir(), self.ingest_dir()];
        folders.iter().map(|folder| taken(folder)).sum()
    }

    /// Clears away at least `wanted` bytes of images that may go, when there are so many; `u64::MAX`
    /// takes them all. `dry`: says what would go, and touches nothing.
    pub fn make_room(&self, wanted: u64, scope: &Scope, dry: bool) -> Result<Cleared, ImageError> {
        let lock = self.lock()?;
        let (mut names, mut ran) = (self.names()?, self.ran()?);
        let kept = ran.manifests(scope.workloads.as_ref());
        let may_go =
            |named: &Named| !kept.contains(&named.manifest) && !scope.images.iter().any(|name| named.is_meant_by(name));
        // An image goes with all its names.
        let mut by_manifest: BTreeMap<Digest, Vec<Named>> = BTreeMap::new();
        for named in names.images.iter().chain(ran.images()) {
            by_manifest.entry(named.manifest.clone()).or_default().push(named.clone());
        }
        let mut candidates: Vec<(SystemTime, Digest)> = by_manifest
            .iter()
            .filter(|(_, all)| all.iter().all(may_go))
            .map(|(manifest, _)| (self.last_used(manifest), manifest.clone()))
            .collect();
        candidates.sort();
        let mut cleared = Cleared { images: Vec::new(), bytes: self.stray_bytes(&by_manifest)? };
        let mut gone = BTreeSet::new();
        for (_, manifest) in candidates {
            if cleared.bytes >= wanted {
                break;
            }
            let all = by_manifest.remove(&manifest).unwrap_or_default();
            cleared.bytes += self.freed(&manifest, by_manifest.keys())?;
            let mut shown: Vec<ImageName> = all.into_iter().map(|named| named.name).collect();
            shown.dedup();
            cleared.images.extend(shown);
            gone.insert(manifest);
        }
        if dry {
            return Ok(cleared);
        }
        if !gone.is_empty() {
            names.images.retain(|named| !gone.contains(&named.manifest));
            for images in ran.workloads.values_mut() {
                images.retain(|named| !gone.contains(&named.manifest));
            }
            ran.workloads.retain(|_, images| !images.is_empty());
            self.write_ran(&ran, &lock)?;
            self.write_names(&names, &lock)?;
        }
        self.clear_unnamed(&lock)?;
        for entry in entries(&self.ingest_dir())? {
            if entry.path().extension().is_some_and(|ending| ending == "part") {
                remove_unheld(&entry.path())?;
            }
        }
        Ok(cleared)
    }

    fn last_used(&self, manifest: &Digest) -> SystemTime {
        let found = fs::metadata(self.blob_dir().join(manifest.hex())).and_then(|found| found.modified());
        found.unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// Bytes that only this image takes, beside those that stay.
    fn freed<'a>(&self, manifest: &Digest, rest: impl Iterator<Item = &'a Digest>) -> Result<u64, ImageError> {
        let (mut own, mut others) = (Needed::default(), Needed::default());
        own.add(self, manifest)?;
        for other in rest {
            others.add(self, other)?;
        }
        let blobs = own.blobs.difference(&others.blobs).map(|digest| self.blob_dir().join(digest.hex()));
        let layers = own.layers.difference(&others.layers).map(|digest| self.layer_dir().join(digest.hex()));
        Ok(blobs.chain(layers).map(|path| taken(&path)).sum())
    }

    /// Bytes that no image needs: broken downloads, and what an interrupted removal left.
    fn stray_bytes(&self, images: &BTreeMap<Digest, Vec<Named>>) -> Result<u64, ImageError> {
        let mut needed = Needed::default();
        for manifest in images.keys() {
            needed.add(self, manifest)?;
        }
        let parts = entries(&self.ingest_dir())?;
        let mut bytes = parts.iter().map(|entry| taken(&entry.path())).sum::<u64>();
        for (folder, kept) in [(self.blob_dir(), &needed.blobs), (self.layer_dir(), &needed.layers)] {
            for entry in entries(&folder)? {
                let name = entry.file_name();
                if !is_draft(&entry) && !kept.iter().any(|digest| digest.hex().as_bytes() == name.as_encoded_bytes()) {
                    bytes += taken(&entry.path());
                }
            }
        }
        Ok(bytes)
    }
}

/// Bytes on the disk of a file, or of all below a folder; each file once, links are not followed.
fn taken(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let (mut bytes, mut seen, mut open) = (0, BTreeSet::new(), vec![path.to_owned()]);
    while let Some(path) = open.pop() {
        // Others work in the folder too: what is gone takes nothing.
        let Ok(found) = fs::symlink_metadata(&path) else { continue };
        if found.nlink() > 1 && !found.is_dir() && !seen.insert((found.dev(), found.ino())) {
            continue;
        }
        bytes += found.blocks() * 512;
        if found.is_dir() {
            open.extend(fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()));
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_wanted_over_the_mark_and_down_to_the_other() {
        let limits = Limits { above_percent: 85, to_percent: 80, max_bytes: 0 };
        let room = |free| Room { total: 1000, free };
        assert_eq!(limits.wanted(room(150), 0), 0);
        assert_eq!(limits.wanted(room(149), 0), 51);
        assert_eq!(limits.wanted(room(0), 0), 200);
        let bytes = Limits { above_percent: 0, to_percent: 0, max_bytes: 300 };
        assert_eq!((bytes.wanted(room(0), 300), bytes.wanted(room(900), 301)), (0, 1));
    }
}
