//! What the life of a container may be: probes, hooks, restart policies, and what only some
//! containers of a pod may say.

use std::collections::BTreeSet;

use serde_json::Value;

use super::FieldError;
use crate::resource::{meta, names};

const PROBES: [&str; 3] = ["livenessProbe", "readinessProbe", "startupProbe"];

/// Where a container stands in its pod.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Init,
    Main,
}

/// Checks what a container says of its life. `grace` is the pod's, in seconds.
pub(super) fn container(container: &Value, path: &str, place: Place, grace: i64, errors: &mut Vec<FieldError>) {
    super::pod::one_of(container, path, "restartPolicy", &["Always", "OnFailure", "Never"], errors);
    super::pod::one_of(container, path, "terminationMessagePolicy", &["File", "FallbackToLogsOnError"], errors);
    let message = meta::text_at(container, "terminationMessagePath");
    if !message.is_empty() && (!message.starts_with('/') || message.split('/').any(|part| part == "..")) {
        let detail = "must be an absolute path without `..`";
        errors.push(FieldError::invalid(format!("{path}.terminationMessagePath"), &Value::from(message), detail));
    }
    let plain_init = place == Place::Init && container.get("restartPolicy").is_none_or(|policy| policy != "Always");
    for field in PROBES.iter().chain(&["lifecycle"]) {
        if plain_init && container.get(*field).is_some() {
            let detail = "may not be set for init containers without restartPolicy=Always";
            errors.push(FieldError::forbidden(format!("{path}.{field}"), detail));
        }
    }
    for field in PROBES {
        if let Some(found) = container.get(field) {
            probe(found, field, &format!("{path}.{field}"), errors);
        }
    }
    if let Some(found) = container.get("lifecycle") {
        lifecycle(found, &format!("{path}.lifecycle"), grace, errors);
    }
}

fn probe(probe: &Value, field: &str, path: &str, errors: &mut Vec<FieldError>) {
    handler(probe, path, &["exec", "httpGet", "tcpSocket", "grpc"], errors);
    for name in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        if let Some(number) = meta::integer_at(probe, name).filter(|number| !(0..=i64::from(i32::MAX)).contains(number))
        {
            let detail = "must be greater than or equal to 0";
            errors.push(FieldError::invalid(format!("{path}.{name}"), &Value::from(number), detail));
        }
    }
    let readiness = field == "readinessProbe";
    if let Some(count) = meta::integer_at(probe, "successThreshold").filter(|count| *count > 1 && !readiness) {
        errors.push(FieldError::invalid(format!("{path}.successThreshold"), &Value::from(count), "must be 1"));
    }
    if let Some(seconds) = meta::integer_at(probe, "terminationGracePeriodSeconds") {
        let detail = if readiness { "must not be set for readinessProbes" } else { "must be greater than 0" };
        if readiness || seconds <= 0 {
            let path = format!("{path}.terminationGracePeriodSeconds");
            errors.push(FieldError::invalid(path, &Value::from(seconds), detail));
        }
    }
}

fn lifecycle(lifecycle: &Value, path: &str, grace: i64, errors: &mut Vec<FieldError>) {
    for name in ["postStart", "preStop"] {
        let Some(hook) = lifecycle.get(name) else { continue };
        let path = format!("{path}.{name}");
        handler(hook, &path, &["exec", "httpGet", "tcpSocket", "sleep"], errors);
        if let Some(seconds) = meta::integer_at(hook, "sleep.seconds").filter(|seconds| !(0..=grace).contains(seconds))
        {
            let detail = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
            errors.push(FieldError::invalid(format!("{path}.sleep.seconds"), &Value::from(seconds), &detail));
        }
    }
    let signal = meta::text_at(lifecycle, "stopSignal");
    if !signal.is_empty() && !is_signal(signal) {
        let detail = "must be the name of a signal, such as SIGTERM or SIGRTMIN+3";
        errors.push(FieldError::invalid(format!("{path}.stopSignal"), &Value::from(signal), detail));
    }
}

