//! Whether an object may be stored. It judges what the field table can not: values, and how fields
//! belong together. Messages follow Kubernetes. It never changes the object.

mod lifecycle;
mod network;
mod pod;
mod security;
mod update;
mod volume;
mod workload;

use std::fmt;

use k8s_openapi::api::{apps::v1 as apps, core::v1 as core};
use serde_json::Value;

pub use update::{extended, update};

use super::kind::Kind;
use super::{meta, names, partition};

/// Something wrong with one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// `spec.containers[0].name`.
    pub path: String,
    /// What sort of mistake.
    pub reason: Reason,
    /// What is wrong, as Kubernetes says it, without the path.
    pub message: String,
}

/// Sorts of mistakes, as clients know them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Must be set.
    Required,
    /// Has a value that can not be.
    Invalid,
    /// Is not one of the values known.
    NotSupported,
    /// Must not be set, or not be changed.
    Forbidden,
    /// Says something twice.
    Duplicate,
}

impl Reason {
    /// The word in a Status' causes.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::Duplicate => "FieldValueDuplicate",
        }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

impl FieldError {
    fn new(path: impl Into<String>, reason: Reason, message: String) -> Self {
        Self { path: path.into(), reason, message }
    }

    /// The field must be set.
    pub fn required(path: impl Into<String>, detail: &str) -> Self {
        let tail = if detail.is_empty() { String::new() } else { format!(": {detail}") };
        Self::new(path, Reason::Required, format!("Required value{tail}"))
    }

    /// The field has a value that can not be.
    pub fn invalid(path: impl Into<String>, value: &Value, detail: &str) -> Self {
        Self::new(path, Reason::Invalid, format!("Invalid value: {value}: {detail}"))
    }

    /// The field's value is not one of those known.
    pub fn unsupported(path: impl Into<String>, value: &Value, known: &[&str]) -> Self {
        let known = known.iter().map(|known| format!("{known:?}")).collect::<Vec<_>>().join(", ");
        Self::new(path, Reason::NotSupported, format!("Unsupported value: {value}: supported values: {known}"))
    }

    /// The field must not be set.
    pub fn forbidden(path: impl Into<String>, detail: &str) -> Self {
        Self::new(path, Reason::Forbidden, format!("Forbidden: {detail}"))
    }

    /// The field says again what another said.
    pub fn duplicate(path: impl Into<String>, value: &Value) -> Self {
        Self::new(path, Reason::Duplicate, format!("Duplicate value: {value}"))
    }
}

/// Everything wrong with an object of this kind whose fields and types are known to be right.
pub fn object(kind: &Kind, object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    metadata(kind, object, &mut errors);
    match kind.kind {
        "Pod" => {
            contract(object.pointer("/metadata/annotations"), "metadata.annotations", &mut errors);
            pod::spec(object.get("spec").unwrap_or(&Value::Null), "spec", &mut errors);
        }
        "Deployment" => workload::deployment(object, &mut errors),
        "ReplicaSet" => workload::replica_set(object, &mut errors),
        "ConfigMap" => workload::config_map(object, &mut errors),
        "Secret" => volume::secret(object, &mut errors),
        "PersistentVolumeClaim" => volume::claim(object, &mut errors),
        "Event" => workload::event(object, &mut errors),
        "PriorityClass" => workload::priority_class(object, &mut errors),
        _ => {}
    }
    errors
}

/// Everything wrong with making this object anew, beyond what is wrong with it.
pub fn creation(kind: &Kind, object: &Value) -> Vec<FieldError> {
    let added = crate::resource::meta::list_at(object, "spec.ephemeralContainers");
    if kind.kind != "Pod" || added.is_empty() {
        return Vec::new();
    }
    vec![FieldError::forbidden("spec.ephemeralContainers", "cannot be set on create")]
}

/// Whether the object can be read as its Kubernetes type; what cannot would stop every reader.
pub fn readable(kind: &Kind, object: &Value) -> Result<(), String> {
    fn check<T: serde::de::DeserializeOwned>(object: &Value) -> Result<(), String> {
        serde_json::from_value::<T>(object.clone()).map(|_| ()).map_err(|error| error.to_string())
    }
    match kind.kind {
        "Namespace" => check::<core::Namespace>(object),
        "Node" => check::<core::Node>(object),
        "Pod" => check::<core::Pod>(object),
        "ConfigMap" => check::<core::ConfigMap>(object),
        "Secret" => check::<core::Secret>(object),
        "PersistentVolumeClaim" => check::<core::PersistentVolumeClaim>(object),
        "PriorityClass" => check::<k8s_openapi::api::scheduling::v1::PriorityClass>(object),
        "Event" => check::<core::Event>(object),
        "Deployment" => check::<apps::Deployment>(object),
        "ReplicaSet" => check::<apps::ReplicaSet>(object),
        _ => Ok(()),
    }
}

fn metadata(kind: &Kind, object: &Value, errors: &mut Vec<FieldError>) {
    let name = meta::name(object);
    let rule = if kind.kind == "Namespace" { names::dns_label } else { names::dns_subdomain };
    if name.is_empty() {
        errors.push(FieldError::required("metadata.name", "name or generateName is required"));
    } else if let Err(detail) = rule(name) {
        errors.push(FieldError::invalid("metadata.name", &Value::from(name), &detail));
    }
    labels(object.pointer("/metadata/labels"), "metadata.labels", errors);
    let mut size = 0;
    for (key, value) in entries(object.pointer("/metadata/annotations")) {
        size += key.len() + value.as_str().map_or(0, str::len);
        if let Err(detail) = names::qualified(&key.to_lowercase()) {
            errors.push(FieldError::invalid("metadata.annotations", &Value::from(key.as_str()), &detail));
        }
    }
    if size > names::ANNOTATIONS_LIMIT {
        let limit = names::ANNOTATIONS_LIMIT;
        let message = format!("Too long: may not be more than {limit} bytes");
        errors.push(FieldError::new("metadata.annotations", Reason::Invalid, message));
    }
    for (index, owner) in meta::list_at(object, "metadata.ownerReferences").iter().enumerate() {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if owner.get(field).and_then(Value::as_str).unwrap_or_default().is_empty() {
                errors.push(FieldError::required(
                    format!("metadata.ownerReferences[{index}].{field}"),
                    "must not be empty",
                ));
            }
        }
    }
}

fn entries(map: Option<&Value>) -> impl Iterator<Item = (&String, &Value)> {
    map.and_then(Value::as_object).into_iter().flatten()
}

fn labels(map: Option<&Value>, path: &str, errors: &mut Vec<FieldError>) {
    for (key, value) in entries(map) {
        if let Err(detail) = names::qualified(key) {
            errors.push(FieldError::invalid(path, &Value::from(key.as_str()), &detail));
        }
        if let Err(detail) = names::label_value(value.as_str().unwrap_or_default()) {
            errors.push(FieldError::invalid(path, value, &detail));
        }
    }
}

/// The partition contract in the annotations of a pod or of its template.
fn contract(map: Option<&Value>, path: &str, errors: &mut Vec<FieldError>) {
    let all = entries(map).filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect();
    let readings = [
        (partition::ON_PARTITION, partition::stop_after(Some(&all)).err()),
        (partition::LOST_AFTER, partition::lost_after(Some(&all)).err()),
    ];
    for (name, detail) in readings.into_iter().filter_map(|(name, detail)| Some((name, detail?))) {
        let said = Value::from(all.get(name).map(String::as_str).unwrap_or_default());
        errors.push(FieldError::invalid(format!("{path}[{name}]"), &said, &detail));
    }
}

#[cfg(test)]
mod tests;
