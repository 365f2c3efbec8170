//! What a pod's status says about its containers. It describes; it decides nothing.

use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus, HostIP,
    Pod, PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::changes::statuses;
use super::conditions;
use super::container::{ContainerRef, Exit};
use super::lifecycle::{Case, is_alive};
use super::roles::Role;
use super::sandbox::ObservedSandbox;
use super::standing::{Face, Standing};
use super::target::ImageState;
use crate::resource::{Timestamp, footprint};

/// The most characters of a message that came from a container's exit.
const MESSAGE_LIMIT: usize = 4096;

/// Whole seconds: what a stored time can hold.
pub(super) fn seconds(moment: Timestamp) -> Time {
    Timestamp(moment.0 / 1000 * 1000).to_kubernetes()
}

/// The status of a container as it is stored.
pub(super) fn stored<'a>(pod: &'a Pod, container: &str) -> Option<&'a ContainerStatus> {
    statuses(pod.status.as_ref()?).find(|status| status.name == container)
}

/// The whole status of a pod.
pub(super) fn pod_status(case: &Case<'_>, standings: &[Standing<'_>]) -> PodStatus {
    let pod = &case.pod.pod;
    let mut status = pod.status.clone().unwrap_or_default();
    let listed = |roles: &[Role]| -> Vec<ContainerStatus> {
        let listed = standings.iter().filter(|standing| roles.contains(&standing.part.role));
        listed.map(|standing| container_status(case, standing)).collect()
    };
    let init = listed(&[Role::Init, Role::Sidecar]);
    let main = listed(&[Role::Main]);
    let ephemeral = listed(&[Role::Ephemeral]);
    let phase = phase(case, standings, &init, &main);
    let now = seconds(case.now);
    conditions::say_all(case, &mut status, standings, phase, &now);
    status.phase = Some(phase.into());
    status.init_container_statuses = Some(init).filter(|all| !all.is_empty());
    status.container_statuses = Some(main);
    status.ephemeral_container_statuses = Some(ephemeral).filter(|all| !all.is_empty());
    status.start_time.get_or_insert(now);
    if let Some(spec) = &pod.spec {
        status.qos_class.get_or_insert_with(|| footprint::qos_class(spec).into());
    }
    addresses(&mut status, case);
    status
}

/// The device's address and the pod's own. One whose sandbox is gone keeps what was known of it.
fn addresses(status: &mut PodStatus, case: &Case<'_>) {
    let host = Some(case.target.node.ip.clone()).filter(|ip| !ip.is_empty());
    let on_host = case.pod.pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true));
    let own = case.sandbox.and_then(ObservedSandbox::ready).and_then(|ready| ready.address);
    let ip = if on_host { host.clone() } else { own.map(|ip| ip.to_string()).or_else(|| status.pod_ip.clone()) };
    status.host_ips = host.clone().map(|ip| vec![HostIP { ip }]);
    status.host_ip = host;
    status.pod_ips = ip.clone().map(|ip| vec![PodIP { ip }]);
    status.pod_ip = ip;
}

/// Where the pod as a whole is in its life. It is over when its main containers are, or when an init
/// container failed for good, and nothing of it runs any more.
fn phase(
    case: &Case<'_>,
    standings: &[Standing<'_>],
    init: &[ContainerStatus],
    main: &[ContainerStatus],
) -> &'static str {
    let state = |status: &ContainerStatus| status.state.clone().unwrap_or_default();
    let code = |status: &ContainerStatus| state(status).terminated.map(|ended| ended.exit_code);
    let never_ran = |status: &ContainerStatus| {
        let before = status.last_state.as_ref().is_some_and(|last| last.terminated.is_some());
        state(status).waiting.is_some() && !before
    };
    let runs = case.own.iter().any(|container| is_alive(container));
    let of_init = standings.iter().filter(|standing| matches!(standing.part.role, Role::Init | Role::Sidecar));
    let failed = of_init.zip(init).any(|(standing, status)| {
        standing.part.role == Role::Init
            && matches!(standing.face, Face::Ended(_) | Face::Remembered(_))
            && code(status).is_some_and(|code| code != 0)
    });
    if failed && !runs {
        return "Failed";
    }
    if failed || main.iter().any(never_ran) {
        return "Pending";
    }
    let codes: Vec<i32> = main.iter().filter_map(code).collect();
    if main.is_empty() || codes.len() < main.len() || runs {
        return "Running";
    }
    if codes.iter().all(|code| *code == 0) { "Succeeded" } else { "Failed" }
}

fn container_status(case: &Case<'_>, standing: &Standing<'_>) -> ContainerStatus {
    if let Face::Remembered(status) = &standing.face {
        return status.as_ref().clone();
    }
    let name = standing.name();
    let stored = stored(&case.pod.pod, name);
    let image = standing.image();
    let container = standing.newest.as_ref().map(container_id);
    // A container keeps the image that it was started from, whatever its name means by now.
    let told = stored.filter(|stored| !stored.image_id.is_empty() && stored.container_id == container);
    let image_id = match case.target.images.get(&image) {
        _ if told.is_some() => told.map(|told| told.image_id.clone()).unwrap_or_default(),
        Some(ImageState::Ready { id, .. }) => id.clone(),
        _ => stored.map(|stored| stored.image_id.clone()).unwrap_or_default(),
    };
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
    ContainerStatus {
        name: name.to_owned(),
        image,
        image_id,
        container_id: container.or_else(|| stored?.container_id.clone()),
        ready: standing.ready,
        started: Some(standing.started),
        restart_count: i32::try_from(standing.restarts).unwrap_or(i32::MAX),
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
