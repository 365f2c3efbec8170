//! Static pods beside those of the fleet: which of them are targets, and what of the fleet's pods only
//! mirrors them. A file that changes is another pod; it begins when nothing of the old one is left.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

use super::manifests::Manifests;
use super::reports::Report;
use crate::reconciler::container::{ObservedContainer, PodRef};
use crate::reconciler::{TargetPod, mirror_of, mirrored, shows};
use crate::resource::Timestamp;

/// The static pods that this device runs or still ends.
pub(crate) struct Statics {
    pub(crate) manifests: Manifests,
    /// By uid, with the status that was reported last.
    known: BTreeMap<String, Pod>,
    /// By uid, what was last told: the revision of the mirror that it was to replace, and the status.
    told: BTreeMap<String, (u64, Value)>,
    shown: Shown,
}

/// The static pods of this device as they are now, for those who look for more than their mirrors: these are
/// there only while the fleet can be told.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shown(Arc<Mutex<Vec<Pod>>>);

impl Shown {
    /// All of them.
    pub(crate) fn pods(&self) -> Vec<Pod> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn show<'a>(&self, pods: impl Iterator<Item = &'a Pod> + Clone) {
        let mut shown = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !pods.clone().eq(shown.iter()) {
            *shown = pods.cloned().collect();
        }
    }
}

/// What the fleet is to be told of static pods.
pub(crate) type Told = Vec<(PodRef, Report)>;

impl Statics {
    pub(crate) fn new(manifests: Manifests, shown: Shown) -> Self {
        Self { manifests, known: BTreeMap::new(), told: BTreeMap::new(), shown }
    }

    /// Takes the mirrors out of the pods that the fleet has bound here, and puts the static pods in.
    /// Returns what is to be told of mirrors that are missing or show what is not there any more.
    pub(crate) fn mix(&mut self, pods: &mut Vec<TargetPod>, containers: &[ObservedContainer], now: Timestamp) -> Told {
        let mirrors: Vec<TargetPod> = pods.extract_if(.., |pod| mirrored(&pod.pod).is_some()).collect();
        self.follow(containers, now);
        let mut told = Vec::new();
        for pod in self.known.values_mut() {
            let mirror = mirrors.iter().find(|mirror| same_name(&mirror.pod, pod));
            let shown = mirror.filter(|mirror| shows(&mirror.pod, pod));
            if pod.status.is_none() {
                pod.status = shown.and_then(|mirror| mirror.pod.status.clone());
            }
            let revision = shown.map_or(0, |mirror| mirror.revision);
            // What was told may have been refused: somebody changed the mirror while this device was cut off.
            if let Some(mirror) = shown
                && let Some(reference) = reference(pod)
                && status_of(pod) != status_of(&mirror.pod)
            {
                let telling = (mirror.revision, status_of(pod));
                if self.told.get(&reference.uid) != Some(&telling) {
                    self.told.insert(reference.uid.clone(), telling);
                    told.push((reference, Report::Mirror { revision, object: Box::new(mirror_of(pod)) }));
                }
            }
            if mirror.is_none()
                && pod.status.is_some()
                && pod.metadata.deletion_timestamp.is_none()
                && let Some(reference) = reference(pod)
            {
                told.push((reference, Report::Mirror { revision: 0, object: Box::new(mirror_of(pod)) }));
            }
            pods.push(TargetPod { pod: pod.clone(), revision });
        }
        self.shown.show(self.known.values());
        let runs = |mirror: &TargetPod| {
            let mut all = self.known.values().filter(|pod| pod.metadata.deletion_timestamp.is_none());
            all.any(|pod| same_name(&mirror.pod, pod) && shows(&mirror.pod, pod))
        };
        for stale in mirrors.iter().filter(|mirror| !runs(mirror)) {
            told.extend(reference(&stale.pod).map(|reference| (reference, Report::Gone { revision: stale.revision })));
        }
        told
    }

    /// Follows the files: what they do not say any more is deleted, what they say anew begins.
    fn follow(&mut self, containers: &[ObservedContainer], now: Timestamp) {
        let wanted = self.manifests.pods();
        for pod in self.known.values_mut() {
            if !wanted.iter().any(|wanted| wanted.metadata.uid == pod.metadata.uid) {
                pod.metadata.deletion_timestamp.get_or_insert_with(|| now.to_kubernetes());
            }
        }
        for pod in wanted {
            let Some(own) = reference(pod) else { continue };
            let other =
                |other: &PodRef| other.uid != own.uid && (&other.namespace, &other.name) == (&own.namespace, &own.name);
            let in_the_way = containers.iter().any(|container| other(&container.reference.pod))
                || self.known.values().filter_map(reference).any(|known| other(&known));
            if !in_the_way {
                self.known.entry(own.uid).or_insert_with(|| pod.clone());
            }
        }
    }

    /// Whether this is a static pod.
    pub(crate) fn has(&self, pod: &PodRef) -> bool {
        self.known.contains_key(&pod.uid)
    }

    /// What is to be told of a static pod instead of a report of the reconciler, if anything.
    pub(crate) fn report(&mut self, pod: &PodRef, report: Report) -> Option<Report> {
        match report {
            Report::Status { revision, object } => {
                let known = self.known.get_mut(&pod.uid)?;
                known.status.clone_from(&object.status);
                self.told.insert(pod.uid.clone(), (revision, status_of(&object)));
                Some(Report::Mirror { revision, object: Box::new(mirror_of(&object)) })
            }
            // Its mirror goes in the next round.
            Report::Gone { .. } => {
                self.known.remove(&pod.uid);
                self.told.remove(&pod.uid);
                None
            }
            Report::Mirror { .. } => Some(report),
        }
    }
}

/// A pod's status as it is stored.
fn status_of(pod: &Pod) -> Value {
    serde_json::to_value(&pod.status).unwrap_or_default()
}

fn same_name(one: &Pod, other: &Pod) -> bool {
    one.metadata.name == other.metadata.name && one.metadata.namespace == other.metadata.namespace
}

fn reference(pod: &Pod) -> Option<PodRef> {
    let meta = &pod.metadata;
    Some(PodRef { namespace: meta.namespace.clone()?, name: meta.name.clone()?, uid: meta.uid.clone()? })
}
