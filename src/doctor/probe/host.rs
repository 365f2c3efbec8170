//! What the system's own files tell: control groups, clock, memory, heat, rights and limits.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::libc;

use super::super::facts::{Cgroups, Clock, Limits, Memory, Power, Private, Rights, Version};
use super::{Given, System};
use crate::config::{Config, group_number};

/// Capabilities without which Kith can not work, by their numbers.
const CAPABILITIES: [(u32, &str); 12] = [
    (0, "CAP_CHOWN"),
    (1, "CAP_DAC_OVERRIDE"),
    (3, "CAP_FOWNER"),
    (5, "CAP_KILL"),
    (6, "CAP_SETGID"),
    (7, "CAP_SETUID"),
    (8, "CAP_SETPCAP"),
    (12, "CAP_NET_ADMIN"),
    (18, "CAP_SYS_CHROOT"),
    (21, "CAP_SYS_ADMIN"),
    (27, "CAP_MKNOD"),
    (31, "CAP_SETFCAP"),
];

/// Programs that set the clock.
const CLOCKS: [&str; 5] = ["systemd-timesyn", "chronyd", "ntpd", "openntpd", "ptp4l"];

/// Files with the command line of a board's next boot.
const COMMAND_FILES: [&str; 2] = ["/boot/firmware/cmdline.txt", "/boot/cmdline.txt"];

/// The kind of container in which this runs.
pub(super) fn container(system: &System) -> Option<String> {
    if system.path("/.dockerenv").exists() {
        return Some("docker".into());
    }
    if system.path("/run/.containerenv").exists() {
        return Some("podman".into());
    }
    let told = system.text("/run/systemd/container").or_else(|| {
        let environment = system.text("/proc/1/environ")?;
        environment.split('\0').find_map(|variable| variable.strip_prefix("container=").map(str::to_owned))
    });
    told.filter(|kind| !kind.is_empty())
}

/// The board.
pub(super) fn model(system: &System) -> String {
    let tree = system.text("/proc/device-tree/model");
    tree.or_else(|| system.text("/sys/class/dmi/id/product_name")).unwrap_or_default()
}

pub(super) fn cgroups(system: &System) -> Cgroups {
    let mounts = system.text("/proc/self/mountinfo").unwrap_or_default();
    let mut found = Cgroups {
        command_line: system.text("/proc/cmdline").unwrap_or_default(),
        command_file: COMMAND_FILES.iter().find(|file| system.path(file).exists()).map(ToString::to_string),
        ..Cgroups::default()
    };
    let (mut first, mut second, mut swap) = (false, None, None);
    for line in mounts.lines() {
        let Some((before, after)) = line.split_once(" - ") else { continue };
        let fields: Vec<&str> = before.split(' ').collect();
        let kind: Vec<&str> = after.split(' ').collect();
        let (Some(place), Some(options)) = (fields.get(4), fields.get(5)) else { continue };
        let read_only = options.split(',').any(|option| option == "ro");
        match kind.first() {
            Some(&"cgroup") => {
                let options = kind.get(2).copied().unwrap_or_default();
                let names = options.split(',').filter(|name| {
                    !matches!(*name, "rw" | "ro" | "xattr" | "clone_children" | "cpuset_v2_mode" | "seclabel")
                        && !name.contains('=')
                });
                let names: Vec<String> = names.map(str::to_owned).collect();
                first |= !names.is_empty();
                if names.iter().any(|name| name == "memory") {
                    swap = Some(system.path(place).join("memory.memsw.limit_in_bytes").exists());
                    found.read_only = Some(read_only);
                }
                found.controllers.extend(names);
            }
            Some(&"cgroup2") => second = Some(((*place).to_owned(), read_only)),
            _ => {}
        }
    }
    if let Some((place, read_only)) = &second {
        let controllers = system.text(&format!("{place}/cgroup.controllers")).unwrap_or_default();
        found.controllers.extend(controllers.split_whitespace().map(str::to_owned));
        found.read_only = found.read_only.or(Some(*read_only));
        if !first {
            let groups = system.names(place);
            let of_group = |name: &String| system.path(&format!("{place}/{name}/memory.swap.max")).exists();
            swap = groups
                .iter()
                .any(|name| system.path(&format!("{place}/{name}/memory.max")).exists())
                .then(|| groups.iter().any(of_group));
        }
    }
    found.swap = swap;
    found.version = match (first, second.is_some()) {
        (true, true) => Version::Hybrid,
        (true, false) => Version::V1,
        (false, true) => Version::V2,
        (false, false) => Version::None,
    };
    let known = system.text("/proc/cgroups").unwrap_or_default();
    let off = known.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let mut fields = line.split_whitespace();
        let name = fields.next()?;
        (fields.nth(2) == Some("0")).then(|| name.to_owned())
    });
    found.disabled = off.collect();
    found
}

