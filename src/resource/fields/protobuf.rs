//! Reads objects from Kubernetes' protobuf encoding, along the field table. What the table does not
//! look into is marked as unread, so that the walk can warn about it or refuse it.

use base64::Engine as _;
use serde_json::{Map, Value, json};

use super::wire::{self, DELETE_OPTIONS, EVICTION, INLINE, INSIDE, SCALE, ZEROS};
use super::{Field, Form, of};
use crate::resource::kind;

/// Every encoded object begins with this.
const MAGIC: &[u8; 4] = b"k8s\0";
/// The most nested messages.
const DEPTH_LIMIT: usize = 32;
/// Marks a field whose content was not read.
pub(super) const UNREAD: &str = "$unread";

/// Bytes that are no object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtobufError {
    /// It does not begin like one.
    #[error("it is not an object in Kubernetes' protobuf encoding")]
    NotKubernetes,
    /// Cut short, or of another shape.
    #[error("{path}: the protobuf encoding is broken")]
    Broken {
        /// Where.
        path: String,
    },
    /// Not one of the kinds that can be read.
    #[error("{kind} of {api_version} is not known in protobuf: send it as JSON")]
    UnknownKind {
        /// Its `apiVersion`.
        api_version: String,
        /// Its `kind`.
        kind: String,
    },
}

