//! What the kinds around pods may say.

use serde_json::Value;

use super::{FieldError, contract, entries, labels, pod};
use crate::resource::selector::LabelSelector;
use crate::resource::{meta, names, priority};

/// The most bytes of a config map's values together: 1 MiB.
const CONFIG_MAP_LIMIT: usize = 1 << 20;

pub(super) fn priority_class(object: &Value, errors: &mut Vec<FieldError>) {
    let (name, value) = (meta::name(object), object.get("value").and_then(Value::as_i64).unwrap_or(0));
    let known = priority::SYSTEM.iter().any(|(known, its)| *known == name && i64::from(*its) == value);
    if name.starts_with(priority::RESERVED) && !known {
        let detail = format!("names that begin with {:?} are of classes of the fleet itself", priority::RESERVED);
        errors.push(FieldError::forbidden("metadata.name", &detail));
    } else if !known && !(i64::from(i32::MIN)..=i64::from(priority::HIGHEST)).contains(&value) {
        let detail = format!("maximum allowed value of a user defined priority is {}", priority::HIGHEST);
        errors.push(FieldError::forbidden("value", &detail));
    }
    let known = ["PreemptLowerPriority", "Never"];
    if let Some(policy) = object.get("preemptionPolicy").filter(|policy| !known.iter().any(|known| policy == known)) {
        errors.push(FieldError::unsupported("preemptionPolicy", policy, &known));
    }
}

pub(super) fn deployment(object: &Value, errors: &mut Vec<FieldError>) {
    let spec = object.get("spec").unwrap_or(&Value::Null);
    copies(spec, errors);
    for field in ["revisionHistoryLimit", "progressDeadlineSeconds"] {
        not_negative(spec, field, errors);
    }
    let (deadline, ready) =
        (meta::integer_at(spec, "progressDeadlineSeconds"), meta::integer_at(spec, "minReadySeconds"));
    if let (Some(deadline), Some(ready)) = (deadline, ready)
        && deadline <= ready
    {
        let detail = "must be greater than minReadySeconds";
        errors.push(FieldError::invalid("spec.progressDeadlineSeconds", &Value::from(deadline), detail));
    }
    strategy(spec.get("strategy").unwrap_or(&Value::Null), errors);
}

fn strategy(strategy: &Value, errors: &mut Vec<FieldError>) {
    let kind = meta::text_at(strategy, "type");
    let rolling = strategy.get("rollingUpdate");
    if kind == "Recreate" && rolling.is_some() {
        let detail = "may not be specified when strategy `type` is 'Recreate'";
        errors.push(FieldError::forbidden("spec.strategy.rollingUpdate", detail));
    }
    let mut zeros = 0;
    for field in ["maxUnavailable", "maxSurge"] {
        let Some(value) = rolling.and_then(|rolling| rolling.get(field)) else { continue };
        let path = format!("spec.strategy.rollingUpdate.{field}");
        let amount = match value {
            Value::String(text) => text.strip_suffix('%').and_then(|number| number.parse::<i64>().ok()),
            other => other.as_i64(),
        };
        match amount {
            None => {
                let detail = "a valid percent string must be a numeric string followed by an ending '%' \
                              (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";
                errors.push(FieldError::invalid(path, value, detail));
            }
            Some(amount) if amount < 0 => {
                errors.push(FieldError::invalid(path, value, "must be greater than or equal to 0"));
            }
            Some(amount) if field == "maxUnavailable" && value.is_string() && amount > 100 => {
                errors.push(FieldError::invalid(path, value, "must not be greater than 100%"));
            }
            Some(amount) => zeros += u32::from(amount == 0),
        }
    }
    if zeros == 2 {
        let detail = "may not be 0 when `maxSurge` is 0";
        let zero = rolling.and_then(|rolling| rolling.get("maxUnavailable")).unwrap_or(&Value::Null);
        errors.push(FieldError::invalid("spec.strategy.rollingUpdate.maxUnavailable", zero, detail));
    }
}

pub(super) fn replica_set(object: &Value, errors: &mut Vec<FieldError>) {
    copies(object.get("spec").unwrap_or(&Value::Null), errors);
}

