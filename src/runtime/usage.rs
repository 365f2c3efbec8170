//! What containers and the device use, from the kernel's own files: libcontainer's statistics fail
//! on kernels without every controller.

#![expect(clippy::disallowed_methods, reason = "cgroups and /proc are files")]

use std::fs;
use std::path::Path;

use super::cgroup::Hierarchies;
use crate::reconciler::container::ContainerRef;

/// Nanoseconds of a clock tick in `/proc/stat`: Linux shows a hundred a second to programs.
const TICK: u64 = 10_000_000;

/// What something used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Nanoseconds of all cores together, ever counting up.
    pub cpu: u64,
    /// Bytes of memory that can not be taken back without cost.
    pub memory: u64,
}

/// What a device and its running containers used up to a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// The whole device.
    pub device: Amount,
    /// Its running containers.
    pub containers: Vec<(ContainerRef, Amount)>,
}

/// What a container's cgroup has counted; `None` when it is gone.
pub(super) fn of_cgroup(hierarchies: &Hierarchies, cgroup: &str) -> Option<Amount> {
    let mut found = Amount::default();
    let mut any = false;
    for folder in hierarchies.folders(cgroup) {
        let number = |name: &str| fs::read_to_string(folder.join(name)).ok()?.trim().parse::<u64>().ok();
        if let Some(cpu) = number("cpuacct.usage").or_else(|| Some(field(&folder, "cpu.stat", "usage_usec")? * 1000)) {
            (found.cpu, any) = (cpu, true);
        }
        // Files that were read once and lie in the cache cost nobody anything.
        let cached = |name| field(&folder, "memory.stat", name).unwrap_or(0);
        if let Some(memory) = number("memory.usage_in_bytes") {
            (found.memory, any) = (memory.saturating_sub(cached("total_inactive_file")), true);
        } else if let Some(memory) = number("memory.current") {
            (found.memory, any) = (memory.saturating_sub(cached("inactive_file")), true);
        }
    }
    any.then_some(found)
}

fn field(folder: &Path, file: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(folder.join(file)).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// What the whole device has counted.
pub(super) fn of_device() -> Amount {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let (stat, memory) = (read("/proc/stat"), read("/proc/meminfo"));
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu ")).unwrap_or_default();
    let ticks: Vec<u64> = line.split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect();
    // user, nice, system, (idle, waiting,) interrupts, soft interrupts, stolen.
    let busy: u64 = [0, 1, 2, 5, 6, 7].iter().filter_map(|place| ticks.get(*place)).sum();
    let kib = |name: &str| {
        let found = memory.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        found.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok()).unwrap_or(0)
    };
    Amount { cpu: busy * TICK, memory: kib("MemTotal").saturating_sub(kib("MemAvailable")) * 1024 }
}
