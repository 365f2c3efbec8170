//! Images on this device: a content store verified by digest, names that point into it, and unpacked
//! layers, filled from registries or from archives. It decides which bytes are what they claim to be.
//!
//! ```text
//! <dir>/blobs/sha256/<hex>   manifests, configurations, layers as they came; immutable
//! <dir>/names.json           name -> manifest, replaced whole
//! <dir>/ran.json             what ran last for each workload, which stays
//! <dir>/ingest/<hex>.part    a blob that is being downloaded, or was until the connection broke
//! <dir>/layers/<hex>         unpacked layers by the digest of their tar, ready to be overlay lowers
//! <dir>/lock                 held while names change or what nobody names is cleared away
//! ```
//!
//! Several processes work on one folder at a time (the agent, `kith image`). What one of them is
//! using but has not named yet, it holds by a shared lock on that very file or folder; clearing away
//! needs the exclusive one, so it never takes what is in use, a running container's layers included.

mod blobs;
mod clear;
mod digest;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod import;
mod layer;
mod load;
mod manifest;
mod members;
mod name;
mod names;
mod partial;
mod place;
mod platform;
mod prune;
mod pull;
mod push;
mod ran;
mod registry;
mod room;
mod save;
mod sound;
#[cfg(test)]
mod tests;
mod user;
mod zstd;

use std::io;
use std::path::{Path, PathBuf};

pub use digest::Digest;
pub use name::ImageName;
pub use names::NamesVersion;
pub use prune::{Cleared, Limits, Scope};
pub use pull::{Bringing, Neighbourhood, Neighbours, Offer, Progress, Pulled, Puller, Under, rank};
pub use registry::{Credentials, Keychain, RegistryError, Wall};
pub use room::Room;
pub use save::Format;
pub use sound::unsound;

use crate::resource::{ImageConfig, Timestamp};

/// Why an image can not be used, named by the thing it is about.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The text is not an image name.
    #[error("{text:?} is not an image name: {reason}")]
    Name {
        /// What was given.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// No image has this name here.
    #[error("no image {0} on this device")]
    Unknown(ImageName),
    /// Reading or writing failed.
    #[error("{step}: {source}")]
    Io {
        /// What was tried, and with which file.
        step: String,
        /// Why it failed.
        source: io::Error,
    },
    /// Bytes are not what their digest, their size or their format says.
    #[error("{what} is damaged: {reason}")]
    Damaged {
        /// Which thing.
        what: String,
        /// What was found.
        reason: String,
    },
    /// A layer holds an entry that could reach out of its folder.
    #[error("layer entry {entry:?} is refused: {reason}")]
    Refused {
        /// The entry's path as the layer has it.
        entry: String,
        /// Why.
        reason: String,
    },
    /// The image needs something that this version can not do.
    #[error("{what} is not supported: {hint}")]
    Unsupported {
        /// The feature and the image.
        what: String,
        /// What to do instead.
        hint: String,
    },
    /// No registry is named, and none is set for such names.
    #[error("image {name} names no registry, and this device has no mirror for {}: {hint}", name::HUB)]
    NoRegistry {
        /// The image.
        name: ImageName,
        /// What to put where.
        hint: String,
    },
    /// The disk can not hold it.
    #[error("no room: {wanted} bytes are wanted and {free} are free; kith image prune --dry-run shows what could go")]
    NoRoom {
        /// Bytes that are wanted at least.
        wanted: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// A registry could not be used.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

impl ImageError {
    fn io(step: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let step = step.into();
        move |source| Self::Io { step, source }
    }

    /// Whether the registry is out of reach: nothing is wrong with the image itself.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Registry(error) if error.is_unreachable())
    }

    fn damaged(what: impl Into<String>, reason: impl std::fmt::Display) -> Self {
        Self::Damaged { what: what.into(), reason: reason.to_string() }
    }
}

/// Looks at images that change all the time, before what is wrong with them is told.
const LOOKS: usize = 20;

/// One layer of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Digest of the layer as stored, compressed or not.
    pub blob: Digest,
    /// Digest of its tar: the name of its unpacked folder.
    pub tar: Digest,
    /// Bytes as stored.
    pub size: u64,
}

/// An image that this device has whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Its name here.
    pub name: ImageName,
    /// Digest of its manifest.
    pub digest: Digest,
    /// Bytes of all its parts as stored.
    pub size: u64,
    /// When it was built; the epoch when it does not say.
    pub created: Timestamp,
    /// Processor that it is for, in OCI's words, such as `arm64`.
    pub architecture: String,
    /// What it says about its containers.
    pub config: ImageConfig,
    /// Layers, lowest first.
    pub layers: Vec<Layer>,
}

/// The images of one folder.
#[derive(Clone, Debug)]
pub struct ImageStore {
    dir: PathBuf,
}