fn not_negative(spec: &Value, field: &str, errors: &mut Vec<FieldError>) {
    if let Some(number) = meta::integer_at(spec, field)
        && !(0..=i64::from(i32::MAX)).contains(&number)
    {
        let detail = "must be greater than or equal to 0";
        errors.push(FieldError::invalid(format!("spec.{field}"), &Value::from(number), detail));
    }
}

/// Replicas, selector and template.
fn copies(spec: &Value, errors: &mut Vec<FieldError>) {
    not_negative(spec, "replicas", errors);
    not_negative(spec, "minReadySeconds", errors);
    let empty = Value::Null;
    let template = spec.get("template").unwrap_or(&empty);
    match spec.get("selector") {
        None => errors.push(FieldError::required("spec.selector", "")),
        Some(value) => selector(value, template, errors),
    }
    if template.is_null() {
        errors.push(FieldError::required("spec.template", ""));
        return;
    }
    labels(template.pointer("/metadata/labels"), "spec.template.metadata.labels", errors);
    contract(template.pointer("/metadata/annotations"), "spec.template.metadata.annotations", errors);
    let pod_spec = template.get("spec").unwrap_or(&empty);
    pod::spec(pod_spec, "spec.template.spec", errors);
    let policy = meta::text_at(pod_spec, "restartPolicy");
    if !["", "Always"].contains(&policy) {
        let path = "spec.template.spec.restartPolicy";
        errors.push(FieldError::unsupported(path, &Value::from(policy), &["Always"]));
    }
    if !meta::text_at(pod_spec, "nodeName").is_empty() && meta::integer_at(spec, "replicas").unwrap_or(1) > 1 {
        // Every copy would take the same ports and name the same device: refuse the surprise.
        let detail = "copies are placed by the scheduler; use nodeSelector";
        errors.push(FieldError::forbidden("spec.template.spec.nodeName", detail));
    }
}

fn selector(value: &Value, template: &Value, errors: &mut Vec<FieldError>) {
    labels(value.get("matchLabels"), "spec.selector.matchLabels", errors);
    let parsed = match LabelSelector::from_json(value) {
        Ok(parsed) => parsed,
        Err(error) => return errors.push(FieldError::invalid("spec.selector", value, &error.to_string())),
    };
    if parsed.is_empty() {
        let detail = "empty selector is invalid for deployment";
        errors.push(FieldError::invalid("spec.selector", value, detail));
    } else if !template.is_null() && !parsed.matches_object(template) {
        let found =
            template.pointer("/metadata/labels").cloned().unwrap_or_else(|| Value::Object(serde_json::Map::new()));
        let detail = "`selector` does not match template `labels`";
        errors.push(FieldError::invalid("spec.template.metadata.labels", &found, detail));
    }
}

pub(super) fn config_map(object: &Value, errors: &mut Vec<FieldError>) {
    let mut size = 0;
    for field in ["data", "binaryData"] {
        for (key, value) in entries(object.get(field)) {
            size += value.as_str().map_or(0, str::len);
            if let Err(detail) = names::config_key(key) {
                errors.push(FieldError::invalid(format!("{field}[{key}]"), &Value::from(key.as_str()), &detail));
            }
            if field == "binaryData" && object.pointer("/data").is_some_and(|data| data.get(key).is_some()) {
                errors.push(FieldError::duplicate(format!("data[{key}]"), &Value::from(key.as_str())));
            }
        }
    }
    if size > CONFIG_MAP_LIMIT {
        let message = format!("Too long: may not be more than {CONFIG_MAP_LIMIT} bytes");
        errors.push(FieldError::new("", super::Reason::Invalid, message));
    }
}

pub(super) fn event(object: &Value, errors: &mut Vec<FieldError>) {
    let about = meta::text_at(object, "involvedObject.namespace");
    let namespace = meta::namespace(object);
    if about != namespace && !(about.is_empty() && namespace == "default") {
        let detail = "does not match event.namespace";
        errors.push(FieldError::invalid("involvedObject.namespace", &Value::from(about), detail));
    }
}
