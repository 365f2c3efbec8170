//! Admission: from what a client sent to what may be stored. It fills in, checks and complains; it
//! neither reads nor writes the store.

use serde_json::{Value, json};

use super::failure::Failure;
use super::route::Target;
use crate::resource::fields::{self, Verdict};
use crate::resource::kind::Kind;
use crate::resource::validate::{self, FieldError};
use crate::resource::{Timestamp, defaults, footprint, meta, names};

/// What happens to a field that does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strictness {
    /// The object is refused.
    Strict,
    /// The field is dropped with a warning.
    Warn,
}

impl Strictness {
    /// The value of `fieldValidation`. `Ignore` warns too: nothing is dropped in silence.
    pub(super) fn parse(text: &str) -> Result<Self, Failure> {
        match text {
            "Strict" => Ok(Self::Strict),
            "" | "Warn" | "Ignore" => Ok(Self::Warn),
            other => Err(Failure::bad_request(format!(
                "fieldValidation: Unsupported value: {other:?}: supported values: \"Ignore\", \"Strict\", \"Warn\""
            ))),
        }
    }
}

/// A new object: checked, with its defaults, unique id and first status. `random` makes the suffix
/// of a generated name.
pub(super) fn create(
    target: &Target,
    mut object: Value,
    strictness: Strictness,
    identity: (Timestamp, String, u64),
    warnings: &mut Vec<String>,
) -> Result<Value, Failure> {
    let kind = target.kind;
    let (now, uid, random) = identity;
    identify(target, &mut object)?;
    if meta::name(&object).is_empty() && !meta::text(&object, "generateName").is_empty() {
        let name = names::generated(meta::text(&object, "generateName"), &names::suffix(random));
        meta::set(&mut object, "name", name.into());
    }
    if !meta::text(&object, "resourceVersion").is_empty() {
        return Err(Failure::bad_request("resourceVersion should not be set on objects to be created"));
    }
    for field in ["resourceVersion", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        meta::remove(&mut object, field);
    }
    let mut errors = inspect(kind, &mut object, strictness, warnings)?;
    meta::set(&mut object, "uid", uid.into());
    meta::set(&mut object, "creationTimestamp", now.to_string().into());
    if kind.has_generation() {
        meta::set(&mut object, "generation", json!(1));
    }
    let first = first_status(kind, &object);
    set_status(&mut object, first);
    defaults::apply(kind, &mut object);
    if kind.kind == "Pod" {
        // A spec that does not parse is refused below, with its field named.
        let class = serde_json::from_value(object["spec"].clone()).map(|spec| footprint::qos_class(&spec));
        object["status"]["qosClass"] = class.map_or(Value::Null, |class| json!(class));
    }
    errors.extend(validate::object(kind, &object));
    errors.extend(validate::creation(kind, &object));
    finish(kind, object, &errors)
}

/// An object that replaces `old`: checked, with everything that is not the writer's to change.
pub(super) fn update(
    target: &Target,
    old: &Value,
    mut object: Value,
    strictness: Strictness,
    warnings: &mut Vec<String>,
) -> Result<Value, Failure> {
    let kind = target.kind;
    identify(target, &mut object)?;
    let uid = meta::uid(&object);
    if !uid.is_empty() && uid != meta::uid(old) {
        let why = format!("the UID in the precondition ({uid}) does not match the UID in record ({})", meta::uid(old));
        return Err(Failure::conflict(kind, meta::name(old), &why));
    }
    let mut errors = inspect(kind, &mut object, strictness, warnings)?;
    meta::remove(&mut object, "resourceVersion");
    for field in ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation"] {
        meta::remove(&mut object, field);
        if let Some(value) = old.get("metadata").and_then(|meta| meta.get(field)) {
            meta::set(&mut object, field, value.clone());
        }
    }
    set_status(&mut object, old.get("status").cloned().unwrap_or_default());
    defaults::apply(kind, &mut object);
    count_generation(kind, old, &mut object);
    errors.extend(validate::object(kind, &object));
    errors.extend(validate::update(kind, old, &object));
    finish(kind, object, &errors)
}

/// `old` with the status that the writer reports.
pub(super) fn update_status(target: &Target, old: &Value, reported: Value) -> Result<Value, Failure> {
    let mut reported = reported;
    identify(target, &mut reported)?;
    let mut object = old.clone();
    set_status(&mut object, reported.get("status").cloned().unwrap_or_default());
    finish(target.kind, object, &[])
}

/// Raises `metadata.generation` when the spec changed.
pub(super) fn count_generation(kind: &Kind, old: &Value, object: &mut Value) {
    if kind.has_generation() && old.get("spec") != object.get("spec") {
        let generation = meta::integer_at(old, "metadata.generation").unwrap_or(0) + 1;
        meta::set(object, "generation", json!(generation));
    }
}

