//! Which pod has to go when this device is short of memory or disk, or when a pod used more of the disk
//! than it may. One pod at a time: what it leaves is measured before another is chosen.
//!
//! ```text
//! Left (of the device) + Thresholds --short--> Shortage --victim--> Eviction { pod, message }
//! ```
//!
//! Pods that use more than they asked for go before those that do not, then low priority before high,
//! then those that are furthest above what they asked for: Kubernetes' order. It measures nothing.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, ContainerState, ContainerStateTerminated, Pod, PodCondition, PodSpec};

use super::lifecycle::Case;
use super::{Action, Decision};
use crate::resource::{Quantity, Timestamp, footprint, priority};

/// Pods of this priority and above are never evicted for others: `system-cluster-critical`.
const CRITICAL: i32 = 2_000_000_000;

/// What the kernel would tell of a killed program.
const KILLED: i32 = 137;

/// What of something is left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Bytes or inodes that are available.
    pub available: u64,
    /// All there are; 0 when unknown, and then it is never short.
    pub total: u64,
}

/// What is left on this device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// Memory, in bytes.
    pub memory: Share,
    /// The disk of images, writable layers, volumes and state, in bytes.
    pub disk: Share,
    /// Its inodes.
    pub inodes: Share,
}

/// What has to be left. 0 switches one off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Thresholds {
    /// Bytes of memory.
    pub memory_available: u64,
    /// Hundredths of the disk.
    pub disk_percent: u8,
    /// Hundredths of the inodes.
    pub inodes_percent: u8,
    /// How long a shortage counts as one after it was last seen.
    pub pressure: Duration,
}

/// What there is too little of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Short {
    /// Memory.
    Memory,
    /// Bytes of the disk.
    Disk,
    /// Inodes of the disk.
    Inodes,
}

/// Too little of something, with what there is and what there should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// Of what.
    pub short: Short,
    /// The least there should be.
    pub threshold: u64,
    /// What there is.
    pub available: u64,
}

impl Short {
    /// Kubernetes' name of the resource.
    fn resource(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Disk => "ephemeral-storage",
            Self::Inodes => "inodes",
        }
    }
}

/// When shortages were last seen. A condition that comes and goes with every look would let the
/// scheduler send pods that are evicted at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    memory: Option<Timestamp>,
    disk: Option<Timestamp>,
}

impl Pressure {
    /// What is known after another look.
    #[must_use]
    pub fn after(self, shortages: &[Shortage], now: Timestamp) -> Self {
        let seen = |before: Option<Timestamp>, of: fn(Short) -> bool| {
            if shortages.iter().any(|shortage| of(shortage.short)) { Some(now) } else { before }
        };
        Self {
            memory: seen(self.memory, |short| short == Short::Memory),
            disk: seen(self.disk, |short| short != Short::Memory),
        }
    }

    /// Whether the device counts as short of memory, and of disk.
    pub fn holds(&self, thresholds: &Thresholds, now: Timestamp) -> (bool, bool) {
        let holds = |seen: Option<Timestamp>| seen.is_some_and(|seen| seen.plus(thresholds.pressure) > now);
        (holds(self.memory), holds(self.disk))
    }
}

/// What a container uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContainerUsage {
    /// Bytes of memory that can not be taken back.
    pub memory: u64,
    /// Bytes of its writable layer and its logs.
    pub disk: u64,
    /// Files and folders of its writable layer.
    pub inodes: u64,
}

/// What a pod uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodUsage {
    /// By container.
    pub containers: BTreeMap<String, ContainerUsage>,
    /// Bytes of its `emptyDir` volumes on disk or in memory, by name.
    pub volumes: BTreeMap<String, u64>,
}

impl PodUsage {
    fn of(&self, short: Short) -> u64 {
        let containers = self.containers.values();
        match short {
            Short::Memory => containers.map(|usage| usage.memory).sum(),
            Short::Disk => containers.map(|usage| usage.disk).sum::<u64>() + self.volumes.values().sum::<u64>(),
            Short::Inodes => containers.map(|usage| usage.inodes).sum(),
        }
    }
}

/// A pod that has to go, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eviction {
    /// The pod's uid.
    pub uid: String,
    /// Kubernetes' message.
    pub message: String,
}

