//! One pod on this device: which of its containers to start, to let run or to end, and what to say
//! about them.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, ContainerStatus, ObjectReference, PodStatus};

use super::container::{ContainerRef, ContainerSpec, ContainerState, Exit, ObservedContainer, PodRef};
use super::restart::{Restart, restart, wait};
use super::sandbox::ObservedSandbox;
use super::status::{self, Face, Standing};
use super::target::{ImageState, Observed, Target, TargetPod};
use super::{Action, COMPONENT, Decision, container_spec, devices, eviction, termination};
use crate::resource::Timestamp;
use crate::resource::occurrence::{Occurrence, reference_to};

/// Seconds between asking and killing when a pod does not say.
const DEFAULT_GRACE_SECONDS: i64 = 30;

/// Attempts of a container that are kept: the newest, and the one before it for `logs --previous`,
/// `lastState` and the length of the last wait.
const ATTEMPTS_KEPT: usize = 2;

/// A pod and its containers, sorted by name and attempt.
pub(super) struct Case<'a> {
    pub(super) target: &'a Target,
    pub(super) observed: &'a Observed,
    pub(super) pod: &'a TargetPod,
    pub(super) reference: PodRef,
    pub(super) own: Vec<&'a ObservedContainer>,
    pub(super) sandbox: Option<&'a ObservedSandbox>,
    pub(super) now: Timestamp,
}

impl<'a> Case<'a> {
    pub(super) fn decide(&self, decision: &mut Decision) {
        let phase = self.pod.pod.status.as_ref().and_then(|status| status.phase.as_deref());
        if self.pod.pod.metadata.deletion_timestamp.is_some() {
            self.terminate(decision);
        } else if let Some(why) = self.target.evicted.get(&self.reference.uid) {
            eviction::evict(self, decision, why);
            self.tidy(decision);
        } else if matches!(phase, Some("Succeeded" | "Failed")) {
            self.retire(decision);
        } else {
            self.run(decision);
        }
    }

    /// Ends everything, then the pod itself.
    fn terminate(&self, decision: &mut Decision) {
        for container in &self.own {
            self.end(decision, container);
        }
        if self.unshelter(decision) && self.own.is_empty() {
            decision.push(Action::DeletePod { pod: self.reference.clone(), revision: self.pod.revision });
        }
    }

    /// Lets a finished pod rest: its last exits stay for their logs.
    fn retire(&self, decision: &mut Decision) {
        for container in &self.own {
            if !matches!(container.state, ContainerState::Exited(_)) {
                self.end(decision, container);
            }
        }
        self.unshelter(decision);
        self.tidy(decision);
    }

    fn end(&self, decision: &mut Decision, container: &ObservedContainer) {
        let asked = termination::end(decision, &self.target.settings, self.observed, container, self.grace(), self.now);
        if asked {
            let name = &container.reference.container;
            decision.push(self.event(Some(name), false, "Killing", format!("Stopping container {name}")));
        }
    }

    fn grace(&self) -> Duration {
        let spec = self.pod.pod.spec.as_ref();
        let seconds = self
            .pod
            .pod
            .metadata
            .deletion_grace_period_seconds
            .or_else(|| spec.and_then(|spec| spec.termination_grace_period_seconds))
            .unwrap_or(DEFAULT_GRACE_SECONDS);
        Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
    }

    /// Starts what should run, and reports when nothing more is to be started.
    fn run(&self, decision: &mut Decision) {
        let Some(spec) = &self.pod.pod.spec else { return };
        let before = decision.actions.len();
        let standings: Vec<Standing<'a>> =
            spec.containers.iter().map(|container| self.stand(decision, container)).collect();
        for container in &self.own {
            let named = spec.containers.iter().any(|named| named.name == container.reference.container);
            if !named {
                self.end(decision, container);
            }
        }
        self.tidy(decision);
        let starting = decision.actions[before..]
            .iter()
            .any(|action| matches!(action, Action::Start(_) | Action::MakeSandbox { .. }));
        // What is being started is seen running, or not, in a moment: one report then is enough.
        if !starting {
            self.report(decision, &standings);
        }
    }

    /// Removes attempts that nothing refers to any more.
    fn tidy(&self, decision: &mut Decision) {
        for (index, container) in self.own.iter().enumerate() {
            let newer =
                self.own[index + 1..].iter().filter(|other| other.reference.container == container.reference.container);
            let exited = matches!(container.state, ContainerState::Exited(_));
            let superseded = newer.count() >= ATTEMPTS_KEPT;
            let removal = Action::Remove(container.reference.clone());
            if exited && superseded && !decision.actions.contains(&removal) {
                decision.push(removal);
            }
        }
    }

