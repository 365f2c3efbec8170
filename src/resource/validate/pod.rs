//! What a pod's spec may say.

use std::collections::BTreeSet;

use serde_json::Value;

use super::lifecycle::{self, Place};
use super::{FieldError, labels, network};
use crate::resource::defaults::TERMINATION_GRACE_SECONDS;
use crate::resource::fields::ADDABLE_CAPABILITIES;
use crate::resource::quantity::Quantity;
use crate::resource::{meta, names};

/// The most seconds that a pod may ask for to stop: a day.
const GRACE_LIMIT: i64 = 86_400;
/// Fields that a variable may be set from.
const FIELD_PATHS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// Amounts that a variable may be set from.
const RESOURCE_PATHS: [&str; 4] = ["limits.cpu", "limits.memory", "requests.cpu", "requests.memory"];

/// Checks a pod's spec, in a pod or in a template.
pub(super) fn spec(spec: &Value, path: &str, errors: &mut Vec<FieldError>) {
    one_of(spec, path, "restartPolicy", &["Always", "OnFailure", "Never"], errors);
    network::spec(spec, path, errors);
    if let Some(seconds) = meta::integer_at(spec, "terminationGracePeriodSeconds")
        && !(0..=GRACE_LIMIT).contains(&seconds)
    {
        let detail = format!("must be between 0 and {GRACE_LIMIT}");
        let path = format!("{path}.terminationGracePeriodSeconds");
        errors.push(FieldError::invalid(path, &Value::from(seconds), &detail));
    }
    labels(spec.get("nodeSelector"), &format!("{path}.nodeSelector"), errors);
    for (field, rule) in [
        ("nodeName", names::dns_subdomain as fn(&str) -> _),
        ("hostname", names::dns_label),
        ("subdomain", names::dns_label),
    ] {
        let value = meta::text_at(spec, field);
        if let (false, Err(detail)) = (value.is_empty(), rule(value)) {
            errors.push(FieldError::invalid(format!("{path}.{field}"), &Value::from(value), &detail));
        }
    }
    let pod_security = spec.get("securityContext").unwrap_or(&Value::Null);
    identity(pod_security, &format!("{path}.securityContext"), errors);
    containers(spec, path, errors);
    super::volume::of_pod(spec, path, errors);
}

pub(super) fn one_of(parent: &Value, path: &str, field: &str, known: &[&str], errors: &mut Vec<FieldError>) {
    if let Some(value) = parent.get(field)
        && !known.iter().any(|known| value == known)
    {
        errors.push(FieldError::unsupported(format!("{path}.{field}"), value, known));
    }
}

fn containers(spec: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if meta::list_at(spec, "containers").is_empty() {
        errors.push(FieldError::required(format!("{path}.containers"), ""));
    }
    let on_host = spec.get("hostNetwork") == Some(&Value::Bool(true));
    let grace = meta::integer_at(spec, "terminationGracePeriodSeconds").unwrap_or(TERMINATION_GRACE_SECONDS);
    let (mut seen, mut host_ports) = (BTreeSet::new(), Vec::new());
    for (list, place) in [("initContainers", Place::Init), ("containers", Place::Main)] {
        for (index, container) in meta::list_at(spec, list).iter().enumerate() {
            let path = format!("{path}.{list}[{index}]");
            let name = meta::text_at(container, "name");
            if name.is_empty() {
                errors.push(FieldError::required(format!("{path}.name"), ""));
            } else if let Err(detail) = names::dns_label(name) {
                errors.push(FieldError::invalid(format!("{path}.name"), &Value::from(name), &detail));
            } else if !seen.insert(name) {
                errors.push(FieldError::duplicate(format!("{path}.name"), &Value::from(name)));
            }
            network::ports(container, &path, on_host, &mut host_ports, errors);
            one_container(container, &path, errors);
            lifecycle::container(container, &path, place, grace, errors);
        }
    }
    lifecycle::whole(spec, path, errors);
}

fn one_container(container: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let image = meta::text_at(container, "image");
    if image.is_empty() {
        errors.push(FieldError::required(format!("{path}.image"), ""));
    } else if image.trim() != image || image.contains(char::is_whitespace) {
        errors.push(FieldError::invalid(format!("{path}.image"), &Value::from(image), "must not have white space"));
    }
    one_of(container, path, "imagePullPolicy", &["Always", "IfNotPresent", "Never"], errors);
    let folder = meta::text_at(container, "workingDir");
    if !folder.is_empty() && !folder.starts_with('/') {
        let detail = "must be an absolute path";
        errors.push(FieldError::invalid(format!("{path}.workingDir"), &Value::from(folder), detail));
    }
    environment(container, path, errors);
    resources(container, path, errors);
    security(container, path, errors);
}

