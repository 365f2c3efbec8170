//! Makes an image of one root file system.

use std::collections::BTreeMap;
use std::io::Read;

use super::manifest::{CONFIG, ConfigFile, Descriptor, MANIFEST, Manifest, RootFs, RunConfig, architecture};
use super::names::Named;
use super::{Image, ImageError, ImageName, ImageStore, layer};
use crate::resource::{ImageConfig, Timestamp};

impl ImageStore {
    /// Makes an image with one layer of a tar, plain or compressed by gzip, and names it. `now` becomes
    /// its time of creation.
    pub fn import(
        &self,
        rootfs: impl Read,
        name: &ImageName,
        config: &ImageConfig,
        now: Timestamp,
    ) -> Result<Image, ImageError> {
        let blob = self.put(rootfs, None)?;
        let what = format!("the root file system of {name}");
        let (tar, packing) = layer::digests(blob.reader()?, &what)?;
        let mut members = 0_u64;
        super::members::each(layer::open_tar(blob.reader()?, &what)?, &what, |_, _| {
            members += 1;
            Ok(())
        })?;
        if members == 0 {
            return Err(ImageError::damaged(what, "it is not a tar archive, or an empty one"));
        }
        let file = ConfigFile {
            architecture: architecture().into(),
            os: "linux".into(),
            created: Some(now.to_string()),
            config: RunConfig {
                user: format!("{}:{}", config.user.uid, config.user.gid),
                env: config.env.clone(),
                entrypoint: config.entrypoint.clone(),
                cmd: config.cmd.clone(),
                working_dir: config.working_dir.clone(),
                stop_signal: config.stop_signal.clone(),
            },
            rootfs: RootFs { kind: "layers".into(), diff_ids: vec![tar] },
        };
        let config_blob = self.put(&*json(&file)?, None)?;
        let layer = descriptor(packing.media_type(), &blob);
        let manifest = Manifest {
            schema_version: 2,
            media_type: MANIFEST.into(),
            config: descriptor(CONFIG, &config_blob),
            layers: vec![layer],
        };
        let manifest_blob = self.put(&*json(&manifest)?, None)?;
        let named =
            Named { name: name.to_stored(), manifest: manifest_blob.digest.clone(), user: config.user, index: None };
        let lock = self.lock()?;
        self.point(std::slice::from_ref(&named), &lock)?;
        self.clear_unnamed(&lock)?;
        self.image(&named)
    }
}

pub(super) fn descriptor(media_type: &str, blob: &super::blobs::Held) -> Descriptor {
    Descriptor {
        media_type: media_type.into(),
        digest: blob.digest.clone(),
        size: blob.size,
        annotations: BTreeMap::new(),
        platform: None,
    }
}

pub(super) fn json(value: &impl serde::Serialize) -> Result<Vec<u8>, ImageError> {
    serde_json::to_vec(value).map_err(|error| ImageError::damaged("an image document", error))
}
