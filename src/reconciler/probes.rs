//! Which probes should go on, and what they found, as data. [`super::prober`] counts and schedules.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Probe};

use super::container::ContainerRef;
use super::handler::{Handler, Reached};
use crate::resource::Timestamp;

/// What a probe is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProbeKind {
    /// Whether the container has started: until then, nothing else is asked.
    Startup,
    /// Whether it should go on running.
    Liveness,
    /// Whether it can be of use.
    Readiness,
}

impl ProbeKind {
    /// As metrics name it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Startup => "startup",
            Self::Liveness => "liveness",
            Self::Readiness => "readiness",
        }
    }

    /// As Kubernetes' events name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }
}

/// A probe that should go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeOrder {
    /// Of which container.
    pub reference: ContainerRef,
    /// The list of the spec that the container stands in, for events.
    pub list: &'static str,
    /// What for.
    pub kind: ProbeKind,
    /// What is done.
    pub handler: Handler,
    /// Not before this moment: the container's start and the initial delay.
    pub not_before: Timestamp,
    /// Time between two.
    pub period: Duration,
    /// When one is given up.
    pub timeout: Duration,
    /// So many successes in a row are one.
    pub successes: u32,
    /// So many failures in a row are one.
    pub failures: u32,
}

/// What the probes of a container have found; what is not known yet was not asked often enough.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// The startup probe succeeded.
    pub started: bool,
    /// What the readiness probe says.
    pub ready: Option<bool>,
    /// The probe that says that the container should be ended.
    pub failed: Option<ProbeKind>,
}

/// The container's probe of this kind.
pub(super) fn probe(container: &Container, kind: ProbeKind) -> Option<&Probe> {
    match kind {
        ProbeKind::Startup => container.startup_probe.as_ref(),
        ProbeKind::Liveness => container.liveness_probe.as_ref(),
        ProbeKind::Readiness => container.readiness_probe.as_ref(),
    }
}

/// The probes of a container that runs: the startup probe alone until it succeeded.
pub(super) fn orders(
    reference: &ContainerRef,
    list: &'static str,
    reached: Reached<'_>,
    running_since: Timestamp,
    started: bool,
) -> Vec<ProbeOrder> {
    let kinds: &[ProbeKind] =
        if started { &[ProbeKind::Liveness, ProbeKind::Readiness] } else { &[ProbeKind::Startup] };
    let due = kinds.iter().filter_map(|kind| Some((*kind, probe(reached.container, *kind)?)));
    due.map(|(kind, probe)| {
        let seconds = |given: Option<i32>, default: u64| {
            Duration::from_secs(given.and_then(|given| u64::try_from(given).ok()).filter(|s| *s > 0).unwrap_or(default))
        };
        let count = |given: Option<i32>, default: u32| {
            given.and_then(|given| u32::try_from(given).ok()).filter(|count| *count > 0).unwrap_or(default)
        };
        ProbeOrder {
            reference: reference.clone(),
            list,
            kind,
            handler: Handler::of_probe(probe, reached),
            not_before: running_since.plus(seconds(probe.initial_delay_seconds, 0)),
            period: seconds(probe.period_seconds, 10),
            timeout: seconds(probe.timeout_seconds, 1),
            successes: count(probe.success_threshold, 1),
            failures: count(probe.failure_threshold, 3),
        }
    })
    .collect()
}