/// What there is too little of, what is most urgent first.
pub fn shortages(left: &Left, thresholds: &Thresholds) -> Vec<Shortage> {
    let percent = |share: Share, percent: u8| share.total / 100 * u64::from(percent);
    let wanted = [
        (Short::Memory, left.memory, thresholds.memory_available),
        (Short::Disk, left.disk, percent(left.disk, thresholds.disk_percent)),
        (Short::Inodes, left.inodes, percent(left.inodes, thresholds.inodes_percent)),
    ];
    let short = wanted.into_iter().filter(|(_, share, threshold)| share.total > 0 && share.available < *threshold);
    short.map(|(short, share, threshold)| Shortage { short, threshold, available: share.available }).collect()
}

/// The pod that has to go for a shortage; `None` when no pod would help.
pub fn victim<'a>(
    pods: impl Iterator<Item = &'a Pod>,
    usage: &BTreeMap<String, PodUsage>,
    shortage: &Shortage,
) -> Option<Eviction> {
    let none = PodUsage::default();
    let candidates = pods.filter_map(|pod| {
        let (spec, uid) = (pod.spec.as_ref()?, pod.metadata.uid.as_deref()?);
        let used = usage.get(uid).unwrap_or(&none);
        let over = used.of(shortage.short).saturating_sub(request(spec, shortage.short));
        let eligible = runs(pod) && priority(spec) < CRITICAL && used.of(shortage.short) > 0;
        eligible.then_some((pod, spec, uid, used, over))
    });
    // Ties are broken by uid: the same look, the same pod.
    let (_, spec, uid, used, _) = candidates.min_by_key(|(_, spec, uid, _, over)| {
        (*over == 0, priority(spec), std::cmp::Reverse(*over), (*uid).to_owned())
    })?;
    Some(Eviction { uid: uid.to_owned(), message: shortage_message(spec, used, shortage) })
}

/// Whether a pod is neither over nor on its way out.
fn runs(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    pod.metadata.deletion_timestamp.is_none() && !matches!(phase, Some("Succeeded" | "Failed"))
}

/// A pod's priority; 0 when it says nothing.
pub fn priority(spec: &PodSpec) -> i32 {
    // Of a static pod nobody but this device has made a number of its class.
    let named = spec.priority_class_name.as_deref();
    let by_class = || priority::SYSTEM.iter().find(|(name, _)| named == Some(*name)).map_or(0, |(_, value)| *value);
    spec.priority.unwrap_or_else(by_class)
}

fn containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.init_containers.iter().flatten().chain(&spec.containers)
}

fn amount(container: &Container, short: Short) -> u64 {
    if short == Short::Inodes {
        return 0;
    }
    footprint::request(container, short.resource()).ok().flatten().map_or(0, Quantity::units)
}

fn request(spec: &PodSpec, short: Short) -> u64 {
    spec.containers.iter().map(|container| amount(container, short)).sum()
}

fn shortage_message(spec: &PodSpec, used: &PodUsage, shortage: &Shortage) -> String {
    let Shortage { short, threshold, available } = *shortage;
    let text = |value: u64| if short == Short::Inodes { value.to_string() } else { bytes(value) };
    let mut message = format!(
        "The node was low on resource: {}. Threshold quantity: {}, available: {}. ",
        short.resource(),
        text(threshold),
        text(available)
    );
    for container in containers(spec) {
        let usage = used.containers.get(&container.name).copied().unwrap_or_default();
        let using = match short {
            Short::Memory => usage.memory,
            Short::Disk => usage.disk,
            Short::Inodes => usage.inodes,
        };
        let asked = amount(container, short);
        if using > asked {
            let _ = write!(
                message,
                "Container {} was using {}, request is {}, has larger consumption of {}. ",
                container.name,
                text(using),
                text(asked),
                short.resource()
            );
        }
    }
    message
}

/// Bytes as Kubernetes writes them: `17Mi`, or `5Ki`.
fn bytes(value: u64) -> String {
    match value {
        0 => "0".to_owned(),
        value if value % (1 << 20) == 0 => format!("{}Mi", value >> 20),
        value => format!("{}Ki", value.div_ceil(1 << 10)),
    }
}

