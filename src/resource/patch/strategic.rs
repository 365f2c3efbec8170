//! Strategic merge: maps merge by name, lists of objects by their merge key, other lists are
//! replaced; directives say otherwise.

use serde_json::{Map, Value};

use super::PatchError;

/// The key by which items of a list are the same item.
fn merge_key(list: &str) -> Option<&'static str> {
    match list {
        "containers"
        | "initContainers"
        | "ephemeralContainers"
        | "env"
        | "volumes"
        | "imagePullSecrets"
        | "resourceClaims"
        | "schedulingGates" => Some("name"),
        "ports" => Some("containerPort"),
        "volumeMounts" => Some("mountPath"),
        "volumeDevices" => Some("devicePath"),
        "conditions" | "addresses" => Some("type"),
        "ownerReferences" => Some("uid"),
        "hostAliases" | "podIPs" => Some("ip"),
        "topologySpreadConstraints" => Some("topologyKey"),
        _ => None,
    }
}

/// Whether a list of plain values is a set: a patch adds to it.
fn is_set(list: &str) -> bool {
    list == "finalizers"
}

/// Merges a patch into an object.
pub fn merge(object: &mut Value, patch: Value) -> Result<(), PatchError> {
    let Value::Object(patch) = patch else { return Err(malformed("it is not an object")) };
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    match object {
        Value::Object(map) => merge_map(map, patch),
        _ => Ok(()),
    }
}

fn malformed(reason: &str) -> PatchError {
    PatchError::Malformed(reason.to_owned())
}

fn merge_map(object: &mut Map<String, Value>, mut patch: Map<String, Value>) -> Result<(), PatchError> {
    match patch.remove("$patch") {
        None => {}
        Some(Value::String(directive)) if directive == "merge" => {}
        Some(Value::String(directive)) if directive == "replace" => {
            *object = without_directives(patch);
            return Ok(());
        }
        Some(Value::String(directive)) if directive == "delete" => {
            object.clear();
            return Ok(());
        }
        Some(other) => return Err(malformed(&format!("unknown $patch directive {other}"))),
    }
    if let Some(Value::Array(kept)) = patch.remove("$retainKeys") {
        object.retain(|name, _| kept.iter().any(|kept| kept == name));
    }
    let mut orders = Vec::new();
    for (name, value) in patch {
        if let Some(list) = name.strip_prefix("$setElementOrder/") {
            orders.push((list.to_owned(), value));
        } else if let Some(list) = name.strip_prefix("$deleteFromPrimitiveList/") {
            let gone = value.as_array().ok_or_else(|| malformed(&format!("{name} is not a list")))?;
            if let Some(items) = object.get_mut(list).and_then(Value::as_array_mut) {
                items.retain(|item| !gone.contains(item));
            }
        } else {
            merge_field(object, name, value)?;
        }
    }
    for (list, order) in orders {
        if let (Some(items), Value::Array(order)) = (object.get_mut(&list).and_then(Value::as_array_mut), order) {
            arrange(&list, items, &order);
        }
    }
    Ok(())
}

fn merge_field(object: &mut Map<String, Value>, name: String, value: Value) -> Result<(), PatchError> {
    match value {
        Value::Null => {
            object.remove(&name);
        }
        Value::Object(patch) => {
            if let Some(Value::Object(current)) = object.get_mut(&name) {
                // A map deleted by directive is gone, not empty.
                let deleted = patch.get("$patch").is_some_and(|directive| directive == "delete");
                merge_map(current, patch)?;
                if deleted {
                    object.remove(&name);
                }
            } else {
                let mut fresh = Map::new();
                merge_map(&mut fresh, patch)?;
                object.insert(name, Value::Object(fresh));
            }
        }
        Value::Array(patch) => {
            let current = match object.get_mut(&name) {
                Some(Value::Array(items)) => std::mem::take(items),
                _ => Vec::new(),
            };
            let merged = merge_list(&name, current, patch)?;
            object.insert(name, Value::Array(merged));
        }
        plain => {
            object.insert(name, plain);
        }
    }
    Ok(())
}

fn merge_list(name: &str, mut current: Vec<Value>, patch: Vec<Value>) -> Result<Vec<Value>, PatchError> {
    if is_set(name) {
        for item in patch {
            if !current.contains(&item) {
                current.push(item);
            }
        }
        return Ok(current);
    }
    let Some(key) = merge_key(name) else { return Ok(patch) };
    let replaces =
        |item: &Value| item.get("$patch").is_some_and(|directive| directive == "replace") && item.get(key).is_none();
    if patch.iter().any(replaces) {
        return Ok(patch.into_iter().filter(|item| !replaces(item)).collect());
    }
    for item in patch {
        let Value::Object(mut item) = item else {
            return Err(malformed(&format!("an item of {name} is not an object")));
        };
        let Some(identity) = item.get(key).cloned() else {
            return Err(malformed(&format!("an item of {name} does not set its merge key {key}")));
        };
        let same = |found: &Value| {
            found.get(key) == Some(&identity) && (name != "ports" || same_protocol(found, item.get("protocol")))
        };
        let place = current.iter().position(same);
        if item.get("$patch").is_some_and(|directive| directive == "delete") {
            if let Some(place) = place {
                current.remove(place);
            }
            continue;
        }
        if let Some(Value::Object(found)) = place.and_then(|place| current.get_mut(place)) {
            merge_map(found, item)?;
        } else {
            item.remove("$patch");
            let mut fresh = Map::new();
            merge_map(&mut fresh, item)?;
            current.push(Value::Object(fresh));
        }
    }
    Ok(current)
}

/// Ports of one number are told apart by protocol when the patch names one.
fn same_protocol(found: &Value, wanted: Option<&Value>) -> bool {
    let protocol = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or("TCP").to_owned();
    wanted.is_none() || protocol(found.get("protocol")) == protocol(wanted)
}

/// Sorts items into the order given; items that are not named stay behind those before them.
fn arrange(list: &str, items: &mut Vec<Value>, order: &[Value]) {
    let rank = |item: &Value| match merge_key(list) {
        Some(key) => order.iter().position(|wanted| wanted.get(key) == item.get(key)),
        None => order.iter().position(|wanted| wanted == item),
    };
    let mut last = 0;
    let mut ranked: Vec<(usize, Value)> = Vec::with_capacity(items.len());
    for item in items.drain(..) {
        last = rank(&item).unwrap_or(last);
        ranked.push((last, item));
    }
    ranked.sort_by_key(|(rank, _)| *rank);
    items.extend(ranked.into_iter().map(|(_, item)| item));
}

fn without_directives(map: Map<String, Value>) -> Map<String, Value> {
    map.into_iter().filter(|(name, value)| !name.starts_with('$') && !value.is_null()).collect()
}
