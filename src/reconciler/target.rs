//! What a decision is made from: pods, images and settings on one side, containers on the other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Pod};

use super::container::{ContainerRef, ObservedContainer, PodRef, UserRange};
use super::devices::{Held, HostDevice};
use super::hooks::{HookKind, HookRun};
use super::probes::Health;
use super::roles;
use super::sandbox::ObservedSandbox;
use super::security::Policy;
use super::volume::{Bytes, Places};
use crate::resource::{ImageConfig, Timestamp};

/// What should run here, and what is needed for it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Target {
    /// This device.
    pub node: NodeContext,
    /// Pods bound to this device, those being deleted included.
    pub pods: Vec<TargetPod>,
    /// By image as the pods name it; a missing one has not been looked at yet.
    pub images: BTreeMap<String, ImageState>,
    /// By the start that waits for it; a missing one has not been begun.
    pub pulls: BTreeMap<ContainerRef, PullState>,
    /// By namespace and name; what is missing does not exist.
    pub configmaps: BTreeMap<(String, String), ConfigMap>,
    /// By namespace and name; what is missing does not exist.
    pub secrets: BTreeMap<(String, String), SecretState>,
    /// The device that a claim's volume is on, by namespace and name; what is missing does not exist.
    pub claims: BTreeMap<(String, String), Option<String>>,
    /// Where volumes lie.
    pub places: Places,
    /// Settings of this device.
    pub settings: Settings,
    /// Devices that are plugged in and that pods may ask for.
    pub devices: Vec<HostDevice>,
    /// Ids of this device that stand for the users of pods with their own, by the pod's uid.
    pub users: BTreeMap<String, UserRange>,
    /// Pods that have to go, by their uid, and why.
    pub evicted: BTreeMap<String, String>,
    /// Time since this device surely spoke with a quorum, by its boot clock; `None` when not since it booted.
    pub apart_for: Option<Duration>,
}

/// What this device knows of a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretState {
    /// Its values.
    Open(BTreeMap<String, Bytes>),
    /// Why they are not known yet.
    Sealed(String),
}

/// This device, as its pods see it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeContext {
    /// Name of its node.
    pub name: String,
    /// Its main address: `status.hostIP` of its pods, and `podIP` of those on its network. Empty when unknown.
    pub ip: String,
    /// Its memory in bytes; 0 when unknown.
    pub memory: u64,
}

/// A pod that is bound here.
#[derive(Clone, Debug, PartialEq)]
pub struct TargetPod {
    /// As it is stored.
    pub pod: Pod,
    /// The revision that last changed it.
    pub revision: u64,
}

/// What is known of an image on this device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageState {
    /// Containers can be started from it.
    Ready {
        /// What it says about its containers.
        config: ImageConfig,
        /// Its digest, as `imageID` in the status: `sha256:...`.
        id: String,
    },
    /// It is being unpacked.
    Preparing,
    /// It is not on this device.
    Absent,
    /// It is here, but can not be used.
    Failed(String),
    /// The name is no image name: why.
    Invalid(String),
}

/// How far the pull for one start has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PullState {
    /// Under way, or waiting its turn.
    Pulling,
    /// The registry was asked, and what it has is on this device.
    Done,
    /// The last try failed.
    Failed(PullFailure),
}

/// A pull that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullFailure {
    /// Which host, what it said, what to do.
    pub message: String,
    /// Nothing was learned about the image: its registry was not reached.
    pub unreachable: bool,
    /// Tries that failed in a row.
    pub attempts: u32,
    /// When the last one did.
    pub at: Timestamp,
    /// Chance, in thousandths: it makes the wait longer.
    pub jitter: u16,
}

/// Settings of one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Wait before the second restart; doubled for each further one.
    pub backoff_base: Duration,
    /// The longest wait.
    pub backoff_cap: Duration,
    /// A container that ran for so long starts over with its waits.
    pub backoff_reset: Duration,
    /// Time between asking and killing for containers whose pod is not known any more: it was deleted by
    /// force, as any other goes only when its device says that nothing of it is left.
    pub orphan_grace: Duration,
    /// Time until a kill that changed nothing is repeated.
    pub kill_retry: Duration,
    /// Time until a sandbox that could not be made is tried again.
    pub sandbox_retry: Duration,
    /// Processes and threads of one container.
    pub pids_limit: u64,
    /// What pods may ask for beyond the restricted profile.
    pub security: Arc<Policy>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            backoff_base: Duration::from_secs(10),
            backoff_cap: Duration::from_mins(5),
            backoff_reset: Duration::from_mins(10),
            orphan_grace: Duration::from_secs(1),
            kill_retry: Duration::from_secs(2),
            sandbox_retry: Duration::from_secs(5),
            pids_limit: 1024,
            security: Arc::default(),
        }
    }
}

/// What runs here.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// Every container that the runtime knows.
    pub containers: Vec<ObservedContainer>,
    /// What the containers of each pod share, and what of it could not be made.
    pub sandboxes: Vec<ObservedSandbox>,
    /// When a container was asked to stop, by this device's clock. The loop keeps it; losing it with a
    /// restart of the agent only means that the container is asked once more.
    pub asked: BTreeMap<ContainerRef, Timestamp>,
    /// Device nodes that containers have, by container.
    pub devices: Held,
    /// Versions of the volumes that are made, by uid of the pod and name of the volume.
    pub volumes: BTreeMap<String, BTreeMap<String, String>>,
    /// Why the volumes of a pod could not be made when that was last tried, by its uid.
    pub volume_failures: BTreeMap<String, String>,
    /// When this device began to end a pod as a whole, by its uid. Kept and lost as `asked` is.
    pub ending: BTreeMap<String, Timestamp>,
    /// Uids of pods that are ended because this device was cut off. Kept and lost as `asked` is.
    pub apart: BTreeSet<String>,
    /// Hooks that were begun.
    pub hooks: BTreeMap<(ContainerRef, HookKind), HookRun>,
    /// What probes found so far; lost with a restart of the agent, and then the stored status stands.
    pub health: BTreeMap<ContainerRef, Health>,
}

/// Images that a pod is made of, as it names them.
pub fn images_needed(pod: &Pod) -> BTreeSet<String> {
    pod.spec.iter().flat_map(roles::parts).filter_map(|part| part.container.image.clone()).collect()
}

/// The nouns' name of a pod; `None` while it has no name or uid.
pub(super) fn reference(pod: &Pod) -> Option<PodRef> {
    Some(PodRef {
        namespace: pod.metadata.namespace.clone()?,
        name: pod.metadata.name.clone()?,
        uid: pod.metadata.uid.clone()?,
    })
}
