//! What a pod's status says about its containers. It describes; it decides nothing.

use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    HostIP, Pod, PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::conditions::{Saying, say};
use super::container::{ContainerRef, Exit};
use super::sandbox::ObservedSandbox;
use super::target::{ImageState, Target};
use crate::resource::{Timestamp, footprint};

/// The most characters of a message that came from a container's exit.
const MESSAGE_LIMIT: usize = 2048;

/// Where one container of a pod stands.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Face<'a> {
    /// Its newest attempt runs.
    Running(Timestamp),
    /// It does not run yet, or not again yet.
    Waiting { reason: &'static str, message: String },
    /// Its newest attempt ended, and no other follows.
    Ended(&'a Exit),
    /// Nothing is left of it here, and no attempt follows: this is what is known.
    Remembered(Box<ContainerStatus>),
}

/// One container with what was decided about it.
pub(super) struct Standing<'a> {
    pub(super) container: &'a Container,
    pub(super) face: Face<'a>,
    /// Its newest attempt; `None` when there was none yet.
    pub(super) newest: Option<ContainerRef>,
    /// The exit before the state that it is in.
    pub(super) last: Option<(ContainerRef, &'a Exit)>,
    /// Attempts before any that are left here.
    pub(super) restarts: u32,
}

/// Whole seconds: what a stored time can hold.
pub(super) fn seconds(moment: Timestamp) -> Time {
    Timestamp(moment.0 / 1000 * 1000).to_kubernetes()
}

/// The status of a container as it is stored.
pub(super) fn stored<'a>(pod: &'a Pod, container: &str) -> Option<&'a ContainerStatus> {
    let all = pod.status.as_ref()?.container_statuses.as_ref()?;
    all.iter().find(|status| status.name == container)
}

/// The whole status of a pod.
pub(super) fn pod_status(
    target: &Target,
    pod: &Pod,
    standings: &[Standing<'_>],
    sandbox: Option<&ObservedSandbox>,
    now: Timestamp,
) -> PodStatus {
    let mut status = pod.status.clone().unwrap_or_default();
    let statuses: Vec<ContainerStatus> =
        standings.iter().map(|standing| container_status(target, pod, standing)).collect();
    let policy = restart_policy(pod);
    let phase = phase(policy, &statuses);
    let finished = matches!(phase, "Succeeded" | "Failed");
    let now = seconds(now);
    let unready: Vec<&str> =
        statuses.iter().filter(|status| !status.ready).map(|status| status.name.as_str()).collect();
    let why = match (finished, phase) {
        (true, "Succeeded") => Some("PodCompleted"),
        (true, _) => Some("PodFailed"),
        (false, _) => (!unready.is_empty()).then_some("ContainersNotReady"),
    };
    let text = (!unready.is_empty()).then(|| format!("containers with unready status: [{}]", unready.join(" ")));
    let conditions = status.conditions.get_or_insert_default();
    say(conditions, Saying { kind: "PodScheduled", holds: true, reason: None, message: None }, &now);
    say(conditions, Saying { kind: "Initialized", holds: true, reason: None, message: None }, &now);
    let ready = unready.is_empty();
    say(conditions, Saying { kind: "ContainersReady", holds: ready, reason: why, message: text.clone() }, &now);
    say(conditions, Saying { kind: "Ready", holds: ready, reason: why, message: text }, &now);
    status.phase = Some(phase.into());
    status.container_statuses = Some(statuses);
    status.start_time.get_or_insert(now);
    if let Some(spec) = &pod.spec {
        status.qos_class.get_or_insert_with(|| footprint::qos_class(spec).into());
    }
    addresses(&mut status, target, pod, sandbox);
    status
}

/// The device's address and the pod's own. One whose sandbox is gone keeps what was known of it.
fn addresses(status: &mut PodStatus, target: &Target, pod: &Pod, sandbox: Option<&ObservedSandbox>) {
    let host = Some(target.node.ip.clone()).filter(|ip| !ip.is_empty());
    let on_host = pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true));
    let own = sandbox.and_then(ObservedSandbox::ready).and_then(|ready| ready.address);
    let ip = if on_host { host.clone() } else { own.map(|ip| ip.to_string()).or_else(|| status.pod_ip.clone()) };
    status.host_ips = host.clone().map(|ip| vec![HostIP { ip }]);
    status.host_ip = host;
    status.pod_ips = ip.clone().map(|ip| vec![PodIP { ip }]);
    status.pod_ip = ip;
}

pub(super) fn restart_policy(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()).unwrap_or("Always")
}

