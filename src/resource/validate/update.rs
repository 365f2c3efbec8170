//! What may not change once an object exists.

use serde_json::Value;

use super::FieldError;
use crate::resource::kind::Kind;
use crate::resource::meta;

/// Everything wrong with replacing `old` by `new`, beyond what is wrong with `new` alone.
pub fn update(kind: &Kind, old: &Value, new: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    match kind.kind {
        "Deployment" | "ReplicaSet" => {
            let (was, is) = (meta::at(old, "spec.selector"), meta::at(new, "spec.selector"));
            if was != is {
                let value = is.unwrap_or(&Value::Null);
                errors.push(FieldError::invalid("spec.selector", value, "field is immutable"));
            }
        }
        "Pod" => pod(old, new, &mut errors),
        "PriorityClass" => {
            for field in ["value", "preemptionPolicy"] {
                if old.get(field) != new.get(field) {
                    errors.push(FieldError::forbidden(field, "may not be changed in an update: make another class"));
                }
            }
        }
        "Secret" | "PersistentVolumeClaim" => super::volume::update(kind, old, new, &mut errors),
        "ConfigMap" if old.get("immutable") == Some(&Value::Bool(true)) => {
            for field in ["data", "binaryData", "immutable"] {
                if old.get(field) != new.get(field) {
                    let detail = "field is immutable when `immutable` is set";
                    errors.push(FieldError::forbidden(field, detail));
                }
            }
        }
        _ => {}
    }
    errors
}

/// Everything wrong with the ephemeral containers that a pod is to have instead of those it has: one that
/// was added stays as it is.
pub fn extended(_: &Kind, old: &Value, new: &Value) -> Vec<FieldError> {
    const PATH: &str = "spec.ephemeralContainers";
    let (had, has) = (meta::list_at(old, PATH), meta::list_at(new, PATH));
    let mut errors = Vec::new();
    for (index, before) in had.iter().enumerate() {
        let name = meta::text_at(before, "name");
        let at = has.iter().position(|now| meta::text_at(now, "name") == name);
        let (index, value, detail) = match at.map(|at| (at, &has[at])) {
            Some((_, now)) if now == before => continue,
            Some((at, now)) => (at, now, "existing ephemeral containers may not be changed"),
            None => (index, before, "existing ephemeral containers may not be removed"),
        };
        errors.push(FieldError::forbidden(
            format!("{PATH}[{index}]"),
            &format!("{detail}: {}", meta::text_at(value, "name")),
        ));
    }
    errors
}

/// A pod's spec stays as it is, but for its binding to a device.
fn pod(old: &Value, new: &Value, errors: &mut Vec<FieldError>) {
    let mut expected = old.get("spec").cloned().unwrap_or_default();
    let wanted = new.get("spec").cloned().unwrap_or_default();
    if meta::text_at(&expected, "nodeName").is_empty()
        && let (Some(map), Some(node)) = (expected.as_object_mut(), wanted.get("nodeName"))
    {
        map.insert("nodeName".into(), node.clone());
    }
    if expected != wanted {
        let changed: Vec<&str> = ["nodeName", "containers", "restartPolicy", "nodeSelector", "hostname"]
            .into_iter()
            .filter(|field| expected.get(field) != wanted.get(field))
            .collect();
        let which = if changed.is_empty() { String::new() } else { format!(" (changed: {})", changed.join(", ")) };
        let detail = format!("the spec of a pod can not be changed{which}; delete the pod and create it again");
        errors.push(FieldError::forbidden("spec", &detail));
    }
}
