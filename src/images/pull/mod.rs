//! Brings an image from its registry into the store: manifest, configuration, layers, name. It gives
//! an image its name when all of it is here and verified, and never before.
//!
//! ```text
//! name --mirrors, registry--> index --this device's processor--> manifest --> configuration
//!                                                                        \--> layers, several at once --> unpacked
//! ```
//!
//! What others bring at the same moment is waited for and not brought twice, whatever image it
//! belongs to. Dropping a pull is safe: what came stays for the next one, which goes on from there.

mod fetch;
mod neighbours;
mod progress;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use futures_util::{FutureExt, StreamExt, TryStreamExt};
use tokio::sync::Semaphore;

pub use neighbours::{Bringing, Neighbourhood, Neighbours, Offer, Under, rank};
pub use progress::Progress;

use super::blobs::{Held, parse};
use super::layer::Layered;
use super::manifest::{ConfigFile, Descriptor, Index, Manifest, architecture};
use super::names::Named;
use super::registry::{Document, Endpoint, Keychain, Proxies, Purpose, Wall, Ways};
use super::{Digest, Image, ImageError, ImageName, ImageStore, platform};
use crate::config::{ImagesConfig, RegistryConfig};
use fetch::Sources;

/// Most layers of one image: more can not be mounted.
const LAYERS_MAX: usize = 200;

/// The deepest index of indexes.
const INDEX_DEPTH: usize = 3;

/// Bytes that stay free on the disk, whatever is pulled.
const ROOM_LEFT: u64 = 16 << 20;

/// What a pull brought.
#[derive(Clone, Debug)]
pub struct Pulled {
    /// The image.
    pub image: Image,
    /// Bytes that came over the network for it.
    pub brought: u64,
}

/// Pulls and pushes images of one store.
pub struct Puller {
    pub(super) store: ImageStore,
    ways: Ways,
    layers_at_once: usize,
    permits: Semaphore,
    others: Option<Neighbourhood>,
}

impl std::fmt::Debug for Puller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Puller({:?})", self.store)
    }
}

/// A manifest that was chosen for this device.
struct Chosen {
    held: Held,
    manifest: Manifest,
    index: Option<Digest>,
    source: usize,
}

impl Puller {
    /// A puller into a store, with the settings of registries and limits from agent.toml.
    pub fn new(
        store: ImageStore,
        registries: BTreeMap<String, RegistryConfig>,
        images: &ImagesConfig,
        wall: Wall,
    ) -> Self {
        let permits = Semaphore::new(images.pulls_at_once);
        let proxies = Arc::new(Proxies::of(images, |name| std::env::var(name).ok()));
        let ways = Ways { registries, proxies, wall };
        Self { store, ways, layers_at_once: images.layers_at_once, permits, others: None }
    }

    /// The same, and layers are asked of other devices first.
    #[must_use]
    pub fn beside(self, others: Neighbourhood) -> Self {
        Self { others: Some(others), ..self }
    }

    /// Brings what a name means now. Waits its turn when as many pulls as may be are under way.
    pub async fn pull(&self, name: &ImageName, keychain: &Keychain, progress: &Progress) -> Result<Pulled, ImageError> {
        let _permit = self.permits.acquire().await;
        let sources = self.sources(name, Purpose::Pull, keychain).await?;
        let chosen = self.choose(&sources, name).await?;
        progress.begin(&chosen.manifest);
        let fetch = fetch::Fetch {
            store: &self.store,
            sources: &sources,
            first: chosen.source,
            progress,
            image: name,
            others: self.others.as_ref(),
            begun: Mutex::default(),
        };
        let config = fetch.blob(&chosen.manifest.config).await?;
        let diff_ids = self.check_config(&chosen, &config, name).await?;
        self.check_room(&chosen.manifest).await?;
        let mut coming = Vec::new();
        for (blob, tar) in chosen.manifest.layers.iter().zip(diff_ids) {
            coming.push(self.bring_layer(&fetch, blob, tar).boxed());
        }
        let layers: Vec<(Held, Layered)> =
            futures_util::stream::iter(coming).buffered(self.layers_at_once).try_collect().await?;
        let image = self.name(name, chosen, config, layers).await?;
        Ok(Pulled { image, brought: progress.brought() })
    }

    pub(super) async fn sources(
        &self,
        name: &ImageName,
        purpose: Purpose,
        keychain: &Keychain,
    ) -> Result<Sources, ImageError> {
        let (name, keychain, ways) = (name.clone(), keychain.clone(), self.ways.clone());
        let all = aside(move || Endpoint::all(&name, purpose, &keychain, &ways)).await?;
        Ok(Sources(all))
    }

