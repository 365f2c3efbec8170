//! What a `securityContext` may say, of a pod and of a container. Whether a device allows it is the
//! device's own matter; here it only has to make sense.

use std::collections::BTreeSet;

use serde_json::Value;

use super::FieldError;
use super::pod::one_of;
use crate::resource::{capability, meta};

/// Checks what a pod says.
pub(super) fn pod(spec: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let security = spec.get("securityContext").unwrap_or(&Value::Null);
    let below = format!("{path}.securityContext");
    identity(security, &below, errors);
    seccomp(security, &below, errors);
    one_of(security, &below, "supplementalGroupsPolicy", &["Merge", "Strict"], errors);
    for (index, group) in meta::list_at(security, "supplementalGroups").iter().enumerate() {
        if group.as_i64().is_some_and(|id| !(0..=i64::from(i32::MAX)).contains(&id)) {
            errors.push(FieldError::invalid(format!("{below}.supplementalGroups[{index}]"), group, OUT_OF_RANGE));
        }
    }
    let mut seen = BTreeSet::new();
    for (index, sysctl) in meta::list_at(security, "sysctls").iter().enumerate() {
        let (path, name) = (format!("{below}.sysctls[{index}].name"), meta::text_at(sysctl, "name"));
        let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/');
        if name.is_empty() {
            errors.push(FieldError::required(path, ""));
        } else if !name.chars().all(fine) || name.split(['.', '/']).any(|part| part.is_empty() || part == "..") {
            errors.push(FieldError::invalid(path, &Value::from(name), "must be such as \"net.ipv4.tcp_syncookies\""));
        } else if !seen.insert(name.replace('/', ".")) {
            errors.push(FieldError::duplicate(path, &Value::from(name)));
        }
    }
    let set = |field: &str| spec.get(field) == Some(&Value::Bool(true));
    if set("shareProcessNamespace") && set("hostPID") {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.push(FieldError::invalid(format!("{path}.shareProcessNamespace"), &Value::Bool(true), detail));
    }
    if spec.get("hostUsers") == Some(&Value::Bool(false)) {
        for field in ["hostPID", "hostIPC", "shareProcessNamespace"].into_iter().filter(|field| set(field)) {
            errors.push(FieldError::forbidden(format!("{path}.{field}"), "when `hostUsers` is false"));
        }
    }
}

const OUT_OF_RANGE: &str = "must be between 0 and 2147483647, inclusive";

/// User and group ids.
fn identity(security: &Value, path: &str, errors: &mut Vec<FieldError>) {
    for field in ["runAsUser", "runAsGroup", "fsGroup"] {
        if let Some(id) = meta::integer_at(security, field)
            && !(0..=i64::from(i32::MAX)).contains(&id)
        {
            errors.push(FieldError::invalid(format!("{path}.{field}"), &Value::from(id), OUT_OF_RANGE));
        }
    }
}

fn seccomp(security: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let Some(profile) = security.get("seccompProfile") else { return };
    let path = format!("{path}.seccompProfile");
    let name = meta::text_at(profile, "localhostProfile");
    match profile.get("type").and_then(Value::as_str) {
        None => {
            errors.push(FieldError::required(format!("{path}.type"), "type is required when seccompProfile is set"));
        }
        Some("Localhost") if name.is_empty() => {
            let detail = "must be set when seccomp type is Localhost";
            errors.push(FieldError::required(format!("{path}.localhostProfile"), detail));
        }
        Some("Localhost") => {
            if name.starts_with('/') || name.split('/').any(|part| matches!(part, "" | "." | "..")) {
                let detail = "must be a relative path without '..'";
                errors.push(FieldError::invalid(format!("{path}.localhostProfile"), &Value::from(name), detail));
            }
        }
        Some("RuntimeDefault" | "Unconfined") => {
            if !name.is_empty() {
                let detail = "can only be set when seccomp type is Localhost";
                errors.push(FieldError::invalid(format!("{path}.localhostProfile"), &Value::from(name), detail));
            }
        }
        Some(_) => one_of(profile, &path, "type", &["Localhost", "RuntimeDefault", "Unconfined"], errors),
    }
}

/// Checks what a container says.
pub(super) fn container(container: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let security = container.get("securityContext").unwrap_or(&Value::Null);
    let path = format!("{path}.securityContext");
    identity(security, &path, errors);
    seccomp(security, &path, errors);
    one_of(security, &path, "procMount", &["Default", "Unmasked"], errors);
    let mut admin = false;
    for (index, added) in meta::list_at(security, "capabilities.add").iter().enumerate() {
        let name = capability::short(added.as_str().unwrap_or_default());
        admin |= name == "SYS_ADMIN";
        if name != "ALL" && capability::number(&name).is_none() {
            let known = [&capability::CAPABILITIES[..], &["ALL"]].concat();
            errors.push(FieldError::unsupported(format!("{path}.capabilities.add[{index}]"), added, &known));
        }
    }
    if security.get("allowPrivilegeEscalation") == Some(&Value::Bool(false)) {
        let mut refuse = |detail: &str| {
            let path = format!("{path}.allowPrivilegeEscalation");
            errors.push(FieldError::invalid(path, &Value::Bool(false), detail));
        };
        if security.get("privileged") == Some(&Value::Bool(true)) {
            refuse("cannot set `allowPrivilegeEscalation` to false and `privileged` to true");
        }
        if admin {
            refuse("cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN");
        }
    }
}
