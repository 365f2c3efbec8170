//! Takes images in from archives and folders: OCI layouts and what `docker save` writes.

#![expect(clippy::disallowed_methods, reason = "reads archives and folders")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use super::blobs::{Held, JSON_MAX, parse};
use super::import::{descriptor, json};
use super::layer::{self, Packing, open_tar};
use super::manifest::{
    CONFIG, ConfigFile, Descriptor, DockerImage, FULL_NAME, Index, MANIFEST, Manifest, REF_NAME, architecture,
};
use super::members::lossy;
use super::names::Named;
use super::{Digest, Image, ImageError, ImageName, ImageStore};

/// Most images in one archive, and the deepest index of indexes.
const IMAGES_MAX: usize = 100;
const INDEX_DEPTH: usize = 3;

/// What an archive or a folder holds.
enum Source {
    /// Files of an archive, stored already; links as their targets.
    Archive { files: BTreeMap<PathBuf, Held>, links: BTreeMap<PathBuf, PathBuf> },
    /// A folder in OCI layout.
    Folder(PathBuf),
}

impl ImageStore {
    /// Takes in every image of an archive or folder. `rename` names it where there is just one.
    pub fn load(&self, path: &Path, rename: Option<&ImageName>) -> Result<Vec<Image>, ImageError> {
        if path.is_dir() {
            return self.take_in(&Source::Folder(path.to_owned()), &path.display().to_string(), rename);
        }
        let file = File::open(path).map_err(ImageError::io(format!("open {}", path.display())))?;
        self.load_reader(file, &path.display().to_string(), rename)
    }

    /// Takes in every image of an archive, plain or compressed by gzip. `what` names it in errors.
    pub fn load_reader(
        &self,
        archive: impl Read,
        what: &str,
        rename: Option<&ImageName>,
    ) -> Result<Vec<Image>, ImageError> {
        let (mut files, mut links) = (BTreeMap::new(), BTreeMap::new());
        super::members::each(open_tar(archive, what)?, what, |member, content| {
            let path = clean(&member.path);
            match member.kind {
                kind if kind.is_file() => {
                    files.insert(path, self.put(content, None)?);
                }
                kind if kind.is_symlink() => {
                    let target = path.parent().unwrap_or(Path::new("")).join(lossy(&member.link));
                    links.insert(path, clean(target.as_os_str().as_encoded_bytes()));
                }
                kind if kind.is_hard_link() => {
                    links.insert(path, clean(&member.link));
                }
                _ => {}
            }
            Ok(())
        })?;
        self.take_in(&Source::Archive { files, links }, what, rename)
    }

    fn take_in(&self, source: &Source, what: &str, rename: Option<&ImageName>) -> Result<Vec<Image>, ImageError> {
        let mut held = Vec::new();
        let mut found = Vec::new();
        if let Some(index) = self.file(source, "index.json")? {
            let index: Index = parse(&bytes(&index, what)?, &format!("index.json of {what}"))?;
            self.take_index(source, index, INDEX_DEPTH, &mut held, &mut found)?;
        } else if let Some(list) = self.file(source, "manifest.json")? {
            let list: Vec<DockerImage> = parse(&bytes(&list, what)?, &format!("manifest.json of {what}"))?;
            for image in list.into_iter().take(IMAGES_MAX) {
                let manifest = self.take_docker(source, &image, &mut held)?;
                found.push((manifest, image.repo_tags));
            }
        } else {
            let hint = "make one with `docker save`, `skopeo copy` or `kith image save`; a root file system is taken in by `kith image import`";
            return Err(ImageError::Unsupported {
                what: format!("{what} (neither index.json nor manifest.json)"),
                hint: hint.into(),
            });
        }
        let named = self.name_all(found, what, rename)?;
        let lock = self.lock()?;
        self.point(&named, &lock)?;
        let images = named.iter().map(|named| self.image(named)).collect();
        // What the archive had beside images goes again.
        drop(held);
        self.clear_unnamed(&lock)?;
        images
    }

    fn name_all(
        &self,
        found: Vec<(Digest, Vec<String>)>,
        what: &str,
        rename: Option<&ImageName>,
    ) -> Result<Vec<Named>, ImageError> {
        if rename.is_some() && found.len() != 1 {
            let hint = "load it without a name, or an archive with just one image";
            return Err(ImageError::Unsupported {
                what: format!("one name for the {} images of {what}", found.len()),
                hint: hint.into(),
            });
        }
        let mut named = Vec::new();
        for (manifest, names) in found {
            let document = self.manifest(&manifest)?;
            let config = self.config_file(&document)?;
            if config.rootfs.diff_ids.len() != document.layers.len() {
                return Err(ImageError::damaged(
                    format!("image {manifest} of {what}"),
                    "its layers and their digests differ in number",
                ));
            }
            let user = self.user(&config.config.user, &document.layers)?;
            let names = match rename {
                Some(name) => vec![name.clone()],
                None => names.iter().map(|name| ImageName::parse(name)).collect::<Result<_, _>>()?,
            };
            if names.is_empty() {
                let hint = "name it when loading";
                return Err(ImageError::Unsupported {
                    what: format!("image {manifest} of {what}, which has no name"),
                    hint: hint.into(),
                });
            }
            named.extend(names.into_iter().map(|name| Named {
                name: name.to_stored(),
                manifest: manifest.clone(),
                user,
                index: None,
            }));
        }
        Ok(named)
    }

