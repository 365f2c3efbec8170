//! The `scale` subresource: replicas of a Deployment or ReplicaSet as an `autoscaling/v1` Scale.

use serde_json::{Value, json};

use super::failure::Failure;
use crate::resource::kind::Kind;
use crate::resource::meta;
use crate::resource::validate::FieldError;

/// The Scale of an object.
pub(super) fn of(object: &Value) -> Value {
    let mut metadata = json!({});
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object.pointer("/metadata").and_then(|meta| meta.get(field)) {
            metadata[field] = value.clone();
        }
    }
    let labels = meta::at(object, "spec.selector.matchLabels").and_then(Value::as_object);
    let selector: Vec<String> = labels
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata,
        "spec": {"replicas": meta::integer_at(object, "spec.replicas").unwrap_or(1)},
        "status": {"replicas": meta::integer_at(object, "status.replicas").unwrap_or(0), "selector": selector.join(",")}})
}

/// The object with the replicas that a Scale asks for.
pub(super) fn into_object(kind: &Kind, old: &Value, scale: &Value) -> Result<Value, Failure> {
    let replicas = meta::at(scale, "spec.replicas").cloned().unwrap_or(json!(0));
    let fine = replicas.as_i64().is_some_and(|count| (0..=i64::from(i32::MAX)).contains(&count));
    if !fine {
        let error = FieldError::invalid("spec.replicas", &replicas, "must be greater than or equal to 0");
        return Err(Failure::invalid(kind, meta::name(old), &[error]));
    }
    let mut object = old.clone();
    object["spec"]["replicas"] = replicas;
    Ok(object)
}
