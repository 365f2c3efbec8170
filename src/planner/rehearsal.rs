//! The fleet played through in memory: batches applied with their preconditions, devices that do
//! what they are told at once. `kith plan` answers from it what a manifest would lead to.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, PodCondition};

use super::draft::canonical;
use super::fleet::{Fleet, Versioned};
use super::{Note, Plan, device, plan, pods};
use crate::resource::Timestamp;
use crate::store::{Batch, Conflict, Document, Key, Outcome, Precondition, Write};

/// Plans that a rehearsal goes through before it stops waiting for an end.
pub(super) const ROUNDS_LIMIT: usize = 64;

/// A fleet in memory.
#[derive(Clone, Debug)]
pub struct Rehearsal {
    /// The view that plans are made from.
    pub fleet: Fleet,
    revisions: BTreeMap<Key, u64>,
    revision: u64,
}

/// Where a pod would run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Binding {
    /// The pod.
    pub pod: Key,
    /// The device.
    pub node: String,
}

/// What documents would lead to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forecast {
    /// Documents that would be new.
    pub created: Vec<Key>,
    /// Documents that would change, events and mere status aside.
    pub changed: Vec<Key>,
    /// Documents that would be gone.
    pub deleted: Vec<Key>,
    /// Where new pods would run.
    pub bound: Vec<Binding>,
    /// What was decided on the way, in order.
    pub steps: Vec<String>,
    /// Why the rest would wait.
    pub report: Vec<Note>,
    /// Whether an end was reached; otherwise the rounds ran out.
    pub settled: bool,
}

impl Rehearsal {
    /// Starts from a view.
    pub fn new(fleet: Fleet) -> Self {
        let mut revisions = BTreeMap::new();
        let mut note = |key: Key, revision: u64| {
            revisions.insert(key, revision);
        };
        fleet.nodes.iter().for_each(|(name, found)| note(Key::new(super::fleet::NODE, "", name), found.revision));
        fleet
            .namespaces
            .iter()
            .for_each(|(name, found)| note(Key::new(super::fleet::NAMESPACE, "", name), found.revision));
        fleet.deployments.iter().for_each(|(key, found)| note(key.clone(), found.revision));
        fleet.replica_sets.iter().for_each(|(key, found)| note(key.clone(), found.revision));
        fleet.pods.iter().for_each(|(key, found)| note(key.clone(), found.revision));
        fleet.events.iter().for_each(|(key, found)| note(key.clone(), found.revision));
        fleet.others.keys(None).for_each(|(key, revision)| note(key, revision));
        let revision = revisions.values().copied().max().unwrap_or(0);
        Self { fleet, revisions, revision }
    }

    /// Applies a batch whole or not at all, as the store does.
    pub fn apply(&mut self, batch: &Batch) -> Outcome {
        let conflicts: Vec<Conflict> = batch
            .checks
            .iter()
            .filter_map(|check| {
                let found = self.revisions.get(&check.key).copied();
                let holds = match check.expect {
                    Precondition::Absent => found.is_none(),
                    Precondition::Present => found.is_some(),
                    Precondition::AtRevision(revision) => found == Some(revision),
                };
                (!holds).then(|| Conflict { key: check.key.clone(), expected: check.expect, found })
            })
            .collect();
        if !conflicts.is_empty() {
            return Outcome::Refused { conflicts };
        }
        self.revision += 1;
        for write in &batch.writes {
            match write {
                Write::Put { key, body } => self.put(key, body.clone()),
                Write::Delete { key } => {
                    self.revisions.remove(key);
                    self.fleet.remove(key);
                }
            }
        }
        Outcome::Applied { revision: self.revision }
    }

    fn put(&mut self, key: &Key, body: Vec<u8>) {
        let document = Document { key: key.clone(), body, created: self.revision, modified: self.revision };
        self.revisions.insert(key.clone(), self.revision);
        // What can not be read is kept as such by the view.
        let _unreadable = self.fleet.put(&document);
    }

    /// Plans and applies until a plan is empty. Returns the last plan, what was decided, and whether
    /// the end was reached. `devices` lets devices act between plans.
    pub fn settle(&mut self, now: Timestamp, devices: bool) -> (Plan, Vec<String>, bool) {
        let mut steps = Vec::new();
        for _ in 0..ROUNDS_LIMIT {
            let planned = plan(&self.fleet, now);
            let mut applied = 0;
            for step in &planned.batches {
                if matches!(self.apply(&step.batch), Outcome::Applied { .. }) {
                    steps.push(format!("{}: {}", step.object, step.why));
                    applied += 1;
                }
            }
            let acted = devices && self.devices_act(now);
            if applied == 0 && !acted {
                return (planned, steps, true);
            }
        }
        (plan(&self.fleet, now), steps, false)
    }

    /// Every device that is Ready runs what is bound to it, and ends what is marked. Returns whether
    /// anything changed.
    pub fn devices_act(&mut self, now: Timestamp) -> bool {
        let bound: Vec<(Key, Versioned<Pod>)> = self
            .fleet
            .pods
            .iter()
            .filter(|(_, pod)| {
                let node = pods::node_of(&pod.object).and_then(|name| self.fleet.nodes.get(name));
                node.is_some_and(|node| device::is_ready(&node.object))
            })
            .map(|(key, pod)| (key.clone(), pod.clone()))
            .collect();
        let mut acted = false;
        for (key, pod) in bound {
            self.revision += 1;
            if pods::is_terminating(&pod.object) {
                self.revisions.remove(&key);
                self.fleet.remove(&key);
                acted = true;
            } else if !pods::is_ready(&pod.object) && !pods::is_finished(&pod.object) {
                let ready = PodCondition {
                    type_: "Ready".into(),
                    status: "True".into(),
                    last_transition_time: Some(now.to_kubernetes()),
                    ..PodCondition::default()
                };
                let mut running = pods::with_condition(&pod.object, ready);
                running.status.get_or_insert_default().phase = Some("Running".into());
                if let Some(body) = canonical(&running) {
                    self.put(&key, body);
                    acted = true;
                }
            }
        }
        acted
    }
}

/// Plays through what these documents would lead to: they are taken as admitted (defaults set, a
/// uid given), and devices as doing what they are told at once.
pub fn plan_manifest(fleet: Fleet, documents: &[Document], now: Timestamp) -> Forecast {
    let mut rehearsal = Rehearsal::new(fleet);
    let before = rehearsal.clone();
    for document in documents {
        rehearsal.revision += 1;
        rehearsal.put(&document.key, document.body.clone());
    }
    let (last, steps, settled) = rehearsal.settle(now, true);
    let mut forecast = Forecast { steps, report: last.report, settled, ..Forecast::default() };
    for (key, revision) in rehearsal.revisions.iter().filter(|(key, _)| key.kind != super::fleet::EVENT) {
        match before.revisions.get(key) {
            None => forecast.created.push(key.clone()),
            Some(earlier) if earlier != revision => forecast.changed.push(key.clone()),
            Some(_) => {}
        }
    }
    let gone = before.revisions.keys().filter(|key| !rehearsal.revisions.contains_key(key));
    forecast.deleted = gone.filter(|key| key.kind != super::fleet::EVENT).cloned().collect();
    for (key, pod) in &rehearsal.fleet.pods {
        let placed = before.fleet.pods.get(key).and_then(|pod| pods::node_of(&pod.object));
        match pods::node_of(&pod.object) {
            Some(node) if placed.is_none() => forecast.bound.push(Binding { pod: key.clone(), node: node.to_owned() }),
            _ => {}
        }
    }
    forecast
}
