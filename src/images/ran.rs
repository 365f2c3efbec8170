//! Which images ran well for which workload on this device: the newest, and the one before it. They
//! stay when room is made, and when their name moves on: a rollback works without a registry.

#![expect(clippy::disallowed_methods, reason = "the record is a file")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;

use serde::{Deserialize, Serialize};

use super::blobs::{parse, write_whole};
use super::names::{Named, StoreLock};
use super::{Digest, ImageError, ImageStore};

/// Format of the file.
const VERSION: u32 = 1;

/// Images that are remembered for one container of a workload.
const REMEMBERED: usize = 2;

/// Most containers of workloads that are remembered.
const WORKLOADS_MAX: usize = 4096;

/// By workload and container: what ran, the newest first.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Ran {
    version: u32,
    pub(super) workloads: BTreeMap<String, Vec<Named>>,
}

impl Default for Ran {
    fn default() -> Self {
        Self { version: VERSION, workloads: BTreeMap::new() }
    }
}

impl Ran {
    /// Every image of it.
    pub(super) fn images(&self) -> impl Iterator<Item = &Named> {
        self.workloads.values().flatten()
    }

    /// Manifests that must stay: those of these workloads, or of all.
    pub(super) fn manifests(&self, workloads: Option<&BTreeSet<String>>) -> BTreeSet<Digest> {
        let counts = |key: &str| {
            workloads.is_none_or(|named| key.rsplit_once('/').is_some_and(|(workload, _)| named.contains(workload)))
        };
        let kept = self.workloads.iter().filter(|(key, _)| counts(key));
        kept.flat_map(|(_, images)| images).map(|named| named.manifest.clone()).collect()
    }
}

impl ImageStore {
    /// Notes that a container of a workload ran well from an image, by the digest of its manifest. Writes
    /// nothing when that is known.
    pub fn note_ran(&self, workload: &str, container: &str, manifest: &Digest) -> Result<(), ImageError> {
        let key = format!("{workload}/{container}");
        let newest = |ran: &Ran| {
            ran.workloads.get(&key).and_then(|images| images.first()).map(|named| &named.manifest) == Some(manifest)
        };
        if newest(&self.ran()?) {
            return Ok(());
        }
        let lock = self.lock()?;
        let (mut ran, names) = (self.ran()?, self.names()?);
        let known = names.images.iter().chain(ran.images()).find(|named| named.manifest == *manifest);
        // What is not here any more can not be kept.
        let Some(known) = known else { return Ok(()) };
        let named = Named { name: known.name.at(manifest), ..known.clone() };
        if ran.workloads.len() >= WORKLOADS_MAX && !ran.workloads.contains_key(&key) {
            return Ok(());
        }
        let images = ran.workloads.entry(key).or_default();
        images.retain(|other| other.manifest != *manifest);
        images.insert(0, named);
        images.truncate(REMEMBERED);
        self.touch(manifest);
        self.write_ran(&ran, &lock)
    }

    /// Marks an image as used now: the order in which images are cleared away.
    fn touch(&self, manifest: &Digest) {
        // An image that looks older than it is may go sooner; it is here when it is needed next, or pulled.
        if let Ok(file) = fs::File::open(self.blob_dir().join(manifest.hex())) {
            let _ = file.set_modified(std::time::SystemTime::now());
        }
    }

    pub(super) fn ran(&self) -> Result<Ran, ImageError> {
        let path = self.dir.join("ran.json");
        let bytes = match fs::read(&path) {
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => return Ok(Ran::default()),
            result => result.map_err(ImageError::io(format!("read {}", path.display())))?,
        };
        parse(&bytes, &path.display().to_string())
    }

    pub(super) fn write_ran(&self, ran: &Ran, _: &StoreLock) -> Result<(), ImageError> {
        write_whole(&self.dir, "ran.json", ran)
    }
}
