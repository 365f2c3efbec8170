//! The `ephemeralcontainers` subresource: containers that are added to a running pod to look at it. It
//! takes and gives the pod itself; clients of releases before 1.22 know an object of its own for it.

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::ask::Ask;
use super::failure::Failure;
use crate::reconciler::mirrored;
use crate::resource::kind::Kind;
use crate::resource::meta;

/// The object of old clients.
const KIND: &str = "EphemeralContainers";

/// Whether a client reads the object of old clients: it asks for it by the same path.
pub(super) fn is_old(ask: &Ask) -> bool {
    let agent = ask.headers.get("user-agent").and_then(|agent| agent.to_str().ok()).unwrap_or_default();
    let version = agent.split_whitespace().next().and_then(|first| first.strip_prefix("kubectl/v1."));
    let minor = version.and_then(|version| version.split('.').next()?.parse::<u32>().ok());
    minor.is_some_and(|minor| minor < 22)
}

/// The object of old clients for a pod.
pub(super) fn of(pod: &Value) -> Value {
    let mut metadata = json!({});
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = pod.pointer("/metadata").and_then(|meta| meta.get(field)) {
            metadata[field] = value.clone();
        }
    }
    json!({"kind": KIND, "apiVersion": "v1", "metadata": metadata,
        "ephemeralContainers": meta::list_at(pod, "spec.ephemeralContainers")})
}

/// Whether this is the object of old clients.
pub(super) fn is_own(object: &Value) -> bool {
    object["kind"] == KIND
}

/// The stored pod with the containers that a client wants to see in it; nothing else is taken.
pub(super) fn into_pod(kind: &Kind, old: &Value, wanted: &Value) -> Result<Value, Failure> {
    let is_mirror = serde_json::from_value::<Pod>(old.clone()).is_ok_and(|pod| mirrored(&pod).is_some());
    if is_mirror {
        let why = "it is a static pod: its containers come from a file of its device";
        return Err(Failure::forbidden(kind, meta::name(old), why));
    }
    let list =
        if is_own(wanted) { wanted.get("ephemeralContainers") } else { wanted.pointer("/spec/ephemeralContainers") };
    let mut pod = old.clone();
    if let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) {
        match list.filter(|list| !list.is_null()) {
            Some(list) => spec.insert("ephemeralContainers".into(), list.clone()),
            None => spec.remove("ephemeralContainers"),
        };
    }
    Ok(pod)
}
