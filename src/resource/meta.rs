//! Reading and writing the parts that every object has. It never judges them.

use serde_json::{Map, Value, json};

/// `metadata.NAME` as text; empty when absent.
pub fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object.get("metadata").and_then(|meta| meta.get(field)).and_then(Value::as_str).unwrap_or_default()
}

/// The object's name; empty when absent.
pub fn name(object: &Value) -> &str {
    text(object, "name")
}

/// The object's namespace; empty when absent.
pub fn namespace(object: &Value) -> &str {
    text(object, "namespace")
}

/// The object's unique id; empty when absent.
pub fn uid(object: &Value) -> &str {
    text(object, "uid")
}

/// Whether the object was asked to go.
pub fn is_deleting(object: &Value) -> bool {
    !text(object, "deletionTimestamp").is_empty()
}

/// Sets `metadata.NAME`.
pub fn set(object: &mut Value, field: &str, value: Value) {
    if !object.is_object() {
        *object = json!({});
    }
    if let Some(map) = object.as_object_mut() {
        let meta = map.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
        if let Some(meta) = meta.as_object_mut() {
            meta.insert(field.to_owned(), value);
        }
    }
}

/// Removes `metadata.NAME`.
pub fn remove(object: &mut Value, field: &str) -> Option<Value> {
    object.get_mut("metadata").and_then(Value::as_object_mut).and_then(|meta| meta.remove(field))
}

/// Writes a revision into `metadata.resourceVersion`, as readers see it.
pub fn set_revision(object: &mut Value, revision: u64) {
    set(object, "resourceVersion", Value::String(revision.to_string()));
}

/// The owner reference marked as the controller.
pub fn controller(object: &Value) -> Option<&Value> {
    object
        .pointer("/metadata/ownerReferences")
        .and_then(Value::as_array)?
        .iter()
        .find(|owner| owner.get("controller").and_then(Value::as_bool) == Some(true))
}

/// The value at a dotted path of plain names.
pub fn at<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(object, |value, name| value.get(name))
}

/// The text at a dotted path; empty when absent.
pub fn text_at<'a>(object: &'a Value, path: &str) -> &'a str {
    at(object, path).and_then(Value::as_str).unwrap_or_default()
}

/// The whole number at a dotted path.
pub fn integer_at(object: &Value, path: &str) -> Option<i64> {
    at(object, path).and_then(Value::as_i64)
}

/// The list at a dotted path; empty when absent.
pub fn list_at<'a>(object: &'a Value, path: &str) -> &'a [Value] {
    at(object, path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}