    /// Decides on one container of the pod.
    fn stand(&self, decision: &mut Decision, container: &'a Container) -> Standing<'a> {
        let mut attempts = self.own.iter().rev().copied().filter(|own| own.reference.container == container.name);
        let Some(newest) = attempts.next() else { return self.first(decision, container) };
        let before = attempts.next();
        for stray in
            before.into_iter().chain(attempts).filter(|other| !matches!(other.state, ContainerState::Exited(_)))
        {
            self.end(decision, stray);
        }
        let last = before.and_then(|before| exit_of(before).map(|exit| (before.reference.clone(), exit)));
        let mut standing = Standing {
            container,
            face: Face::Waiting { reason: "ContainerCreating", message: String::new() },
            newest: Some(newest.reference.clone()),
            last,
            restarts: newest.reference.attempt,
        };
        match &newest.state {
            ContainerState::Creating => {}
            ContainerState::Running { started, .. } => standing.face = Face::Running(*started),
            ContainerState::Exited(exit) => self.follow(decision, &mut standing, newest, exit),
        }
        standing
    }

    /// Decides what follows an exit.
    fn follow(&self, decision: &mut Decision, standing: &mut Standing<'a>, newest: &ObservedContainer, exit: &'a Exit) {
        let settings = &self.target.settings;
        let attempt = newest.reference.attempt;
        let previous = standing.last.as_ref().map(|(_, exit)| *exit);
        let policy = status::restart_policy(&self.pod.pod);
        match restart(policy, attempt, exit, previous, settings, self.now) {
            Restart::Never => standing.face = Face::Ended(exit),
            Restart::Now => {
                standing.last = Some((newest.reference.clone(), exit));
                standing.face = self.start(decision, standing.container, attempt.saturating_add(1));
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
    }

    /// Decides on a container of which nothing is left here: it is new, or the device was restarted.
    fn first(&self, decision: &mut Decision, container: &'a Container) -> Standing<'a> {
        let stored = status::stored(&self.pod.pod, &container.name);
        let restarts = stored.map_or(0, |stored| u32::try_from(stored.restart_count).unwrap_or(0));
        let ran = stored.filter(|stored| stored.container_id.as_deref().is_some_and(|id| !id.is_empty()));
        let attempt = if ran.is_some() { restarts.saturating_add(1) } else { restarts };
        let face = match ran.and_then(|stored| self.outlived(stored)) {
            Some(remembered) => Face::Remembered(Box::new(remembered)),
            None => self.start(decision, container, attempt),
        };
        Standing { container, face, newest: None, last: None, restarts }
    }

    /// What stays known of a container that ran before and does not run again.
    fn outlived(&self, stored: &ContainerStatus) -> Option<ContainerStatus> {
        let state = stored.state.as_ref()?;
        match (status::restart_policy(&self.pod.pod), &state.terminated) {
            ("Never", Some(_)) => Some(stored.clone()),
            ("Never", None) if state.running.is_some() => Some(status::vanished(stored, self.now)),
            ("OnFailure", Some(ended)) if ended.exit_code == 0 => Some(stored.clone()),
            _ => None,
        }
    }

    /// Starts an attempt, or says what it waits for.
    fn start(&self, decision: &mut Decision, container: &Container, attempt: u32) -> Face<'a> {
        let image = container.image.clone().unwrap_or_default();
        let waiting = |reason, message: String| Face::Waiting { reason, message };
        let config = match self.target.images.get(&image) {
            Some(ImageState::Ready { config, .. }) => config,
            Some(ImageState::Preparing) => return waiting("ContainerCreating", String::new()),
            Some(ImageState::Absent) => {
                let text = format!("image {image} is not on this device; load it with: kith image load|import");
                return waiting("ImageNotPresent", text);
            }
            Some(ImageState::Failed(why)) => return waiting("ImageUnusable", format!("image {image}: {why}")),
            None => {
                decision.push(Action::PrepareImage { image });
                return waiting("ContainerCreating", String::new());
            }
        };
        let sandbox = match self.shelter(decision) {
            Ok(sandbox) => sandbox,
            Err(why) => return waiting("ContainerCreating", why),
        };
        let reference = ContainerRef { pod: self.reference.clone(), container: container.name.clone(), attempt };
        match container_spec(reference, &self.pod.pod, container, config, self.target, sandbox) {
            Ok(mut spec) => {
                if let Err((reason, why)) = self.equip(decision, container, &mut spec) {
                    return waiting(reason, why);
                }
                decision.push(Action::Start(Box::new(spec)));
                // A start that leaves no trace is tried again.
                decision.wake(self.now.plus(self.target.settings.backoff_base));
                waiting("ContainerCreating", String::new())
            }
            Err(error) => waiting("CreateContainerConfigError", error.to_string()),
        }
    }

    /// Gives a container what this device has only so many of: devices, and ids for its users.
    fn equip(
        &self,
        decision: &Decision,
        container: &Container,
        spec: &mut ContainerSpec,
    ) -> Result<(), (&'static str, String)> {
        let own_users = self.pod.pod.spec.as_ref().and_then(|spec| spec.host_users) == Some(false);
        if own_users {
            let range = self.target.users.get(&self.reference.uid);
            let none = "all user_ids of this device's agent.toml belong to other pods: the pod waits for one to end";
            spec.namespaces.user = Some(*range.ok_or(("UserIdsUnavailable", none.to_owned()))?);
        }
        let Target { devices, .. } = self.target;
        spec.devices = devices::assign(devices, &self.observed.devices, decision, &spec.reference, container)
            .map_err(|why| ("DeviceUnavailable", why))?;
        Ok(())
    }

    /// Reports the status when it is not what is stored, with the events that belong to the change.
    fn report(&self, decision: &mut Decision, standings: &[Standing<'_>]) {
        let stored = self.pod.pod.status.clone().unwrap_or_default();
        let fresh = status::pod_status(self.target, &self.pod.pod, standings, self.sandbox, self.now);
        if fresh == stored {
            return;
        }
        let events = self.changes(&stored, &fresh);
        let mut object = self.pod.pod.clone();
        object.status = Some(fresh);
        let pod = self.reference.clone();
        decision.push(Action::Report { pod, revision: self.pod.revision, object: Box::new(object) });
        decision.actions.extend(events);
    }

    /// Events for what a new status says that the stored one did not.
    fn changes(&self, stored: &PodStatus, fresh: &PodStatus) -> Vec<Action> {
        let mut events = Vec::new();
        for new in fresh.container_statuses.iter().flatten() {
            let old = stored.container_statuses.iter().flatten().find(|old| old.name == new.name);
            let name = &new.name;
            let known = |part: fn(&ContainerStatus) -> Option<String>| old.and_then(part) == part(new);
            let mut tell = |warning, reason, text: String| events.push(self.event(Some(name), warning, reason, text));
            if let Some(reason) = waiting_reason(new).filter(|_| !known(waiting_reason)) {
                match reason.as_str() {
                    "ContainerCreating" => {}
                    "CrashLoopBackOff" => {
                        let text =
                            format!("Back-off restarting failed container {name} in pod {}", self.reference.name);
                        tell(true, "BackOff", text);
                    }
                    _ => {
                        let message = waiting_message(new).unwrap_or_default();
                        tell(true, "Failed", format!("Container {name} can not start: {reason}: {message}"));
                    }
                }
            }
            if let Some((reason, code)) = ended(new).filter(|ended| old.and_then(self::ended).as_ref() != Some(ended)) {
                match reason.as_str() {
                    "Completed" => {}
                    "OOMKilled" => tell(true, "OOMKilled", format!("Container {name} ran out of memory")),
                    "StartError" => tell(true, "Failed", format!("Container {name} could not be started")),
                    _ => tell(true, "Exited", format!("Container {name} ended with exit code {code}")),
                }
            }
            if new.started == Some(true)
                && !known(|status| status.container_id.clone().filter(|_| status.started == Some(true)))
            {
                tell(false, "Started", format!("Started container {name}"));
            }
        }
        events
    }

    pub(super) fn event(
        &self,
        container: Option<&str>,
        warning: bool,
        reason: &'static str,
        message: String,
    ) -> Action {
        Action::Event(self.occurrence(container, warning, reason, message))
    }

    pub(super) fn occurrence(
        &self,
        container: Option<&str>,
        warning: bool,
        reason: &'static str,
        message: String,
    ) -> Occurrence {
        let involved = ObjectReference {
            field_path: container.map(|name| format!("spec.containers{{{name}}}")),
            ..reference_to(&self.pod.pod)
        };
        let host = self.target.node.name.clone();
        Occurrence { involved, warning, reason, message, component: COMPONENT, host }
    }
}

fn exit_of(container: &ObservedContainer) -> Option<&Exit> {
    match &container.state {
        ContainerState::Exited(exit) => Some(exit),
        _ => None,
    }
}

fn waiting_reason(status: &ContainerStatus) -> Option<String> {
    status.state.as_ref()?.waiting.as_ref()?.reason.clone()
}

fn waiting_message(status: &ContainerStatus) -> Option<String> {
    status.state.as_ref()?.waiting.as_ref()?.message.clone()
}

/// Reason and exit code of the newest end that a status tells of.
fn ended(status: &ContainerStatus) -> Option<(String, i32)> {
    let now = status.state.as_ref().and_then(|state| state.terminated.as_ref());
    let last = || status.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    let told = now.or_else(last)?;
    Some((told.reason.clone()?, told.exit_code))
}