pub(super) fn clock(system: &System, given: &Given<'_>) -> Clock {
    let millis = |time: SystemTime| {
        time.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    };
    let (synchronised, error) = kernel_clock();
    let data = &given.config.data_dir;
    let files = ["state.redb", "log", "identity/fleet.json", "identity"].map(|name| std::fs::metadata(data.join(name)));
    let latest = files.into_iter().flatten().filter_map(|file| file.modified().ok()).max();
    Clock {
        now: millis(SystemTime::now()),
        floor: given.floor,
        latest_file: latest.map(millis).or((!data.exists()).then_some(0)),
        synchronised,
        error,
        hardware: Some(!system.names("/sys/class/rtc").is_empty()),
        services: programs(system).into_iter().filter(|name| CLOCKS.contains(&name.as_str())).collect(),
        zone: Some(zone(system)),
    }
}

/// Names of all programs that run, each once.
pub(super) fn programs(system: &System) -> Vec<String> {
    let pids = system.names("/proc").into_iter().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
    let mut names: Vec<String> = pids.filter_map(|pid| system.text(&format!("/proc/{pid}/comm"))).collect();
    names.sort();
    names.dedup();
    names
}

/// Whether the kernel takes the clock for synchronised, and how far it may be off, in microseconds.
#[expect(unsafe_code, reason = "adjtimex has no safe wrapper")]
fn kernel_clock() -> (Option<bool>, Option<i64>) {
    // SAFETY: all zeros are a value of this structure, and mean that nothing is to be set.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the structure outlives the call.
    let result = unsafe { libc::adjtimex(&raw mut state) };
    if result < 0 {
        return (None, None);
    }
    #[allow(clippy::useless_conversion, reason = "32 bits on some machines")]
    let error = i64::from(state.maxerror);
    (Some(state.status & libc::STA_UNSYNC == 0), Some(error))
}

fn zone(system: &System) -> Result<String, String> {
    let place = system.path("/etc/localtime");
    let Ok(target) = std::fs::read_link(&place) else {
        let whole = if place.exists() { "as /etc/localtime has it" } else { "UTC: there is no /etc/localtime" };
        return Ok(whole.into());
    };
    let target = target.display().to_string();
    let name = target.split_once("zoneinfo/").map_or(target.as_str(), |(_, name)| name);
    if place.exists() {
        Ok(name.to_owned())
    } else {
        Err(format!("/etc/localtime leads to {target}, which does not exist"))
    }
}

pub(super) fn memory(system: &System) -> Memory {
    let lines = system.text("/proc/meminfo").unwrap_or_default();
    let value = |name: &str| {
        let line = lines.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024)
    };
    let swaps = system.text("/proc/swaps").unwrap_or_default();
    let killed = system.text("/proc/vmstat").and_then(|text| {
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")).and_then(|count| count.trim().parse().ok())
    });
    let waiting = system.text("/proc/pressure/memory").and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("some "))?.to_owned();
        let share = line.split(' ').find_map(|field| field.strip_prefix("avg60="))?.to_owned();
        let (whole, part) = share.split_once('.')?;
        Some(whole.parse::<u64>().ok()? * 100 + part.get(..2)?.parse::<u64>().ok()?)
    });
    Memory {
        total: value("MemTotal"),
        available: value("MemAvailable").unwrap_or(0),
        swap: value("SwapTotal").unwrap_or(0),
        swap_free: value("SwapFree").unwrap_or(0),
        swap_devices: swaps
            .lines()
            .skip(1)
            .filter_map(|line| Some(line.split_whitespace().next()?.to_owned()))
            .collect(),
        killed,
        waiting,
    }
}

