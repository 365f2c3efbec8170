//! The OCI configuration of a container: the restricted profile, always, with what its spec allows.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use libcontainer::oci_spec::runtime::Capability;
use nix::sys::resource::{Resource, getrlimit};
use serde_json::{Value, json};

use super::rootfs::Prepared;
use super::users::Users;
use super::{devices, privileges};
use crate::reconciler::container::{ContainerSpec, DeviceNode, Limits, Namespace, Namespaces};
use crate::resource::capability;
use crate::runtime::cgroup::Hierarchies;
use crate::runtime::folder::Order;

/// Path of programs in images that name none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Length of a quota period of the processor, in microseconds; a thousandth of a core is 100 of them.
const CPU_PERIOD: u64 = 100_000;

/// Shortest quota that the kernel takes, in microseconds.
const CPU_QUOTA_MIN: u64 = 1_000;

/// Open files of a program, soft and hard: what systemd gives to services.
const OPEN_FILES: (u64, u64) = (1024, 524_288);

/// What a container must not see of the kernel.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// What it must not change.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The configuration that libcontainer is given.
pub(super) fn config(
    order: &Order,
    prepared: &Prepared,
    hierarchies: &Hierarchies,
    users: Option<&Users>,
) -> Result<Value, String> {
    let spec = &order.spec;
    let confinement = &spec.confinement;
    let capabilities = capabilities(&spec.capabilities, confinement.privileged)?;
    let mut env: Vec<String> = spec.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let names = |name: &str| spec.env.iter().any(|(known, _)| known == name);
    if !names("PATH") {
        env.push(format!("PATH={DEFAULT_PATH}"));
    }
    // libcontainer would look it up by name service, inside the container's root.
    if !names("HOME") {
        env.push(format!("HOME={}", prepared.home));
    }
    // Not more than the device itself may have: without CAP_SYS_RESOURCE that would be refused.
    let open_files = getrlimit(Resource::RLIMIT_NOFILE).map_or(OPEN_FILES.0, |(_, hard)| hard.min(OPEN_FILES.1));
    let cwd = if spec.working_dir.is_empty() { "/" } else { &spec.working_dir };
    let mut mounts = mounts(order, prepared, hierarchies.is_unified());
    let devices = devices::of(spec)?;
    let mut nodes = devices.iter().map(devices::node).collect::<Vec<_>>();
    if let Some(users) = users {
        nodes.clear();
        mounts.extend(users.nodes(&devices)?);
        users.enter(&spec.namespaces, &mut mounts)?;
    }
    let groups: BTreeSet<u32> = spec.groups.iter().chain(&prepared.groups).copied().collect();
    let mut config = json!({
        "ociVersion": "1.0.2",
        "root": {"path": prepared.root, "readonly": spec.read_only_root},
        "process": {
            "terminal": false,
            "user": {"uid": spec.uid, "gid": spec.gid, "additionalGids": groups},
            "args": spec.args,
            "env": env,
            "cwd": cwd,
            "capabilities": {
                "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
                "inheritable": [], "ambient": [],
            },
            "noNewPrivileges": confinement.no_new_privileges,
            "oomScoreAdj": spec.oom_score_adj,
            "rlimits": [
                {"type": "RLIMIT_NOFILE", "soft": open_files.min(OPEN_FILES.0), "hard": open_files},
                {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
            ],
        },
        "mounts": mounts,
        "linux": {
            "namespaces": namespaces(&spec.namespaces, users),
            "cgroupsPath": order.cgroup,
            "resources": resources(order, hierarchies, &devices)?,
            "devices": nodes,
            "sysctl": sysctls(spec),
            "maskedPaths": if confinement.unmasked_proc { &[][..] } else { &MASKED[..] },
            "readonlyPaths": if confinement.unmasked_proc { &[][..] } else { &READ_ONLY[..] },
        },
    });
    if spec.namespaces.uts == Namespace::Own {
        config["hostname"] = json!(spec.hostname);
    }
    Ok(config)
}

/// The namespaces that libcontainer makes or enters. What is not in the list stays this process's own.
fn namespaces(namespaces: &Namespaces, users: Option<&Users>) -> Vec<Value> {
    let mut list = vec![json!({"type": "mount"}), json!({"type": "cgroup"})];
    let shared = [
        ("pid", &namespaces.pid),
        ("network", &namespaces.network),
        ("ipc", &namespaces.ipc),
        ("uts", &namespaces.uts),
    ];
    for (kind, namespace) in shared {
        match namespace {
            Namespace::Own => list.push(json!({"type": kind})),
            Namespace::Host => {}
            // From inside of its user namespace a container could not enter these: the shim did.
            Namespace::At(_) if users.is_some() => {}
            Namespace::At(path) => list.push(json!({"type": kind, "path": path})),
        }
    }
    list.extend(users.map(|users| json!({"type": "user", "path": users.path()})));
    list
}

/// What libcontainer is to leave of them, while the filter is not applied yet.
pub(super) fn with_needed(config: &mut Value) {
    for set in ["bounding", "effective", "permitted"] {
        let Some(list) = config["process"]["capabilities"][set].as_array_mut() else { continue };
        for name in privileges::NEEDED {
            if !list.iter().any(|known| known == name) {
                list.push(json!(name));
            }
        }
    }
}

/// Settings of namespaces that are the container's own; those of a pod's were made with them.
fn sysctls(spec: &ContainerSpec) -> BTreeMap<String, String> {
    let own = spec.sandbox.is_none();
    spec.confinement.sysctls.iter().filter(|_| own).cloned().collect()
}

/// Where a container's `/dev/shm` comes from, if it is not its own.
fn shared_memory(spec: &ContainerSpec) -> Option<PathBuf> {
    match spec.namespaces.ipc {
        Namespace::Host => Some("/dev/shm".into()),
        Namespace::At(_) => spec.sandbox.as_ref().map(|sandbox| sandbox.join("shm")),
        Namespace::Own => None,
    }
}

/// Checks the names.
fn capabilities(wanted: &[String], privileged: bool) -> Result<Vec<String>, String> {
    let held = privileges::held().map_err(|error| format!("look at the agent's own capabilities: {error}"))?;
    let has = |name: &str| capability::number(name).is_some_and(|number| held & 1 << number != 0);
    if privileged {
        return Ok(wanted.iter().filter(|name| has(name)).cloned().collect());
    }
    for name in wanted {
        let known = name.strip_prefix("CAP_").is_some_and(|bare| bare.parse::<Capability>().is_ok());
        if !known {
            return Err(format!("{name} is not a capability"));
        }
        if !has(name) {
            return Err(format!("{name} can not be given: the agent itself does not have it on this device"));
        }
    }
    Ok(wanted.to_vec())
}

fn mounts(order: &Order, prepared: &Prepared, unified: bool) -> Vec<Value> {
    let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": source, "options": options});
    let read_only: &[&str] = if order.spec.confinement.privileged { &[] } else { &["ro"] };
    let sys = &[&["nosuid", "noexec", "nodev"], read_only].concat();
    let mut mounts = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        match shared_memory(&order.spec) {
            Some(shared) => {
                mount("/dev/shm", "bind", &shared.to_string_lossy(), &["bind", "nosuid", "noexec", "nodev"])
            }
            None => mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        },
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", "sysfs", sys),
        mount(
            "/etc/resolv.conf",
            "bind",
            &order.resolv_conf.to_string_lossy(),
            &["bind", "ro", "nosuid", "nodev", "noexec"],
        ),
    ];
    if unified {
        // Not on version 1: there `ro` is ignored, and a container could raise its own limits.
        mounts.push(mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]));
    }
    // A volume at /dev/shm takes the place of the usual one; the others lie beside it.
    mounts.retain(|usual| !prepared.mounts.iter().any(|volume| volume["destination"] == usual["destination"]));
    mounts.extend(prepared.mounts.iter().cloned());
    mounts
}