/// Exactly one of the handlers, and a sound one.
fn handler(holder: &Value, path: &str, known: &[&str], errors: &mut Vec<FieldError>) {
    let named: Vec<&str> = known.iter().copied().filter(|name| holder.get(*name).is_some()).collect();
    if named.is_empty() {
        errors.push(FieldError::required(path, "must specify a handler type"));
    }
    for extra in named.iter().skip(1) {
        let detail = "may not specify more than 1 handler type";
        errors.push(FieldError::forbidden(format!("{path}.{extra}"), detail));
    }
    if let Some(exec) = holder.get("exec")
        && meta::list_at(exec, "command").is_empty()
    {
        errors.push(FieldError::required(format!("{path}.exec.command"), ""));
    }
    for name in ["httpGet", "tcpSocket"] {
        if let Some(ask) = holder.get(name) {
            port(ask.get("port"), &format!("{path}.{name}.port"), errors);
        }
    }
    if let Some(ask) = holder.get("httpGet") {
        let path = format!("{path}.httpGet");
        super::pod::one_of(ask, &path, "scheme", &["HTTP", "HTTPS"], errors);
        for (index, header) in meta::list_at(ask, "httpHeaders").iter().enumerate() {
            let name = meta::text_at(header, "name");
            let fits = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
            if !fits {
                let detail = "a valid HTTP header must consist of alphanumeric characters or '-'";
                errors.push(FieldError::invalid(
                    format!("{path}.httpHeaders[{index}].name"),
                    &Value::from(name),
                    detail,
                ));
            }
        }
    }
    if let Some(grpc) = holder.get("grpc") {
        port(grpc.get("port"), &format!("{path}.grpc.port"), errors);
    }
}

fn port(port: Option<&Value>, path: &str, errors: &mut Vec<FieldError>) {
    match port {
        None => errors.push(FieldError::required(path, "")),
        Some(Value::String(name)) => {
            if let Err(detail) = names::port_name(name) {
                errors.push(FieldError::invalid(path, &Value::from(name.as_str()), &detail));
            }
        }
        Some(number) => {
            if number.as_i64().is_none_or(|number| !(1..=65_535).contains(&number)) {
                errors.push(FieldError::invalid(path, number, "must be between 1 and 65535, inclusive"));
            }
        }
    }
}

fn is_signal(name: &str) -> bool {
    const KNOWN: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM",
        "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF",
        "WINCH", "IO", "PWR", "SYS",
    ];
    let Some(bare) = name.strip_prefix("SIG") else { return false };
    let real = bare.strip_prefix("RTMIN+").or_else(|| bare.strip_prefix("RTMAX-"));
    KNOWN.contains(&bare)
        || matches!(bare, "RTMIN" | "RTMAX")
        || real.is_some_and(|offset| offset.parse::<u8>().is_ok_and(|offset| (1..=15).contains(&offset)))
}

/// What the pod as a whole says of its life: its deadline, its gates, what is added to it later.
pub(super) fn whole(spec: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if let Some(seconds) = meta::integer_at(spec, "activeDeadlineSeconds")
        && !(1..=i64::from(i32::MAX)).contains(&seconds)
    {
        let detail = "must be between 1 and 2147483647, inclusive";
        errors.push(FieldError::invalid(format!("{path}.activeDeadlineSeconds"), &Value::from(seconds), detail));
    }
    for (index, gate) in meta::list_at(spec, "readinessGates").iter().enumerate() {
        let kind = meta::text_at(gate, "conditionType");
        if let Err(detail) = names::qualified(kind) {
            let path = format!("{path}.readinessGates[{index}].conditionType");
            errors.push(FieldError::invalid(path, &Value::from(kind), &detail));
        }
    }
    let listed = |list: &str| meta::list_at(spec, list).iter().map(|container| meta::text_at(container, "name"));
    let mut taken: BTreeSet<&str> = listed("initContainers").chain(listed("containers")).collect();
    for (index, added) in meta::list_at(spec, "ephemeralContainers").iter().enumerate() {
        let path = format!("{path}.ephemeralContainers[{index}]");
        let name = meta::text_at(added, "name");
        if let Err(detail) = names::dns_label(name) {
            errors.push(FieldError::invalid(format!("{path}.name"), &Value::from(name), &detail));
        } else if !taken.insert(name) {
            errors.push(FieldError::duplicate(format!("{path}.name"), &Value::from(name)));
        }
        for (index, mount) in meta::list_at(added, "volumeMounts").iter().enumerate() {
            for field in ["subPath", "subPathExpr"] {
                if !meta::text_at(mount, field).is_empty() {
                    let path = format!("{path}.volumeMounts[{index}].{field}");
                    errors.push(FieldError::forbidden(path, "cannot be set for an Ephemeral Container"));
                }
            }
        }
        let target = meta::text_at(added, "targetContainerName");
        if !target.is_empty() && !listed("containers").chain(listed("initContainers")).any(|known| known == target) {
            let detail = "there is no such container in the pod";
            errors.push(FieldError::invalid(format!("{path}.targetContainerName"), &Value::from(target), detail));
        }
    }
}
