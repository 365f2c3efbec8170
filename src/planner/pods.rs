//! What controllers ask of a pod, and how they end one.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodCondition};

use super::draft::Step;
use super::fleet::Versioned;
use super::view::View;
use crate::resource::Timestamp;
use crate::store::Key;

/// Seconds between asking and killing when a pod does not say.
const DEFAULT_GRACE_SECONDS: i64 = 30;

pub(super) fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).filter(|name| !name.is_empty())
}

pub(super) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
}

pub(super) fn is_finished(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

pub(super) fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Counts towards the replicas of its owner.
pub(super) fn is_active(pod: &Pod) -> bool {
    !is_finished(pod) && !is_terminating(pod)
}

pub(super) fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.iter().flatten().find(|condition| condition.type_ == kind)
}

pub(super) fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|condition| condition.status == "True")
}

/// The moment from which a ready pod counts as available; `None` while it is not ready. The device's clock
/// may be ahead of the leader's: then its word is taken for it.
pub(super) fn available_at(pod: &Pod, min_ready: Duration, now: Timestamp) -> Option<Timestamp> {
    let ready = condition(pod, "Ready").filter(|condition| condition.status == "True")?;
    let since = ready.last_transition_time.as_ref().map_or(Timestamp(0), Timestamp::from);
    Some(if min_ready.is_zero() || since > now { Timestamp(0) } else { since.plus(min_ready) })
}

/// The pod with a condition set: its transition time moves only with its status.
pub(super) fn with_condition(pod: &Pod, new: PodCondition) -> Pod {
    let mut changed = pod.clone();
    let conditions = changed.status.get_or_insert_default().conditions.get_or_insert_default();
    match conditions.iter_mut().find(|condition| condition.type_ == new.type_) {
        Some(stored) => {
            let time = if stored.status == new.status {
                stored.last_transition_time.clone()
            } else {
                new.last_transition_time.clone()
            };
            *stored = PodCondition { last_transition_time: time, ..new };
        }
        None => conditions.push(new),
    }
    changed
}

/// Ends a pod: one that no device has yet, or has done with, is removed; another is marked, and
/// its device removes it when its containers are gone.
pub(super) fn end(step: Step, view: &View<'_>, key: &Key, pod: &Versioned<Pod>) -> Step {
    if node_of(&pod.object).is_none() {
        return step.remove(key, pod.revision);
    }
    if is_terminating(&pod.object) {
        return step;
    }
    let mut marked = pod.object.clone();
    let spec = marked.spec.as_ref();
    let grace = spec.and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(DEFAULT_GRACE_SECONDS).max(0);
    let span = Duration::from_secs(grace.unsigned_abs());
    marked.metadata.deletion_grace_period_seconds = Some(grace);
    marked.metadata.deletion_timestamp = Some(view.now.plus(span).to_kubernetes());
    step.replace(key, pod.revision, &marked)
}
