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
    /// What of the device it sees besides its image; parents come before what lies in them.
    #[serde(default)]
    pub mounts: Vec<Mount>,
    /// Folder of its pod's sandbox: `hosts`, `resolv.conf`, and `shm` if shared memory is the pod's own.
    #[serde(default)]
    pub sandbox: Option<PathBuf>,
    /// Which namespaces it shares, and with whom.
    #[serde(default)]
    pub namespaces: Namespaces,
    /// What of the restricted profile is lifted.
    #[serde(default)]
    pub confinement: Confinement,
    /// Devices that it may open, besides `/dev/null` and its like.
    #[serde(default)]
    pub devices: Vec<DeviceNode>,
    /// Where it may leave a message about its end; `None` means that nobody asks.
    #[serde(default)]
    pub last_words: Option<LastWords>,
    /// Whether somebody may talk to it.
    #[serde(default)]
    pub console: Console,
    /// Milliseconds without contact to a quorum after which its shim ends it, should no agent have done so.
    #[serde(default)]
    pub leash_ms: Option<u64>,
}

/// What stands at a container's standard streams beside its log. The default: nobody is heard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Console {
    /// Whether it has an input; without, that is empty.
    pub stdin: bool,
    /// Whether its input ends when the first who attached to it lets go.
    pub once: bool,
    /// Whether its streams are a terminal.
    pub tty: bool,
}

impl Console {
    /// Whether there is anything to attach to.
    pub fn is_open(self) -> bool {
        self.stdin || self.tty
    }
}

/// A container's message about its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastWords {
    /// Absolute path inside the container of the file that it writes to.
    pub path: String,
    /// Whether the end of its log stands in for an empty message when it failed.
    pub or_log: bool,
}

/// A file or a folder of the device inside a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path on the device; it exists before the container is started.
    pub source: PathBuf,
    /// Steps below the source, in order. Each is resolved beneath what came before it: no link leads out.
    #[serde(default)]
    pub below: Vec<Below>,
    /// Absolute path inside the container.
    pub destination: String,
    /// Whether the container can not write to it.
    pub read_only: bool,
    /// Whether later mounts on either side show on the other.
    #[serde(default)]
    pub propagation: Propagation,
}

/// A relative path below a folder that programs write to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Below {
    /// The path, without `..`.
    pub path: String,
    /// Whether folders that are missing are made.
    pub make: bool,
}

/// How mounts below a mount spread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    /// Not at all.
    #[default]
    Private,
    /// From the device into the container.
    FromHost,
    /// Both ways.
    Both,
}

/// The namespaces of a container. Mounts and cgroups are always its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespaces {
    /// Links, addresses, ports.
    pub network: Namespace,
    /// Shared memory and message queues.
    pub ipc: Namespace,
    /// The host name.
    pub uts: Namespace,
    /// Processes. `At` names the folder in which the pod keeps the process that holds its namespace.
    pub pid: Namespace,
    /// Users: the first id on the device that stands for 0 inside, and how many follow; `None`: as on the device.
    pub user: Option<UserRange>,
    /// The pod's namespace of these users; `None`: the container gets one of its own with them.
    #[serde(default)]
    pub user_at: Option<PathBuf>,
}

impl Default for Namespaces {
    /// Everything its own but the network, as containers were before pods had networks.
    fn default() -> Self {
        let own = Namespace::Own;
        Self { network: Namespace::Host, ipc: own.clone(), uts: own.clone(), pid: own, user: None, user_at: None }
    }
}

/// Whose namespace a container is in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Namespace {
    /// One of its own.
    Own,
    /// The device's.
    Host,
    /// The one that this file stands for: its pod's.
    At(PathBuf),
}

/// Users of the device that stand for those of a user namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserRange {
    /// What 0 inside is on the device.
    pub first: u32,
    /// How many ids there are.
    pub count: u32,
}

/// What holds a container back. The default is the restricted profile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Confinement {
    /// Every capability, every device, nothing masked: only where the device's settings allow it.
    pub privileged: bool,
    /// Whether no program in it can gain privileges (`no_new_privs`).
    pub no_new_privileges: bool,
    /// The filter of system calls.
    pub seccomp: Seccomp,
    /// Kernel settings of its namespaces, `net.ipv4.ip_unprivileged_port_start` = `0`.
    pub sysctls: Vec<(String, String)>,
    /// Whether `/proc` is shown whole: nothing in it masked or read-only.
    pub unmasked_proc: bool,
    /// Whether the user also gets the groups that the image's `/etc/group` gives it.
    pub image_groups: bool,
}

impl Default for Confinement {
    fn default() -> Self {
        Self {
            privileged: false,
            no_new_privileges: true,
            seccomp: Seccomp::Default,
            sysctls: Vec::new(),
            unmasked_proc: false,
            image_groups: false,
        }
    }
}

/// A filter of system calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Seccomp {
    /// Kith's own.
    Default,
    /// None.
    Unconfined,
    /// A profile in a file of the device.
    File(PathBuf),
}

/// A device node inside a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceNode {
    /// Absolute path inside the container, and on the device.
    pub path: PathBuf,
    /// Whether it is a block device; else it is a character device.
    pub block: bool,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Of `r`, `w` and `m`, what is allowed.
    pub access: String,
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
    /// Device nodes that it was started with.
    #[serde(default)]
    pub devices: Vec<PathBuf>,
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
