//! Volumes that outlive pods: a claim is bound to the device of the first pod that uses it, and pods
//! that use it later go there, because the data is there. It writes that on the claim, together with
//! the pod's binding, so that no two devices ever have a volume of one claim.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};

use super::draft::{Draft, Step};
use super::fleet::{CLAIM, Versioned};
use super::pods;
use super::view::View;
use crate::resource::claim::{self, SELECTED_NODE};
use crate::store::Key;

/// The claims that a pod uses.
pub(super) struct Claims<'a> {
    found: BTreeMap<Key, &'a Versioned<PersistentVolumeClaim>>,
}

impl<'a> Claims<'a> {
    /// Looks a pod's claims up. The name of one that does not exist is the error.
    pub(super) fn of(view: &View<'a>, pod: &Pod) -> Result<Self, String> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let mut found = BTreeMap::new();
        for name in claim::used_by(pod) {
            let key = Key::new(CLAIM, namespace, name.clone());
            match view.fleet.claims.get(&key) {
                Some(claim) => drop(found.insert(key, claim)),
                None => return Err(name),
            }
        }
        Ok(Self { found })
    }

    /// Whether this plan binds one of them already, for another pod.
    pub(super) fn are_being_bound(&self, draft: &Draft) -> bool {
        self.found.keys().any(|key| draft.writes(key))
    }

    /// Whether all volumes are on a device, or can be made there.
    pub(super) fn allow(&self, device: &str) -> bool {
        self.found.values().all(|claim| claim::device_of(&claim.object).is_none_or(|bound| bound == device))
    }

    /// Where the volumes are, in words; empty when none is bound.
    pub(super) fn places(&self) -> String {
        let place = |(key, claim): (&Key, &&Versioned<PersistentVolumeClaim>)| {
            let device = claim::device_of(&claim.object)?;
            Some(format!(" The volume of claim {:?} is on device {device}.", key.name))
        };
        self.found.iter().filter_map(place).collect()
    }

    /// Binds what is not bound to a device, and relies on the rest as it is.
    pub(super) fn bind(&self, mut step: Step, device: &str) -> Step {
        for (key, claim) in &self.found {
            if claim::device_of(&claim.object).is_some() {
                step = step.require(key, claim.revision);
                continue;
            }
            let mut bound = claim.object.clone();
            let annotations = bound.metadata.annotations.get_or_insert_default();
            annotations.insert(SELECTED_NODE.to_owned(), device.to_owned());
            step = step.replace(key, claim.revision, &bound);
        }
        step
    }
}

/// Binds the claims of pods that named their device themselves.
pub(super) fn plan(view: &View<'_>, draft: &mut Draft) {
    for (key, pod) in &view.fleet.pods {
        let Some(device) = pods::node_of(&pod.object).filter(|_| !pods::is_finished(&pod.object)) else { continue };
        let Ok(claims) = Claims::of(view, &pod.object) else { continue };
        if claims.found.is_empty() || claims.are_being_bound(draft) || !claims.allow(device) {
            continue;
        }
        if claims.found.values().any(|claim| claim::device_of(&claim.object).is_none()) {
            let step = claims.bind(Step::default().require(key, pod.revision), device);
            draft.push(key, format!("its claims are bound to {device}"), step);
        }
    }
}
