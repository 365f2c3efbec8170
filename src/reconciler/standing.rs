//! Where one container of a pod stands, and the one step that brings it further: a start, a hook, an
//! end, a wait.

use std::time::Duration;

use k8s_openapi::api::core::v1::ContainerStatus;

use super::container::{ContainerRef, ContainerState, Exit, LastWords, Namespace, ObservedContainer};
use super::handler::Reached;
use super::hooks::{self, HookKind, POST_START_LIMIT};
use super::lifecycle::{Case, exit_of, is_alive};
use super::probes::{self, ProbeKind};
use super::restart::{Restart, restart, wait};
use super::roles::{Part, Role};
use super::status;
use super::{Action, Decision, container_spec};
use crate::resource::Timestamp;

/// Whether a container may be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gate {
    /// It is its turn.
    Open,
    /// Those before it are not ready yet.
    Closed,
    /// Nothing of the pod is started any more.
    Over,
}

/// What is seen of one container.
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
    pub(super) part: &'a Part<'a>,
    pub(super) face: Face<'a>,
    /// Its newest attempt; `None` when there was none yet.
    pub(super) newest: Option<ContainerRef>,
    /// The exit before the state that it is in.
    pub(super) last: Option<(ContainerRef, &'a Exit)>,
    /// Attempts before any that are left here.
    pub(super) restarts: u32,
    /// It runs, and its startup probe succeeded if it has one.
    pub(super) started: bool,
    /// It can be of use.
    pub(super) ready: bool,
    /// Those after it may begin.
    pub(super) passed: bool,
    /// Its `postStart` hook goes on.
    pub(super) hooked: bool,
}

