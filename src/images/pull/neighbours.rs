//! Blobs from other devices before the uplink is used. Whoever brings a blob from its registry is asked
//! by the others, who wait for it: of several that begin at once, one goes.
//!
//! The manifest always comes from the registry, which checks who asks; only what it names is asked of
//! others, and checked against its digest as anything that comes. Whom a device gives what is decided
//! where it gives: see `agent::blobs`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use sha2::{Digest as _, Sha256};
use tokio::time::{Instant, timeout};

use super::fetch::{BATCH, Fetch, write};
use crate::images::manifest::Descriptor;
use crate::images::partial::Partial;
use crate::images::{Digest, ImageError, ImageName, ImageStore};

/// Smaller blobs are asked of the registry at once: asking others takes as long.
pub(super) const LEAST: u64 = 256 << 10;
/// How long nothing may come of a blob that another device is bringing.
const PATIENCE: Duration = Duration::from_secs(30);
/// Time between two questions to those who are bringing it.
const LOOK: Duration = Duration::from_secs(1);
/// How long a change of the fleet's state takes to be known everywhere, about.
const SETTLE: Duration = Duration::from_millis(300);
/// How long one device may take to answer.
const ANSWER: Duration = Duration::from_secs(5);
/// How long nothing may come while a blob is read.
const STALL: Duration = Duration::from_secs(20);

/// What another device says when it is asked for a blob.
pub enum Offer {
    /// Its bytes, from the offset on.
    Bytes(BoxStream<'static, std::io::Result<Bytes>>),
    /// It is bringing it, and has so many bytes.
    Coming(u64),
    /// It has nothing to give.
    Nothing,
}

/// The other devices, as far as they can be asked.
pub trait Neighbours: Send + Sync + 'static {
    /// Names of those to ask, the nearest first, and not too many.
    fn near(&self) -> Vec<String>;

    /// Asks one for a blob from an offset on. Whatever goes wrong is `Nothing`.
    fn ask<'a>(&'a self, device: &'a str, digest: &'a Digest, from: u64) -> BoxFuture<'a, Offer>;
}

/// What this device is bringing, for others to know.
#[derive(Debug, Default)]
pub struct Bringing(Mutex<BTreeMap<Digest, Under>>);

/// A blob that is on its way here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Under {
    /// The image that it belongs to.
    pub image: ImageName,
    /// Whether its registry is asked; before that, others are.
    pub from_registry: bool,
}

impl Bringing {
    /// How far this device is with a blob.
    pub fn of(&self, digest: &Digest) -> Option<Under> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(digest).cloned()
    }

    pub(super) fn goes_to_registry(&self, digest: &Digest) {
        if let Some(under) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get_mut(digest) {
            under.from_registry = true;
        }
    }

    pub(super) fn begin(self: &Arc<Self>, digest: &Digest, image: &ImageName) -> Begun {
        let under = Under { image: image.clone(), from_registry: false };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(digest.clone(), under);
        Begun { all: self.clone(), digest: digest.clone() }
    }
}

/// Takes a blob off the list when it is here, or is brought no more.
pub(super) struct Begun {
    all: Arc<Bringing>,
    digest: Digest,
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.all.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.digest);
    }
}

/// Others, and what they may know of this device.
#[derive(Clone)]
pub struct Neighbourhood {
    /// The others.
    pub neighbours: Arc<dyn Neighbours>,
    /// What this device is bringing.
    pub bringing: Arc<Bringing>,
}

/// Who goes to the registry when several want a blob at once: the device with the lowest rank, another
/// one for each blob.
pub fn rank(digest: &Digest, device: &str) -> [u8; 8] {
    let mut hash = Sha256::new();
    hash.update(digest.to_string());
    hash.update([0]);
    hash.update(device);
    let mut rank = [0; 8];
    rank.copy_from_slice(&hash.finalize()[..8]);
    rank
}

impl ImageStore {
    /// A blob for a device that may have these images: only if one of them that is here, or on its way,
    /// has it as a layer.
    pub fn offer(
        &self,
        digest: &Digest,
        images: &BTreeSet<ImageName>,
        bringing: &Bringing,
    ) -> Result<Option<(File, u64)>, ImageError> {
        let whole = || self.hold(digest)?.map(|held| Ok((held.reader()?, held.size))).transpose();
        if bringing.of(digest).is_some_and(|under| images.contains(&under.image)) {
            return whole();
        }
        let names = self.names()?.images;
        for named in names.iter().filter(|named| images.iter().any(|name| named.is_meant_by(name))) {
            let layers = self.manifest(&named.manifest)?.layers;
            if layers.iter().any(|layer| layer.digest == *digest) {
                return whole();
            }
        }
        Ok(None)
    }

    /// Bytes of a blob that are here while it is being brought.
    pub fn part_length(&self, digest: &Digest) -> u64 {
        let path = self.ingest_dir().join(format!("{}.part", digest.hex()));
        fs::metadata(path).map_or(0, |found| found.len())
    }
}

impl Fetch<'_> {
    /// Brings what others have of a blob, or waits while one of them brings it. What is missing afterwards
    /// has to come from the registry.
    pub(super) async fn ask_others(
        &self,
        mut part: Partial,
        wanted: &Descriptor,
        others: &Neighbourhood,
    ) -> Result<Partial, ImageError> {
        let (mut furthest, mut moved, mut settled) = (0, Instant::now(), false);
        loop {
            let mut coming = None;
            let near = others.neighbours.near();
            settled |= near.is_empty();
            for device in near {
                let asked = timeout(ANSWER, others.neighbours.ask(&device, &wanted.digest, part.length())).await;
                match asked.unwrap_or(Offer::Nothing) {
                    Offer::Nothing => {}
                    Offer::Coming(bytes) => coming = coming.max(Some(bytes)),
                    Offer::Bytes(bytes) => {
                        let before = part.length();
                        part = self.read_offered(part, bytes).await?;
                        let came = part.length().saturating_sub(before);
                        tracing::info!(device, digest = %wanted.digest, bytes = came, "a layer came from another device");
                        if part.is_whole() {
                            return Ok(part);
                        }
                    }
                }
            }
            let Some(bytes) = coming else {
                if std::mem::replace(&mut settled, true) {
                    return Ok(part);
                }
                // The others may not have heard yet what this device is to run.
                tokio::time::sleep(SETTLE).await;
                continue;
            };
            if bytes > furthest || part.length() > furthest {
                (furthest, moved) = (bytes.max(part.length()), Instant::now());
            }
            if moved.elapsed() > PATIENCE {
                tracing::debug!(digest = %wanted.digest, "another device brings a layer too slowly");
                return Ok(part);
            }
            tokio::time::sleep(LOOK.mul_f64(rand::random_range(0.5..1.0))).await;
        }
    }

    async fn read_offered(
        &self,
        mut part: Partial,
        mut bytes: BoxStream<'static, std::io::Result<Bytes>>,
    ) -> Result<Partial, ImageError> {
        let (mut batch, mut gathered) = (Vec::new(), 0);
        loop {
            let next = timeout(STALL, bytes.next()).await.ok().flatten().and_then(Result::ok);
            if let Some(piece) = &next {
                gathered += piece.len();
                self.progress.came(piece.len() as u64);
                batch.push(piece.clone());
            }
            if gathered >= BATCH || next.is_none() {
                part = write(part, std::mem::take(&mut batch), false).await?;
                gathered = 0;
            }
            if next.is_none() {
                return Ok(part);
            }
        }
    }
}
