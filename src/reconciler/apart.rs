//! Pods that must not run while their device is cut off: `kith.dev/on-partition: stop-after=<duration>`.
//!
//! The time counts from the last moment at which this device is known to have spoken with a quorum. A leader
//! that replaces such a pod waits for longer than that, so there are never two. What is ended is ended as
//! a whole and leaves nothing: when the quorum is heard again, the pod begins as after a reboot.

use std::time::Duration;

use super::lifecycle::{Case, is_alive};
use super::mirror::is_static;
use super::standing::{Face, Gate, Standing};
use super::{Decision, status};
use crate::resource::partition;

/// What a pod's containers may take beyond its grace: they are all killed then, sidecars too.
const AT_MOST: Duration = Duration::from_secs(3);

/// What the agent has beyond that before the container's shim ends it.
const LEASH: Duration = Duration::from_secs(5);

/// Why its containers wait.
const REASON: &str = "CutOff";

impl Case<'_> {
    /// Whether the pod must not run at this moment, and the time without a quorum that it puts up with.
    pub(super) fn must_not_run(&self, decision: &mut Decision) -> Option<Duration> {
        let pod = &self.pod.pod;
        // Nobody replaces a static pod, and it runs without a fleet.
        if is_static(pod) {
            return None;
        }
        let limit = partition::stop_after(pod.metadata.annotations.as_ref()).ok().flatten()?;
        // What has begun to end goes on to its end: it begins again from nothing.
        let ending = self.observed.apart.contains(&self.reference.uid) && !self.own.is_empty();
        match self.target.apart_for {
            Some(apart) if apart < limit && !ending => {
                decision.wake(self.now.plus(limit.saturating_sub(apart)));
                None
            }
            _ => Some(limit),
        }
    }

    /// How long a container may run without contact when nobody ends it, in milliseconds. Shorter than
    /// what a leader waits for, and longer than what the agent needs.
    pub(super) fn leash(&self) -> Option<u64> {
        let pod = &self.pod.pod;
        let limit = partition::stop_after(pod.metadata.annotations.as_ref()).ok().flatten();
        let limit = limit.filter(|_| !is_static(pod))?;
        u64::try_from((limit + self.grace() + AT_MOST + LEASH).as_millis()).ok()
    }

    /// Ends the pod until a quorum is heard again, and says so.
    pub(super) fn lie_low(&self, decision: &mut Decision, limit: Duration) {
        let message = format!("no quorum of the fleet was heard for {limit:?}: the pod does not run until one is");
        let uid = &self.reference.uid;
        if !self.own.is_empty() {
            decision.apart.insert(uid.clone());
        }
        if self.own.iter().any(|container| is_alive(container)) && !self.observed.apart.contains(uid) {
            decision.push(self.event(None, true, REASON, message.clone()));
        }
        let begun = self.observed.ending.get(uid).copied();
        // A moment ahead of now means that the clock was set back.
        let late = begun.is_some_and(|begun| begun > self.now || begun.plus(self.grace() + AT_MOST) <= self.now);
        if let Some(begun) = begun.filter(|_| !late) {
            decision.wake(begun.plus(self.grace() + AT_MOST));
        }
        self.end_all_of(decision, if late { Duration::ZERO } else { self.grace() });
        let sheltered = !self.unshelter(decision);
        // Since a boot nobody is there to be told, or the pod has just come here.
        if !self.own.is_empty() || sheltered || self.target.apart_for.is_none() {
            return;
        }
        let stand = |part| {
            let mut standing: Standing<'_> = self.stand(decision, part, Gate::Closed);
            if let Face::Waiting { .. } = standing.face {
                standing.face = Face::Waiting { reason: REASON, message: message.clone() };
            }
            standing
        };
        let standings: Vec<Standing<'_>> = self.parts.iter().map(stand).collect();
        let mut fresh = status::pod_status(self, &standings);
        let running = self.pod.pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running");
        if running && fresh.phase.as_deref() == Some("Pending") {
            fresh.phase = Some("Running".into());
        }
        self.report(decision, fresh);
    }
}
