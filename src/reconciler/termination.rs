//! How containers end: their hook, asked, killed after the grace, removed.

use std::time::Duration;

use super::container::{ContainerState, ObservedContainer, StopSignal};
use super::hooks::{Hook, HookKind};
use super::target::{Observed, Settings};
use super::{Action, Decision};
use crate::resource::Timestamp;

/// What a container that is asked late is left at least: its hook took long, or those before it did.
const LEAST: Duration = Duration::from_secs(2);

/// A container that is to end.
pub(super) struct Ending<'a> {
    pub(super) container: &'a ObservedContainer,
    /// Its `preStop` hook.
    pub(super) hook: Option<Hook>,
    /// When its pod began to end as a whole: the grace is the pod's.
    pub(super) begun: Option<Timestamp>,
    /// Time from then, or from when it was asked, until it is killed.
    pub(super) grace: Duration,
}

/// Takes the next step towards the end of a container. Returns whether it was the first one: its hook
/// begins, or it is asked to stop.
pub(super) fn end(
    decision: &mut Decision,
    settings: &Settings,
    observed: &Observed,
    ending: Ending<'_>,
    now: Timestamp,
) -> bool {
    let Ending { container, hook, begun, grace } = ending;
    let reference = &container.reference;
    if matches!(container.state, ContainerState::Exited(_)) {
        decision.push(Action::Remove(reference.clone()));
        return false;
    }
    let stop = |signal| Action::Stop { reference: reference.clone(), signal };
    let kill = |decision: &mut Decision| {
        decision.push(stop(StopSignal::Kill));
        decision.wake(now.plus(settings.kill_retry));
        false
    };
    if grace.is_zero() {
        return kill(decision);
    }
    let run = observed.hooks.get(&(reference.clone(), HookKind::PreStop));
    let asked = observed.asked.get(reference).copied();
    let since = [begun, run.map(|run| run.begun), asked].into_iter().flatten().min();
    // A moment ahead of now means that the clock was set back: the grace can not be told any more.
    let over = since.is_some_and(|since| since > now || since.plus(grace) <= now);
    let end = since.unwrap_or(now).plus(grace);
    if let Some(asked) = asked {
        let least = if since < Some(asked) { asked.plus(LEAST) } else { asked };
        let end = end.max(least);
        if asked > now || end <= now {
            return kill(decision);
        }
        decision.wake(end);
        return false;
    }
    let running = matches!(container.state, ContainerState::Running { .. });
    if let Some(hook) = hook.filter(|_| running && !over) {
        match run.map(|run| run.outcome.is_some()) {
            None => {
                decision.push(Action::Hook(Box::new(hook)));
                decision.wake(end);
                return true;
            }
            Some(false) => {
                decision.wake(end);
                return false;
            }
            Some(true) => {}
        }
    }
    decision.push(stop(StopSignal::Ask));
    decision.wake(if since.is_some() { end.max(now.plus(LEAST)) } else { end });
    run.is_none()
}
