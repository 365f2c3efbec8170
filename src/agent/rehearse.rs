//! Turns the objects of a manifest into the documents that they would become, for `kith plan`.
//! Nothing is written.

use serde_json::{Value, json};

use crate::api::fleet::{PlanAnswer, PlanReason, PlannedWrite};
use crate::consensus::Replica;
use crate::planner::Forecast;
use crate::resource::{Timestamp, defaults, kind, meta, validate};
use crate::store::{Document, Key};

/// The documents that objects would become if they were applied now.
pub(crate) fn documents(replica: &dyn Replica, objects: Vec<Value>, now: Timestamp) -> Result<Vec<Document>, String> {
    let mut found = Vec::new();
    for (index, mut object) in objects.into_iter().enumerate() {
        let (version, word) = (object["apiVersion"].as_str().unwrap_or(""), object["kind"].as_str().unwrap_or(""));
        let kind = kind::of(version, word)
            .ok_or_else(|| format!("document {}: kith serves no {word:?} of {version:?}", index + 1))?;
        if kind.namespaced && meta::namespace(&object).is_empty() {
            meta::set(&mut object, "namespace", json!("default"));
        }
        let name = meta::name(&object).to_owned();
        let key = Key::new(kind.store_kind(), meta::namespace(&object), &name);
        let stored = replica.get(&key).map_err(|error| error.to_string())?;
        let (uid, created) = match &stored {
            Some(document) => {
                let before: Value = serde_json::from_slice(&document.body).unwrap_or_default();
                if let Some(status) = before.get("status") {
                    object["status"] = status.clone();
                }
                (meta::uid(&before).to_owned(), meta::text(&before, "creationTimestamp").to_owned())
            }
            None => (format!("planned-{index}-{name}"), now.to_string()),
        };
        meta::set(&mut object, "uid", json!(uid));
        meta::set(&mut object, "creationTimestamp", json!(created));
        meta::set(&mut object, "generation", json!(1));
        defaults::apply(kind, &mut object);
        let errors = validate::object(kind, &object);
        if !errors.is_empty() {
            let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
            return Err(format!("{} {name}: {}", kind.kind, all.join("; ")));
        }
        let body = object.to_string().into_bytes();
        let (created, modified) = stored.map_or((0, 0), |document| (document.created, document.modified));
        found.push(Document { key, body, created, modified });
    }
    Ok(found)
}

/// A forecast as the API shows it.
pub(crate) fn answer(revision: u64, forecast: &Forecast) -> PlanAnswer {
    let write = |verb: &str, key: &Key, why: String| PlannedWrite {
        verb: verb.into(),
        kind: key.kind.clone(),
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        why,
    };
    let place = |key: &Key| {
        let bound = forecast.bound.iter().find(|binding| binding.pod == *key);
        bound.map_or_else(String::new, |binding| format!("runs on {}", binding.node))
    };
    let created = forecast.created.iter().map(|key| write("create", key, place(key)));
    let changed = forecast.changed.iter().map(|key| write("update", key, place(key)));
    let deleted = forecast.deleted.iter().map(|key| write("delete", key, String::new()));
    let reasons = forecast
        .report
        .iter()
        .map(|note| PlanReason { subject: note.object.to_string(), why: note.text.clone() })
        .collect();
    PlanAnswer { revision, writes: created.chain(changed).chain(deleted).collect(), reasons }
}
