//! Whether a pod fits on a device, and in Kubernetes' words why not. It compares; it binds nothing.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Node, Pod, PodSpec, Taint, Toleration};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

use super::fleet::Versioned;
use super::view::View;
use super::{contract, device, pods};
use crate::resource::Quantity;
use crate::resource::footprint::{self, Footprint, HostPort};
use crate::store::Key;

/// The resource of the disk.
const DISK: &str = "ephemeral-storage";

/// The taint of a device that is short of memory.
const MEMORY_PRESSURE: &str = "node.kubernetes.io/memory-pressure";

/// Pods that a device takes when it does not say.
const DEFAULT_PODS: u64 = 110;

/// A device and what is left of it.
pub(super) struct Offer<'a> {
    pub(super) name: &'a str,
    pub(super) node: &'a Versioned<Node>,
    ready: bool,
    room: Option<Footprint>,
    /// Devices and disk that are left, by resource.
    extra: BTreeMap<String, u64>,
    pods_left: u64,
    taken: Vec<HostPort>,
    images: Option<BTreeSet<String>>,
    /// Active pods by the uid of their controller.
    copies: BTreeMap<&'a str, usize>,
    pub(super) bound: usize,
}

/// What a pod asks for, read once.
pub(super) struct Demand<'a> {
    pub(super) spec: &'a PodSpec,
    pub(super) owner: Option<&'a str>,
    footprint: Footprint,
    extra: BTreeMap<String, u64>,
    ports: Vec<HostPort>,
    images: BTreeSet<String>,
}

impl<'a> Demand<'a> {
    pub(super) fn of(pod: &'a Pod) -> Option<Self> {
        let spec = pod.spec.as_ref()?;
        Some(Self {
            spec,
            owner: super::view::controller_of(&pod.metadata),
            footprint: footprint::requests(spec),
            extra: extra(spec),
            ports: footprint::host_ports(spec),
            images: spec.containers.iter().filter_map(|c| c.image.as_deref()).map(canonical_image).collect(),
        })
    }
}

impl<'a> Offer<'a> {
    /// What is left of a device, all bound pods taken off that have not ended.
    pub(super) fn of(view: &View<'a>, name: &'a str, node: &'a Versioned<Node>) -> Self {
        let status = node.object.status.as_ref();
        let allocatable = status.and_then(|status| status.allocatable.as_ref());
        let read = |name| footprint::amount(allocatable, name).ok().flatten();
        let room = match (read("cpu"), read("memory")) {
            (Some(cpu), Some(memory)) => Some(Footprint { cpu: cpu.millis(), memory: memory.units() }),
            _ => None,
        };
        let images = status.and_then(|status| status.images.as_ref());
        let names = images.map(|all| all.iter().flat_map(|image| image.names.iter().flatten()));
        let mut offer = Self {
            name,
            node,
            ready: device::is_ready(&node.object),
            room,
            extra: allocatable
                .iter()
                .flat_map(|all| all.iter())
                .filter(|(name, _)| is_extra(name))
                .filter_map(count)
                .collect(),
            pods_left: read("pods").map_or(DEFAULT_PODS, super::super::resource::Quantity::units),
            taken: Vec::new(),
            images: names.map(|names| names.map(|name| canonical_image(name)).collect()),
            copies: BTreeMap::new(),
            bound: 0,
        };
        for (_, pod) in view.pods_on(name) {
            if !pods::is_finished(&pod.object)
                && let Some(demand) = Demand::of(&pod.object)
            {
                offer.take(&demand, !pods::is_terminating(&pod.object));
            }
        }
        offer
    }

