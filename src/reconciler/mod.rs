//! The device's decisions: what should run here against what does run, and what to do about it.
//!
//! ```text
//! Target (pods bound here, images, config maps) + Observed (containers, sandboxes, what hooks and probes found)
//!     --diff--> Decision { actions, probes, wake_at }
//! ```
//!
//! It needs no peer and no quorum: a device alone decides the same from its local replica. It keeps
//! no memory between calls: back-off follows from when containers started and ended, attempts from
//! the containers that are left and the stored status. It never reads a clock, starts anything or
//! talks to anybody; the device loop executes what it says, one action after the other, and
//! observes again.

mod apart;
mod changes;
mod conditions;
pub mod container;
pub mod devices;
mod env;
pub mod eviction;
mod expand;
mod files;
mod handler;
mod hooks;
mod lifecycle;
mod mirror;
mod prober;
mod probes;
mod pulling;
mod references;
mod restart;
mod roles;
pub mod sandbox;
mod security;
mod shelter;
mod spec;
mod standing;
mod status;
mod target;
mod termination;
pub mod volume;
mod volumes;
mod workload;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Pod;

use crate::resource::Timestamp;
use crate::resource::occurrence::Occurrence;
use container::{ContainerRef, ContainerSpec, ObservedContainer, PodRef, StopSignal};
use sandbox::{ObservedSandbox, SandboxSpec};
use volume::VolumeSpec;

pub use handler::{Handler, HttpAsk};
pub use hooks::{Hook, HookKind, HookRun};
pub use mirror::{mirror_of, mirrored, shows, static_pod};
pub use prober::{Finished, Outcome, Prober};
pub use probes::{Health, ProbeKind, ProbeOrder};
pub use pulling::{PullImage, pull_secrets};
pub use references::{claims_needed, configmaps_needed, secrets_needed};
pub use security::Policy;
pub use spec::{SpecError, container_spec};
pub use target::{
    ImageState, NodeContext, Observed, PullFailure, PullState, SecretState, Settings, Target, TargetPod, images_needed,
};
pub use volumes::failed_mount;
pub use workload::{ran_well, workload_of};

/// Who writes the reconciler's events.
pub(crate) const COMPONENT: &str = "kith-reconciler";

/// What to do now, and when to ask again.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    /// To be executed in order. One that fails does not stop the rest: the next decision sees what came of it.
    pub actions: Vec<Action>,
    /// When to decide again though nothing was observed to change in between.
    pub wake_at: Option<Timestamp>,
    /// The probes that should go on; what they find comes back as `Observed::health`.
    pub probes: Vec<ProbeOrder>,
    /// Uids of pods that are ended as a whole; when that began goes into `Observed::ending`.
    pub ending: BTreeSet<String>,
    /// Uids of pods that are ended because this device is cut off; they go into `Observed::apart`.
    pub apart: BTreeSet<String>,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Look an image up and make it ready to start from; its state comes with the next target.
    PrepareImage {
        /// As the pod names it.
        image: String,
    },
    /// Bring an image from its registry; how far it is comes with the next targets.
    PullImage(Box<PullImage>),
    /// Make volumes of a pod, or fill them anew; what came of it is observed.
    MakeVolumes {
        /// Whose.
        pod: PodRef,
        /// Which.
        volumes: Vec<VolumeSpec>,
    },
    /// Remove the volumes of a pod; those that outlive it stay.
    RemoveVolumes {
        /// Its uid.
        uid: String,
    },
    /// Make what the containers of a pod share, before the first of them.
    MakeSandbox {
        /// What it is to be.
        spec: Box<SandboxSpec>,
        /// The event to write if that fails; why is to be put into its message.
        complaint: Box<Occurrence>,
    },
    /// Remove what the containers of a pod shared: none of them is left.
    RemoveSandbox(PodRef),
    /// Start a container.
    Start(Box<ContainerSpec>),
    /// Signal a container. After the first `Ask`, its moment goes into `Observed::asked`.
    Stop {
        /// Which.
        reference: ContainerRef,
        /// How.
        signal: StopSignal,
    },
    /// Execute a hook of a container; when it began and what came of it go into `Observed::hooks`.
    Hook(Box<Hook>),
    /// Remove what is left of an exited container; its log stays.
    Remove(ContainerRef),
    /// Store the pod with its new status, if it is still at this revision.
    Report {
        /// Which pod.
        pod: PodRef,
        /// The revision that the status was derived from.
        revision: u64,
        /// The whole new object.
        object: Box<Pod>,
    },
    /// Remove the pod from the store, if it is still at this revision: nothing of it is left here.
    DeletePod {
        /// Which pod.
        pod: PodRef,
        /// The revision at which it was seen to be over.
        revision: u64,
    },
    /// Write or count up an event; it follows the report or the action that it belongs to.
    Event(Occurrence),
}

impl Decision {
    fn push(&mut self, action: Action) {
        self.actions.push(action);
    }

    fn makes_sandbox_of(&self, pod: &PodRef) -> bool {
        self.actions.iter().any(|action| matches!(action, Action::MakeSandbox { spec, .. } if spec.pod == *pod))
    }

    fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |earlier| earlier.min(at)));
    }
}

/// Decides what brings this device closer to its target.
pub fn diff(target: &Target, observed: &Observed, now: Timestamp) -> Decision {
    let mut decision = Decision::default();
    let mut by_pod: BTreeMap<&str, Vec<&ObservedContainer>> = BTreeMap::new();
    for container in &observed.containers {
        by_pod.entry(&container.reference.pod.uid).or_default().push(container);
    }
    for own in by_pod.values_mut() {
        own.sort_by_key(|container| &container.reference);
    }
    let mut sandboxes: BTreeMap<&str, &ObservedSandbox> = BTreeMap::new();
    for sandbox in &observed.sandboxes {
        sandboxes.insert(&sandbox.pod.uid, sandbox);
    }
    for pod in &target.pods {
        let bound = pod.pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        let Some(reference) = target::reference(&pod.pod) else { continue };
        if bound != Some(&target.node.name) {
            continue;
        }
        let own = by_pod.remove(reference.uid.as_str()).unwrap_or_default();
        let parts = pod.pod.spec.as_ref().map(roles::parts).unwrap_or_default();
        let sandbox = sandboxes.remove(reference.uid.as_str());
        let case = lifecycle::Case { target, observed, pod, reference, own, parts, sandbox, now };
        case.decide(&mut decision);
    }
    for (uid, sandbox) in sandboxes {
        if sandbox.ready().is_some() && !by_pod.contains_key(uid) {
            decision.push(Action::RemoveSandbox(sandbox.pod.clone()));
        }
    }
    let known = |uid: &String| target.pods.iter().any(|pod| pod.pod.metadata.uid.as_ref() == Some(uid));
    for uid in observed.volumes.keys().filter(|uid| !known(uid) && !by_pod.contains_key(uid.as_str())) {
        decision.push(Action::RemoveVolumes { uid: uid.clone() });
    }
    for orphans in by_pod.values() {
        let grace = target.settings.orphan_grace;
        for container in orphans {
            let ending = termination::Ending { container, hook: None, begun: None, grace };
            termination::end(&mut decision, &target.settings, observed, ending, now);
        }
    }
    // What ends makes room for what starts.
    decision.actions.sort_by_key(|action| !matches!(action, Action::Stop { .. }));
    decision
}