impl<'a> Case<'a> {
    /// Decides on one container of the pod.
    pub(super) fn stand<'c>(&'c self, decision: &mut Decision, part: &'c Part<'a>, gate: Gate) -> Standing<'c> {
        let mut standing = Standing {
            part,
            face: self.waiting(String::new()),
            newest: None,
            last: None,
            restarts: 0,
            started: false,
            ready: false,
            passed: false,
            hooked: false,
        };
        let mut attempts = self.attempts(part);
        let Some(newest) = attempts.next() else {
            self.first(decision, &mut standing, gate);
            return standing;
        };
        let before = attempts.next();
        for stray in before.into_iter().chain(attempts).filter(|other| is_alive(other)) {
            self.end(decision, stray, self.grace());
        }
        standing.newest = Some(newest.reference.clone());
        standing.restarts = newest.reference.attempt;
        standing.last = before.and_then(|before| exit_of(before).map(|exit| (before.reference.clone(), exit)));
        match &newest.state {
            ContainerState::Creating => {}
            ContainerState::Running { started, .. } => self.live(decision, &mut standing, newest, *started),
            ContainerState::Exited(exit) => self.follow(decision, &mut standing, (newest, exit), gate),
        }
        standing
    }

    /// Decides on a container that runs: its hook, then its probes.
    fn live(&self, decision: &mut Decision, standing: &mut Standing<'_>, newest: &ObservedContainer, since: Timestamp) {
        let (reference, part) = (&newest.reference, standing.part);
        let address = self.address();
        let hook = hooks::hook(reference, HookKind::PostStart, &part.container, &address, POST_START_LIMIT);
        let known = self.told(reference);
        if let Some(hook) = hook.filter(|_| known.is_none_or(|told| !is_running(told))) {
            let run = self.observed.hooks.get(&(reference.clone(), HookKind::PostStart));
            match run.map(|run| &run.outcome) {
                None => decision.push(Action::Hook(Box::new(hook))),
                Some(None) => {}
                Some(Some(Ok(()))) => return self.lively(decision, standing, newest, since),
                Some(Some(Err(why))) => {
                    let message = format!("PostStartHook failed: {why}");
                    if self.step(decision, newest, self.grace(), None) {
                        let name = &reference.container;
                        decision.push(self.event(Some(name), true, "FailedPostStartHook", message.clone()));
                        let killing = format!("Container {name} failed its postStart hook");
                        decision.push(self.event(Some(name), false, "Killing", killing));
                    }
                    standing.face = Face::Waiting { reason: "PostStartHookError", message };
                    return;
                }
            }
            standing.hooked = true;
            return;
        }
        self.lively(decision, standing, newest, since);
    }

    /// Probes of a container that has begun, and what they found.
    fn lively(
        &self,
        decision: &mut Decision,
        standing: &mut Standing<'_>,
        newest: &ObservedContainer,
        since: Timestamp,
    ) {
        let (reference, part) = (&newest.reference, standing.part);
        let container = &part.container;
        let health = self.observed.health.get(reference).cloned().unwrap_or_default();
        let told = self.told(reference);
        standing.face = Face::Running(since);
        standing.started = part.role != Role::Init
            && (container.startup_probe.is_none()
                || health.started
                || told.is_some_and(|told| told.started == Some(true)));
        standing.ready = standing.started
            && (container.readiness_probe.is_none()
                || health.ready.unwrap_or_else(|| told.is_some_and(|told| told.ready)));
        standing.passed = part.role == Role::Sidecar && standing.started;
        if matches!(part.role, Role::Init | Role::Ephemeral) {
            return;
        }
        let address = self.address();
        let reached = Reached { address: &address, container };
        let list = part.role.list();
        decision.probes.extend(probes::orders(reference, list, reached, since, standing.started));
        let Some(kind) = health.failed else { return };
        let own = probes::probe(container, kind).and_then(|probe| probe.termination_grace_period_seconds);
        let own = own.and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs);
        if self.step(decision, newest, own.unwrap_or_else(|| self.grace()), None) {
            let probe = if kind == ProbeKind::Startup { "startup" } else { "liveness" };
            let again = if part.policy == "Never" { "" } else { ", will be restarted" };
            let name = &reference.container;
            let message = format!("Container {name} failed {probe} probe{again}");
            decision.push(self.event(Some(name), false, "Killing", message));
        }
    }

    /// What was stored of this very attempt.
    fn told(&self, reference: &ContainerRef) -> Option<&ContainerStatus> {
        let stored = status::stored(&self.pod.pod, &reference.container)?;
        (stored.container_id.as_deref() == Some(&status::container_id(reference))).then_some(stored)
    }

    /// Decides what follows an exit.
    fn follow<'c>(
        &'c self,
        decision: &mut Decision,
        standing: &mut Standing<'c>,
        (newest, exit): (&'a ObservedContainer, &'a Exit),
        gate: Gate,
    ) {
        let settings = &self.target.settings;
        let attempt = newest.reference.attempt;
        let previous = standing.last.as_ref().map(|(_, exit)| *exit);
        let next = restart(standing.part.policy, attempt, exit, previous, settings, self.now);
        match next {
            _ if gate == Gate::Over => standing.face = Face::Ended(exit),
            Restart::Never => standing.face = Face::Ended(exit),
            Restart::Now => {
                standing.last = Some((newest.reference.clone(), exit));
                standing.face = self.start(decision, standing.part, attempt.saturating_add(1), gate);
            }
            Restart::At(at) => {
                decision.wake(at);
                let wait = wait(attempt, exit, previous, settings);
                let pod = &self.reference;
                let message = format!(
                    "back-off {wait:?} restarting failed container={} pod={}_{}({})",
                    newest.reference.container, pod.name, pod.namespace, pod.uid
                );
                standing.last = Some((newest.reference.clone(), exit));
                standing.face = Face::Waiting { reason: "CrashLoopBackOff", message };
            }
        }
        standing.passed =
            standing.part.role == Role::Init && matches!(standing.face, Face::Ended(end) if end.code == 0);
        standing.ready = standing.passed;
    }

    /// Decides on a container of which nothing is left here: it is new, or the device was restarted.
    fn first<'c>(&'c self, decision: &mut Decision, standing: &mut Standing<'c>, gate: Gate) {
        let part = standing.part;
        let stored = status::stored(&self.pod.pod, &part.container.name);
        standing.restarts = stored.map_or(0, |stored| u32::try_from(stored.restart_count).unwrap_or(0));
        let ran = stored.filter(|stored| stored.container_id.as_deref().is_some_and(|id| !id.is_empty()));
        let attempt = standing.restarts.saturating_add(u32::from(ran.is_some()));
        let known = self.outlived(part).or_else(|| ran.filter(|_| gate == Gate::Over).cloned());
        standing.face = match known {
            Some(known) => Face::Remembered(Box::new(known)),
            None => self.start(decision, part, attempt, gate),
        };
    }

    /// Starts an attempt, or says what it waits for.
    fn start(&self, decision: &mut Decision, part: &Part<'_>, attempt: u32, gate: Gate) -> Face<'static> {
        if gate != Gate::Open {
            return self.waiting(String::new());
        }
        let container = part.container.as_ref();
        let waiting = |reason, message: String| Face::Waiting { reason, message };
        let volumes = self.waits_for_volumes(decision);
        let reference = ContainerRef { pod: self.reference.clone(), container: container.name.clone(), attempt };
        let config = match self.image(decision, container, &reference) {
            Ok(config) => config,
            Err(Face::Waiting { reason: "ContainerCreating", message }) => return self.waiting(message),
            Err(face) => return face,
        };
        if let Some(message) = volumes {
            return self.waiting(message);
        }
        if let Err((reason, why)) = self.own_users() {
            return waiting(reason, why);
        }
        let sandbox = match self.shelter(decision) {
            Ok(sandbox) => sandbox,
            Err(why) => return self.waiting(why),
        };
        let settings = &self.target.settings;
        let spec = container_spec(reference, &self.pod.pod, container, config, self.target, sandbox);
        let mut spec = match spec {
            Ok(spec) => spec,
            Err(error) => return waiting("CreateContainerConfigError", error.to_string()),
        };
        if let Err((reason, why)) = self.equip(decision, container, &mut spec) {
            return waiting(reason, why);
        }
        spec.leash_ms = self.leash();
        if let Some(signal) = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.stop_signal.clone()) {
            spec.stop_signal = signal;
        }
        let path = container.termination_message_path.clone().filter(|path| !path.is_empty());
        spec.last_words = Some(LastWords {
            path: path.unwrap_or_else(|| "/dev/termination-log".into()),
            or_log: container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError"),
        });
        if let Some(name) = part.beside {
            match self.processes_of(name) {
                Some(_) if spec.namespaces.user.is_some() => {
                    let text = "a pod with hostUsers: false shares no processes: leave targetContainerName out";
                    return waiting("CreateContainerError", text.into());
                }
                Some(at) => spec.namespaces.pid = at,
                None => return waiting("CreateContainerError", format!("target container {name} does not run")),
            }
        }
        decision.push(Action::Start(Box::new(spec)));
        // A start that leaves no trace is tried again.
        decision.wake(self.now.plus(settings.backoff_base));
        self.waiting(String::new())
    }

    /// The processes of another container of the pod that runs.
    fn processes_of(&self, name: &str) -> Option<Namespace> {
        let mut named = self.own.iter().rev().filter(|own| own.reference.container == name);
        match named.next()?.state {
            ContainerState::Running { pid, .. } => Some(Namespace::At(format!("/proc/{pid}/ns/pid").into())),
            _ => None,
        }
    }

    /// A container that is on its way, or whose turn has not come.
    fn waiting(&self, message: String) -> Face<'static> {
        let first = self.parts.first().is_some_and(|part| matches!(part.role, Role::Init | Role::Sidecar));
        Face::Waiting { reason: if first { "PodInitializing" } else { "ContainerCreating" }, message }
    }
}

impl Standing<'_> {
    pub(super) fn name(&self) -> &str {
        &self.part.container.name
    }

    /// Whether it is on its way and has a `postStart` hook.
    pub(super) fn is_to_be_hooked(&self) -> bool {
        let lifecycle = self.part.container.lifecycle.as_ref();
        let coming = matches!(&self.face, Face::Waiting { reason: "ContainerCreating" | "PodInitializing", .. });
        coming && lifecycle.is_some_and(|lifecycle| lifecycle.post_start.is_some())
    }

    pub(super) fn image(&self) -> String {
        self.part.container.image.clone().unwrap_or_default()
    }
}

fn is_running(status: &ContainerStatus) -> bool {
    status.state.as_ref().is_some_and(|state| state.running.is_some())
}
