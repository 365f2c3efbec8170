//! The device loop's part in sandboxes: it makes and removes them as decided, and remembers which
//! could not be made, so that they are tried again in their time and not at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::device::Device;
use crate::config::{Config, Range};
use crate::reconciler::Target;
use crate::reconciler::container::PodRef;
use crate::reconciler::sandbox::{ObservedSandbox, SandboxSpec, SandboxState};
use crate::resource::occurrence::Occurrence;

/// Pause after a sandbox could not be removed.
const PAUSE: Duration = Duration::from_secs(1);

/// Sandboxes that could not be made, by the pod's uid. Losing it costs one more attempt.
#[derive(Debug, Default)]
pub(crate) struct Unsheltered(Mutex<BTreeMap<String, ObservedSandbox>>);

impl Unsheltered {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, ObservedSandbox>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The addresses of this device's pods.
pub(super) fn range(config: &Config, member: u64) -> Range {
    let (whole, part) = (config.pod_network, config.pod_network.of_device(member));
    if whole.parts() > 1 && member >= whole.parts() {
        tracing::warn!(%part, "pod_network is too small for every device that ever joined: others may have this part too");
    }
    part
}

impl Device {
    /// All sandboxes of this device, those that could not be made included.
    pub(super) fn shelters(&self, target: &Target) -> Vec<ObservedSandbox> {
        let wanted: BTreeSet<&str> = target.pods.iter().filter_map(|pod| pod.pod.metadata.uid.as_deref()).collect();
        let mut failed = self.unsheltered.lock();
        failed.retain(|uid, _| wanted.contains(uid.as_str()));
        let mut all = self.sandboxes.list();
        all.extend(failed.values().cloned());
        all
    }

    /// Makes one. Returns when to look at what came of it.
    pub(super) async fn shelter(&self, spec: SandboxSpec, complaint: Occurrence) -> Duration {
        let pod = spec.pod.clone();
        match self.sandboxes.make(spec).await {
            Ok(note) => {
                self.unsheltered.lock().remove(&pod.uid);
                if !note.is_empty() {
                    self.reports.event(Occurrence { reason: "DNSConfigForming", message: note, ..complaint });
                }
            }
            Err(error) => {
                let reason = error.to_string();
                tracing::warn!(pod = pod.name, reason, "what the containers of a pod share could not be made");
                let message = format!("Failed to create pod sandbox: {reason}");
                self.reports.event(Occurrence { message, ..complaint });
                let state = SandboxState::Failed { at: self.clock.now(), reason };
                self.unsheltered.lock().insert(pod.uid.clone(), ObservedSandbox { pod, state });
            }
        }
        Duration::ZERO
    }

    /// Removes one. Returns when to look at what came of it.
    pub(super) async fn unshelter(&self, pod: &PodRef) -> Duration {
        match self.sandboxes.remove(pod).await {
            Ok(()) => Duration::ZERO,
            Err(error) => {
                tracing::warn!(pod = pod.name, %error, "what the containers of a pod shared could not be removed");
                PAUSE
            }
        }
    }
}
