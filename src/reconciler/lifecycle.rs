//! One pod on this device: in which order its containers start and end, and when it is over.
//!
//! ```text
//! init 0 -> init 1 -> sidecar (started) -> init 2 -> main containers -> over
//!                        \___________________________________________/ then sidecars end, last first
//! ```
//!
//! [`super::standing`] decides on each container, [`super::status`] describes, [`super::changes`] tells.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, ContainerStatus, ObjectReference, PodStatus};

use super::container::{ContainerSpec, ContainerState, Exit, ObservedContainer, PodRef, UserRange};
use super::hooks::{self, HookKind};
use super::restart::{Restart, restart};
use super::roles::{Part, Role};
use super::sandbox::ObservedSandbox;
use super::standing::{Gate, Standing};
use super::status;
use super::target::{Observed, Target, TargetPod};
use super::termination::{self, Ending};
use super::{Action, COMPONENT, Decision, devices, eviction};
use crate::resource::Timestamp;
use crate::resource::occurrence::{Occurrence, reference_to};

/// Seconds between asking and killing when a pod does not say.
const DEFAULT_GRACE_SECONDS: i64 = 30;

/// Attempts of a container that are kept: the newest, and the one before it for `logs --previous`,
/// `lastState` and the length of the last wait.
const ATTEMPTS_KEPT: usize = 2;

/// A pod that is ended because of its `activeDeadlineSeconds`.
const DEADLINE: (&str, &str) = ("DeadlineExceeded", "Pod was active on the node longer than the specified deadline");

