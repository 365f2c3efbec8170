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
    let why = |key: &Key| {
        let bound = forecast.bound.iter().find(|binding| binding.pod == *key);
        let said = forecast.steps.iter().find_map(|step| step.strip_prefix(&format!("{key}: ")));
        bound.map_or_else(|| said.unwrap_or_default().to_owned(), |binding| format!("runs on {}", binding.node))
    };
    // Owners before what they own.
    let in_order = |keys: &[Key]| {
        let mut keys = keys.to_vec();
        keys.sort_by_key(|key| match key.kind.as_str() {
            "Pod" => 2,
            "apps/ReplicaSet" => 1,
            _ => 0,
        });
        keys
    };
    let written = |verb: &'static str, keys: &[Key]| -> Vec<PlannedWrite> {
        in_order(keys).iter().map(|key| write(verb, key, why(key))).collect()
    };
    let created = written("create", &forecast.created).into_iter();
    let changed = written("update", &forecast.changed).into_iter();
    let deleted = written("delete", &forecast.deleted).into_iter();
    let reasons = forecast
        .report
        .iter()
        .map(|note| PlanReason { subject: note.object.to_string(), why: note.text.clone() })
        .collect();
    PlanAnswer { revision, writes: created.chain(changed).chain(deleted).collect(), reasons }
}
