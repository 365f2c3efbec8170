//! What volumes, their mounts, secrets and claims may say.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value;

use super::{FieldError, Reason, entries};
use crate::resource::kind::Kind;
use crate::resource::quantity::Quantity;
use crate::resource::{claim, meta, names};

/// The most bytes of a secret's values together: 1 MiB.
const SECRET_LIMIT: usize = 1 << 20;

/// Permissions that a file can have.
const MODES: std::ops::RangeInclusive<i64> = 0..=0o777;

/// Kinds of what a path of the device may be.
const HOST_KINDS: [&str; 8] =
    ["", "DirectoryOrCreate", "Directory", "FileOrCreate", "File", "Socket", "CharDevice", "BlockDevice"];

const ACCESS_MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

/// Fields of a pod that a file may be made from.
const FILE_FIELDS: [&str; 5] =
    ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];

const FILE_AMOUNTS: [&str; 4] = ["limits.cpu", "limits.memory", "requests.cpu", "requests.memory"];

const NO_WAY_UP: &str = "must not contain '..'";

/// Volumes of a pod's spec, and where its containers see them.
pub(super) fn of_pod(spec: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let mut known = BTreeSet::new();
    for (index, volume) in meta::list_at(spec, "volumes").iter().enumerate() {
        let path = format!("{path}.volumes[{index}]");
        let name = meta::text_at(volume, "name");
        if name.is_empty() {
            errors.push(FieldError::required(format!("{path}.name"), ""));
        } else if let Err(detail) = names::dns_label(name) {
            errors.push(FieldError::invalid(format!("{path}.name"), &Value::from(name), &detail));
        } else if !known.insert(name) {
            errors.push(FieldError::duplicate(format!("{path}.name"), &Value::from(name)));
        }
        one_volume(volume, &path, errors);
    }
    for list in ["initContainers", "containers"] {
        for (index, container) in meta::list_at(spec, list).iter().enumerate() {
            mounts(container, &known, &format!("{path}.{list}[{index}]"), errors);
        }
    }
}

fn one_volume(volume: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let sources: Vec<&String> =
        volume.as_object().into_iter().flatten().map(|(name, _)| name).filter(|name| *name != "name").collect();
    if let [_, second, ..] = sources[..] {
        errors.push(FieldError::forbidden(format!("{path}.{second}"), "may not specify more than 1 volume type"));
    }
    if let Some(size) = meta::at(volume, "emptyDir.sizeLimit") {
        let negative = size.as_str().and_then(|text| text.parse::<Quantity>().ok()).is_some_and(Quantity::is_negative);
        if negative {
            errors.push(FieldError::forbidden(format!("{path}.emptyDir.sizeLimit"), "must not be negative"));
        }
    }
    if let Some(host) = volume.get("hostPath") {
        host_path(host, &format!("{path}.hostPath"), errors);
    }
    for (source, name) in [("configMap", "name"), ("secret", "secretName"), ("persistentVolumeClaim", "claimName")] {
        if volume.get(source).is_some() && meta::text_at(volume, &format!("{source}.{name}")).is_empty() {
            errors.push(FieldError::required(format!("{path}.{source}.{name}"), ""));
        }
    }
    for source in ["configMap", "secret", "downwardAPI", "projected"] {
        let Some(held) = volume.get(source) else { continue };
        let path = format!("{path}.{source}");
        mode(held, "defaultMode", &path, errors);
        if source == "downwardAPI" {
            downward(held, &path, errors);
        } else {
            items(held, &path, errors);
        }
    }
    if let Some(projected) = volume.get("projected") {
        let sources = meta::list_at(projected, "sources");
        for (index, source) in sources.iter().enumerate() {
            projection(source, &format!("{path}.projected.sources[{index}]"), errors);
        }
    }
}

fn projection(source: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if source.as_object().is_some_and(|map| map.len() > 1) {
        errors.push(FieldError::forbidden(path, "may not specify more than 1 volume type per source"));
    }
    for kind in ["configMap", "secret"] {
        let Some(held) = source.get(kind) else { continue };
        let path = format!("{path}.{kind}");
        if meta::text_at(held, "name").is_empty() {
            errors.push(FieldError::required(format!("{path}.name"), ""));
        }
        items(held, &path, errors);
    }
    if let Some(held) = source.get("downwardAPI") {
        downward(held, &format!("{path}.downwardAPI"), errors);
    }
}

fn host_path(host: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let place = meta::text_at(host, "path");
    if place.is_empty() {
        errors.push(FieldError::required(format!("{path}.path"), ""));
    } else if climbs(place) {
        errors.push(FieldError::invalid(format!("{path}.path"), &Value::from(place), NO_WAY_UP));
    } else if !place.starts_with('/') {
        errors.push(FieldError::invalid(format!("{path}.path"), &Value::from(place), "must be an absolute path"));
    }
    if let Some(kind) = host.get("type")
        && !HOST_KINDS.iter().any(|known| kind == known)
    {
        errors.push(FieldError::unsupported(format!("{path}.type"), kind, &HOST_KINDS[1..]));
    }
}

fn climbs(path: &str) -> bool {
    path.split('/').any(|part| part == "..")
}

