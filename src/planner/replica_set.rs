//! ReplicaSet: as many pods as it asks for. It makes and ends pods and keeps its own counts; where
//! pods run is not its concern.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::draft::{Draft, Step};
use super::fleet::{POD, Versioned};
use super::view::{Standing, View};
use super::{PODS_PER_BATCH, Reason, device, pods};
use crate::resource::occurrence::{Occurrence, derived_uid, reference_to};
use crate::resource::{Timestamp, footprint, names};
use crate::store::Key;

/// Counts the pods that a ReplicaSet ever made: part of each pod's name and uid, so that neither
/// comes twice.
pub(super) const PODS_MADE: &str = "kith.dev/pods-made";

/// Names that are tried before a pod's making is left to the next plan.
const NAME_ATTEMPTS: u64 = 16;

type OwnPod<'a> = (&'a Key, &'a Versioned<Pod>);

pub(super) fn plan(view: &View<'_>, draft: &mut Draft) {
    for (key, set) in &view.fleet.replica_sets {
        if set.object.metadata.deletion_timestamp.is_none() && !view.is_ending(&key.namespace) {
            reconcile(view, draft, key, set);
        }
    }
}

fn reconcile(view: &View<'_>, draft: &mut Draft, key: &Key, set: &Versioned<ReplicaSet>) {
    let own = view.pods_of(&set.object.metadata);
    for (pod_key, pod) in
        own.iter().filter(|(_, pod)| pods::is_finished(&pod.object) && !pods::is_terminating(&pod.object))
    {
        let step = pods::end(Step::default().require(key, set.revision), view, pod_key, pod);
        draft.push(pod_key, "it has ended; another is made in its place", step);
    }
    let active: Vec<OwnPod<'_>> = own.iter().filter(|(_, pod)| pods::is_active(&pod.object)).copied().collect();
    let wanted = replicas(&set.object);
    if active.len() > wanted {
        remove_surplus(view, draft, key, set, active.clone(), wanted);
    }
    let lingering = lingering(view, draft, own);
    let missing = wanted.saturating_sub(active.len() + lingering);
    if lingering > 0 && missing < wanted.saturating_sub(active.len()) {
        let text = format!("{lingering} of its pods may still run, and must never run twice: their end is waited for");
        draft.note(key, Reason::Terminating, text);
    }
    let status = status(view, draft, set, &active);
    let mut changed = set.object.clone();
    changed.status = Some(status);
    if missing > 0 {
        make(view, draft, key, set, changed, missing);
    } else if changed.status != set.object.status {
        draft.push(key, "its counts changed", Step::default().replace(key, set.revision, &changed));
    }
}

pub(super) fn replicas(set: &ReplicaSet) -> usize {
    let wanted = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    usize::try_from(wanted).unwrap_or(0)
}

/// Pods that are to end and may still run, where none may run twice: they are missed only once they are gone.
fn lingering(view: &View<'_>, draft: &mut Draft, own: &[OwnPod<'_>]) -> usize {
    let ending = |pod: &Pod| pods::is_terminating(pod) && !pods::is_finished(pod) && pods::node_of(pod).is_some();
    let left = own.iter().filter(|(_, pod)| ending(&pod.object)).filter_map(|(_, pod)| view.may_run_for(&pod.object));
    let left: Vec<Duration> = left.filter(|left| !left.is_zero()).collect();
    if let Some(soonest) = left.iter().min() {
        draft.wake(view.now.plus(*soonest + device::SLACK));
    }
    left.len()
}

/// How many pods there are of a ReplicaSet, and how well they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Census {
    pub(super) active: usize,
    pub(super) ready: usize,
    pub(super) available: usize,
}

