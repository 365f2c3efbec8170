//! The fleet with the look-ups that controllers share: pods by device and by owner, which devices
//! are heard of. Built once for each plan.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::contract;
use super::fleet::{Fleet, Versioned};
use crate::resource::Timestamp;
use crate::resource::priority::{self, Class};
use crate::store::Key;

pub(super) struct View<'a> {
    pub(super) fleet: &'a Fleet,
    pub(super) now: Timestamp,
    pods_by_node: BTreeMap<&'a str, Vec<(&'a Key, &'a Versioned<Pod>)>>,
    pods_by_owner: BTreeMap<&'a str, Vec<(&'a Key, &'a Versioned<Pod>)>>,
    sets_by_owner: BTreeMap<&'a str, Vec<(&'a Key, &'a Versioned<ReplicaSet>)>>,
}

/// How much is known of a device's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It spoke less than `lost-after` ago.
    Heard,
    /// It is silent, but this leader has not waited long enough to call it lost.
    Silent(Duration),
    /// It is silent for `lost-after` or longer.
    Lost(Duration),
}

impl<'a> View<'a> {
    pub(super) fn new(fleet: &'a Fleet, now: Timestamp) -> Self {
        let mut view = Self {
            fleet,
            now,
            pods_by_node: BTreeMap::new(),
            pods_by_owner: BTreeMap::new(),
            sets_by_owner: BTreeMap::new(),
        };
        for (key, pod) in &fleet.pods {
            if let Some(node) = super::pods::node_of(&pod.object) {
                view.pods_by_node.entry(node).or_default().push((key, pod));
            }
            if let Some(owner) = controller_of(&pod.object.metadata) {
                view.pods_by_owner.entry(owner).or_default().push((key, pod));
            }
        }
        for (key, set) in &fleet.replica_sets {
            if let Some(owner) = controller_of(&set.object.metadata) {
                view.sets_by_owner.entry(owner).or_default().push((key, set));
            }
        }
        view
    }

    pub(super) fn pods_on(&self, node: &str) -> &[(&'a Key, &'a Versioned<Pod>)] {
        self.pods_by_node.get(node).map_or(&[], Vec::as_slice)
    }

    /// Devices that pods are bound to, whether or not they have a document.
    pub(super) fn bound_nodes(&self) -> impl Iterator<Item = &'a str> {
        self.pods_by_node.keys().copied()
    }

    pub(super) fn pods_of(&self, owner: &ObjectMeta) -> &[(&'a Key, &'a Versioned<Pod>)] {
        owner.uid.as_deref().and_then(|uid| self.pods_by_owner.get(uid)).map_or(&[], Vec::as_slice)
    }

    pub(super) fn sets_of(&self, owner: &ObjectMeta) -> &[(&'a Key, &'a Versioned<ReplicaSet>)] {
        owner.uid.as_deref().and_then(|uid| self.sets_by_owner.get(uid)).map_or(&[], Vec::as_slice)
    }

    /// How long nothing was heard from a device, as far as this leader can tell: no longer than it leads.
    pub(super) fn silence(&self, node: &str) -> Duration {
        let leads = self.fleet.leader_for;
        self.fleet.liveness.get(node).map_or(leads, |liveness| liveness.silent_for.min(leads))
    }

    /// How much longer a pod may run on its device, as far as this leader can tell, which must then be waited
    /// for; zero when it surely does not run any more; `None` when its device keeps it for ever.
    pub(super) fn may_run_for(&self, pod: &Pod) -> Option<Duration> {
        let over_after = contract::of(pod, &self.fleet.settings).over_after?;
        let leads = self.fleet.leader_for;
        let liveness = super::pods::node_of(pod).and_then(|node| self.fleet.liveness.get(node));
        let apart = liveness.and_then(|liveness| liveness.asked_for).map_or(leads, |asked| asked.min(leads));
        Some(over_after.saturating_sub(apart))
    }

    pub(super) fn standing(&self, node: &str) -> Standing {
        let limit = self.fleet.settings.lost_after;
        let heard = self.fleet.liveness.get(node).is_some_and(|liveness| liveness.silent_for < limit);
        match self.silence(node) {
            _ if heard => Standing::Heard,
            silence if silence >= limit => Standing::Lost(silence),
            silence => Standing::Silent(silence),
        }
    }

    pub(super) fn is_member(&self, node: &str) -> bool {
        self.fleet.members.is_empty() || self.fleet.members.contains(node)
    }

    /// What a pod's class makes of its priority: the class's name and value; nothing where the pod says its
    /// priority itself, or is of no class.
    pub(super) fn class_of(&self, spec: &'a PodSpec) -> Result<Option<Class<'a>>, String> {
        if spec.priority.is_some() {
            return Ok(None);
        }
        let classes = self.fleet.priority_classes.iter().map(|(name, found)| Class {
            name,
            value: found.object.value,
            global_default: found.object.global_default == Some(true),
        });
        priority::class(spec.priority_class_name.as_deref().unwrap_or_default(), classes)
    }

    /// How much a pod matters: what its spec says, or its class.
    pub(super) fn priority(&self, pod: &'a Pod) -> i32 {
        let Some(spec) = &pod.spec else { return 0 };
        let by_class = || self.class_of(spec).ok().flatten().map_or(0, |class| class.value);
        spec.priority.unwrap_or_else(by_class)
    }

    /// Whether a namespace is on its way out: nothing new is made in it.
    pub(super) fn is_ending(&self, namespace: &str) -> bool {
        self.fleet.namespaces.get(namespace).is_some_and(|found| found.object.metadata.deletion_timestamp.is_some())
    }
}

/// The uid of the owner that controls an object.
pub(super) fn controller_of(meta: &ObjectMeta) -> Option<&str> {
    meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true)).map(|owner| owner.uid.as_str())
}
