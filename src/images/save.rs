//! Writes images out as archives that other tools take in.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::path::Path;

use super::blobs::sync_dir;
use super::import::json;
use super::layer::open_tar;
use super::manifest::{DockerImage, INDEX, Index, MANIFEST};
use super::{Digest, Image, ImageError, ImageName, ImageStore};

/// Archive formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A tar of an OCI layout.
    Oci,
    /// What `docker load` reads.
    Docker,
}

impl ImageStore {
    /// Writes images to a file, which appears when it is whole.
    pub fn save(&self, names: &[ImageName], path: &Path, format: Format) -> Result<(), ImageError> {
        let step = || ImageError::io(format!("write {}", path.display()));
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut draft = tempfile::NamedTempFile::new_in(folder).map_err(step())?;
        self.save_to(names, &mut io::BufWriter::new(draft.as_file_mut()), format)?;
        draft.as_file().sync_all().map_err(step())?;
        draft.persist(path).map_err(|error| step()(error.error))?;
        sync_dir(folder)
    }

    /// Writes images to any writer.
    pub fn save_to(&self, names: &[ImageName], writer: &mut dyn Write, format: Format) -> Result<(), ImageError> {
        let mut images = Vec::new();
        for name in names {
            images.push(self.resolve(name)?.ok_or_else(|| ImageError::Unknown(name.clone()))?);
        }
        let mut archive = tar::Builder::new(writer);
        match format {
            Format::Oci => self.save_oci(&images, &mut archive)?,
            Format::Docker => self.save_docker(&images, &mut archive)?,
        }
        let written = archive.into_inner().and_then(Write::flush);
        written.map_err(ImageError::io("write the archive"))
    }

    fn save_oci(&self, images: &[Image], archive: &mut tar::Builder<&mut dyn Write>) -> Result<(), ImageError> {
        append(archive, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        let mut index = Index { schema_version: 2, media_type: INDEX.into(), manifests: Vec::new() };
        let mut blobs = BTreeSet::new();
        for image in images {
            let held = self.hold(&image.digest)?.ok_or_else(|| gone(&image.digest))?;
            index.manifests.push(super::import::descriptor(MANIFEST, &held).named(&image.name));
            blobs.insert(image.digest.clone());
            blobs.insert(self.manifest(&image.digest)?.config.digest);
            blobs.extend(image.layers.iter().map(|layer| layer.blob.clone()));
        }
        append(archive, "index.json", &json(&index)?)?;
        for digest in blobs {
            let held = self.hold(&digest)?.ok_or_else(|| gone(&digest))?;
            append_from(archive, &format!("blobs/sha256/{}", digest.hex()), held.size, held.reader()?)?;
        }
        Ok(())
    }

    fn save_docker(&self, images: &[Image], archive: &mut tar::Builder<&mut dyn Write>) -> Result<(), ImageError> {
        let mut list: BTreeMap<Digest, DockerImage> = BTreeMap::new();
        let mut written = BTreeSet::new();
        for image in images {
            let config = self.manifest(&image.digest)?.config.digest;
            if written.insert(config.clone()) {
                append(archive, &format!("{}.json", config.hex()), &self.read(&config)?)?;
            }
            for layer in &image.layers {
                if !written.insert(layer.tar.clone()) {
                    continue;
                }
                let held = self.hold(&layer.blob)?.ok_or_else(|| gone(&layer.blob))?;
                let what = format!("layer {}", layer.blob);
                // The header comes first and wants the size of the tar: unpacked once to count.
                let size = io::copy(&mut open_tar(held.reader()?, &what)?, &mut io::sink());
                let size = size.map_err(|error| ImageError::damaged(&*what, error))?;
                append_from(archive, &format!("{}.tar", layer.tar.hex()), size, open_tar(held.reader()?, &what)?)?;
            }
            let entry = list.entry(image.digest.clone()).or_insert_with(|| DockerImage {
                config: format!("{}.json", config.hex()),
                repo_tags: Vec::new(),
                layers: image.layers.iter().map(|layer| format!("{}.tar", layer.tar.hex())).collect(),
            });
            entry.repo_tags.push(image.name.to_string());
        }
        append(archive, "manifest.json", &json(&list.into_values().collect::<Vec<_>>())?)
    }
}

fn gone(digest: &Digest) -> ImageError {
    ImageError::damaged(format!("blob {digest}"), "it is not in the store; load the image again")
}

fn append(archive: &mut tar::Builder<&mut dyn Write>, path: &str, bytes: &[u8]) -> Result<(), ImageError> {
    append_from(archive, path, bytes.len() as u64, bytes)
}

fn append_from(
    archive: &mut tar::Builder<&mut dyn Write>,
    path: &str,
    size: u64,
    content: impl Read,
) -> Result<(), ImageError> {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    let appended = archive.append_data(&mut header, path, content);
    appended.map_err(ImageError::io(format!("write {path} to the archive")))
}
