//! What was found out about a device. Data only, and all of it may be missing: `None` is what could not
//! be seen, with the default of everything a device of which nothing is known.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Something that was tried on the device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Try {
    /// It was done, and undone.
    Works,
    /// It was refused, and with what.
    Fails(String),
    /// It was not tried, and why not.
    Untried(String),
    /// Nobody thought of it.
    #[default]
    Unknown,
}

/// Everything.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Facts {
    /// Whether root looks.
    pub root: bool,
    /// The kind of container in which Kith is, if it is in one: `docker`, `lxc`, `systemd-nspawn`.
    pub container: Option<String>,
    /// The board, as its device tree or firmware calls it.
    pub model: String,
    /// Release of Kith that looks.
    pub version: String,
    /// The kernel.
    pub kernel: Kernel,
    /// Control groups.
    pub cgroups: Cgroups,
    /// Time.
    pub clock: Clock,
    /// The disk under `data_dir`.
    pub disk: Disk,
    /// What lies on it.
    pub store: Store,
    /// Memory.
    pub memory: Memory,
    /// Heat and current.
    pub power: Power,
    /// Links, ports, packet filters.
    pub network: Network,
    /// Keys and membership.
    pub identity: Identity,
    /// What the agent may do.
    pub rights: Rights,
    /// How much the kernel gives.
    pub limits: Limits,
    /// The agent and what surrounds it.
    pub agent: Agent,
}

/// The kernel.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Kernel {
    /// `6.1.0-18-arm64`.
    pub release: String,
    /// The machine as the kernel names it: `aarch64`.
    pub machine: String,
    /// The architecture that this program was built for.
    pub built_for: String,
    /// Whether `/lib/modules/<release>` is there.
    pub modules: Option<bool>,
    /// Whether no module may be loaded any more.
    pub modules_sealed: bool,
    /// An overlay, in `data_dir`.
    pub overlay: Try,
    /// Kinds of namespaces that there are.
    pub namespaces: Option<Vec<String>>,
    /// Actions of seccomp filters.
    pub seccomp: Option<Vec<String>>,
    /// The program that decides on devices, for cgroups of version 2.
    pub devices_program: Try,
    /// All rules that Kith uses, in a network namespace of their own.
    pub packet_filter: Try,
    /// A bridge there.
    pub bridge: Try,
    /// A cable there.
    pub cable: Try,
    /// Handles of processes.
    pub pidfd: Try,
    /// A view of this program that can not be written through.
    pub sealed: Try,
    /// Reports of pressure.
    pub pressure: Option<bool>,
}

/// Which hierarchies of control groups there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Version {
    /// None is mounted.
    #[default]
    None,
    /// Version 1.
    V1,
    /// Version 2.
    V2,
    /// Controllers in version 1, and a tree of version 2 without any.
    Hybrid,
}

/// Control groups.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cgroups {
    /// Which kind.
    pub version: Version,
    /// Controllers that can be used.
    pub controllers: Vec<String>,
    /// Controllers that the kernel has and was told to leave off.
    pub disabled: Vec<String>,
    /// The kernel's command line.
    pub command_line: String,
    /// The file with the command line of the next boot, on boards that have one.
    pub command_file: Option<String>,
    /// Whether a limit of swap can be set.
    pub swap: Option<bool>,
    /// Whether the hierarchies are mounted for reading only.
    pub read_only: Option<bool>,
}

/// Time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Clock {
    /// Milliseconds since 1970, as the clock shows.
    pub now: i64,
    /// This release did not exist before.
    pub floor: i64,
    /// The latest time in the device's own files.
    pub latest_file: Option<i64>,
    /// Whether the kernel takes the clock for synchronised.
    pub synchronised: Option<bool>,
    /// What the error may be, in microseconds.
    pub error: Option<i64>,
    /// Whether there is a clock that runs without power.
    pub hardware: Option<bool>,
    /// Programs that set the clock and run.
    pub services: Vec<String>,
    /// The time zone; an error of its file.
    pub zone: Option<Result<String, String>>,
}

/// A card or chip of eMMC or SD.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Card {
    /// `SD` or `MMC`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// When it was made, `03/2021`.
    pub made: String,
    /// Tenths of its life that are used, of both kinds of memory; 11 is beyond.
    pub life: Vec<u32>,
    /// 1 is well, 2 warns, 3 is urgent.
    pub spare: Option<u32>,
}

