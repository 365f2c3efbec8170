//! How containers end: asked, killed after the grace, removed.

use std::time::Duration;

use super::container::{ContainerState, ObservedContainer, StopSignal};
use super::target::{Observed, Settings};
use super::{Action, Decision};
use crate::resource::Timestamp;

/// Takes the next step towards the end of a container. Returns whether it was asked to stop just now.
pub(super) fn end(
    decision: &mut Decision,
    settings: &Settings,
    observed: &Observed,
    container: &ObservedContainer,
    grace: Duration,
    now: Timestamp,
) -> bool {
    let reference = &container.reference;
    if matches!(container.state, ContainerState::Exited(_)) {
        decision.push(Action::Remove(reference.clone()));
        return false;
    }
    let stop = |signal| Action::Stop { reference: reference.clone(), signal };
    match observed.asked.get(reference) {
        _ if grace.is_zero() => {
            decision.push(stop(StopSignal::Kill));
            decision.wake(now.plus(settings.kill_retry));
            false
        }
        None => {
            decision.push(stop(StopSignal::Ask));
            decision.wake(now.plus(grace));
            true
        }
        // A moment ahead of now means that the clock was set back: the grace can not be told any more.
        Some(asked) if *asked > now || asked.plus(grace) <= now => {
            decision.push(stop(StopSignal::Kill));
            decision.wake(now.plus(settings.kill_retry));
            false
        }
        Some(asked) => {
            decision.wake(asked.plus(grace));
            false
        }
    }
}