/// The weight of a container's processes, as the kernel takes it.
pub(super) fn cpu_shares(limits: &Limits) -> u64 {
    limits.cpu_shares.max(2)
}

/// The period of a container's quota and how much of it that is, in microseconds.
pub(super) fn cpu_quota(limits: &Limits) -> Option<(u64, i64)> {
    let quota = limits.cpu?.saturating_mul(CPU_PERIOD / 1000).max(CPU_QUOTA_MIN);
    Some((CPU_PERIOD, i64::try_from(quota).unwrap_or(i64::MAX)))
}

fn resources(order: &Order, hierarchies: &Hierarchies, devices: &[DeviceNode]) -> Result<Value, String> {
    let limits = &order.spec.limits;
    hierarchies.require("pids")?;
    hierarchies.require("cpu")?;
    let mut resources = json!({
        "devices": devices::rules(&order.spec, devices),
        "pids": {"limit": limits.pids},
        "cpu": {"shares": cpu_shares(limits)},
    });
    if let Some((period, quota)) = cpu_quota(limits) {
        resources["cpu"]["period"] = json!(period);
        resources["cpu"]["quota"] = json!(quota);
    }
    if let Some(memory) = limits.memory {
        hierarchies.require("memory")?;
        let bytes = i64::try_from(memory).unwrap_or(i64::MAX);
        if hierarchies.is_unified() {
            resources["memory"] = json!({"limit": bytes});
            // `swap` equal to the limit would leave memory.swap.max at "max".
            resources["unified"] = json!({"memory.swap.max": "0"});
        } else {
            resources["memory"] = json!({"limit": bytes, "swap": bytes});
        }
    }
    Ok(resources)
}
