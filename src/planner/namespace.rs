//! Namespaces on their way out: everything in them is deleted, then they are.

use super::draft::{Draft, Step};
use super::fleet::NAMESPACE;
use super::view::View;
use super::{REMOVALS_PER_BATCH, Reason, pods};
use crate::store::Key;

pub(super) fn plan(view: &View<'_>, draft: &mut Draft) {
    for (name, namespace) in &view.fleet.namespaces {
        if !view.is_ending(name) {
            continue;
        }
        let key = Key::new(NAMESPACE, "", name);
        let left = empty(view, draft, &key, namespace.revision);
        if left == 0 {
            draft.push(&key, "it is empty", Step::default().remove(&key, namespace.revision));
        } else {
            draft.note(&key, Reason::Terminating, format!("{left} objects in it are not gone yet"));
        }
    }
}

/// Deletes what is in a namespace, and counts what is still there.
fn empty(view: &View<'_>, draft: &mut Draft, namespace: &Key, revision: u64) -> usize {
    let fleet = view.fleet;
    let inside = |key: &Key| key.namespace == namespace.name;
    let deployments = fleet.deployments.iter().map(|(key, found)| (key, found.revision));
    let sets = fleet.replica_sets.iter().map(|(key, found)| (key, found.revision));
    let events = fleet.events.iter().map(|(key, found)| (key, found.revision));
    let planned = deployments.chain(sets).chain(events).filter(|(key, _)| inside(key));
    let mut documents: Vec<(Key, u64)> = planned.map(|(key, at)| (key.clone(), at)).collect();
    documents.extend(fleet.others.keys(Some(&namespace.name)));
    for chunk in documents.chunks(REMOVALS_PER_BATCH) {
        let step =
            chunk.iter().fold(Step::default().require(namespace, revision), |step, (key, at)| step.remove(key, *at));
        draft.push(namespace, format!("removes {} objects in it", chunk.len()), step);
    }
    let mut left = documents.len();
    for (key, pod) in fleet.pods.iter().filter(|(key, _)| inside(key)) {
        left += 1;
        let step = pods::end(Step::default().require(namespace, revision), view, key, pod);
        draft.push(key, "its namespace is being deleted", step);
    }
    left + fleet.unreadable.iter().filter(|key| inside(key)).count()
}