/// Counts active pods; also says when the next ready one becomes available.
pub(super) fn census(view: &View<'_>, set: &ReplicaSet) -> (Census, Option<Timestamp>) {
    let seconds = set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0).max(0);
    let min_ready = Duration::from_secs(u64::from(seconds.unsigned_abs()));
    let mut census = Census::default();
    let mut next: Option<Timestamp> = None;
    for (_, pod) in view.pods_of(&set.metadata).iter().filter(|(_, pod)| pods::is_active(&pod.object)) {
        census.active += 1;
        let Some(at) = pods::available_at(&pod.object, min_ready, view.now) else { continue };
        census.ready += 1;
        if at <= view.now {
            census.available += 1;
        } else {
            next = Some(next.map_or(at, |earlier| earlier.min(at)));
        }
    }
    (census, next)
}

fn status(view: &View<'_>, draft: &mut Draft, set: &Versioned<ReplicaSet>, active: &[OwnPod<'_>]) -> ReplicaSetStatus {
    let (census, next) = census(view, &set.object);
    if let Some(at) = next {
        draft.wake(at);
    }
    let template = set.object.spec.as_ref().and_then(|spec| spec.template.as_ref());
    let labels = template.and_then(|template| template.metadata.as_ref()).and_then(|meta| meta.labels.as_ref());
    let labeled = active.iter().filter(|(_, pod)| {
        let own = pod.object.metadata.labels.as_ref();
        labels.into_iter().flatten().all(|(key, value)| own.and_then(|own| own.get(key)) == Some(value))
    });
    ReplicaSetStatus {
        replicas: count(census.active),
        fully_labeled_replicas: Some(count(labeled.count())),
        ready_replicas: Some(count(census.ready)),
        available_replicas: Some(count(census.available)),
        observed_generation: set.object.metadata.generation,
        conditions: set.object.status.as_ref().and_then(|status| status.conditions.clone()),
        terminating_replicas: None,
    }
}

pub(super) fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// Makes missing pods, and counts them in the same write.
fn make(
    view: &View<'_>,
    draft: &mut Draft,
    key: &Key,
    set: &Versioned<ReplicaSet>,
    mut changed: ReplicaSet,
    missing: usize,
) {
    let mut made = made_so_far(&set.object);
    let mut step = Step::default();
    let mut names: Vec<String> = Vec::new();
    let mut fresh = 0;
    for _ in 0..missing.min(PODS_PER_BATCH) {
        let Some((name, uid)) = fresh_name(view, key, &set.object, &mut made, &names) else { break };
        let Some(pod) = new_pod(view, &set.object, &name, &uid) else {
            draft.note(key, Reason::Unschedulable, "the ReplicaSet has no pod template");
            return;
        };
        let occurrence = Occurrence {
            involved: reference_to(&set.object),
            warning: false,
            reason: "SuccessfulCreate",
            message: format!("Created pod: {name}"),
            component: device::COMPONENT,
            host: String::new(),
        };
        step = step.create(&Key::new(POD, &key.namespace, &name), &pod).event(view, &occurrence);
        names.push(name);
        fresh += 1;
    }
    if fresh == 0 {
        draft.note(key, Reason::NameTaken, "no free name was found for a pod; the next plan tries again");
        return;
    }
    let annotations = changed.metadata.annotations.get_or_insert_default();
    annotations.insert(PODS_MADE.into(), made.to_string());
    let step = step.replace(key, set.revision, &changed);
    draft.push(key, format!("makes {fresh} of {missing} missing pods: {}", names.join(", ")), step);
}