/// The disk under `data_dir`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Disk {
    /// The folder that was looked at: `data_dir`, or the first above it that exists.
    pub folder: String,
    /// Kind of file system.
    pub kind: String,
    /// Its device: `mmcblk0`.
    pub device: String,
    /// Whether it is mounted for reading only.
    pub read_only: Option<bool>,
    /// Whether the root is.
    pub root_read_only: Option<bool>,
    /// Bytes.
    pub total: Option<u64>,
    /// Bytes for root.
    pub free: Option<u64>,
    /// Inodes; 0 where there are as many as are wanted.
    pub inodes: Option<u64>,
    /// Free ones.
    pub inodes_free: Option<u64>,
    /// Microseconds that writes of 4 KiB took until they were safe; an error of one.
    pub syncs: Option<Result<Vec<u64>, String>>,
    /// What an SD card or eMMC tells of itself.
    pub card: Option<Card>,
    /// Errors that the file system has noted.
    pub errors: Option<u64>,
    /// Bytes that the kernel wrote to the device since it started.
    pub written: Option<u64>,
    /// Seconds since it started.
    pub uptime: u64,
    /// Kind of the file system under `run_dir`.
    pub run_kind: String,
    /// Free bytes under `log_dir`.
    pub log_free: Option<u64>,
}

/// What lies in `data_dir` and `run_dir`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Store {
    /// Whether there are a log and a state; `None` when that can not be seen.
    pub log: Option<bool>,
    /// Whether the state's file is there.
    pub state: Option<bool>,
    /// Bytes of the state.
    pub state_bytes: u64,
    /// Bytes of the log.
    pub log_bytes: u64,
    /// A note of an open that did not come to its end.
    pub suspect: bool,
    /// Folders with what could not be trusted.
    pub damaged: Vec<String>,
    /// Images: how many, and what is wrong with them.
    pub images: Option<(usize, Vec<String>)>,
    /// Files and folders that nobody needs, with their bytes.
    pub leftovers: Option<Vec<(String, u64)>>,
}

/// Memory.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// Bytes.
    pub total: Option<u64>,
    /// Bytes that can be had.
    pub available: u64,
    /// Bytes of swap.
    pub swap: u64,
    /// Free bytes of it.
    pub swap_free: u64,
    /// Devices of swap.
    pub swap_devices: Vec<String>,
    /// Programs that the kernel killed for want of memory, since it started.
    pub killed: Option<u64>,
    /// Hundredths of the last minute in which something waited for memory, times 100.
    pub waiting: Option<u64>,
}

/// Heat and current.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Power {
    /// Thousandths of a degree, by sensor.
    pub temperatures: BTreeMap<String, i64>,
    /// The firmware's bits of a Raspberry Pi.
    pub throttled: Option<u32>,
    /// Whether a sensor of the supply raises an alarm.
    pub low_voltage: Option<bool>,
}

/// Who has a port.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Port {
    /// `0.0.0.0:7443`.
    pub address: String,
    /// Whether somebody listens there; `None` when that can not be seen.
    pub taken: Option<bool>,
    /// Who: `nginx (pid 7)`; empty when that can not be seen.
    pub owner: String,
    /// Whether that is this device's agent.
    pub ours: bool,
}

/// A chain of the packet filter that is hooked in.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Chain {
    /// `ip`, `ip6`, `inet`.
    pub family: String,
    /// Its table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// `input`, `forward`, ...
    pub hook: String,
    /// Whether what no rule decides on is dropped.
    pub drops: bool,
    /// How many rules it has.
    pub rules: usize,
}

/// Another device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// Where it was asked.
    pub addresses: Vec<String>,
    /// Milliseconds until it answered; `None`: it did not.
    pub answered: Option<u64>,
}

/// Links, ports, packet filters.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Network {
    /// Own addresses, loopback and pods left out.
    pub addresses: Vec<String>,
    /// Addresses that the settings tell others, and that no link of this device has.
    pub foreign: Vec<String>,
    /// Whether there is a default route.
    pub route: Option<bool>,
    /// For other devices.
    pub peer_port: Port,
    /// For kubectl.
    pub api_port: Port,
    /// Most bytes of a socket's buffer for what arrives, and for what leaves.
    pub buffers: Option<(u64, u64)>,
    /// Whether there is the bridge of pods.
    pub bridge: bool,
    /// Whether the kernel passes on packets.
    pub forwarding: Option<bool>,
    /// Chains that are hooked in, Kith's own left out; an error of asking for them.
    pub chains: Option<Result<Vec<Chain>, String>>,
    /// Tables of the older packet filter.
    pub legacy: Vec<String>,
    /// Pods' addresses, as the settings have them.
    pub pod_network: String,
    /// Networks of others that overlap with them, with their links.
    pub clashes: Vec<String>,
    /// Name servers; an error of reading them.
    pub resolvers: Option<Result<Vec<String>, String>>,
    /// The host name.
    pub host_name: String,
    /// The name of the device, as the settings or the fleet have it; empty: the host name.
    pub name: String,
    /// Other devices that were asked.
    pub peers: Option<Vec<Peer>>,
}

