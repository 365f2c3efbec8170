//! Pods that a device runs from files of its own, and what stands for them in the API: a mirror, which
//! shows such a pod and is never run itself.

use k8s_openapi::api::core::v1::{Pod, Toleration};
use serde_json::Value;

use crate::resource::occurrence::derived_uid;

/// Marks a mirror; its value is the hash of what runs.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// What a static pod was read from: its content as one word.
const HASH: &str = "kubernetes.io/config.hash";

/// Where a pod comes from.
const SOURCE: &str = "kubernetes.io/config.source";

/// The pod of a file, on this device: named after it, bound to it, and the same as long as the file
/// says the same.
pub fn static_pod(manifest: &Value, node: &str, file: &str) -> Result<Pod, serde_json::Error> {
    let mut pod: Pod = serde_json::from_value(manifest.clone())?;
    let name = pod.metadata.name.clone().unwrap_or_default();
    let uid = derived_uid(&["static", file, &manifest.to_string()]);
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(HASH.into(), uid.replace('-', ""));
    annotations.insert(SOURCE.into(), "file".into());
    pod.metadata.namespace.get_or_insert_with(|| "default".into());
    pod.metadata.name = Some(format!("{name}-{node}"));
    pod.metadata.uid = Some(uid);
    pod.status = None;
    let spec = pod.spec.get_or_insert_default();
    spec.node_name = Some(node.to_owned());
    // Nothing that befalls the device moves it elsewhere.
    let always =
        Toleration { operator: Some("Exists".into()), effect: Some("NoExecute".into()), ..Toleration::default() };
    spec.tolerations.get_or_insert_default().push(always);
    Ok(pod)
}

/// The mirror of a static pod, with the status that was reported of it.
pub fn mirror_of(reported: &Pod) -> Pod {
    let mut mirror = reported.clone();
    let annotations = mirror.metadata.annotations.get_or_insert_default();
    let hash = annotations.get(HASH).cloned().unwrap_or_default();
    annotations.insert(MIRROR.into(), hash);
    mirror
}

/// Whether this is a pod of a file of this device.
pub(super) fn is_static(pod: &Pod) -> bool {
    pod.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(HASH) && !all.contains_key(MIRROR))
}

/// The hash of what a mirror shows; `None` for any other pod.
pub fn mirrored(pod: &Pod) -> Option<&str> {
    pod.metadata.annotations.as_ref()?.get(MIRROR).map(String::as_str)
}

/// Whether this mirror shows this static pod.
pub fn shows(mirror: &Pod, pod: &Pod) -> bool {
    let hash = pod.metadata.annotations.as_ref().and_then(|all| all.get(HASH)).map(String::as_str);
    hash.is_some() && mirrored(mirror) == hash && mirror.metadata.deletion_timestamp.is_none()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_static_pod_is_named_after_its_device_and_its_mirror_shows_it() {
        let manifest = |image: &str| {
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"},
                "spec": {"containers": [{"name": "c", "image": image}]}})
        };
        let pod = static_pod(&manifest("a"), "d1", "/etc/kith/web.yaml").unwrap();
        assert_eq!(pod.metadata.name.as_deref(), Some("web-d1"));
        assert_eq!(pod.metadata.namespace.as_deref(), Some("default"));
        assert_eq!(pod.spec.as_ref().unwrap().node_name.as_deref(), Some("d1"));
        assert_eq!(pod, static_pod(&manifest("a"), "d1", "/etc/kith/web.yaml").unwrap());
        let mirror = mirror_of(&pod);
        assert!(shows(&mirror, &pod) && mirrored(&pod).is_none());
        let other = static_pod(&manifest("b"), "d1", "/etc/kith/web.yaml").unwrap();
        assert!(!shows(&mirror, &other));
        assert_ne!(other.metadata.uid, pod.metadata.uid);
    }
}
