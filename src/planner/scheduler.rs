//! The scheduler: binds each waiting pod to a device that fits, or says why none does. It only
//! writes `spec.nodeName` and the pod's own PodScheduled condition.
//!
//! Pods of a higher priority choose first. Among devices that fit, those that have the images come first, then those with the fewest
//! copies of the same owner, then the emptiest, then the one that a hash of the pod and the device
//! prefers, so that ties neither depend on an order nor always fall on the same device.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, PodCondition};
use sha2::{Digest, Sha256};

use super::claims::Claims;
use super::draft::{Draft, Step};
use super::fit::{self, Demand, Offer};
use super::fleet::Versioned;
use super::view::View;
use super::{Reason, device, pods};
use crate::resource::Timestamp;
use crate::resource::occurrence::{Occurrence, reference_to};
use crate::resource::priority::Class;
use crate::store::Key;

pub(super) fn plan(view: &View<'_>, draft: &mut Draft) {
    let mut waiting: Vec<(&Key, &Versioned<Pod>)> =
        view.fleet.pods.iter().filter(|(_, pod)| waits(&pod.object)).collect();
    if waiting.is_empty() {
        return;
    }
    waiting.sort_by_key(|(key, pod)| {
        let created = pod.object.metadata.creation_timestamp.as_ref().map_or(Timestamp(0), Timestamp::from);
        (std::cmp::Reverse(view.priority(&pod.object)), created, *key)
    });
    let mut offers: Vec<Offer<'_>> = view
        .fleet
        .nodes
        .iter()
        .filter(|(name, _)| view.is_member(name))
        .map(|(name, node)| Offer::of(view, name, node))
        .collect();
    for (key, pod) in waiting {
        if !draft.writes(key) {
            place(view, draft, &mut offers, key, pod);
        }
    }
}

fn waits(pod: &Pod) -> bool {
    let gated =
        pod.spec.as_ref().and_then(|spec| spec.scheduling_gates.as_ref()).is_some_and(|gates| !gates.is_empty());
    pods::node_of(pod).is_none() && pods::is_active(pod) && !gated
}

fn place<'a>(view: &View<'a>, draft: &mut Draft, offers: &mut [Offer<'a>], key: &Key, pod: &'a Versioned<Pod>) {
    let Some(demand) = Demand::of(&pod.object) else {
        draft.note(key, Reason::Unschedulable, "the pod has no spec");
        return;
    };
    let class = match pod.object.spec.as_ref().map_or(Ok(None), |spec| view.class_of(spec)) {
        Ok(class) => class,
        Err(why) => return refuse(view, draft, key, pod, format!("{why}.")),
    };
    let claims = match Claims::of(view, &pod.object) {
        Ok(claims) => claims,
        Err(name) => {
            let nodes = offers.len();
            let text = format!("0/{nodes} nodes are available: persistentvolumeclaim {name:?} not found.");
            return refuse(view, draft, key, pod, text);
        }
    };
    if claims.are_being_bound(draft) {
        // The next plan knows where.
        return;
    }
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    let mut best: Option<(Score, usize)> = None;
    for (index, offer) in offers.iter().enumerate() {
        let mut refusals = offer.refusals(view, &pod.object, &demand);
        if refusals.is_empty() && !claims.allow(offer.name) {
            refusals.push("node(s) had volume node affinity conflict".into());
        }
        if refusals.is_empty() {
            let score = Score::of(offer, &demand, &pod.object);
            if best.as_ref().is_none_or(|(highest, _)| score > *highest) {
                best = Some((score, index));
            }
        }
        for reason in refusals {
            *reasons.entry(reason).or_default() += 1;
        }
    }
    match best {
        Some((_, index)) => {
            if bind(view, draft, &offers[index], (key, pod), class, &claims) {
                offers[index].take(&demand, true);
            }
        }
        None => refuse(view, draft, key, pod, fit::refusal_text(offers.len(), &reasons) + &claims.places()),
    }
}

/// Larger is better; fields in order of weight.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Score {
    has_images: bool,
    copies: std::cmp::Reverse<usize>,
    slack: u64,
    bound: std::cmp::Reverse<usize>,
    chance: [u8; 8],
}

impl Score {
    fn of(offer: &Offer<'_>, demand: &Demand<'_>, pod: &Pod) -> Self {
        let mut digest = Sha256::new();
        digest.update(pod.metadata.uid.as_deref().unwrap_or_default());
        digest.update([0]);
        digest.update(offer.name);
        let mut chance = [0; 8];
        chance.copy_from_slice(&digest.finalize()[..8]);
        Self {
            has_images: offer.has_images(demand),
            copies: std::cmp::Reverse(offer.copies(demand)),
            slack: offer.slack(demand),
            bound: std::cmp::Reverse(offer.bound),
            chance,
        }
    }
}

fn bind(
    view: &View<'_>,
    draft: &mut Draft,
    offer: &Offer<'_>,
    (key, pod): (&Key, &Versioned<Pod>),
    class: Option<Class<'_>>,
    claims: &Claims<'_>,
) -> bool {
    let scheduled = PodCondition {
        type_: "PodScheduled".into(),
        status: "True".into(),
        last_transition_time: Some(view.now.to_kubernetes()),
        ..PodCondition::default()
    };
    let mut bound = pods::with_condition(&pod.object, scheduled);
    let spec = bound.spec.get_or_insert_default();
    spec.node_name = Some(offer.name.to_owned());
    if let Some(class) = class {
        // A pod of a template: for others it was done when they were made.
        spec.priority = Some(class.value);
        spec.priority_class_name = Some(class.name.to_owned());
    }
    let occurrence = Occurrence {
        involved: reference_to(&pod.object),
        warning: false,
        reason: "Scheduled",
        message: format!("Successfully assigned {}/{} to {}", key.namespace, key.name, offer.name),
        component: device::COMPONENT,
        host: String::new(),
    };
    let step = Step::default()
        .require(&fit::node_key(offer.name), offer.node.revision)
        .replace(key, pod.revision, &bound)
        .event(view, &occurrence);
    draft.push(key, format!("binds to {}", offer.name), claims.bind(step, offer.name))
}

/// Says on the pod why it waits, once for each new reason.
fn refuse(view: &View<'_>, draft: &mut Draft, key: &Key, pod: &Versioned<Pod>, text: String) {
    draft.note(key, Reason::Unschedulable, text.clone());
    let told = pods::condition(&pod.object, "PodScheduled");
    if told.is_some_and(|told| told.status == "False" && told.message.as_deref() == Some(&text)) {
        return;
    }
    let unscheduled = PodCondition {
        type_: "PodScheduled".into(),
        status: "False".into(),
        reason: Some("Unschedulable".into()),
        message: Some(text.clone()),
        last_transition_time: Some(view.now.to_kubernetes()),
        ..PodCondition::default()
    };
    let mut changed = pods::with_condition(&pod.object, unscheduled);
    changed.status.get_or_insert_default().phase.get_or_insert_with(|| "Pending".into());
    let occurrence = Occurrence {
        involved: reference_to(&pod.object),
        warning: true,
        reason: "FailedScheduling",
        message: text,
        component: device::COMPONENT,
        host: String::new(),
    };
    let step = Step::default().replace(key, pod.revision, &changed).event(view, &occurrence);
    draft.push(key, "no device fits", step);
}