/// A file with its owner and its mode.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Private {
    /// Its path.
    pub path: String,
    /// Its mode's lower 12 bits.
    pub mode: u32,
    /// Its owner.
    pub owner: u32,
}

/// Keys and membership.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Identity {
    /// The folder and the files in it; `None` when they can not be seen.
    pub files: Option<Vec<Private>>,
    /// Whether the keys are there and can be read; an error of it.
    pub keys: Option<Result<bool, String>>,
    /// The fleet of this device, `None` for none; an error of reading it.
    pub fleet: Option<Result<Option<Fleet>, String>>,
    /// Until when the certificate of the HTTPS API holds, milliseconds since 1970, and whether it is of this
    /// device's key.
    pub certificate: Option<Result<Certificate, String>>,
}

/// The certificate of the HTTPS API.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Certificate {
    /// Milliseconds since 1970.
    pub from: i64,
    /// Milliseconds since 1970.
    pub until: i64,
    /// Whether it is of this device's key.
    pub ours: bool,
}

/// The fleet that this device remembers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Fleet {
    /// Its id.
    pub id: String,
    /// The device's name.
    pub name: String,
    /// How many members it had.
    pub members: usize,
    /// Whether this device's key is the one that the fleet knows it by.
    pub key_matches: Option<bool>,
    /// Whether it must be let in again before it takes part.
    pub outcast: bool,
}

/// What the agent may do.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rights {
    /// Capabilities that Kith needs and the process (the agent's, where it runs) does not have.
    pub missing: Option<Vec<String>>,
    /// Whether the process can gain no privileges.
    pub no_new_privileges: Option<bool>,
    /// The agent's socket.
    pub socket: Option<Private>,
    /// Group of the socket, as the settings name it, and its number where there is such a group.
    pub socket_group: Option<(String, Option<u32>)>,
    /// The socket's group.
    pub socket_gid: Option<u32>,
    /// Security modules of the kernel.
    pub modules: Vec<String>,
    /// Whether SELinux enforces.
    pub selinux: Option<bool>,
    /// AppArmor's profile of the process.
    pub apparmor: String,
    /// The kernel's lockdown: `none`, `integrity`, `confidentiality`.
    pub lockdown: String,
}

/// How much the kernel gives.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Open files of the agent, or of a command here.
    pub files: Option<u64>,
    /// Open files of all programs, and how many there may be.
    pub all_files: Option<(u64, u64)>,
    /// The highest pid.
    pub pids: Option<u64>,
    /// Threads of all programs.
    pub threads: Option<u64>,
    /// Watches of files of one user.
    pub watches: Option<u64>,
    /// Watchers of one user.
    pub watchers: Option<u64>,
    /// Namespaces of each kind.
    pub namespaces: BTreeMap<String, u64>,
    /// Bits of entropy.
    pub entropy: Option<u64>,
}

/// The agent as it answers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Answer {
    /// Its release.
    pub version: String,
    /// Whether writes work.
    pub quorum: bool,
    /// Who leads.
    pub leader: Option<String>,
    /// What it says is wrong, worst first, with what to do.
    pub problems: Vec<(String, String)>,
}

/// The unit of systemd.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Unit {
    /// `loaded`, `not-found`.
    pub load: String,
    /// `active`, `failed`, ...
    pub active: String,
    /// `enabled`, ...
    pub enabled: String,
    /// How it ended last: `success`, `watchdog`, ...
    pub result: String,
    /// How often it was started again by systemd.
    pub restarts: u64,
    /// Time of its watchdog, as systemd writes it: `4min`; `0` or `infinity` for none.
    pub watchdog: String,
    /// How its processes end: `process`.
    pub kill_mode: String,
}

/// The agent and what surrounds it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Agent {
    /// Whose lock is on the run folder.
    pub pid: Option<u32>,
    /// Whether the program that it runs was replaced on the disk.
    pub replaced: Option<bool>,
    /// What it answered; an error of asking.
    pub answer: Option<Result<Answer, String>>,
    /// Whether the first program is systemd.
    pub systemd: bool,
    /// The unit `kith`.
    pub unit: Option<Unit>,
    /// Other container platforms that run here.
    pub others: Vec<String>,
    /// What is wrong with the settings.
    pub settings: Option<Result<String, String>>,
}