fn environment(container: &Value, path: &str, errors: &mut Vec<FieldError>) {
    for (index, variable) in meta::list_at(container, "env").iter().enumerate() {
        let path = format!("{path}.env[{index}]");
        let name = meta::text_at(variable, "name");
        if name.is_empty() {
            errors.push(FieldError::required(format!("{path}.name"), ""));
        } else if let Err(detail) = names::env_name(name) {
            errors.push(FieldError::invalid(format!("{path}.name"), &Value::from(name), &detail));
        }
        let Some(source) = variable.get("valueFrom") else { continue };
        if !meta::text_at(variable, "value").is_empty() {
            let detail = "may not be specified when `value` is not empty";
            errors.push(FieldError::invalid(format!("{path}.valueFrom"), &Value::from(""), detail));
        }
        let sources = source.as_object().map_or(0, serde_json::Map::len);
        if sources != 1 {
            let detail = "must specify one of: `fieldRef`, `configMapKeyRef`, `secretKeyRef`, `resourceFieldRef`";
            errors.push(FieldError::invalid(format!("{path}.valueFrom"), &Value::from(""), detail));
        }
        if let Some(reference) = source.get("fieldRef") {
            field_reference(reference, &format!("{path}.valueFrom.fieldRef"), errors);
        }
        if let Some(reference) = source.get("resourceFieldRef") {
            let path = format!("{path}.valueFrom.resourceFieldRef.resource");
            match reference.get("resource") {
                None => errors.push(FieldError::required(path, "")),
                Some(name) if !RESOURCE_PATHS.iter().any(|known| name == known) => {
                    errors.push(FieldError::unsupported(path, name, &RESOURCE_PATHS));
                }
                Some(_) => {}
            }
        }
        for kind in ["configMapKeyRef", "secretKeyRef"] {
            let Some(reference) = source.get(kind) else { continue };
            for field in ["name", "key"] {
                if meta::text_at(reference, field).is_empty() {
                    errors.push(FieldError::required(format!("{path}.valueFrom.{kind}.{field}"), ""));
                }
            }
        }
    }
    for (index, source) in meta::list_at(container, "envFrom").iter().enumerate() {
        let path = format!("{path}.envFrom[{index}]");
        let named = ["configMapRef", "secretRef"].into_iter().filter(|kind| source.get(*kind).is_some());
        let named: Vec<&str> = named.collect();
        if named.len() != 1 {
            let detail = "must specify one of: `configMapRef` or `secretRef`";
            errors.push(FieldError::invalid(path.clone(), &Value::from(""), detail));
        }
        for kind in named {
            if meta::text_at(source, &format!("{kind}.name")).is_empty() {
                errors.push(FieldError::required(format!("{path}.{kind}.name"), ""));
            }
        }
    }
}

fn field_reference(reference: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let field = meta::text_at(reference, "fieldPath");
    let subscripted = ["metadata.labels['", "metadata.annotations['"]
        .iter()
        .any(|start| field.strip_prefix(start).and_then(|rest| rest.strip_suffix("']")).is_some());
    if field.is_empty() {
        errors.push(FieldError::required(format!("{path}.fieldPath"), ""));
    } else if !subscripted && !FIELD_PATHS.contains(&field) {
        errors.push(FieldError::unsupported(format!("{path}.fieldPath"), &Value::from(field), &FIELD_PATHS));
    }
}

fn resources(container: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let amount = |side: &str, name: &str| -> Option<(Quantity, Value)> {
        let value = meta::at(container, &format!("resources.{side}.{name}"))?;
        Some((value.as_str()?.parse().ok()?, value.clone()))
    };
    for name in ["cpu", "memory"] {
        for side in ["limits", "requests"] {
            if let Some((_, text)) = amount(side, name).filter(|(quantity, _)| quantity.is_negative()) {
                let path = format!("{path}.resources.{side}.{name}");
                errors.push(FieldError::invalid(path, &text, "must be greater than or equal to 0"));
            }
        }
        if let (Some((limit, most)), Some((request, text))) = (amount("limits", name), amount("requests", name))
            && request > limit
        {
            let detail = format!("must be less than or equal to {name} limit of {}", most.as_str().unwrap_or(""));
            errors.push(FieldError::invalid(format!("{path}.resources.requests.{name}"), &text, &detail));
        }
    }
}

/// User and group ids.
fn identity(security: &Value, path: &str, errors: &mut Vec<FieldError>) {
    for field in ["runAsUser", "runAsGroup"] {
        if let Some(id) = meta::integer_at(security, field)
            && !(0..=i64::from(i32::MAX)).contains(&id)
        {
            let detail = "must be between 0 and 2147483647, inclusive";
            errors.push(FieldError::invalid(format!("{path}.{field}"), &Value::from(id), detail));
        }
    }
}

fn security(container: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let security = container.get("securityContext").unwrap_or(&Value::Null);
    let path = format!("{path}.securityContext");
    identity(security, &path, errors);
    for (index, added) in meta::list_at(security, "capabilities.add").iter().enumerate() {
        let name = added.as_str().unwrap_or_default();
        if !ADDABLE_CAPABILITIES.contains(&name.strip_prefix("CAP_").unwrap_or(name)) {
            let path = format!("{path}.capabilities.add[{index}]");
            errors.push(FieldError::unsupported(path, added, &ADDABLE_CAPABILITIES));
        }
    }
}
