//! What pods of this device refer to besides images: config maps, secrets and claims from the local
//! replica, volumes from the disk. It hands them to the reconciler and carries out what that says.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim};

use super::device::Device;
use crate::config::Config;
use crate::consensus::Replica;
use crate::reconciler::container::PodRef;
use crate::reconciler::volume::{HostPath, Places, VolumeSpec};
use crate::reconciler::{Target, TargetPod, claims_needed, configmaps_needed, secrets_needed};
use crate::resource::claim;
use crate::store::{Document, Key};

/// Where volumes lie, and what of the device pods may have.
pub(crate) fn places(config: &Config) -> Places {
    let host_paths = config.host_paths.iter().map(|text| {
        let (path, read_only) = crate::config::split_host_path(text);
        HostPath { path, read_only }
    });
    Places {
        pods: config.data_dir.join("pods"),
        claims: config.data_dir.join("volumes"),
        host_paths: host_paths.collect(),
    }
}

/// Store keys of everything that these pods refer to, there or not.
pub(super) fn read_by(pods: &[TargetPod]) -> BTreeSet<Key> {
    let key = |kind: &'static str| move |(namespace, name): (String, String)| Key::new(kind, namespace, name);
    let mut keys = BTreeSet::new();
    for TargetPod { pod, .. } in pods {
        keys.extend(configmaps_needed(pod).into_iter().map(key("ConfigMap")));
        keys.extend(secrets_needed(pod).into_iter().map(key("Secret")));
        keys.extend(claims_needed(pod).into_iter().map(key("PersistentVolumeClaim")));
    }
    keys
}

impl Device {
    /// Adds what the target's pods refer to.
    pub(super) fn provide(&self, target: &mut Target) -> Result<(), String> {
        target.places = self.volumes.places().clone();
        let mut secrets = BTreeSet::new();
        for key in read_by(&target.pods) {
            let place = (key.namespace.clone(), key.name.clone());
            if key.kind == "Secret" {
                secrets.insert(place.clone());
            }
            let Some(found) = self.document(&key)? else { continue };
            match key.kind.as_str() {
                "ConfigMap" => {
                    if let Ok(map) = serde_json::from_slice::<ConfigMap>(&found.body) {
                        target.configmaps.insert(place, map);
                    }
                }
                "Secret" => {
                    if let Some(secrets) = &self.secrets {
                        let state = secrets.state(&place, found.modified);
                        target.secrets.insert(place, state);
                    }
                }
                _ => {
                    if let Ok(claim) = serde_json::from_slice::<PersistentVolumeClaim>(&found.body) {
                        target.claims.insert(place, claim::device_of(&claim).map(str::to_owned));
                    }
                }
            }
        }
        if let Some(held) = &self.secrets {
            held.keep_only(&secrets);
        }
        Ok(())
    }

    fn document(&self, key: &Key) -> Result<Option<Document>, String> {
        let Some(engine) = &self.engine else { return Ok(None) };
        engine.get(key).map_err(|error| error.to_string())
    }

    /// Makes volumes off the loop's thread. What could not be made is remembered for the pod's status.
    pub(super) async fn make_volumes(&self, pod: PodRef, wanted: Vec<VolumeSpec>) -> bool {
        let (volumes, uid) = (self.volumes.clone(), pod.uid.clone());
        let made = tokio::task::spawn_blocking(move || volumes.make(&pod, &wanted)).await;
        let made = made.unwrap_or_else(|error| Err(error.to_string()));
        let mut failures = self.volume_failures.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match made {
            Ok(()) => {
                failures.remove(&uid);
                true
            }
            Err(why) => {
                tracing::warn!(uid, why, "a volume can not be made");
                failures.insert(uid, why);
                false
            }
        }
    }

    /// Removes a pod's volumes off the loop's thread.
    pub(super) async fn remove_volumes(&self, uid: String) -> bool {
        let (volumes, of) = (Arc::clone(&self.volumes), uid.clone());
        let removed = tokio::task::spawn_blocking(move || volumes.remove(&of)).await;
        let removed = removed.map_err(|error| error.to_string()).and_then(|done| done.map_err(|e| e.to_string()));
        self.volume_failures.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(&uid);
        match removed {
            Ok(()) => true,
            Err(why) => {
                tracing::warn!(uid, why, "the volumes of a pod can not be removed; it is tried again");
                false
            }
        }
    }
}