pub(super) fn power(system: &System) -> Power {
    let mut temperatures = BTreeMap::new();
    for zone in system.names("/sys/class/thermal").into_iter().filter(|name| name.starts_with("thermal_zone")) {
        let kind = system.text(&format!("/sys/class/thermal/{zone}/type")).unwrap_or_else(|| zone.clone());
        if let Some(degrees) = system.number::<i64>(&format!("/sys/class/thermal/{zone}/temp")).filter(|d| *d > 0) {
            temperatures.insert(kind, degrees);
        }
    }
    let bits = system.text("/sys/devices/platform/soc/soc:firmware/get_throttled");
    let monitors = system.names("/sys/class/hwmon");
    let alarms = monitors
        .iter()
        .filter(|monitor| system.text(&format!("/sys/class/hwmon/{monitor}/name")).as_deref() == Some("rpi_volt"));
    let alarms: Vec<Option<u32>> =
        alarms.map(|monitor| system.number(&format!("/sys/class/hwmon/{monitor}/in0_lcrit_alarm"))).collect();
    Power {
        temperatures,
        throttled: bits.and_then(|bits| u32::from_str_radix(bits.trim_start_matches("0x"), 16).ok()),
        low_voltage: alarms.into_iter().flatten().map(|alarm| alarm != 0).reduce(|one, other| one || other),
    }
}

pub(super) fn rights(system: &System, config: &Config, pid: Option<u32>) -> Rights {
    let process = pid.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
    let status = system.text(&format!("/proc/{process}/status")).unwrap_or_default();
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let missing = field("CapEff:").and_then(|bits| u64::from_str_radix(bits, 16).ok()).map(|bits| {
        let without = CAPABILITIES.iter().filter(|(number, _)| bits & (1 << number) == 0);
        without.map(|(_, name)| (*name).to_owned()).collect()
    });
    let path = config.run_dir.join("kith.sock");
    let socket = std::fs::metadata(&path).ok();
    let group = (!config.socket_group.is_empty()).then(|| {
        let groups = system.text("/etc/group").unwrap_or_default();
        (config.socket_group.clone(), group_number(&groups, &config.socket_group))
    });
    let lockdown = system.text("/sys/kernel/security/lockdown").unwrap_or_default();
    let chosen = lockdown.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map(|(level, _)| level.to_owned());
    let modules = system.text("/sys/kernel/security/lsm").unwrap_or_default();
    Rights {
        missing,
        no_new_privileges: field("NoNewPrivs:").map(|value| value == "1"),
        socket_gid: socket.as_ref().map(MetadataExt::gid),
        socket: socket.map(|found| Private {
            path: path.display().to_string(),
            mode: found.mode() & 0o7777,
            owner: found.uid(),
        }),
        socket_group: group,
        modules: modules
            .split(',')
            .filter(|name| matches!(*name, "apparmor" | "selinux" | "smack" | "tomoyo"))
            .map(str::to_owned)
            .collect(),
        selinux: system.number::<u8>("/sys/fs/selinux/enforce").map(|enforces| enforces == 1),
        apparmor: if modules.contains("apparmor") {
            system
                .text(&format!("/proc/{process}/attr/apparmor/current"))
                .or_else(|| system.text(&format!("/proc/{process}/attr/current")))
                .unwrap_or_default()
        } else {
            String::new()
        },
        lockdown: chosen.unwrap_or_default(),
    }
}

pub(super) fn limits(system: &System, pid: Option<u32>) -> Limits {
    let process = pid.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
    let limits = system.text(&format!("/proc/{process}/limits")).unwrap_or_default();
    let files = limits.lines().find_map(|line| line.strip_prefix("Max open files")).and_then(|rest| {
        let soft = rest.split_whitespace().next()?;
        if soft == "unlimited" { Some(u64::MAX) } else { soft.parse().ok() }
    });
    let all = system.text("/proc/sys/fs/file-nr").and_then(|text| {
        let mut numbers = text.split_whitespace().map(str::parse);
        Some((numbers.next()?.ok()?, numbers.nth(1)?.ok()?))
    });
    let kinds = ["mnt", "pid", "net", "ipc", "uts", "cgroup", "user"];
    let most = |kind: &str| Some((kind.to_owned(), system.number(&format!("/proc/sys/user/max_{kind}_namespaces"))?));
    Limits {
        files,
        all_files: all,
        pids: system.number("/proc/sys/kernel/pid_max"),
        threads: system.number("/proc/sys/kernel/threads-max"),
        watches: system.number("/proc/sys/fs/inotify/max_user_watches"),
        watchers: system.number("/proc/sys/fs/inotify/max_user_instances"),
        namespaces: kinds.into_iter().filter_map(most).collect(),
        entropy: system.number("/proc/sys/kernel/random/entropy_avail"),
    }
}
