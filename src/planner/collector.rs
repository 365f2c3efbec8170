//! Garbage collection by owner: what is left of an object whose owners are all gone is deleted.
//! It follows the deletion policies of the API: background (the owner is simply gone), foreground
//! and orphan (the owner waits with a finalizer).

use std::collections::BTreeSet;

use k8s_openapi::Metadata;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde::Serialize;

use super::draft::{Draft, Step};
use super::fleet::{DEPLOYMENT, NAMESPACE, NODE, POD, REPLICA_SET, Versioned};
use super::view::View;
use super::{Reason, pods};
use crate::resource::kind;
use crate::store::Key;

/// Finalizer: dependents go first.
pub(super) const FOREGROUND: &str = "foregroundDeletion";
/// Finalizer: dependents lose their owner and stay.
pub(super) const ORPHAN: &str = "orphan";

pub(super) fn plan(view: &View<'_>, draft: &mut Draft) {
    let mut depended_on: BTreeSet<String> = BTreeSet::new();
    for (key, set) in &view.fleet.replica_sets {
        match fate(view, draft, key, &set.object.metadata, &mut depended_on) {
            Fate::Stay => {}
            Fate::Adopted(owner) => orphan(draft, key, set, &owner),
            Fate::Go(step) => drop(draft.push(key, "its owner is gone", step.remove(key, set.revision))),
        }
    }
    for (key, pod) in &view.fleet.pods {
        match fate(view, draft, key, &pod.object.metadata, &mut depended_on) {
            Fate::Stay => {}
            Fate::Adopted(owner) => orphan(draft, key, pod, &owner),
            Fate::Go(step) => drop(draft.push(key, "its owner is gone", pods::end(step, view, key, pod))),
        }
    }
    for (key, other) in &view.fleet.others {
        if let Fate::Go(step) = fate(view, draft, key, &other.object, &mut depended_on) {
            draft.push(key, "its owner is gone", step.remove(key, other.revision));
        }
    }
    finish_owners(view, draft, &depended_on);
}

enum Fate {
    Stay,
    /// Its owner goes and leaves it behind.
    Adopted(OwnerReference),
    /// It goes; the step relies on what was seen of its owners.
    Go(Step),
}

/// What becomes of an object because of its owners.
fn fate(view: &View<'_>, draft: &mut Draft, key: &Key, meta: &ObjectMeta, depended_on: &mut BTreeSet<String>) -> Fate {
    let mut step = Step::default();
    let Some(owners) = meta.owner_references.as_deref().filter(|owners| !owners.is_empty()) else { return Fate::Stay };
    for owner in owners {
        let Some(owner_key) = key_of(owner, &key.namespace) else {
            let text = format!("its owner {} {} is of a kind that is not known here", owner.kind, owner.name);
            draft.note(key, Reason::UnknownOwner, text);
            return Fate::Stay;
        };
        depended_on.insert(owner.uid.clone());
        if view.fleet.unreadable.contains(&owner_key) {
            return Fate::Stay;
        }
        match found(view, &owner_key) {
            None => step = step.require_absent(&owner_key),
            Some((meta, revision)) if meta.uid.as_deref() != Some(&owner.uid) => {
                step = step.require(&owner_key, revision);
            }
            Some((meta, revision)) => {
                let policy = |name: &str| meta.finalizers.iter().flatten().any(|finalizer| finalizer == name);
                if meta.deletion_timestamp.is_none() {
                    return Fate::Stay;
                } else if policy(ORPHAN) {
                    return Fate::Adopted(owner.clone());
                } else if policy(FOREGROUND) {
                    step = step.require(&owner_key, revision);
                } else {
                    return Fate::Stay;
                }
            }
        }
    }
    Fate::Go(step)
}

fn key_of(owner: &OwnerReference, namespace: &str) -> Option<Key> {
    let kind = kind::of(&owner.api_version, &owner.kind)?;
    Some(Key::new(kind.store_kind(), if kind.namespaced { namespace } else { "" }, &owner.name))
}

fn found<'a>(view: &View<'a>, key: &Key) -> Option<(&'a ObjectMeta, u64)> {
    fn part<T: Metadata<Ty = ObjectMeta>>(found: &Versioned<T>) -> (&ObjectMeta, u64) {
        (found.object.metadata(), found.revision)
    }
    let fleet = view.fleet;
    match key.kind.as_str() {
        NODE => fleet.nodes.get(&key.name).map(part),
        NAMESPACE => fleet.namespaces.get(&key.name).map(part),
        DEPLOYMENT => fleet.deployments.get(key).map(part),
        REPLICA_SET => fleet.replica_sets.get(key).map(part),
        POD => fleet.pods.get(key).map(part),
        _ => fleet.others.get(key).map(|other| (&other.object, other.revision)),
    }
}

/// Takes an owner off an object that it leaves behind.
fn orphan<T>(draft: &mut Draft, key: &Key, object: &Versioned<T>, owner: &OwnerReference)
where
    T: Metadata<Ty = ObjectMeta> + Serialize + Clone,
{
    let mut freed = object.object.clone();
    let meta = freed.metadata_mut();
    let left: Vec<OwnerReference> =
        meta.owner_references.take().into_iter().flatten().filter(|other| other.uid != owner.uid).collect();
    meta.owner_references = (!left.is_empty()).then_some(left);
    draft.push(key, format!("{} leaves it behind", owner.name), Step::default().replace(key, object.revision, &freed));
}

/// Removes owners that waited for their dependents, once none is left.
fn finish_owners(view: &View<'_>, draft: &mut Draft, depended_on: &BTreeSet<String>) {
    let deployments = view.fleet.deployments.iter().map(|(key, found)| (key, &found.object.metadata, found.revision));
    let sets = view.fleet.replica_sets.iter().map(|(key, found)| (key, &found.object.metadata, found.revision));
    for (key, meta, revision) in deployments.chain(sets) {
        let mut finalizers = meta.finalizers.iter().flatten().peekable();
        let ours =
            finalizers.peek().is_some() && finalizers.all(|finalizer| finalizer == FOREGROUND || finalizer == ORPHAN);
        if meta.deletion_timestamp.is_none() || !ours {
            continue;
        }
        if meta.uid.as_ref().is_some_and(|uid| depended_on.contains(uid)) {
            draft.note(key, Reason::Terminating, "it waits for what it owns to be gone");
        } else {
            draft.push(key, "nothing depends on it any more", Step::default().remove(key, revision));
        }
    }
}