fn mode(held: &Value, field: &str, path: &str, errors: &mut Vec<FieldError>) {
    if let Some(mode) = meta::integer_at(held, field).filter(|mode| !MODES.contains(mode)) {
        let detail = "must be a number between 0 and 0777 (octal), both inclusive";
        errors.push(FieldError::invalid(format!("{path}.{field}"), &Value::from(mode), detail));
    }
}

/// Keys that become files.
fn items(held: &Value, path: &str, errors: &mut Vec<FieldError>) {
    for (index, item) in meta::list_at(held, "items").iter().enumerate() {
        let path = format!("{path}.items[{index}]");
        if meta::text_at(item, "key").is_empty() {
            errors.push(FieldError::required(format!("{path}.key"), ""));
        }
        file(item, &path, errors);
    }
}

fn file(item: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let place = meta::text_at(item, "path");
    if place.is_empty() {
        errors.push(FieldError::required(format!("{path}.path"), ""));
    } else if place.starts_with('/') {
        errors.push(FieldError::invalid(format!("{path}.path"), &Value::from(place), "must be a relative path"));
    } else if climbs(place) {
        errors.push(FieldError::invalid(format!("{path}.path"), &Value::from(place), NO_WAY_UP));
    } else if place.starts_with("..") {
        errors.push(FieldError::invalid(format!("{path}.path"), &Value::from(place), "must not start with '..'"));
    }
    mode(item, "mode", path, errors);
}

fn downward(held: &Value, path: &str, errors: &mut Vec<FieldError>) {
    for (index, item) in meta::list_at(held, "items").iter().enumerate() {
        let path = format!("{path}.items[{index}]");
        file(item, &path, errors);
        match (item.get("fieldRef"), item.get("resourceFieldRef")) {
            (Some(_), Some(_)) => {
                let detail = "fieldRef and resourceFieldRef can not be specified simultaneously";
                errors.push(FieldError::forbidden(path, detail));
            }
            (Some(field), None) => {
                let name = meta::text_at(field, "fieldPath");
                let subscripted =
                    ["metadata.labels['", "metadata.annotations['"].iter().any(|start| name.starts_with(start));
                if !(FILE_FIELDS.contains(&name) || subscripted && name.ends_with("']")) {
                    let path = format!("{path}.fieldRef.fieldPath");
                    errors.push(FieldError::unsupported(path, &Value::from(name), &FILE_FIELDS));
                }
            }
            (None, Some(amount)) => {
                let path = format!("{path}.resourceFieldRef");
                if meta::text_at(amount, "containerName").is_empty() {
                    errors.push(FieldError::required(format!("{path}.containerName"), ""));
                }
                let name = meta::text_at(amount, "resource");
                if !FILE_AMOUNTS.contains(&name) {
                    errors.push(FieldError::unsupported(format!("{path}.resource"), &Value::from(name), &FILE_AMOUNTS));
                }
            }
            (None, None) => errors.push(FieldError::required(path, "one of fieldRef and resourceFieldRef is required")),
        }
    }
}

fn mounts(container: &Value, known: &BTreeSet<&str>, path: &str, errors: &mut Vec<FieldError>) {
    let mut places = BTreeSet::new();
    for (index, mount) in meta::list_at(container, "volumeMounts").iter().enumerate() {
        let path = format!("{path}.volumeMounts[{index}]");
        let name = meta::text_at(mount, "name");
        if name.is_empty() {
            errors.push(FieldError::required(format!("{path}.name"), ""));
        } else if !known.contains(name) {
            let message = format!("Not found: {name:?}");
            errors.push(FieldError { path: format!("{path}.name"), reason: Reason::Invalid, message });
        }
        let place = meta::text_at(mount, "mountPath");
        let bare = place.trim_end_matches('/');
        if place.is_empty() {
            errors.push(FieldError::required(format!("{path}.mountPath"), ""));
        } else if !place.starts_with('/') || climbs(place) || bare.is_empty() {
            let detail = "must be an absolute path without '..', and not the root";
            errors.push(FieldError::invalid(format!("{path}.mountPath"), &Value::from(place), detail));
        } else if ["/proc", "/sys", "/dev"].contains(&bare) || bare.starts_with("/proc/") || bare.starts_with("/sys/") {
            let detail = "is where the kernel shows itself: no volume can be there";
            errors.push(FieldError::invalid(format!("{path}.mountPath"), &Value::from(place), detail));
        } else if !places.insert(bare) {
            let detail = "must be unique";
            errors.push(FieldError::invalid(format!("{path}.mountPath"), &Value::from(place), detail));
        }
        sub_path(mount, &path, errors);
        if mount.get("recursiveReadOnly") == Some(&Value::from("Enabled"))
            && mount.get("readOnly") != Some(&Value::Bool(true))
        {
            let detail = "may only be specified when readOnly is true";
            errors.push(FieldError::forbidden(format!("{path}.recursiveReadOnly"), detail));
        }
    }
}