impl ImageStore {
    /// Opens the store in a folder, which it makes if needed. All calls block on the disk.
    pub fn open(dir: &Path) -> Result<Self, ImageError> {
        use std::os::unix::fs::DirBuilderExt;
        let store = Self { dir: dir.to_owned() };
        // Closed to other users: layers keep their setuid bits, which must not work on the device.
        for folder in [store.dir.clone(), store.blob_dir(), store.ingest_dir(), store.layer_dir()] {
            let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder);
            made.map_err(ImageError::io(format!("create {}", folder.display())))?;
        }
        store.clear_drafts()?;
        Ok(store)
    }

    /// How many images there are, and the bytes of their parts as stored, each once.
    pub fn figures(&self) -> Result<(usize, u64), ImageError> {
        let folder = self.blob_dir();
        let measure = || {
            let mut bytes = 0;
            for entry in std::fs::read_dir(&folder)? {
                // One that was cleared away meanwhile is none.
                bytes += entry?.metadata().map_or(0, |blob| blob.len());
            }
            Ok(bytes)
        };
        let bytes = measure().map_err(ImageError::io(format!("measure {}", folder.display())))?;
        Ok((self.names()?.images.len(), bytes))
    }

    /// Every image, by name.
    pub fn list(&self) -> Result<Vec<Image>, ImageError> {
        self.at_one_moment(|| self.names()?.images.iter().map(|named| self.image(named)).collect())
    }

    /// The image of a name, or of a name and digest; `None` when it is not here.
    pub fn resolve(&self, name: &ImageName) -> Result<Option<Image>, ImageError> {
        self.at_one_moment(|| {
            let names = self.names()?;
            if let Some(named) = names.images.iter().find(|named| named.is_meant_by(name)) {
                return self.image(named).map(Some);
            }
            if name.digest().is_none() {
                return Ok(None);
            }
            // What ran before its name moved on is still here by its digest.
            self.ran()?.images().find(|named| named.is_meant_by(name)).map(|named| self.image(named)).transpose()
        })
    }

    /// Looks again when an image that is being removed by another process was seen by its name alone.
    fn at_one_moment<T>(&self, look: impl Fn() -> Result<T, ImageError>) -> Result<T, ImageError> {
        let version = || (self.names_version(), self.ran_version());
        for _ in 1..LOOKS {
            let before = version();
            match look() {
                Err(_) if version() != before => {}
                found => return found,
            }
        }
        look()
    }

    /// Forgets a name, and clears away what no other name and no container needs.
    pub fn remove(&self, name: &ImageName) -> Result<(), ImageError> {
        let lock = self.lock()?;
        let mut names = self.names()?;
        let mut ran = self.ran()?;
        let gone: Vec<Digest> = names
            .images
            .iter()
            .chain(ran.images())
            .filter(|named| named.is_meant_by(name))
            .map(|named| named.manifest.clone())
            .collect();
        if gone.is_empty() {
            return Err(ImageError::Unknown(name.clone()));
        }
        names.images.retain(|named| !named.is_meant_by(name));
        self.write_names(&names, &lock)?;
        let named = |manifest: &Digest| names.images.iter().any(|named| named.manifest == *manifest);
        if gone.iter().any(|manifest| ran.images().any(|other| other.manifest == *manifest) && !named(manifest)) {
            for images in ran.workloads.values_mut() {
                images.retain(|other| !gone.contains(&other.manifest) || named(&other.manifest));
            }
            ran.workloads.retain(|_, images| !images.is_empty());
            self.write_ran(&ran, &lock)?;
        }
        self.clear_unnamed(&lock)
    }

    fn image(&self, named: &names::Named) -> Result<Image, ImageError> {
        let manifest = self.manifest(&named.manifest)?;
        let config = self.config_file(&manifest)?;
        let tars = &config.rootfs.diff_ids;
        if tars.len() != manifest.layers.len() {
            let reason = format!("{} layers, but {} digests of their tars", manifest.layers.len(), tars.len());
            return Err(ImageError::damaged(format!("image {}", named.name), reason));
        }
        let layers = manifest.layers.iter().zip(tars);
        let layers: Vec<Layer> =
            layers.map(|(blob, tar)| Layer { blob: blob.digest.clone(), tar: tar.clone(), size: blob.size }).collect();
        Ok(Image {
            name: named.name.clone(),
            digest: named.manifest.clone(),
            size: manifest.config.size + layers.iter().map(|layer| layer.size).sum::<u64>(),
            created: config.created(),
            architecture: config.architecture.clone(),
            config: config.image_config(named.user),
            layers,
        })
    }

    fn blob_dir(&self) -> PathBuf {
        self.dir.join("blobs/sha256")
    }

    fn ingest_dir(&self) -> PathBuf {
        self.dir.join("ingest")
    }

    fn layer_dir(&self) -> PathBuf {
        self.dir.join("layers")
    }
}
