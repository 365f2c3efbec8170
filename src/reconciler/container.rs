//! The nouns between the reconciler and a runtime: what a container is to be, and what is seen of it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::resource::Timestamp;

/// The pod that a container belongs to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PodRef {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Unique id: a pod deleted and made again under its name is another pod.
    pub uid: String,
}

/// One attempt at running one container of a pod. Its id is `<uid>-<container>-<attempt>`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ContainerRef {
    /// The pod.
    pub pod: PodRef,
    /// The container's name in the pod.
    pub container: String,
    /// Counts up from 0 with each restart: the restart count of Kubernetes.
    pub attempt: u32,
}

impl ContainerRef {
    /// The runtime's id: also the name of its folders and its cgroup.
    pub fn id(&self) -> String {
        format!("{}-{}-{}", self.pod.uid, self.container, self.attempt)
    }
}

/// Everything that a runtime needs to start a container: no decision is left to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// Which container this is.
    pub reference: ContainerRef,
    /// The image as the pod names it.
    pub image: String,
    /// Program and arguments; never empty.
    pub args: Vec<String>,
    /// `NAME`, value; later ones win.
    pub env: Vec<(String, String)>,
    /// Absolute folder to start in.
    pub working_dir: String,
    /// User id inside the container.
    pub uid: u32,
    /// Group id inside the container.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Host name in the container's own UTS namespace.
    pub hostname: String,
    /// Limits of its cgroup.
    pub limits: Limits,
    /// Capabilities that the container keeps, such as `CAP_NET_BIND_SERVICE`.
    pub capabilities: Vec<String>,
    /// Whether its root is mounted read-only.
    pub read_only_root: bool,
    /// Larger is killed first when memory runs out.
    pub oom_score_adj: i32,
    /// The signal that asks it to stop, such as `SIGTERM`, as the image names it; empty means `SIGTERM`.
    pub stop_signal: String,
}

/// Limits that are always set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of memory, swap included; `None` leaves only the fleet's total.
    pub memory: Option<u64>,
    /// Thousandths of a core as a hard quota.
    pub cpu: Option<u64>,
    /// Relative weight against others, in Kubernetes' shares (1024 a core).
    pub cpu_shares: u64,
    /// Processes and threads.
    pub pids: u64,
}

/// Where an observed container is in its life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerState {
    /// The runtime is preparing it.
    Creating,
    /// Its program runs.
    Running {
        /// When it started.
        started: Timestamp,
        /// The program's pid on the device.
        pid: u32,
    },
    /// Its program ended, or never began.
    Exited(Exit),
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit code; 128 + signal when a signal ended it.
    pub code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Whether the kernel killed something in it for lack of memory.
    pub oom_killed: bool,
    /// When it started; `None` when it never did.
    pub started: Option<Timestamp>,
    /// When it ended.
    pub finished: Timestamp,
    /// Why it could not start, or what is known beyond the code; empty otherwise.
    pub message: String,
}

/// A container as the runtime sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedContainer {
    /// Which one.
    pub reference: ContainerRef,
    /// The image that it was started from.
    pub image: String,
    /// Where it is in its life.
    pub state: ContainerState,
}

/// Signals that the reconciler sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopSignal {
    /// Ask: the image's stop signal, `SIGTERM` unless it names another.
    Ask,
    /// Kill everything in the container at once.
    Kill,
}

/// Where a container writes its log: `<log_dir>/<namespace>_<pod>_<uid>/<container>/<attempt>.log`.
pub fn log_path(log_dir: &std::path::Path, reference: &ContainerRef) -> PathBuf {
    let pod = &reference.pod;
    log_dir
        .join(format!("{}_{}_{}", pod.namespace, pod.name, pod.uid))
        .join(&reference.container)
        .join(format!("{}.log", reference.attempt))
}