fn finish(kind: &Kind, object: Value, errors: &[FieldError]) -> Result<Value, Failure> {
    if !errors.is_empty() {
        return Err(Failure::invalid(kind, meta::name(&object), errors));
    }
    match validate::readable(kind, &object) {
        Ok(()) => Ok(object),
        Err(reason) => Err(unhandled(kind, &reason)),
    }
}

fn unhandled(kind: &Kind, reason: &str) -> Failure {
    let (version, kind) = (kind.version, kind.kind);
    Failure::bad_request(format!("{kind} in version \"{version}\" cannot be handled as a {kind}: {reason}"))
}

/// Makes the object say what its path says, or refuses it when it says something else.
fn identify(target: &Target, object: &mut Value) -> Result<(), Failure> {
    let kind = target.kind;
    let Some(map) = object.as_object_mut() else {
        return Err(Failure::bad_request("the body of the request is not an object"));
    };
    for (field, expected) in [("apiVersion", kind.api_version()), ("kind", kind.kind.to_owned())] {
        let found = map.entry(field).or_insert_with(|| json!(expected));
        if *found != expected {
            let message = format!(
                "the {field} in the data ({}) does not match the expected {field} ({expected})",
                found.as_str().unwrap_or_default()
            );
            return Err(Failure::bad_request(message));
        }
    }
    if map.get("metadata").is_some_and(|meta| !meta.is_object() && !meta.is_null()) {
        return Err(unhandled(kind, "metadata: expected an object"));
    }
    if map.get("metadata").is_some_and(Value::is_null) {
        map.remove("metadata");
    }
    let namespace = meta::namespace(object);
    if kind.namespaced && !namespace.is_empty() && namespace != target.namespace {
        return Err(Failure::bad_request(format!(
            "the namespace of the provided object does not match the namespace sent on the request ({namespace}, {})",
            target.namespace
        )));
    }
    let name = meta::name(object);
    if !target.name.is_empty() && !name.is_empty() && name != target.name {
        return Err(Failure::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            target.name
        )));
    }
    if !target.name.is_empty() {
        meta::set(object, "name", target.name.as_str().into());
    }
    if kind.namespaced {
        meta::set(object, "namespace", target.namespace.as_str().into());
    } else {
        meta::remove(object, "namespace");
    }
    Ok(())
}

/// Walks the field table. Typos and wrong types are refused at once; the rest is told.
fn inspect(
    kind: &Kind,
    object: &mut Value,
    strictness: Strictness,
    warnings: &mut Vec<String>,
) -> Result<Vec<FieldError>, Failure> {
    let (mut typos, mut types, mut refused) = (Vec::new(), Vec::new(), Vec::new());
    for finding in fields::inspect(kind, object) {
        let path = finding.path;
        match finding.verdict {
            Verdict::Unknown { meant } => {
                let hint = meant.map(|meant| format!(" (did you mean {meant:?}?)")).unwrap_or_default();
                typos.push(format!("unknown field \"{path}\"{hint}"));
            }
            Verdict::Type { expected, found } => types.push(format!("{path}: expected {expected}, found {found}")),
            Verdict::Warned(why) => warnings.push(format!("{path}: not honoured: {why}")),
            Verdict::Refused(why) => refused.push(FieldError::forbidden(path, why)),
        }
    }
    meta::remove(object, "managedFields");
    meta::remove(object, "selfLink");
    if !types.is_empty() {
        return Err(unhandled(kind, &types.join(", ")));
    }
    if !typos.is_empty() && strictness == Strictness::Strict {
        return Err(unhandled(kind, &format!("strict decoding error: {}", typos.join(", "))));
    }
    warnings.extend(typos);
    Ok(refused)
}

fn set_status(object: &mut Value, status: Value) {
    if let Some(map) = object.as_object_mut() {
        if status.is_null() {
            map.remove("status");
        } else {
            map.insert("status".into(), status);
        }
    }
}

fn first_status(kind: &Kind, object: &Value) -> Value {
    match kind.kind {
        "Pod" => json!({"phase": "Pending"}),
        "Namespace" => json!({"phase": "Active"}),
        // There is nothing that it would have to be bound to: its folder is made for its first pod.
        "PersistentVolumeClaim" => json!({"phase": "Bound",
            "accessModes": object.pointer("/spec/accessModes").cloned().unwrap_or_else(|| json!([])),
            "capacity": object.pointer("/spec/resources/requests").cloned().unwrap_or_else(|| json!({}))}),
        "Deployment" => json!({}),
        "ReplicaSet" => json!({"replicas": 0}),
        _ => Value::Null,
    }
}