    /// Follows an index to the images for this device's processor.
    fn take_index(
        &self,
        source: &Source,
        index: Index,
        depth: usize,
        held: &mut Vec<Held>,
        found: &mut Vec<(Digest, Vec<String>)>,
    ) -> Result<(), ImageError> {
        for entry in index.manifests {
            let fits = entry.platform.as_ref().is_none_or(|platform| platform.fit().is_some());
            if !fits || found.len() >= IMAGES_MAX {
                continue;
            }
            let names: Vec<String> =
                [FULL_NAME, REF_NAME].iter().find_map(|key| entry.annotations.get(*key)).cloned().into_iter().collect();
            let document = self.blob(source, &entry.digest)?;
            if entry.media_type.contains("index") || entry.media_type.contains("manifest.list") {
                if depth == 0 {
                    return Err(ImageError::damaged(
                        format!("index {}", entry.digest),
                        "indexes of indexes go too deep",
                    ));
                }
                let inner: Index = parse(&bytes(&document, "an index")?, &format!("index {}", entry.digest))?;
                let before = found.len();
                self.take_index(source, inner, depth - 1, held, found)?;
                for (_, inner_names) in &mut found[before..] {
                    inner_names.extend(names.iter().cloned());
                }
                continue;
            }
            let manifest: Manifest = parse(&bytes(&document, "a manifest")?, &format!("manifest {}", entry.digest))?;
            held.push(document);
            held.push(self.blob(source, &manifest.config.digest)?);
            for layer in &manifest.layers {
                let blob = self.blob(source, &layer.digest)?;
                packing(&blob)?;
                held.push(blob);
            }
            found.push((entry.digest, names));
        }
        if found.is_empty() {
            let hint = format!("copy the image for {}, or with all its platforms", architecture());
            return Err(ImageError::Unsupported { what: "an archive without an image for this device".into(), hint });
        }
        Ok(())
    }

    /// Makes the manifest that Docker's own list lacks.
    fn take_docker(&self, source: &Source, image: &DockerImage, held: &mut Vec<Held>) -> Result<Digest, ImageError> {
        let missing = |path: &str| ImageError::damaged("a Docker archive", format!("it has no {path}"));
        let config = self.file(source, &image.config)?.ok_or_else(|| missing(&image.config))?;
        let document: ConfigFile = parse(&bytes(&config, "an image configuration")?, &image.config)?;
        let mut layers = Vec::new();
        for (path, tar) in image.layers.iter().zip(&document.rootfs.diff_ids) {
            let blob = self.file(source, path)?.ok_or_else(|| missing(path))?;
            let (found, packing) = layer::digests(blob.reader()?, path)?;
            if found != *tar {
                return Err(ImageError::damaged(path, format!("its tar has the digest {found} in place of {tar}")));
            }
            layers.push(descriptor(packing.media_type(), &blob));
            held.push(blob);
        }
        let manifest =
            Manifest { schema_version: 2, media_type: MANIFEST.into(), config: descriptor(CONFIG, &config), layers };
        held.push(config);
        let blob = self.put(&*json(&manifest)?, None)?;
        let digest = blob.digest.clone();
        held.push(blob);
        Ok(digest)
    }

    /// A file of the source by its path.
    fn file(&self, source: &Source, path: &str) -> Result<Option<Held>, ImageError> {
        match source {
            Source::Archive { files, links } => {
                let mut path = clean(path.as_bytes());
                if let Some(target) = links.get(&path) {
                    path.clone_from(target);
                }
                files.get(&path).map(|held| self.again(held)).transpose()
            }
            Source::Folder(folder) => {
                let path = folder.join(clean(path.as_bytes()));
                if !fs::exists(&path).unwrap_or(false) {
                    return Ok(None);
                }
                let file = File::open(&path).map_err(ImageError::io(format!("open {}", path.display())))?;
                self.put(file, None).map(Some)
            }
        }
    }

    /// A blob of the source by its digest.
    fn blob(&self, source: &Source, digest: &Digest) -> Result<Held, ImageError> {
        let found = match source {
            // Stored under what its bytes are, whatever its path said.
            Source::Archive { files, .. } => {
                files.values().find(|held| held.digest == *digest).map(|held| self.again(held)).transpose()?
            }
            Source::Folder(folder) => {
                let path = folder.join("blobs/sha256").join(digest.hex());
                let file = File::open(&path).map_err(ImageError::io(format!("open {}", path.display())))?;
                Some(self.put(file, Some(digest))?)
            }
        };
        found.ok_or_else(|| ImageError::damaged("an image archive", format!("it has no blob {digest}")))
    }

    fn again(&self, held: &Held) -> Result<Held, ImageError> {
        self.hold(&held.digest)?.ok_or_else(|| ImageError::damaged(format!("blob {}", held.digest), "it is gone"))
    }
}

/// Refuses a compression that could not be unpacked later.
fn packing(blob: &Held) -> Result<Packing, ImageError> {
    let mut start = [0; 8];
    let what = format!("layer {}", blob.digest);
    let count = blob.reader()?.read(&mut start).map_err(ImageError::io(format!("read {what}")))?;
    Packing::of(&start[..count], &what)
}

fn bytes(held: &Held, what: &str) -> Result<Vec<u8>, ImageError> {
    let mut bytes = Vec::new();
    held.reader()?.take(JSON_MAX).read_to_end(&mut bytes).map_err(ImageError::io(format!("read {what}")))?;
    Ok(bytes)
}

/// A path within an archive, without what could lead out of it: it only ever names files of the archive.
fn clean(path: &[u8]) -> PathBuf {
    let mut cleaned = PathBuf::new();
    for part in String::from_utf8_lossy(path).split('/') {
        match part {
            "" | "." => {}
            ".." => {
                cleaned.pop();
            }
            part => cleaned.push(part),
        }
    }
    cleaned
}

impl Descriptor {
    /// The same reference under a name.
    pub(super) fn named(mut self, name: &ImageName) -> Self {
        self.annotations.insert(FULL_NAME.into(), name.to_string());
        self.annotations.insert(REF_NAME.into(), name.to_string());
        self
    }
}
