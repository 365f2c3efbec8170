//! Device lifecycle: which devices are Ready, and what becomes of the pods of a lost one.
//!
//! A pod of a lost device that a ReplicaSet owns is marked for deletion, so that it no longer
//! counts and another is made elsewhere; the device itself ends it when it returns, and exactly
//! `replicas` copies remain. A pod that nobody would make again, or that could run nowhere else,
//! stays bound and waits for its device.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, PodCondition};

use super::Reason;
use super::draft::{Draft, Step};
use super::fleet::{NODE, Versioned};
use super::view::{Standing, View};
use super::{contract, fit, pods};
use crate::resource::occurrence::{Occurrence, reference_to};
use crate::store::Key;

/// Who writes the planner's events.
pub(super) const COMPONENT: &str = "kith-planner";

/// Deadlines are met a little late, never a little early.
pub(super) const SLACK: Duration = Duration::from_millis(1);

pub(super) fn plan(view: &View<'_>, draft: &mut Draft) {
    for (name, node) in &view.fleet.nodes {
        let key = Key::new(NODE, "", name);
        if !view.is_member(name) {
            let step = Step::default().remove(&key, node.revision);
            draft.push(&key, format!("{name} is no member of the fleet any more"), step);
            continue;
        }
        let standing = view.standing(name);
        stand(view, draft, &key, node, standing);
        wake(view, draft, name, standing);
    }
    for name in view.bound_nodes() {
        if view.is_member(name) {
            replace_lost(view, draft, name);
        } else {
            remove_orphans(view, draft, name);
        }
    }
}

/// Writes the node's Ready condition when it no longer says what is known.
fn stand(view: &View<'_>, draft: &mut Draft, key: &Key, node: &Versioned<Node>, standing: Standing) {
    let (status, reason, message) = match standing {
        Standing::Heard => ("True", "DeviceReady", "the device is heard of".to_owned()),
        Standing::Lost(_) => {
            let limit = view.fleet.settings.lost_after;
            ("Unknown", "NodeLost", format!("nothing was heard of the device for {limit:?}"))
        }
        Standing::Silent(silence) => {
            let limit = view.fleet.settings.lost_after;
            let text = format!("nothing was heard of the device yet; it counts as lost after {limit:?} of silence");
            if silence > limit / 2 {
                draft.note(key, Reason::DeviceSilent, text);
            }
            return;
        }
    };
    let stored = condition(&node.object);
    if stored.is_some_and(|stored| stored.status == status && stored.reason.as_deref() == Some(reason)) {
        return;
    }
    let changed_at = stored
        .filter(|stored| stored.status == status)
        .and_then(|stored| stored.last_transition_time.clone())
        .unwrap_or_else(|| view.now.to_kubernetes());
    let ready = NodeCondition {
        type_: "Ready".into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message.clone()),
        last_heartbeat_time: Some(view.now.to_kubernetes()),
        last_transition_time: Some(changed_at),
    };
    let mut changed = node.object.clone();
    let conditions = changed.status.get_or_insert_default().conditions.get_or_insert_default();
    match conditions.iter_mut().find(|condition| condition.type_ == "Ready") {
        Some(stored) => *stored = ready,
        None => conditions.push(ready),
    }
    let lost = status != "True";
    let occurrence = Occurrence {
        involved: reference_to(&node.object),
        warning: lost,
        reason: if lost { "NodeNotReady" } else { "NodeReady" },
        message: if lost {
            format!("Device {} is lost: {message}", key.name)
        } else {
            let word = if stored.is_some() { "back" } else { "ready" };
            format!("Device {} is {word}", key.name)
        },
        component: COMPONENT,
        host: String::new(),
    };
    let step = Step::default().replace(key, node.revision, &changed).event(view, &occurrence);
    draft.push(key, format!("{} becomes Ready={status} ({reason})", key.name), step);
}

pub(super) fn condition(node: &Node) -> Option<&NodeCondition> {
    node.status.as_ref()?.conditions.iter().flatten().find(|condition| condition.type_ == "Ready")
}