/// A value on the wire.
enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The object that the bytes encode, with its `apiVersion` and `kind`.
pub fn from_protobuf(bytes: &[u8]) -> Result<Value, ProtobufError> {
    let rest = bytes.strip_prefix(MAGIC).ok_or(ProtobufError::NotKubernetes)?;
    let (mut api_version, mut kind_name, mut raw) = (String::new(), String::new(), &[][..]);
    for (number, value) in fields(rest, "")? {
        match (number, value) {
            (1, Wire::Bytes(meta)) => {
                for (number, value) in fields(meta, "")? {
                    match (number, value) {
                        (1, Wire::Bytes(text)) => api_version = String::from_utf8_lossy(text).into_owned(),
                        (2, Wire::Bytes(text)) => kind_name = String::from_utf8_lossy(text).into_owned(),
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let table: &'static [Field] = match (kind_name.as_str(), kind::of(&api_version, &kind_name)) {
        (_, Some(kind)) => of(kind),
        ("DeleteOptions", None) => &DELETE_OPTIONS,
        ("Eviction", None) => &EVICTION,
        ("Scale", None) => &SCALE,
        _ => return Err(ProtobufError::UnknownKind { api_version, kind: kind_name }),
    };
    let mut object = message(table, raw, "", 0)?;
    // It was read or it is not a client's to write.
    object.remove("status");
    object.insert("apiVersion".into(), api_version.into());
    object.insert("kind".into(), kind_name.into());
    Ok(Value::Object(object))
}

fn broken(path: &str) -> ProtobufError {
    ProtobufError::Broken { path: if path.is_empty() { "the object".into() } else { path.into() } }
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// The fields of a message, in the order in which they came.
fn fields<'a>(mut bytes: &'a [u8], path: &str) -> Result<Vec<(u32, Wire<'a>)>, ProtobufError> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes).ok_or_else(|| broken(path))?;
        let number = u32::try_from(tag >> 3).map_err(|_| broken(path))?;
        let length = match tag & 7 {
            0 => {
                found.push((number, Wire::Number(varint(&mut bytes).ok_or_else(|| broken(path))?)));
                continue;
            }
            1 => 8,
            2 => varint(&mut bytes).and_then(|length| usize::try_from(length).ok()).ok_or_else(|| broken(path))?,
            5 => 4,
            _ => return Err(broken(path)),
        };
        let (content, rest) = bytes.split_at_checked(length).ok_or_else(|| broken(path))?;
        bytes = rest;
        found.push((number, Wire::Bytes(content)));
    }
    Ok(found)
}

fn message(
    table: &'static [Field],
    bytes: &[u8],
    path: &str,
    depth: usize,
) -> Result<Map<String, Value>, ProtobufError> {
    let numbers = wire::of(table).map_or(&[][..], |message| message.numbers);
    let mut object = Map::new();
    read(&mut object, (table, numbers), bytes, path, depth)?;
    Ok(object)
}

/// Reads the fields of a message into an object.
fn read(
    object: &mut Map<String, Value>,
    (table, numbers): (&'static [Field], &'static [(u32, &'static str)]),
    bytes: &[u8],
    path: &str,
    depth: usize,
) -> Result<(), ProtobufError> {
    if depth > DEPTH_LIMIT {
        return Err(broken(path));
    }
    for (number, value) in fields(bytes, path)? {
        let Some((_, name)) = numbers.iter().find(|(known, _)| *known == number) else {
            // A field of a newer release: the walk tells of it under its number.
            object.insert(format!("protobuf field {number}"), json!({UNREAD: true}));
            continue;
        };
        if *name == INSIDE {
            let Wire::Bytes(bytes) = value else { return Err(broken(path)) };
            read(object, (table, wire::inside(table)), bytes, path, depth + 1)?;
            continue;
        }
        let inline = *name == INLINE;
        let name = if inline { "name" } else { name };
        let here = format!("{path}.{name}");
        let here = here.trim_start_matches('.');
        let Some(field) = table.iter().find(|field| field.name == name) else { return Err(broken(here)) };
        if inline {
            let Wire::Bytes(bytes) = value else { return Err(broken(here)) };
            for (number, value) in fields(bytes, here)? {
                if let (1, Wire::Bytes(text)) = (number, value) {
                    object.insert(name.into(), string(text, here)?);
                }
            }
            continue;
        }
        add(object, field, &value, here, depth)?;
    }
    Ok(())
}

/// Puts a value into an object; repeated fields and maps grow.
fn add(
    object: &mut Map<String, Value>,
    field: &Field,
    value: &Wire<'_>,
    path: &str,
    depth: usize,
) -> Result<(), ProtobufError> {
    let read = match (field.form, value) {
        (Form::Integer, Wire::Number(number)) => {
            (*number != 0 || ZEROS.contains(&field.name)).then(|| json!(number.cast_signed()))
        }
        (Form::Boolean, Wire::Number(number)) => {
            (*number != 0 || ZEROS.contains(&field.name)).then(|| json!(*number != 0))
        }
        (Form::Text, Wire::Bytes(bytes)) => Some(string(bytes, path)?).filter(|text| text != ""),
        (Form::Quantity, Wire::Bytes(bytes)) => Some(quantity(bytes, path)?).filter(|text| text != ""),
        (Form::IntegerOrText, Wire::Bytes(bytes)) => Some(integer_or_text(bytes, path)?),
        (Form::Moment, Wire::Bytes(bytes)) => moment(bytes, path)?,
        (Form::Object(fields), Wire::Bytes(bytes)) => Some(Value::Object(message(fields, bytes, path, depth + 1)?)),
        (Form::Any, Wire::Number(number)) => (*number != 0).then(|| json!({UNREAD: true})),
        (Form::Any, Wire::Bytes(bytes)) => (!bytes.is_empty()).then(|| json!({UNREAD: true})),
        (Form::Objects(fields), Wire::Bytes(bytes)) => {
            let item = Value::Object(message(fields, bytes, path, depth + 1)?);
            return push(object, field.name, item, path);
        }
        (Form::Texts, Wire::Bytes(bytes)) => return push(object, field.name, string(bytes, path)?, path),
        (Form::Integers, Wire::Number(number)) => return push(object, field.name, json!(number.cast_signed()), path),
        (Form::TextMap | Form::BytesMap | Form::Amounts(_), Wire::Bytes(bytes)) => {
            let map = object.entry(field.name).or_insert_with(|| Value::Object(Map::new()));
            let map = map.as_object_mut().ok_or_else(|| broken(path))?;
            let (key, value) = entry(field.form, bytes, path)?;
            map.insert(key, value);
            return Ok(());
        }
        _ => return Err(broken(path)),
    };
    if let Some(read) = read {
        object.insert(field.name.into(), read);
    }
    Ok(())
}

fn push(object: &mut Map<String, Value>, name: &str, item: Value, path: &str) -> Result<(), ProtobufError> {
    let list = object.entry(name).or_insert_with(|| Value::Array(Vec::new()));
    list.as_array_mut().ok_or_else(|| broken(path))?.push(item);
    Ok(())
}

/// An entry of a map: key (1), value (2).
fn entry(form: Form, bytes: &[u8], path: &str) -> Result<(String, Value), ProtobufError> {
    let (mut key, mut held) = (String::new(), &[][..]);
    for (number, value) in fields(bytes, path)? {
        match (number, value) {
            (1, Wire::Bytes(text)) => key = String::from_utf8(text.to_vec()).map_err(|_| broken(path))?,
            (2, Wire::Bytes(bytes)) => held = bytes,
            _ => {}
        }
    }
    let value = match form {
        Form::BytesMap => Value::String(base64::engine::general_purpose::STANDARD.encode(held)),
        Form::Amounts(_) => quantity(held, path)?,
        _ => string(held, path)?,
    };
    Ok((key, value))
}

fn string(bytes: &[u8], path: &str) -> Result<Value, ProtobufError> {
    String::from_utf8(bytes.to_vec()).map(Value::String).map_err(|_| broken(path))
}

/// A message with the text in its first field.
fn quantity(bytes: &[u8], path: &str) -> Result<Value, ProtobufError> {
    for (number, value) in fields(bytes, path)? {
        if let (1, Wire::Bytes(text)) = (number, value) {
            return string(text, path);
        }
    }
    Ok(Value::String(String::new()))
}

/// Which of the two (1), the integer (2), the text (3).
fn integer_or_text(bytes: &[u8], path: &str) -> Result<Value, ProtobufError> {
    let (mut is_text, mut integer, mut text) = (false, 0, Value::String(String::new()));
    for (number, value) in fields(bytes, path)? {
        match (number, value) {
            (1, Wire::Number(number)) => is_text = number == 1,
            (2, Wire::Number(number)) => integer = number.cast_signed(),
            (3, Wire::Bytes(bytes)) => text = string(bytes, path)?,
            _ => {}
        }
    }
    Ok(if is_text { text } else { json!(integer) })
}

/// Seconds (1) and nanoseconds (2) since the epoch; an empty message is no time.
fn moment(bytes: &[u8], path: &str) -> Result<Option<Value>, ProtobufError> {
    let (mut seconds, mut nanoseconds) = (0, 0);
    for (number, value) in fields(bytes, path)? {
        match (number, value) {
            (1, Wire::Number(number)) => seconds = number.cast_signed(),
            (2, Wire::Number(number)) => nanoseconds = i32::try_from(number.cast_signed()).map_err(|_| broken(path))?,
            _ => {}
        }
    }
    if bytes.is_empty() {
        return Ok(None);
    }
    let moment = jiff::Timestamp::new(seconds, nanoseconds).map_err(|_| broken(path))?;
    Ok(Some(Value::String(moment.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, u8::try_from(content.len()).unwrap()], content].concat()
    }

    fn object(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let meta = [field(1, api_version.as_bytes()), field(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), field(1, &meta), field(2, raw)].concat()
    }

    fn pod(container: &[u8]) -> Vec<u8> {
        // Host network, grace 0, priority 5 (a number past 15 takes two bytes).
        let spec = [field(2, container), vec![11 << 3, 1, 4 << 3, 0, 0xc8, 1, 5]].concat();
        object("v1", "Pod", &[field(1, &field(1, b"web")), field(2, &spec)].concat())
    }

    #[test]
    fn a_pod_is_read() {
        let port = [vec![3 << 3, 80, 2 << 3, 0], field(4, b"TCP")].concat();
        let limits = field(1, &[field(1, b"cpu"), field(2, &field(1, b"250m"))].concat());
        let container = [
            field(1, b"main"),
            field(2, b"web:1"),
            field(3, b"run"),
            field(3, b"it"),
            field(6, &port),
            field(8, &limits),
            field(13, b""),
            field(10, &[field(1, &field(3, &field(1, b"\x08\x00\x10\x50"))), vec![4 << 3, 5]].concat()),
        ]
        .concat();
        let mut read = from_protobuf(&pod(&container)).unwrap();
        let findings = super::super::inspect(&kind::POD, &mut read);
        let paths: Vec<_> = findings.iter().map(|finding| finding.path.as_str()).collect();
        assert!(paths.is_empty(), "{paths:?}");
        let wanted = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}, "spec": {
            "hostNetwork": true, "priority": 5, "terminationGracePeriodSeconds": 0, "containers": [{"name": "main", "image": "web:1",
            "command": ["run", "it"], "livenessProbe": {"tcpSocket": {"port": 80}, "periodSeconds": 5}, "ports": [{"containerPort": 80, "protocol": "TCP"}], "resources": {"limits": {"cpu": "250m"}}}]}});
        assert_eq!(read, wanted);
    }

    #[test]
    fn volumes_are_read() {
        let volume = |number, source: &[u8]| field(2, &field(number, source));
        let spec = [
            field(1, &[field(1, b"a"), volume(2, b"")].concat()),
            field(1, &[field(1, b"b"), volume(6, &field(1, b"cfg"))].concat()),
            field(1, &[field(1, b"c"), volume(10, &field(1, b"db"))].concat()),
            field(1, &[field(1, b"d"), volume(7, &field(1, b"server"))].concat()),
        ]
        .concat();
        let whole = object("v1", "Pod", &field(2, &spec));
        let mut read = from_protobuf(&whole).unwrap();
        let volumes = json!([{"name": "a", "emptyDir": {}}, {"name": "b", "secret": {"secretName": "cfg"}},
            {"name": "c", "persistentVolumeClaim": {"claimName": "db"}}]);
        assert_eq!(read["spec"]["volumes"].as_array().unwrap()[..3], volumes.as_array().unwrap()[..]);
        let refused = super::super::inspect(&kind::POD, &mut read);
        assert_eq!(refused[0].path, "spec.volumes[3].nfs");
    }

    #[test]
    fn evictions_are_read() {
        let options = [&[0x08, 5][..], &field(2, &field(1, b"u")), &field(5, b"All")].concat();
        let eviction = [field(1, &field(1, b"web")), field(2, &options)].concat();
        let read = from_protobuf(&object("policy/v1", "Eviction", &eviction)).unwrap();
        assert_eq!(read["metadata"]["name"], "web");
        let wanted = json!({"gracePeriodSeconds": 5, "preconditions": {"uid": "u"}, "dryRun": ["All"]});
        assert_eq!(read["deleteOptions"], wanted);
    }

    #[test]
    fn every_cut_and_every_flip_is_survived() {
        let whole = pod(&[field(1, b"main"), field(2, b"web:1")].concat());
        for end in 0..whole.len() {
            let _ = from_protobuf(&whole[..end]);
        }
        for place in 0..whole.len() {
            for bit in 0..8 {
                let mut flipped = whole.clone();
                flipped[place] ^= 1 << bit;
                let _ = from_protobuf(&flipped);
            }
        }
        assert_eq!(from_protobuf(b"{}"), Err(ProtobufError::NotKubernetes));
        assert!(matches!(from_protobuf(&object("batch/v1", "Job", b"")), Err(ProtobufError::UnknownKind { .. })));
    }

    #[test]
    fn every_number_names_a_field_and_every_object_has_numbers() {
        fn check(table: &'static [Field], path: &str) {
            let message = wire::of(table).unwrap_or_else(|| panic!("{path} has no numbers"));
            let inside = message.numbers.iter().any(|(_, name)| *name == INSIDE);
            let inside = if inside { wire::inside(table) } else { &[] };
            let numbers = || message.numbers.iter().chain(inside);
            for (_, name) in numbers().filter(|(_, name)| ![INLINE, INSIDE].contains(name)) {
                assert!(table.iter().any(|field| field.name == *name) || *name == "status", "{path}.{name}");
            }
            for field in table {
                if let Form::Object(inner) | Form::Objects(inner) = field.form {
                    assert!(numbers().any(|(_, name)| *name == field.name), "{path}.{}", field.name);
                    check(inner, &format!("{path}.{}", field.name));
                }
            }
        }
        for kind in kind::all() {
            check(of(kind), kind.kind);
        }
    }
}