/// What of the disk a pod used more of than it may; Kubernetes' message.
pub fn overuse(pod: &Pod, used: &PodUsage) -> Option<String> {
    let spec = pod.spec.as_ref().filter(|_| runs(pod))?;
    for volume in spec.volumes.iter().flatten() {
        let limit = volume.empty_dir.as_ref().and_then(|dir| dir.size_limit.as_ref()).map(|limit| limit.0.as_str());
        let most = limit.and_then(|limit| limit.parse::<Quantity>().ok()).map_or(0, Quantity::units);
        if most > 0 && used.volumes.get(&volume.name).is_some_and(|bytes| *bytes > most) {
            let limit = limit.unwrap_or_default();
            return Some(format!("Usage of EmptyDir volume {:?} exceeds the limit {limit:?}. ", volume.name));
        }
    }
    let limit = |container: &Container| footprint::limit(container, "ephemeral-storage").ok().flatten();
    let mut whole = Some(0_u64);
    for container in containers(spec) {
        let most = limit(container).map(Quantity::units).filter(|most| *most > 0);
        whole = whole.zip(most).map(|(sum, most)| sum.saturating_add(most));
        let used = used.containers.get(&container.name).map_or(0, |usage| usage.disk);
        if most.is_some_and(|most| used > most) {
            let limits = container.resources.as_ref().and_then(|resources| resources.limits.as_ref());
            let text = limits.and_then(|limits| limits.get("ephemeral-storage")).map(|text| text.0.clone());
            let (name, text) = (&container.name, text.unwrap_or_default());
            return Some(format!("Container {name} exceeded its local ephemeral storage limit {text:?}. "));
        }
    }
    // Volumes count too where every container has a limit.
    let most = whole.filter(|most| *most > 0)?;
    (used.of(Short::Disk) > most)
        .then(|| format!("Pod ephemeral local storage usage exceeds the total limit of containers {}. ", bytes(most)))
}

/// The pod as an evicted one: failed, and none of its containers runs.
pub(super) fn evicted(pod: &Pod, message: &str, now: Timestamp) -> Pod {
    let mut pod = pod.clone();
    let status = pod.status.get_or_insert_default();
    let moment = super::status::seconds(now);
    status.phase = Some("Failed".into());
    status.reason = Some("Evicted".into());
    status.message = Some(message.to_owned());
    let lists =
        [&mut status.container_statuses, &mut status.init_container_statuses, &mut status.ephemeral_container_statuses];
    for container in lists.into_iter().flat_map(|list| list.iter_mut().flatten()) {
        container.ready = false;
        container.started = Some(false);
        let Some(running) = container.state.as_ref().and_then(|state| state.running.clone()) else { continue };
        container.state = Some(ContainerState {
            terminated: Some(ContainerStateTerminated {
                container_id: container.container_id.clone(),
                exit_code: KILLED,
                reason: Some("Evicted".into()),
                started_at: running.started_at,
                finished_at: Some(moment.clone()),
                ..ContainerStateTerminated::default()
            }),
            ..ContainerState::default()
        });
    }
    let conditions = status.conditions.get_or_insert_default();
    let sayings = [
        ("Ready", "False", "PodFailed", None),
        ("ContainersReady", "False", "PodFailed", None),
        ("DisruptionTarget", "True", "TerminationByKubelet", Some(message.to_owned())),
    ];
    for (kind, says, reason, message) in sayings {
        conditions.retain(|condition| condition.type_ != kind);
        conditions.push(PodCondition {
            type_: kind.into(),
            status: says.into(),
            reason: Some(reason.into()),
            message,
            last_transition_time: Some(moment.clone()),
            ..PodCondition::default()
        });
    }
    pod
}

/// Ends an evicted pod at once, gives back what its containers wrote, and reports it.
pub(super) fn evict(case: &Case<'_>, decision: &mut Decision, message: &str) {
    for container in &case.own {
        case.step(decision, container, Duration::ZERO, None);
    }
    let pod = &case.pod.pod;
    let told = pod.status.as_ref().and_then(|status| status.reason.as_deref()) == Some("Evicted");
    if !told {
        let object = Box::new(evicted(pod, message, case.now));
        decision.push(Action::Report { pod: case.reference.clone(), revision: case.pod.revision, object });
        decision.push(case.event(None, true, "Evicted", message.to_owned()));
    }
}
