//! What a pod's spec may say.

use std::collections::BTreeSet;

use serde_json::Value;

use super::lifecycle::{self, Place};
use super::{FieldError, labels, network, security};
use crate::resource::defaults::TERMINATION_GRACE_SECONDS;
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
    security::pod(spec, path, errors);
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
    for (index, added) in meta::list_at(spec, "ephemeralContainers").iter().enumerate() {
        one_container(added, &format!("{path}.ephemeralContainers[{index}]"), errors);
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
    security::container(container, path, errors);
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
    extended(container, path, errors);
    for name in ["cpu", "memory", "ephemeral-storage"] {
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

/// Devices are counted in whole, and none is asked for that is not also held.
fn extended(container: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let amounts = |side: &str| meta::at(container, &format!("resources.{side}")).and_then(Value::as_object);
    let limits = amounts("limits");
    for side in ["limits", "requests"] {
        for (name, value) in amounts(side).into_iter().flatten().filter(|(name, _)| name.starts_with("kith.dev/")) {
            let path = format!("{path}.resources.{side}.{name}");
            let quantity = value.as_str().and_then(|text| text.parse::<Quantity>().ok());
            let whole = quantity.is_some_and(|amount| !amount.is_negative() && amount.millis() % 1000 == 0);
            if quantity.is_some() && !whole {
                errors.push(FieldError::invalid(path, value, "must be an integer"));
            } else if side == "requests" && limits.and_then(|limits| limits.get(name)) != Some(value) {
                let detail = format!("must be equal to {name} limit: devices are not overcommitted");
                errors.push(FieldError::invalid(path, value, &detail));
            }
        }
    }
}