/// A pod and its containers, sorted by name and attempt.
pub(super) struct Case<'a> {
    pub(super) target: &'a Target,
    pub(super) observed: &'a Observed,
    pub(super) pod: &'a TargetPod,
    pub(super) reference: PodRef,
    pub(super) own: Vec<&'a ObservedContainer>,
    pub(super) parts: Vec<Part<'a>>,
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
            if !self.own.iter().any(|container| is_alive(container)) {
                // What they hold is what the device is short of.
                self.remove_volumes(decision);
            }
            self.unshelter(decision);
            self.tidy(decision);
        } else if matches!(phase, Some("Succeeded" | "Failed")) {
            self.end_all(decision, Leftovers::Stay);
            if !self.own.iter().any(|container| is_alive(container)) {
                self.remove_volumes(decision);
            }
            self.unshelter(decision);
            self.tidy(decision);
        } else if self.overdue(decision) {
            self.fail(decision, DEADLINE);
        } else if let Some(limit) = self.must_not_run(decision) {
            self.lie_low(decision, limit);
        } else {
            self.run(decision);
        }
    }

    /// Ends everything, then the pod itself.
    fn terminate(&self, decision: &mut Decision) {
        self.end_all(decision, Leftovers::Go);
        let sheltered = !self.unshelter(decision);
        if self.own.is_empty() && !self.remove_volumes(decision) && !sheltered {
            decision.push(Action::DeletePod { pod: self.reference.clone(), revision: self.pod.revision });
        }
    }

    /// Ends everything, then says that the pod failed and why.
    fn fail(&self, decision: &mut Decision, (reason, message): (&'static str, &str)) {
        self.end_all(decision, Leftovers::Stay);
        self.tidy(decision);
        if self.own.iter().any(|container| is_alive(container)) {
            return;
        }
        let standings: Vec<Standing<'_>> =
            self.parts.iter().map(|part| self.stand(decision, part, Gate::Over)).collect();
        let mut fresh = status::pod_status(self, &standings);
        fresh.phase = Some("Failed".into());
        fresh.reason = Some(reason.into());
        fresh.message = Some(message.into());
        if self.report(decision, fresh) {
            decision.push(self.event(None, false, reason, message.into()));
        }
    }

    /// Whether the pod was active for longer than it may be.
    fn overdue(&self, decision: &mut Decision) -> bool {
        let allowed = self.pod.pod.spec.as_ref().and_then(|spec| spec.active_deadline_seconds);
        let since = self.pod.pod.status.as_ref().and_then(|status| status.start_time.as_ref());
        let (Some(allowed), Some(since)) = (allowed.and_then(|allowed| u64::try_from(allowed).ok()), since) else {
            return false;
        };
        let over = Timestamp::from(since).plus(Duration::from_secs(allowed));
        if over > self.now {
            decision.wake(over);
        }
        over <= self.now
    }

    /// Starts what should run, and reports when nothing more is to be started.
    fn run(&self, decision: &mut Decision) {
        let before = decision.actions.len();
        let standings = self.standings(decision);
        for container in self.own.iter().filter(|container| self.part_of(container).is_none()) {
            self.end(decision, container, self.grace());
        }
        if self.is_over() {
            self.end_all(decision, Leftovers::Stay);
        }
        self.tidy(decision);
        self.refresh_volumes(decision);
        let starts = |action: &Action| matches!(action, Action::Start(_) | Action::MakeSandbox { .. });
        let starting = decision.actions[before..].iter().any(starts);
        // What is being started is seen running, or not, in a moment: one report then is enough.
        if !starting && !self.makes_first_volumes(decision) {
            let fresh = status::pod_status(self, &standings);
            self.report(decision, fresh);
        }
    }

    /// Decides on every container, each in its turn.
    fn standings(&self, decision: &mut Decision) -> Vec<Standing<'_>> {
        let over = self.is_over();
        let begun = self.parts.iter().rposition(|part| part.role != Role::Ephemeral && self.newest(part).is_some());
        let mut closed = false;
        let mut standings = Vec::with_capacity(self.parts.len());
        for (index, part) in self.parts.iter().enumerate() {
            let gate = match part.role {
                _ if over => Gate::Over,
                Role::Ephemeral => Gate::Open,
                _ if closed => Gate::Closed,
                _ => Gate::Open,
            };
            let mut standing = self.stand(decision, part, gate);
            // Whatever came after it shows that it was passed in this life of the device.
            standing.passed |= begun.is_some_and(|begun| index < begun);
            closed |= match part.role {
                Role::Init | Role::Sidecar => !standing.passed,
                // The next one begins when this one's hook is done.
                Role::Main => standing.hooked || standing.is_to_be_hooked(),
                Role::Ephemeral => false,
            };
            standings.push(standing);
        }
        standings
    }

    /// Whether nothing of the pod is started any more: its main containers are done, or an init
    /// container failed for good.
    fn is_over(&self) -> bool {
        let mut main = self.parts.iter().filter(|part| part.role == Role::Main);
        let mut init = self.parts.iter().filter(|part| part.role == Role::Init);
        main.all(|part| self.final_code(part).is_some())
            || init.any(|part| self.final_code(part).is_some_and(|code| code != 0))
    }

    /// The exit code of a container that does not run again.
    fn final_code(&self, part: &Part<'_>) -> Option<i32> {
        let mut attempts = self.attempts(part);
        let Some(newest) = attempts.next() else {
            let ended = self.outlived(part)?.state?.terminated?;
            return Some(ended.exit_code);
        };
        let exit = exit_of(newest)?;
        let previous = attempts.next().and_then(exit_of);
        let settings = &self.target.settings;
        let next = restart(part.policy, newest.reference.attempt, exit, previous, settings, self.now);
        (next == Restart::Never).then_some(exit.code)
    }

    /// What stays known of a container that ran before the device was restarted and does not run again.
    pub(super) fn outlived(&self, part: &Part<'_>) -> Option<ContainerStatus> {
        let stored = status::stored(&self.pod.pod, &part.container.name)?;
        stored.container_id.as_deref().filter(|id| !id.is_empty())?;
        let state = stored.state.as_ref()?;
        match (part.policy, &state.terminated) {
            // Init containers do their work again, as nothing of it may be left.
            (_, Some(ended)) if part.role == Role::Init && ended.exit_code == 0 => None,
            ("Never", Some(_)) => Some(stored.clone()),
            ("Never", None) if state.running.is_some() => Some(status::vanished(stored, self.now)),
            ("OnFailure", Some(ended)) if ended.exit_code == 0 => Some(stored.clone()),
            _ => None,
        }
    }

    /// The attempts of a container that are here, newest first.
    pub(super) fn attempts<'c>(&'c self, part: &Part<'_>) -> impl Iterator<Item = &'a ObservedContainer> + use<'a, 'c> {
        let name = part.container.name.clone();
        self.own.iter().rev().copied().filter(move |own| own.reference.container == name)
    }

    pub(super) fn newest(&self, part: &Part<'_>) -> Option<&'a ObservedContainer> {
        self.attempts(part).next()
    }

    fn part_of(&self, container: &ObservedContainer) -> Option<(usize, &Part<'a>)> {
        self.parts.iter().enumerate().find(|(_, part)| part.container.name == container.reference.container)
    }

    /// Removes attempts that nothing refers to any more.
    fn tidy(&self, decision: &mut Decision) {
        for (index, container) in self.own.iter().enumerate() {
            let newer =
                self.own[index + 1..].iter().filter(|other| other.reference.container == container.reference.container);
            let superseded = newer.count() >= ATTEMPTS_KEPT;
            let removal = Action::Remove(container.reference.clone());
            if !is_alive(container) && superseded && !decision.actions.contains(&removal) {
                decision.push(removal);
            }
        }
    }

    /// Ends the pod as a whole: sidecars after all others, the last one first.
    fn end_all(&self, decision: &mut Decision, leftovers: Leftovers) {
        self.end_all_within(decision, leftovers, self.grace());
    }

    /// The same, of which nothing is to be left.
    pub(super) fn end_all_of(&self, decision: &mut Decision, grace: Duration) {
        self.end_all_within(decision, Leftovers::Go, grace);
    }

    fn end_all_within(&self, decision: &mut Decision, leftovers: Leftovers, grace: Duration) {
        let alive = |container: &&&ObservedContainer| is_alive(container);
        let sidecar = |container: &ObservedContainer| {
            self.part_of(container).filter(|(_, part)| part.role == Role::Sidecar).map(|(index, _)| index)
        };
        if self.own.iter().filter(alive).count() > 0 {
            decision.ending.insert(self.reference.uid.clone());
        }
        let others = self.own.iter().filter(alive).any(|container| sidecar(container).is_none());
        let last = self.own.iter().filter(alive).filter_map(|container| sidecar(container)).max();
        let begun = self.observed.ending.get(&self.reference.uid).copied();
        for container in &self.own {
            let turn = sidecar(container).is_none_or(|index| !others && Some(index) == last);
            if !is_alive(container) {
                if leftovers == Leftovers::Go {
                    decision.push(Action::Remove(container.reference.clone()));
                }
            } else if turn || grace.is_zero() {
                self.end_within(decision, container, grace, begun);
            }
        }
    }

    /// Takes the next step towards the end of one container.
    pub(super) fn end(&self, decision: &mut Decision, container: &ObservedContainer, grace: Duration) {
        self.end_within(decision, container, grace, None);
    }

    fn end_within(
        &self,
        decision: &mut Decision,
        container: &ObservedContainer,
        grace: Duration,
        begun: Option<Timestamp>,
    ) {
        let name = &container.reference.container;
        if self.step(decision, container, grace, begun) {
            decision.push(self.event(Some(name), false, "Killing", format!("Stopping container {name}")));
        }
    }

    /// The step itself. Returns whether it is the first.
    pub(super) fn step(
        &self,
        decision: &mut Decision,
        container: &ObservedContainer,
        grace: Duration,
        begun: Option<Timestamp>,
    ) -> bool {
        let reference = &container.reference;
        let hook = self
            .part_of(container)
            .and_then(|(_, part)| hooks::hook(reference, HookKind::PreStop, &part.container, &self.address(), grace));
        let run = self.observed.hooks.get(&(reference.clone(), HookKind::PreStop));
        let asked = self.observed.asked.contains_key(reference);
        if let Some(Err(why)) = run.and_then(|run| run.outcome.as_ref())
            && !asked
        {
            let message = format!("PreStopHook failed: {why}");
            decision.push(self.event(Some(&reference.container), true, "FailedPreStopHook", message));
        }
        let ending = Ending { container, hook, begun, grace };
        termination::end(decision, &self.target.settings, self.observed, ending, self.now)
    }

    pub(super) fn grace(&self) -> Duration {
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

    /// Where the pod is reached from this device; empty when it has no address that is known.
    pub(super) fn address(&self) -> String {
        let own = self.sandbox.and_then(ObservedSandbox::ready).and_then(|ready| ready.address);
        own.map_or_else(|| self.target.node.ip.clone(), |address| address.to_string())
    }

    /// Ids of this device for the users of the pod, if they are its own.
    pub(super) fn own_users(&self) -> Result<Option<UserRange>, (&'static str, String)> {
        if self.pod.pod.spec.as_ref().and_then(|spec| spec.host_users) != Some(false) {
            return Ok(None);
        }
        let range = self.target.users.get(&self.reference.uid);
        let none = "all user_ids of this device's agent.toml belong to other pods: the pod waits for one to end";
        Ok(Some(*range.ok_or(("UserIdsUnavailable", none.to_owned()))?))
    }

    /// Gives a container what this device has only so many of: devices, and ids for its users.
    pub(super) fn equip(
        &self,
        decision: &Decision,
        container: &Container,
        spec: &mut ContainerSpec,
    ) -> Result<(), (&'static str, String)> {
        spec.namespaces.user = self.own_users()?;
        let Target { devices, .. } = self.target;
        spec.devices = devices::assign(devices, &self.observed.devices, decision, &spec.reference, container)
            .map_err(|why| ("DeviceUnavailable", why))?;
        Ok(())
    }

    /// Reports the status when it is not what is stored, with the events that belong to the change.
    /// Returns whether it does.
    pub(super) fn report(&self, decision: &mut Decision, fresh: PodStatus) -> bool {
        let stored = self.pod.pod.status.clone().unwrap_or_default();
        if fresh == stored {
            return false;
        }
        let events = self.changes(&stored, &fresh);
        let mut object = self.pod.pod.clone();
        object.status = Some(fresh);
        let pod = self.reference.clone();
        decision.push(Action::Report { pod, revision: self.pod.revision, object: Box::new(object) });
        decision.actions.extend(events);
        true
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
        let list = |name: &str| {
            let part = self.parts.iter().find(|part| part.container.name == name);
            part.map_or(Role::Main, |part| part.role).list()
        };
        let involved = ObjectReference {
            field_path: container.map(|name| format!("spec.{}{{{name}}}", list(name))),
            ..reference_to(&self.pod.pod)
        };
        let host = self.target.node.name.clone();
        Occurrence { involved, warning, reason, message, component: COMPONENT, host }
    }
}

/// What happens to containers of an ending pod that have exited.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leftovers {
    /// They stay for their logs and their exits.
    Stay,
    /// They are removed.
    Go,
}

pub(super) fn exit_of(container: &ObservedContainer) -> Option<&Exit> {
    match &container.state {
        ContainerState::Exited(exit) => Some(exit),
        _ => None,
    }
}

pub(super) fn is_alive(container: &ObservedContainer) -> bool {
    exit_of(container).is_none()
}
