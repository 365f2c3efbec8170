//! What a pod refers to: config maps, secrets and claims, so that a device reads these and no others.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Pod, Volume};

use super::roles::{self, Part};
use crate::resource::claim;

/// Namespaces and names of the config maps that a pod reads.
pub fn configmaps_needed(pod: &Pod) -> BTreeSet<(String, String)> {
    let mut names = BTreeSet::new();
    for part in parts(pod) {
        let container = part.container;
        let keys =
            container.env.iter().flatten().filter_map(|var| var.value_from.as_ref()?.config_map_key_ref.as_ref());
        names.extend(keys.map(|key| key.name.clone()));
        let whole = container.env_from.iter().flatten().filter_map(|from| from.config_map_ref.as_ref());
        names.extend(whole.map(|from| from.name.clone()));
    }
    for volume in volumes(pod) {
        names.extend(volume.config_map.iter().map(|map| map.name.clone()));
        let sources = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
        names.extend(sources.filter_map(|source| Some(source.config_map.as_ref()?.name.clone())));
    }
    placed(pod, names)
}

/// Namespaces and names of the secrets that a pod reads, or that its images are pulled with. A device
/// gets these and no others.
pub fn secrets_needed(pod: &Pod) -> BTreeSet<(String, String)> {
    let mut names = BTreeSet::new();
    for part in parts(pod) {
        let container = part.container;
        let keys = container.env.iter().flatten().filter_map(|var| var.value_from.as_ref()?.secret_key_ref.as_ref());
        names.extend(keys.map(|key| key.name.clone()));
        let whole = container.env_from.iter().flatten().filter_map(|from| from.secret_ref.as_ref());
        names.extend(whole.map(|from| from.name.clone()));
    }
    for volume in volumes(pod) {
        names.extend(volume.secret.iter().filter_map(|secret| secret.secret_name.clone()));
        let sources = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
        names.extend(sources.filter_map(|source| Some(source.secret.as_ref()?.name.clone())));
    }
    let pulls = pod.spec.iter().flat_map(|spec| spec.image_pull_secrets.iter().flatten());
    names.extend(pulls.map(|pull| pull.name.clone()));
    placed(pod, names)
}

/// Namespaces and names of the claims that a pod uses.
pub fn claims_needed(pod: &Pod) -> BTreeSet<(String, String)> {
    placed(pod, claim::used_by(pod))
}

fn placed(pod: &Pod, names: BTreeSet<String>) -> BTreeSet<(String, String)> {
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    names.into_iter().filter(|name| !name.is_empty()).map(|name| (namespace.clone(), name)).collect()
}

/// Every container of a pod, whatever its part in it.
fn parts(pod: &Pod) -> impl Iterator<Item = Part<'_>> {
    pod.spec.iter().flat_map(roles::parts)
}

fn volumes(pod: &Pod) -> impl Iterator<Item = &Volume> {
    pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten())
}
