//! Walks an object along the field table.

use serde_json::Value;

use super::protobuf::UNREAD;
use super::{Field, Form, Stance, of};
use crate::resource::Quantity;
use crate::resource::kind::Kind;

/// Something that the table says about a field of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// `spec.containers[0].livenessProbe`.
    pub path: String,
    /// What it says.
    pub verdict: Verdict,
}

/// What the table says about a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is no such field; it was removed from the object.
    Unknown {
        /// A field that may have been meant.
        meant: Option<&'static str>,
    },
    /// It holds something of another type.
    Type {
        /// `an integer`.
        expected: &'static str,
        /// `the string "3"`.
        found: String,
    },
    /// It is kept but does nothing.
    Warned(&'static str),
    /// It can not be accepted.
    Refused(&'static str),
}

/// Walks an object: removes nulls and unknown fields, and tells everything that the table has
/// against what it found. Fields that hold nothing (`false`, `[]`, `""`) are no reason to complain.
pub fn inspect(kind: &Kind, object: &mut Value) -> Vec<Finding> {
    let mut findings = Vec::new();
    walk(object, of(kind), "", &mut findings);
    findings
}

fn walk(value: &mut Value, fields: &'static [Field], path: &str, findings: &mut Vec<Finding>) {
    let Some(map) = value.as_object_mut() else {
        findings.push(mismatch(path, "an object", value));
        return;
    };
    map.retain(|_, held| !held.is_null());
    let names: Vec<String> = map.keys().cloned().collect();
    for name in names {
        let here = join(path, &name);
        let known = fields.iter().find(|field| field.name == name || begins(field.name, &name));
        let Some(field) = known else {
            map.remove(&name);
            findings.push(Finding { path: here, verdict: Verdict::Unknown { meant: nearest(&name, fields) } });
            continue;
        };
        let Some(held) = map.get_mut(&name) else { continue };
        judge(held, field, &here, findings);
        // What protobuf held in a field that does nothing was told of, and is not kept.
        if held.get(UNREAD).is_some() {
            map.remove(&name);
        }
    }
}

/// A path joined with a name; a name that holds a dot is bracketed.
fn join(path: &str, name: &str) -> String {
    match (path.is_empty(), name.contains(['.', '/'])) {
        (true, _) => name.to_owned(),
        (false, true) => format!("{path}[{name}]"),
        (false, false) => format!("{path}.{name}"),
    }
}

fn judge(held: &mut Value, field: &Field, path: &str, findings: &mut Vec<Finding>) {
    let before = findings.len();
    check_form(held, field.form, path, findings);
    if findings.len() > before && matches!(findings[before].verdict, Verdict::Type { .. }) {
        return;
    }
    let among = |fine: &[&str]| match &*held {
        Value::String(text) => fine.contains(&text.as_str()),
        other => fine.contains(&other.to_string().as_str()),
    };
    let verdict = match field.stance {
        Stance::Warned(why) if !is_empty(held) => Verdict::Warned(why),
        Stance::Refused(why) if !is_empty(held) => Verdict::Refused(why),
        // A switch that is only fine when on is judged even when it is off.
        Stance::WarnedUnless(fine, why) if !among(fine) && (held.is_boolean() || !is_empty(held)) => {
            Verdict::Warned(why)
        }
        Stance::RefusedUnless(fine, why) if !among(fine) && (held.is_boolean() || !is_empty(held)) => {
            Verdict::Refused(why)
        }
        _ => return,
    };
    findings.push(Finding { path: path.to_owned(), verdict });
}

fn check_form(held: &mut Value, form: Form, path: &str, findings: &mut Vec<Finding>) {
    let expected = match form {
        Form::Object(fields) | Form::Amounts(fields) => return walk(held, fields, path, findings),
        Form::Objects(fields) => {
            let Some(items) = held.as_array_mut() else {
                return findings.push(mismatch(path, "a list", held));
            };
            for (index, item) in items.iter_mut().enumerate() {
                walk(item, fields, &format!("{path}[{index}]"), findings);
            }
            return;
        }
        Form::TextMap | Form::BytesMap => {
            let Some(map) = held.as_object_mut() else {
                return findings.push(mismatch(path, "a map of strings", held));
            };
            map.retain(|_, value| !value.is_null());
            let (fits, expected): (fn(&Value) -> bool, _) = match form {
                Form::BytesMap => (is_base64, "a string in base64"),
                _ => (Value::is_string, "a string"),
            };
            for (name, value) in map.iter().filter(|(_, value)| !fits(value)) {
                findings.push(mismatch(&format!("{path}[{name}]"), expected, value));
            }
            return;
        }
        Form::Texts => return check_items(held, "a list of strings", "a string", Value::is_string, path, findings),
        Form::Integers => return check_items(held, "a list of integers", "an integer", Value::is_i64, path, findings),
        Form::Any => return,
        Form::Text if held.is_string() => return,
        Form::Text => "a string",
        Form::Moment if held.as_str().is_some_and(|text| text.parse::<jiff::Timestamp>().is_ok()) => return,
        Form::Moment => "a time such as 2026-01-31T07:05:09Z",
        Form::Integer if held.is_i64() => return,
        Form::Integer => "an integer",
        Form::Boolean if held.is_boolean() => return,
        Form::Boolean => "true or false",
        Form::IntegerOrText if held.is_string() || held.is_i64() => return,
        Form::IntegerOrText => "an integer or a percentage",
        Form::Quantity => return check_quantity(held, path, findings),
    };
    findings.push(mismatch(path, expected, held));
}

fn is_base64(value: &Value) -> bool {
    use base64::Engine as _;
    value.as_str().is_some_and(|text| base64::engine::general_purpose::STANDARD.decode(text).is_ok())
}

fn check_items(
    held: &Value,
    list: &'static str,
    item: &'static str,
    fits: fn(&Value) -> bool,
    path: &str,
    findings: &mut Vec<Finding>,
) {
    let Some(items) = held.as_array() else { return findings.push(mismatch(path, list, held)) };
    for (index, found) in items.iter().enumerate().filter(|(_, found)| !fits(found)) {
        findings.push(mismatch(&format!("{path}[{index}]"), item, found));
    }
}

/// Numbers become strings, as Kubernetes writes quantities.
fn check_quantity(held: &mut Value, path: &str, findings: &mut Vec<Finding>) {
    let text = match &*held {
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        other => return findings.push(mismatch(path, "a quantity such as 250m or 64Mi", other)),
    };
    if text.parse::<Quantity>().is_err() {
        return findings.push(mismatch(path, "a quantity such as 250m or 64Mi", held));
    }
    *held = Value::String(text);
}

fn mismatch(path: &str, expected: &'static str, found: &Value) -> Finding {
    let found = match found {
        Value::Null => "nothing".to_owned(),
        Value::String(text) => format!("the string {:?}", shorten(text)),
        Value::Bool(flag) => format!("the boolean {flag}"),
        Value::Number(number) => format!("the number {number}"),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    };
    let path = if path.is_empty() { "the object" } else { path };
    Finding { path: path.to_owned(), verdict: Verdict::Type { expected, found } }
}

fn shorten(text: &str) -> String {
    if text.chars().count() > 40 { text.chars().take(40).chain(['.', '.', '.']).collect() } else { text.to_owned() }
}

/// Whether ignoring the value loses nothing.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.values().all(is_empty),
    }
}

/// Whether a field stands for all names that begin as it does: `kith.dev/*`, or every name: `*`.
fn begins(field: &str, name: &str) -> bool {
    field.strip_suffix('*').is_some_and(|start| (start.is_empty() || start.ends_with('/')) && name.starts_with(start))
}

/// The known field that is at most two edits away.
fn nearest(name: &str, fields: &'static [Field]) -> Option<&'static str> {
    let limit = if name.len() < 5 { 1 } else { 2 };
    fields
        .iter()
        .filter(|field| !field.name.ends_with('*'))
        .map(|field| (distance(&name.to_lowercase(), &field.name.to_lowercase()), field.name))
        .filter(|(edits, _)| *edits <= limit)
        .min()
        .map(|(_, name)| name)
}

/// Edits between two words; a swap of neighbours counts as one.
fn distance(left: &str, right: &str) -> usize {
    let (left, right): (Vec<char>, Vec<char>) = (left.chars().take(64).collect(), right.chars().collect());
    let mut rows = vec![vec![0; right.len() + 1]; left.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, cell) in rows[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=left.len() {
        for j in 1..=right.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(left[i - 1] != right[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && left[i - 1] == right[j - 2] && left[i - 2] == right[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[left.len()][right.len()]
}