    /// Follows indexes to the manifest for this device.
    async fn choose(&self, sources: &Sources, name: &ImageName) -> Result<Chosen, ImageError> {
        let (mut source, mut document) = sources.manifest(0, &name.reference()).await?;
        let mut index = None;
        for _ in 0..=INDEX_DEPTH {
            if !is_index(&document) {
                let what = format!("manifest {} of {name}", document.digest);
                let manifest: Manifest = readable(&document, &what)?;
                if manifest.layers.len() > LAYERS_MAX {
                    let reason = format!("it has {} layers, more than {LAYERS_MAX}", manifest.layers.len());
                    return Err(ImageError::damaged(what, reason));
                }
                let (store, digest) = (self.store.clone(), document.digest.clone());
                let held = aside(move || store.put(&*document.bytes, Some(&digest))).await?;
                return Ok(Chosen { held, manifest, index, source });
            }
            let list: Index = parse(&document.bytes, &format!("index {} of {name}", document.digest))?;
            let Some(best) = platform::best(&list.manifests) else {
                return Err(ImageError::Unsupported {
                    what: format!("image {name} on this device ({})", architecture()),
                    hint: format!("it is made for {}", platform::listed(&list.manifests)),
                });
            };
            // The outermost: what the registry shows for the tag.
            index.get_or_insert(document.digest);
            (source, document) = sources.manifest(source, &best.digest.to_string()).await?;
        }
        Err(ImageError::damaged(format!("image {name}"), "indexes of indexes go too deep"))
    }

    /// Digests of the layers' tars, from the configuration.
    async fn check_config(&self, chosen: &Chosen, config: &Held, name: &ImageName) -> Result<Vec<Digest>, ImageError> {
        let (store, digest) = (self.store.clone(), config.digest.clone());
        let bytes = aside(move || store.read(&digest)).await?;
        let file: ConfigFile = parse(&bytes, &format!("image configuration {} of {name}", config.digest))?;
        if file.rootfs.diff_ids.len() != chosen.manifest.layers.len() {
            let reason = format!(
                "{} layers, but {} digests of their tars",
                chosen.manifest.layers.len(),
                file.rootfs.diff_ids.len()
            );
            return Err(ImageError::damaged(format!("image {name}"), reason));
        }
        if file.os != "linux" || file.architecture != architecture() {
            return Err(ImageError::Unsupported {
                what: format!("image {name} for {}/{}", file.os, file.architecture),
                hint: format!("this device is linux/{}; build the image for it", architecture()),
            });
        }
        Ok(file.rootfs.diff_ids)
    }

    /// Says before anything is downloaded when the disk can not hold it.
    async fn check_room(&self, manifest: &Manifest) -> Result<(), ImageError> {
        let (store, layers) = (self.store.clone(), manifest.layers.clone());
        aside(move || {
            let mut missing = 0_u64;
            for layer in &layers {
                if store.hold(&layer.digest)?.is_none() {
                    missing = missing.saturating_add(layer.size);
                }
            }
            let free = store.room()?.free;
            // Unpacked, they take at least as much again.
            let wanted = missing.saturating_mul(2).saturating_add(ROOM_LEFT);
            if missing > 0 && free < wanted {
                return Err(ImageError::NoRoom { wanted, free });
            }
            Ok(())
        })
        .await
    }

    /// Downloads a layer, and unpacks it while others are still coming.
    async fn bring_layer(
        &self,
        fetch: &fetch::Fetch<'_>,
        blob: &Descriptor,
        tar: Digest,
    ) -> Result<(Held, Layered), ImageError> {
        let held = fetch.blob(blob).await?;
        let layer = super::Layer { blob: blob.digest.clone(), tar, size: blob.size };
        let store = self.store.clone();
        let layered = aside(move || store.hold_layer(&layer)).await?;
        fetch.progress.layer_done();
        Ok((held, layered))
    }

    async fn name(
        &self,
        name: &ImageName,
        chosen: Chosen,
        config: Held,
        layers: Vec<(Held, Layered)>,
    ) -> Result<Image, ImageError> {
        let (store, name) = (self.store.clone(), name.to_stored());
        aside(move || {
            let Chosen { held, manifest, index, .. } = chosen;
            let file = store.config_file(&manifest)?;
            let user = store.user(&file.config.user, &manifest.layers)?;
            let named = Named { name, manifest: held.digest.clone(), user, index };
            let lock = store.lock()?;
            store.point(std::slice::from_ref(&named), &lock)?;
            store.clear_unnamed(&lock)?;
            // Held until a name leads to them.
            drop((config, layers));
            store.image(&named)
        })
        .await
    }
}

fn is_index(document: &Document) -> bool {
    #[derive(serde::Deserialize)]
    struct Kind {
        #[serde(default, rename = "mediaType")]
        media_type: String,
        #[serde(default)]
        manifests: Option<serde::de::IgnoredAny>,
    }
    let named = |media_type: &str| media_type.contains("index") || media_type.contains("manifest.list");
    // The document's own word counts before the header's: it is what the digest vouches for.
    match serde_json::from_slice::<Kind>(&document.bytes) {
        Ok(kind) if !kind.media_type.is_empty() => named(&kind.media_type),
        Ok(kind) => kind.manifests.is_some(),
        Err(_) => named(&document.media_type),
    }
}

fn readable(document: &Document, what: &str) -> Result<Manifest, ImageError> {
    #[derive(serde::Deserialize)]
    struct Version {
        #[serde(default, rename = "schemaVersion")]
        schema_version: u32,
    }
    let version: Version = parse(&document.bytes, what)?;
    if version.schema_version == 1 {
        return Err(ImageError::Unsupported {
            what: format!("{what}, which is of Docker's first schema"),
            hint: "copy it with skopeo to make it one of today's".into(),
        });
    }
    parse(&document.bytes, what)
}

/// Runs what blocks on the disk beside the tasks that must not wait.
pub(super) async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The runtime ends, and with it whoever would hear of this.
        Err(error) => Err(ImageError::damaged("a task", error)),
    }
}