    /// Takes off what a pod asks for; `counts` when it is a copy that stays.
    pub(super) fn take(&mut self, demand: &Demand<'a>, counts: bool) {
        if let Some(room) = &mut self.room {
            room.cpu = room.cpu.saturating_sub(demand.footprint.cpu);
            room.memory = room.memory.saturating_sub(demand.footprint.memory);
        }
        for (name, count) in &demand.extra {
            if let Some(left) = self.extra.get_mut(name) {
                *left = left.saturating_sub(*count);
            }
        }
        self.pods_left = self.pods_left.saturating_sub(1);
        self.taken.extend(demand.ports.iter().cloned());
        self.bound += 1;
        if let Some(owner) = demand.owner.filter(|_| counts) {
            *self.copies.entry(owner).or_default() += 1;
        }
    }

    /// Copies of the same owner that are here already.
    pub(super) fn copies(&self, demand: &Demand<'_>) -> usize {
        demand.owner.and_then(|owner| self.copies.get(owner)).copied().unwrap_or(0)
    }

    /// Whether all images of a pod are here; a device that does not list its images may have them.
    pub(super) fn has_images(&self, demand: &Demand<'_>) -> bool {
        self.images.as_ref().is_none_or(|here| demand.images.is_subset(here))
    }

    /// Thousandths of the scarcer resource that would be left; larger is emptier.
    pub(super) fn slack(&self, demand: &Demand<'_>) -> u64 {
        let Some(room) = self.room else { return 0 };
        let left = |room: u64, wants: u64| room.saturating_sub(wants).saturating_mul(1000) / room.max(1);
        left(room.cpu, demand.footprint.cpu).min(left(room.memory, demand.footprint.memory))
    }

    /// Why a pod can not run here; empty when it can.
    pub(super) fn refusals(&self, view: &View<'_>, pod: &Pod, demand: &Demand<'_>) -> Vec<String> {
        if let Some(reason) = self.closed(view, pod) {
            return vec![reason];
        }
        if let Some(reason) = mismatch(&self.node.object, demand.spec) {
            return vec![reason];
        }
        let Some(room) = self.room else { return vec!["node(s) did not say what they can carry".into()] };
        let mut reasons = Vec::new();
        if self.taken.iter().any(|taken| demand.ports.iter().any(|port| port.conflicts(taken))) {
            reasons.push("node(s) didn't have free ports for the requested pod ports".to_owned());
        }
        if self.pods_left == 0 {
            reasons.push("Too many pods".to_owned());
        }
        if demand.footprint.cpu > room.cpu {
            reasons.push("Insufficient cpu".to_owned());
        }
        if demand.footprint.memory > room.memory {
            reasons.push("Insufficient memory".to_owned());
        }
        let short = demand.extra.iter().filter(|(name, wanted)| self.extra.get(*name).unwrap_or(&0) < *wanted);
        reasons.extend(short.map(|(name, _)| format!("Insufficient {name}")));
        reasons
    }

    /// Why the device takes no pods at all.
    fn closed(&self, view: &View<'_>, pod: &Pod) -> Option<String> {
        if self.node.object.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) {
            return Some("node(s) were unschedulable".into());
        }
        let patience = contract::of(pod, &view.fleet.settings).lost_after;
        let silent = view.fleet.liveness.contains_key(self.name) && view.silence(self.name) >= patience;
        (!self.ready || silent).then(|| "node(s) were not ready".into())
    }
}

/// The disk that a pod asks for, and its devices.
fn extra(spec: &PodSpec) -> BTreeMap<String, u64> {
    let mut extra = footprint::all_devices(spec);
    let request = |container| footprint::request(container, DISK).ok().flatten().map_or(0, Quantity::units);
    let disk: u64 = spec.containers.iter().map(request).sum();
    if disk > 0 {
        extra.insert(DISK.to_owned(), disk);
    }
    extra
}

fn is_extra(name: &str) -> bool {
    name == DISK || name.starts_with(footprint::DEVICES)
}

fn count((name, text): (&String, &Text)) -> Option<(String, u64)> {
    Some((name.clone(), text.0.parse::<Quantity>().ok()?.units()))
}

