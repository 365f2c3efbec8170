//! A plan in the making. It holds the plan to its limits, and keeps the batches of one plan apart:
//! none writes what another writes or relies on, so that their order does not matter. What would
//! comes with the next plan.

use std::collections::BTreeSet;

use k8s_openapi::Metadata;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;

use super::view::View;
use super::{BATCHES_LIMIT, NOTES_LIMIT, Note, Plan, PlannedBatch, Reason};
use crate::resource::Timestamp;
use crate::resource::occurrence::Occurrence;
use crate::store::{Batch, Check, Key, Precondition, Write};

#[derive(Default)]
pub(super) struct Draft {
    plan: Plan,
    written: BTreeSet<Key>,
    relied_on: BTreeSet<Key>,
    full: bool,
}

/// Checks and writes of one batch in the making.
#[derive(Default)]
pub(super) struct Step {
    batch: Batch,
    broken: bool,
}

impl Step {
    /// Relies on a document as it was read.
    pub(super) fn require(mut self, key: &Key, revision: u64) -> Self {
        self.check(key, Precondition::AtRevision(revision));
        self
    }

    /// Relies on a document not to exist.
    pub(super) fn require_absent(mut self, key: &Key) -> Self {
        self.check(key, Precondition::Absent);
        self
    }

    /// Makes a new document.
    pub(super) fn create<T: Serialize + Metadata<Ty = ObjectMeta>>(mut self, key: &Key, object: &T) -> Self {
        self.check(key, Precondition::Absent);
        self.put(key, object);
        self
    }

    /// Replaces a document that was read at this revision.
    pub(super) fn replace<T: Serialize + Metadata<Ty = ObjectMeta>>(
        mut self,
        key: &Key,
        revision: u64,
        object: &T,
    ) -> Self {
        self.check(key, Precondition::AtRevision(revision));
        self.put(key, object);
        self
    }

    /// Removes a document that was read at this revision.
    pub(super) fn remove(mut self, key: &Key, revision: u64) -> Self {
        self.check(key, Precondition::AtRevision(revision));
        self.batch.writes.push(Write::Delete { key: key.clone() });
        self
    }

    /// Says what happened in an event beside the write.
    pub(super) fn event(self, view: &View<'_>, occurrence: &Occurrence) -> Self {
        let key = Key::new(super::fleet::EVENT, occurrence.namespace(), occurrence.name());
        if view.fleet.unreadable.contains(&key) {
            return self;
        }
        match view.fleet.events.get(&key) {
            Some(stored) => {
                let event = occurrence.event(Some(&stored.object), view.now);
                self.replace(&key, stored.revision, &event)
            }
            None => self.create(&key, &occurrence.event(None, view.now)),
        }
    }

    fn check(&mut self, key: &Key, expect: Precondition) {
        let check = Check { key: key.clone(), expect };
        if !self.batch.checks.contains(&check) {
            self.batch.checks.push(check);
        }
    }

    fn put<T: Serialize + Metadata<Ty = ObjectMeta>>(&mut self, key: &Key, object: &T) {
        match canonical(object) {
            Some(body) => self.batch.writes.push(Write::Put { key: key.clone(), body }),
            None => self.broken = true,
        }
    }
}

/// The stored form of an object: JSON with sorted keys and no `metadata.resourceVersion`.
pub(super) fn canonical<T: Serialize>(object: &T) -> Option<Vec<u8>> {
    let mut value = serde_json::to_value(object).ok()?;
    if let Some(meta) = value.get_mut("metadata").and_then(|meta| meta.as_object_mut()) {
        meta.remove("resourceVersion");
    }
    serde_json::to_vec(&value).ok()
}

impl Draft {
    /// Adds a batch, unless it touches what this plan writes already, writes what it relies on, or the plan is full.
    pub(super) fn push(&mut self, object: &Key, why: impl Into<String>, step: Step) -> bool {
        if self.plan.batches.len() >= BATCHES_LIMIT {
            self.full = true;
            return false;
        }
        let touched = step.batch.checks.iter().any(|check| self.written.contains(&check.key));
        if touched || step.broken || step.batch.writes.is_empty() {
            return false;
        }
        let written = |write: &Write| match write {
            Write::Put { key, .. } | Write::Delete { key } => key.clone(),
        };
        let writes: BTreeSet<Key> = step.batch.writes.iter().map(written).collect();
        if !writes.is_disjoint(&self.relied_on) {
            return false;
        }
        let checks = step.batch.checks.iter().map(|check| &check.key);
        self.relied_on.extend(checks.filter(|key| !writes.contains(key)).cloned());
        self.written.extend(writes);
        self.plan.batches.push(PlannedBatch { batch: step.batch, why: why.into(), object: object.clone() });
        true
    }

    /// Whether this plan writes a document already.
    pub(super) fn writes(&self, key: &Key) -> bool {
        self.written.contains(key)
    }

    /// Explains why something is not done.
    pub(super) fn note(&mut self, object: &Key, reason: Reason, text: impl Into<String>) {
        if self.plan.report.len() < NOTES_LIMIT {
            self.plan.report.push(Note { object: object.clone(), reason, text: text.into() });
        }
    }

    /// Plans again at this moment at the latest.
    pub(super) fn wake(&mut self, at: Timestamp) {
        self.plan.wake_at = Some(self.plan.wake_at.map_or(at, |earlier| earlier.min(at)));
    }

    pub(super) fn finish(mut self, now: Timestamp) -> Plan {
        if self.full {
            let object = self.plan.batches.last().map_or_else(|| Key::new("", "", ""), |last| last.object.clone());
            let text = format!("one plan holds {BATCHES_LIMIT} batches; the rest follows in the next");
            self.note(&object, Reason::PlanFull, text);
            self.wake(now);
        }
        self.plan
    }
}
