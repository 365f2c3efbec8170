//! Garbage collection by owner: an object whose owners are all gone is deleted. It relies on their
//! absence in the same write, so an owner that the view missed saves what it owns. Leaving dependents
//! behind is the API's affair: it takes the owner off them.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::draft::{Draft, Step};
use super::fleet::{DEPLOYMENT, NAMESPACE, NODE, POD, REPLICA_SET};
use super::view::View;
use super::{Reason, pods};
use crate::resource::kind;
use crate::store::Key;

pub(super) fn plan(view: &View<'_>, draft: &mut Draft) {
    for (key, set) in &view.fleet.replica_sets {
        if let Some(step) = abandoned(view, draft, key, owners(&set.object.metadata)) {
            draft.push(key, "its owner is gone", step.remove(key, set.revision));
        }
    }
    for (key, pod) in &view.fleet.pods {
        if let Some(step) = abandoned(view, draft, key, owners(&pod.object.metadata)) {
            draft.push(key, "its owner is gone", pods::end(step, view, key, pod));
        }
    }
    for (key, other) in view.fleet.others.owned() {
        if let Some(step) = abandoned(view, draft, key, &other.owners) {
            draft.push(key, "its owner is gone", step.remove(key, other.revision));
        }
    }
}

/// A step that relies on all owners of an object to be gone; `None` when one is there, or may be.
fn abandoned(view: &View<'_>, draft: &mut Draft, key: &Key, owners: &[OwnerReference]) -> Option<Step> {
    if owners.is_empty() {
        return None;
    }
    let mut step = Step::default();
    for owner in owners {
        let Some(owner_key) = key_of(owner, &key.namespace) else {
            let text = format!("its owner {} {} is of a kind that is not known here", owner.kind, owner.name);
            draft.note(key, Reason::UnknownOwner, text);
            return None;
        };
        if view.fleet.unreadable.contains(&owner_key) {
            return None;
        }
        step = match found(view, &owner_key, &owner.uid) {
            None => step.require_absent(&owner_key),
            Some((true, _)) => return None,
            // Another object has the owner's name by now.
            Some((false, revision)) => step.require(&owner_key, revision),
        };
    }
    Some(step)
}

fn key_of(owner: &OwnerReference, namespace: &str) -> Option<Key> {
    let kind = kind::of(&owner.api_version, &owner.kind)?;
    Some(Key::new(kind.store_kind(), if kind.namespaced { namespace } else { "" }, &owner.name))
}

fn owners(meta: &ObjectMeta) -> &[OwnerReference] {
    meta.owner_references.as_deref().unwrap_or_default()
}

/// Whether what stands under a key has that uid, and its revision; `None` when nothing does.
fn found(view: &View<'_>, key: &Key, uid: &str) -> Option<(bool, u64)> {
    let part = |meta: &ObjectMeta, revision: u64| (meta.uid.as_deref() == Some(uid), revision);
    let fleet = view.fleet;
    match key.kind.as_str() {
        NODE => fleet.nodes.get(&key.name).map(|found| part(&found.object.metadata, found.revision)),
        NAMESPACE => fleet.namespaces.get(&key.name).map(|found| part(&found.object.metadata, found.revision)),
        DEPLOYMENT => fleet.deployments.get(key).map(|found| part(&found.object.metadata, found.revision)),
        REPLICA_SET => fleet.replica_sets.get(key).map(|found| part(&found.object.metadata, found.revision)),
        POD => fleet.pods.get(key).map(|found| part(&found.object.metadata, found.revision)),
        _ => fleet.others.get(key).map(|other| (other.has_uid(uid), other.revision)),
    }
}