/// Why the labels or taints of a device keep a pod away.
fn mismatch(node: &Node, spec: &PodSpec) -> Option<String> {
    let labels = node.metadata.labels.as_ref();
    let selected =
        spec.node_selector.iter().flatten().all(|(key, value)| labels.and_then(|all| all.get(key)) == Some(value));
    if !selected {
        return Some("node(s) didn't match Pod's node affinity/selector".into());
    }
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    let repelled = taints.into_iter().flatten().find(|taint| {
        let repels = matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute");
        // A pod that says how much memory it needs is not what a device runs short by.
        let bearable = taint.key == MEMORY_PRESSURE && footprint::qos_class(spec) != "BestEffort";
        repels && !bearable && !spec.tolerations.iter().flatten().any(|toleration| tolerates(toleration, taint))
    })?;
    let value = repelled.value.as_deref().unwrap_or_default();
    Some(format!("node(s) had untolerated taint {{{}: {value}}}", repelled.key))
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let given = |text: &Option<String>| text.as_deref().filter(|text| !text.is_empty()).map(str::to_owned);
    if given(&toleration.effect).is_some_and(|effect| effect != taint.effect) {
        return false;
    }
    let exists = toleration.operator.as_deref() == Some("Exists");
    match given(&toleration.key) {
        None => exists,
        Some(key) if key != taint.key => false,
        Some(_) => exists || given(&toleration.value) == given(&taint.value),
    }
}

/// Whether some other device that is ready could ever take a pod: labels and taints, not load.
pub(super) fn could_run_elsewhere(view: &View<'_>, pod: &Pod, than: &str) -> bool {
    let Some(spec) = &pod.spec else { return false };
    view.fleet.nodes.iter().any(|(name, node)| {
        let open = node.object.spec.as_ref().and_then(|spec| spec.unschedulable) != Some(true);
        name != than
            && open
            && view.is_member(name)
            && matches!(view.standing(name), super::view::Standing::Heard)
            && mismatch(&node.object, spec).is_none()
    })
}

/// One name for the many ways to write an image's name.
pub(super) fn canonical_image(name: &str) -> String {
    let short = name.strip_prefix("docker.io/").unwrap_or(name);
    let short = short.strip_prefix("library/").unwrap_or(short);
    let last = short.rsplit('/').next().unwrap_or(short);
    if last.contains(':') || short.contains('@') { short.to_owned() } else { format!("{short}:latest") }
}

/// Says for all devices why a pod runs on none: `0/3 nodes are available: 1 Insufficient memory, ...`.
pub(super) fn refusal_text(nodes: usize, reasons: &BTreeMap<String, usize>) -> String {
    if nodes == 0 {
        return "no nodes available to schedule pods".into();
    }
    let list: Vec<String> = reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    format!("0/{nodes} nodes are available: {}.", list.join(", "))
}

/// The key of a node's document.
pub(super) fn node_key(name: &str) -> Key {
    Key::new(super::fleet::NODE, "", name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_have_one_name() {
        for name in ["web", "web:latest", "docker.io/library/web", "library/web:latest"] {
            assert_eq!(canonical_image(name), "web:latest", "{name}");
        }
        assert_eq!(canonical_image("reg:5000/web"), "reg:5000/web:latest");
        assert_eq!(canonical_image("web@sha256:00"), "web@sha256:00");
    }

    #[test]
    fn tolerations_follow_kubernetes() {
        let taint = Taint { key: "a".into(), value: Some("b".into()), effect: "NoSchedule".into(), time_added: None };
        let parse = |text: &str| serde_json::from_str::<Toleration>(text).unwrap();
        assert!(tolerates(&parse(r#"{"operator":"Exists"}"#), &taint));
        assert!(tolerates(&parse(r#"{"key":"a","value":"b"}"#), &taint));
        assert!(!tolerates(&parse(r#"{"key":"a","value":"c"}"#), &taint));
        assert!(!tolerates(&parse(r#"{"key":"a","operator":"Exists","effect":"NoExecute"}"#), &taint));
    }
}