fn sub_path(mount: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let (plain, expanded) = (meta::text_at(mount, "subPath"), meta::text_at(mount, "subPathExpr"));
    if !plain.is_empty() && !expanded.is_empty() {
        let detail = "subPathExpr and subPath are mutually exclusive";
        errors.push(FieldError::invalid(format!("{path}.subPathExpr"), &Value::from(expanded), detail));
    }
    for (field, value) in [("subPath", plain), ("subPathExpr", expanded)] {
        if value.starts_with('/') {
            let detail = "must be a relative path";
            errors.push(FieldError::invalid(format!("{path}.{field}"), &Value::from(value), detail));
        } else if climbs(value) {
            errors.push(FieldError::invalid(format!("{path}.{field}"), &Value::from(value), NO_WAY_UP));
        }
    }
}

/// A secret whose `stringData` is in its data already.
pub(super) fn secret(object: &Value, errors: &mut Vec<FieldError>) {
    let mut size = 0;
    for (key, value) in entries(object.get("data")) {
        size += value.as_str().map_or(0, |text| text.len() / 4 * 3);
        if let Err(detail) = names::config_key(key) {
            errors.push(FieldError::invalid(format!("data[{key}]"), &Value::from(key.as_str()), &detail));
        }
    }
    if size > SECRET_LIMIT {
        let message = format!("Too long: may not be more than {SECRET_LIMIT} bytes");
        errors.push(FieldError { path: "data".into(), reason: Reason::Invalid, message });
    }
    let kind = meta::text_at(object, "type");
    let needed: &[&str] = match kind {
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/dockercfg" => &[".dockercfg"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        _ => &[],
    };
    let data = |key: &str| object.get("data").and_then(|data| data.get(key));
    for key in needed.iter().filter(|key| data(key).is_none()) {
        errors.push(FieldError::required(format!("data[{key}]"), ""));
    }
    if kind == "kubernetes.io/basic-auth" && data("username").is_none() && data("password").is_none() {
        errors.push(FieldError::required("data[username]", ""));
        errors.push(FieldError::required("data[password]", ""));
    }
    for key in [".dockerconfigjson", ".dockercfg"].iter().filter(|key| needed.contains(*key)) {
        let text = data(key).and_then(Value::as_str).and_then(|text| BASE64.decode(text).ok()).unwrap_or_default();
        if !text.is_empty() && serde_json::from_slice::<serde::de::IgnoredAny>(&text).is_err() {
            // The value itself is never repeated.
            let hidden = Value::from("<secret contents redacted>");
            errors.push(FieldError::invalid(format!("data[{key}]"), &hidden, "must be valid json"));
        }
    }
}

pub(super) fn claim(object: &Value, errors: &mut Vec<FieldError>) {
    let spec = object.get("spec").unwrap_or(&Value::Null);
    let modes = meta::list_at(spec, "accessModes");
    if modes.is_empty() {
        errors.push(FieldError::required("spec.accessModes", "at least 1 access mode is required"));
    }
    for mode in modes.iter().filter(|mode| !ACCESS_MODES.iter().any(|known| *mode == known)) {
        errors.push(FieldError::unsupported("spec.accessModes", mode, &ACCESS_MODES));
    }
    let path = "spec.resources[storage]";
    let storage = meta::at(spec, "resources.requests.storage");
    match storage.and_then(|size| Some((size, size.as_str()?.parse::<Quantity>().ok()?))) {
        None => errors.push(FieldError::required(path, "")),
        Some((text, size)) if size.is_negative() || size.units() == 0 => {
            errors.push(FieldError::invalid(path, text, "must be greater than zero"));
        }
        Some(_) => {}
    }
}

/// What may not change once an object exists.
pub(super) fn update(kind: &Kind, old: &Value, new: &Value, errors: &mut Vec<FieldError>) {
    let changed = |field: &str| old.get(field) != new.get(field);
    if kind.kind == "Secret" {
        if changed("type") {
            let value = new.get("type").unwrap_or(&Value::Null);
            errors.push(FieldError::invalid("type", value, "field is immutable"));
        }
        if old.get("immutable") == Some(&Value::Bool(true)) {
            for field in ["data", "immutable"].into_iter().filter(|field| changed(field)) {
                errors.push(FieldError::forbidden(field, "field is immutable when `immutable` is set"));
            }
        }
        return;
    }
    let without_size = |object: &Value| {
        let mut spec = object.get("spec").cloned().unwrap_or_default();
        if let Some(spec) = spec.as_object_mut() {
            spec.remove("resources");
        }
        spec
    };
    if without_size(old) != without_size(new) {
        let detail = "spec is immutable after creation except resources.requests";
        errors.push(FieldError::forbidden("spec", detail));
    }
    let device = |object: &Value| {
        let annotations = object.pointer("/metadata/annotations");
        annotations.and_then(|all| all.get(claim::SELECTED_NODE)).and_then(Value::as_str).map(str::to_owned)
    };
    if let Some(bound) = device(old).filter(|bound| device(new).as_ref() != Some(bound)) {
        let detail = format!(
            "the volume is on device {bound}, where its data is; delete the claim and create it again to begin an empty one elsewhere"
        );
        errors.push(FieldError::forbidden(format!("metadata.annotations[{}]", claim::SELECTED_NODE), &detail));
    }
}