fn made_so_far(set: &ReplicaSet) -> u64 {
    let stored = set.metadata.annotations.as_ref().and_then(|all| all.get(PODS_MADE));
    stored.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// The next free name, and a uid that no earlier pod had.
fn fresh_name(
    view: &View<'_>,
    key: &Key,
    set: &ReplicaSet,
    made: &mut u64,
    taken: &[String],
) -> Option<(String, String)> {
    let owner = set.metadata.uid.as_deref().unwrap_or_default();
    for _ in 0..NAME_ATTEMPTS {
        *made += 1;
        let uid = derived_uid(&["pod", owner, &made.to_string(), &view.now.0.to_string()]);
        let random = u64::from_str_radix(&uid[..8], 16).unwrap_or(*made);
        let name = names::generated(&format!("{}-", key.name), &names::suffix(random));
        let pod_key = Key::new(POD, &key.namespace, &name);
        if !view.fleet.pods.contains_key(&pod_key)
            && !view.fleet.unreadable.contains(&pod_key)
            && !taken.contains(&name)
        {
            return Some((name, uid));
        }
    }
    None
}

fn new_pod(view: &View<'_>, set: &ReplicaSet, name: &str, uid: &str) -> Option<Pod> {
    let template = set.spec.as_ref()?.template.as_ref()?;
    let spec = template.spec.clone()?;
    let meta = template.metadata.clone().unwrap_or_default();
    let owner = OwnerReference {
        api_version: "apps/v1".into(),
        kind: "ReplicaSet".into(),
        name: set.metadata.name.clone()?,
        uid: set.metadata.uid.clone()?,
        controller: Some(true),
        block_owner_deletion: Some(true),
    };
    let status = PodStatus {
        phase: Some("Pending".into()),
        qos_class: Some(footprint::qos_class(&spec).into()),
        ..PodStatus::default()
    };
    Some(Pod {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            generate_name: Some(format!("{}-", set.metadata.name.as_deref()?)),
            namespace: set.metadata.namespace.clone(),
            uid: Some(uid.to_owned()),
            creation_timestamp: Some(view.now.to_kubernetes()),
            labels: meta.labels,
            annotations: meta.annotations,
            owner_references: Some(vec![owner]),
            generation: Some(1),
            ..ObjectMeta::default()
        },
        spec: Some(spec),
        status: Some(status),
    })
}

/// Ends the pods that are missed least.
fn remove_surplus(
    view: &View<'_>,
    draft: &mut Draft,
    key: &Key,
    set: &Versioned<ReplicaSet>,
    mut active: Vec<OwnPod<'_>>,
    wanted: usize,
) {
    // The first copy on a device counts 1, the next 2: what is left stays spread.
    active.sort_by_cached_key(|(key, pod)| dispensability(view, key, &pod.object, 0));
    let mut crowd: BTreeMap<&str, usize> = BTreeMap::new();
    let mut crowded: BTreeMap<&Key, usize> = BTreeMap::new();
    for (key, pod) in active.iter().rev() {
        let copies = crowd.entry(pods::node_of(&pod.object).unwrap_or_default()).or_default();
        *copies += 1;
        crowded.insert(key, *copies);
    }
    active.sort_by_cached_key(|(key, pod)| {
        dispensability(view, key, &pod.object, crowded.get(key).copied().unwrap_or(0))
    });
    let surplus = active.len() - wanted;
    for (pod_key, pod) in active.into_iter().take(surplus) {
        let occurrence = Occurrence {
            involved: reference_to(&set.object),
            warning: false,
            reason: "SuccessfulDelete",
            message: format!("Deleted pod: {}", pod_key.name),
            component: device::COMPONENT,
            host: String::new(),
        };
        let step = pods::end(Step::default().require(key, set.revision), view, pod_key, pod).event(view, &occurrence);
        draft.push(pod_key, format!("{} asks for {wanted} pods", key.name), step);
    }
}

/// Smaller goes first: unbound, lost, pending, not ready, crowded, newest.
fn dispensability(view: &View<'_>, key: &Key, pod: &Pod, crowded: usize) -> impl Ord + use<> {
    let node = pods::node_of(pod);
    let lost = node.is_some_and(|node| matches!(view.standing(node), Standing::Lost(_)));
    let created = pod.metadata.creation_timestamp.as_ref().map_or(Timestamp(0), Timestamp::from);
    (
        node.is_some(),
        !lost,
        pods::phase(pod) == "Running",
        pods::is_ready(pod),
        Reverse(crowded),
        Reverse(created),
        key.clone(),
    )
}
