//! Objects as rows, with the columns that `kubectl get` shows. It reads objects and the moment it
//! is handed; it decides nothing about them.

mod columns;
mod pod;

use std::time::Duration;

use serde_json::{Value, json};

pub use columns::{Column, cells, columns};
pub use pod::status as pod_status;

use super::kind::Kind;
use super::time::Timestamp;

/// How much of each object a row carries along.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Include {
    /// Only the cells.
    None,
    /// Its metadata.
    #[default]
    Metadata,
    /// All of it.
    Object,
}

impl Include {
    /// The value of the `includeObject` query; `None` when there is no such value.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "None" => Some(Self::None),
            "" | "Metadata" => Some(Self::Metadata),
            "Object" => Some(Self::Object),
            _ => None,
        }
    }
}

/// A `Table` of objects. `version` is that of `meta.k8s.io`, `v1` or `v1beta1`.
pub fn render(kind: &Kind, objects: Vec<Value>, include: Include, version: &str, now: Timestamp) -> Value {
    let columns: Vec<Value> = columns(kind)
        .iter()
        .map(|column| {
            json!({"name": column.name, "type": column.form, "format": if column.name == "Name" { "name" } else { "" },
                "description": column.about, "priority": i32::from(column.wide)})
        })
        .collect();
    let rows: Vec<Value> = objects.into_iter().map(|object| row(kind, object, include, version, now)).collect();
    json!({"kind": "Table", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": {},
        "columnDefinitions": columns, "rows": rows})
}

fn row(kind: &Kind, object: Value, include: Include, version: &str, now: Timestamp) -> Value {
    let cells = cells(kind, &object, now);
    match include {
        Include::None => json!({"cells": cells}),
        Include::Metadata => json!({"cells": cells, "object": partial(object, version)}),
        Include::Object => json!({"cells": cells, "object": object}),
    }
}

/// An object reduced to its metadata.
pub fn partial(mut object: Value, version: &str) -> Value {
    let metadata = object.get_mut("metadata").map(Value::take).unwrap_or_default();
    json!({"kind": "PartialObjectMetadata", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": metadata})
}

/// A span as people read it: `45s`, `3m12s`, `5h`, `12d`.
pub fn human(span: Duration) -> String {
    let seconds = span.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let both = |whole: u64, unit: &str, rest: u64, small: &str| {
        if rest == 0 { format!("{whole}{unit}") } else { format!("{whole}{unit}{rest}{small}") }
    };
    match () {
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => both(minutes, "m", seconds % 60, "s"),
        () if hours < 3 => format!("{minutes}m"),
        () if hours < 8 => both(hours, "h", minutes % 60, "m"),
        () if hours < 48 => format!("{hours}h"),
        () if days < 8 => both(days, "d", hours % 24, "h"),
        () if days < 730 => format!("{days}d"),
        () if days < 2920 => both(days / 365, "y", days % 365, "d"),
        () => format!("{}y", days / 365),
    }
}

/// How long ago a moment in RFC 3339 was; `<unknown>` when there is none.
pub fn ago(moment: &str, now: Timestamp) -> String {
    match moment.parse::<jiff::Timestamp>() {
        Ok(then) => human(now.since(Timestamp(u64::try_from(then.as_millisecond()).unwrap_or(0)))),
        Err(_) => "<unknown>".into(),
    }
}

#[cfg(test)]
mod tests;