pub(super) fn is_ready(node: &Node) -> bool {
    condition(node).is_some_and(|condition| condition.status == "True")
}

/// Comes again when a device that is not lost would be.
fn wake(view: &View<'_>, draft: &mut Draft, name: &str, standing: Standing) {
    let limit = view.fleet.settings.lost_after;
    match standing {
        Standing::Heard | Standing::Silent(_) => {
            let left = limit.saturating_sub(view.silence(name));
            draft.wake(view.now.plus(left + SLACK));
        }
        Standing::Lost(_) => {}
    }
}

/// Deals with the pods of a device that has been silent for as long as they put up with.
fn replace_lost(view: &View<'_>, draft: &mut Draft, name: &str) {
    let silence = view.silence(name);
    for (key, pod) in view.pods_on(name) {
        let terms = contract::of(&pod.object, &view.fleet.settings);
        for remark in &terms.remarks {
            draft.note(key, Reason::NotHonoured, remark.clone());
        }
        if pods::is_finished(&pod.object) {
            continue;
        }
        if silence < terms.lost_after {
            if terms.lost_after != view.fleet.settings.lost_after {
                draft.wake(view.now.plus(terms.lost_after.saturating_sub(silence) + SLACK));
            }
            continue;
        }
        let left = view.may_run_for(&pod.object).filter(|left| !left.is_zero());
        if let Some(left) = left {
            draft.wake(view.now.plus(left + SLACK));
        }
        if pods::is_terminating(&pod.object) {
            let text =
                format!("device {name} is lost: it ends the pod when it returns; nobody else can confirm the end");
            draft.note(key, Reason::DeviceLost, text);
        } else if left.is_some() {
            let text = format!(
                "device {name} is lost, and stops the pod by itself: nothing takes its place before that is sure"
            );
            draft.note(key, Reason::DeviceLost, text);
            mark_unready(view, draft, key, pod, name);
        } else if owned_by_set(view, &pod.object) && fit::could_run_elsewhere(view, &pod.object, name) {
            let occurrence = Occurrence {
                involved: reference_to(&pod.object),
                warning: true,
                reason: "DeviceLost",
                message: format!("Device {name} is lost: the pod is replaced elsewhere"),
                component: COMPONENT,
                host: String::new(),
            };
            let step = pods::end(Step::default(), view, key, pod).event(view, &occurrence);
            draft.push(key, format!("device {name} was silent for {:?}", terms.lost_after), step);
        } else {
            let why = if owned_by_set(view, &pod.object) {
                "no other device matches it"
            } else {
                "nothing would make it again"
            };
            draft.note(key, Reason::DeviceLost, format!("device {name} is lost; the pod stays bound to it: {why}"));
            mark_unready(view, draft, key, pod, name);
        }
    }
}

fn owned_by_set(view: &View<'_>, pod: &Pod) -> bool {
    let owner = super::view::controller_of(&pod.metadata);
    owner.is_some_and(|uid| view.fleet.replica_sets.values().any(|set| set.object.metadata.uid.as_deref() == Some(uid)))
}

/// A pod that stays on a lost device is not Ready: nobody knows how it is.
fn mark_unready(view: &View<'_>, draft: &mut Draft, key: &Key, pod: &Versioned<Pod>, name: &str) {
    if !pods::is_ready(&pod.object) {
        return;
    }
    let condition = PodCondition {
        type_: "Ready".into(),
        status: "False".into(),
        reason: Some("NodeLost".into()),
        message: Some(format!("device {name} is lost")),
        last_transition_time: Some(view.now.to_kubernetes()),
        ..PodCondition::default()
    };
    let changed = pods::with_condition(&pod.object, condition);
    draft.push(key, format!("device {name} is lost"), Step::default().replace(key, pod.revision, &changed));
}

/// Removes the pods of a device that left the fleet: nobody is there to end them.
fn remove_orphans(view: &View<'_>, draft: &mut Draft, name: &str) {
    for (key, pod) in view.pods_on(name) {
        let step = Step::default().remove(key, pod.revision);
        draft.push(key, format!("its device {name} is no member of the fleet"), step);
    }
}
