//! Which device the volume of a claim is on. It is bound by its first pod, and stays there: the data is.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};

/// The annotation that names the device: Kubernetes' own for volumes that wait for their first pod.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";

/// The device that the volume is on; `None` before the first pod that uses it was bound.
pub fn device_of(claim: &PersistentVolumeClaim) -> Option<&str> {
    let annotations = claim.metadata.annotations.as_ref()?;
    annotations.get(SELECTED_NODE).map(String::as_str).filter(|device| !device.is_empty())
}

/// Names of the claims that a pod uses.
pub fn used_by(pod: &Pod) -> BTreeSet<String> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(|volume| Some(volume.persistent_volume_claim.as_ref()?.claim_name.clone())).collect()
}