fn phase(policy: &str, statuses: &[ContainerStatus]) -> &'static str {
    let state = |status: &ContainerStatus| status.state.clone().unwrap_or_default();
    let never_ran = |status: &ContainerStatus| {
        let before = status.last_state.as_ref().is_some_and(|last| last.terminated.is_some());
        state(status).waiting.is_some() && !before
    };
    let ended = |status: &ContainerStatus| state(status).terminated;
    if statuses.iter().any(never_ran) {
        return "Pending";
    }
    let codes: Vec<i32> = statuses.iter().filter_map(ended).map(|ended| ended.exit_code).collect();
    if statuses.is_empty() || codes.len() < statuses.len() || policy == "Always" {
        return "Running";
    }
    match (codes.iter().all(|code| *code == 0), policy) {
        (true, _) => "Succeeded",
        (false, "Never") => "Failed",
        (false, _) => "Running",
    }
}

fn container_status(target: &Target, pod: &Pod, standing: &Standing<'_>) -> ContainerStatus {
    if let Face::Remembered(status) = &standing.face {
        return status.as_ref().clone();
    }
    let name = &standing.container.name;
    let stored = stored(pod, name);
    let image = standing.container.image.clone().unwrap_or_default();
    let container = standing.newest.as_ref().map(container_id);
    // A container keeps the image that it was started from, whatever its name means by now.
    let told = stored.filter(|stored| !stored.image_id.is_empty() && stored.container_id == container);
    let image_id = match target.images.get(&image) {
        _ if told.is_some() => told.map(|told| told.image_id.clone()).unwrap_or_default(),
        Some(ImageState::Ready { id, .. }) => id.clone(),
        _ => stored.map(|stored| stored.image_id.clone()).unwrap_or_default(),
    };
    let running = matches!(standing.face, Face::Running(_));
    let state = match &standing.face {
        Face::Running(started) => ContainerState {
            running: Some(ContainerStateRunning { started_at: Some(seconds(*started)) }),
            ..ContainerState::default()
        },
        Face::Waiting { reason, message } => ContainerState {
            waiting: Some(ContainerStateWaiting {
                reason: Some((*reason).into()),
                message: Some(message.clone()).filter(|message| !message.is_empty()),
            }),
            ..ContainerState::default()
        },
        Face::Ended(exit) => terminated(standing.newest.as_ref(), exit),
        Face::Remembered(_) => ContainerState::default(),
    };
    let last_state = match &standing.last {
        Some((reference, exit)) => Some(terminated(Some(reference), exit)),
        None => stored.and_then(|stored| remembered_last(stored, standing.newest.as_ref())),
    };
    let restarts = standing.newest.as_ref().map_or(standing.restarts, |newest| newest.attempt);
    ContainerStatus {
        name: name.clone(),
        image,
        image_id,
        container_id: container.or_else(|| stored?.container_id.clone()),
        ready: running,
        started: Some(running),
        restart_count: i32::try_from(restarts).unwrap_or(i32::MAX),
        state: Some(state),
        last_state,
        ..ContainerStatus::default()
    }
}

/// The last state of a container whose earlier attempt left nothing here, such as after a reboot.
fn remembered_last(stored: &ContainerStatus, newest: Option<&ContainerRef>) -> Option<ContainerState> {
    let same = newest.is_some_and(|newest| stored.container_id.as_deref() == Some(&container_id(newest)));
    let ended = stored.state.clone().filter(|state| !same && state.terminated.is_some());
    ended.or_else(|| stored.last_state.clone())
}

pub(super) fn container_id(reference: &ContainerRef) -> String {
    format!("kith://{}", reference.id())
}

fn terminated(reference: Option<&ContainerRef>, exit: &Exit) -> ContainerState {
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            container_id: reference.map(container_id),
            exit_code: exit.code,
            signal: exit.signal,
            reason: Some(exit_reason(exit).into()),
            message: Some(exit.message.chars().take(MESSAGE_LIMIT).collect::<String>()).filter(|text| !text.is_empty()),
            started_at: exit.started.map(seconds),
            finished_at: Some(seconds(exit.finished)),
        }),
        ..ContainerState::default()
    }
}

/// One word for how a container ended.
pub(super) fn exit_reason(exit: &Exit) -> &'static str {
    match exit {
        Exit { oom_killed: true, .. } => "OOMKilled",
        Exit { started: None, .. } => "StartError",
        Exit { code: 0, .. } => "Completed",
        _ => "Error",
    }
}

/// What is said of a container that ran when it was last heard of, and of which nothing is left.
pub(super) fn vanished(stored: &ContainerStatus, now: Timestamp) -> ContainerStatus {
    let running = stored.state.as_ref().and_then(|state| state.running.clone());
    let state = ContainerState {
        terminated: Some(ContainerStateTerminated {
            container_id: stored.container_id.clone(),
            exit_code: 137,
            reason: Some("ContainerStatusUnknown".into()),
            message: Some("nothing is left of the container: the device was restarted while it ran".into()),
            started_at: running.and_then(|running| running.started_at),
            finished_at: Some(seconds(now)),
            ..ContainerStateTerminated::default()
        }),
        ..ContainerState::default()
    };
    ContainerStatus { state: Some(state), ready: false, started: Some(false), ..stored.clone() }
}
