//! The cgroup of a container on version 1: made and limited before there is a process in it.
//!
//! libcontainer would look up each of a dozen controllers anew, and move its process by number, for
//! which the kernel stops everything that forks on the device until no reader of an earlier state is
//! left: some 10 ms. A process that moves only itself costs nothing of that. Only hierarchies that hold
//! a limit, count what is used, or freeze are taken: in the others a container stays with the agent.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::spec;
use crate::reconciler::container::Limits;
use crate::runtime::cgroup::Hierarchies;

/// Controllers of whose hierarchies a container gets a cgroup.
const CONTROLLERS: [&str; 6] = ["cpu", "cpuacct", "memory", "devices", "freezer", "pids"];

/// Makes the cgroup in each hierarchy, with its limits. Returns where its first process joins it.
pub(super) fn make(hierarchies: &Hierarchies, cgroup: &str, limits: &Limits) -> Result<Vec<OwnedFd>, String> {
    let mut made: Vec<PathBuf> = Vec::new();
    for controller in CONTROLLERS {
        let settings = settings(controller, limits);
        let Some(folder) = hierarchies.folder(controller, cgroup) else {
            if settings.is_empty() {
                continue;
            }
            return Err(format!("no hierarchy named {controller} is mounted, so the limit could not be kept"));
        };
        if !made.contains(&folder) {
            make_folder(&folder).map_err(|error| format!("make the cgroup {}: {error}", folder.display()))?;
            made.push(folder.clone());
        }
        for (file, value) in settings {
            let path = folder.join(file);
            set(&path, &value)
                .map_err(|error| format!("write {value} to {}: {error}{}", path.display(), hint(file, &error)))?;
        }
    }
    let entrances = hierarchies.entrances(cgroup).map_err(|error| format!("open the cgroup {cgroup}: {error}"))?;
    Ok(entrances.into_iter().map(OwnedFd::from).collect())
}

/// What a controller is told. The processor's period comes before the quota, and the limit of memory
/// before that of memory and swap together: the kernel refuses the other order.
fn settings(controller: &str, limits: &Limits) -> Vec<(&'static str, String)> {
    match controller {
        "cpu" => {
            let mut settings = vec![("cpu.shares", spec::cpu_shares(limits).to_string())];
            if let Some((period, quota)) = spec::cpu_quota(limits) {
                settings.push(("cpu.cfs_period_us", period.to_string()));
                settings.push(("cpu.cfs_quota_us", quota.to_string()));
            }
            settings
        }
        "memory" => {
            let mut settings = Vec::new();
            if let Some(bytes) = limits.memory {
                let bytes = i64::try_from(bytes).unwrap_or(i64::MAX).to_string();
                settings.push(("memory.limit_in_bytes", bytes.clone()));
                settings.push(("memory.memsw.limit_in_bytes", bytes));
                // Not inherited: whoever made the cgroups above may have turned the kernel's killer off.
                settings.push(("memory.oom_control", "0".into()));
            }
            settings
        }
        "pids" => vec![("pids.max", if limits.pids > 0 { limits.pids.to_string() } else { "max".into() })],
        _ => Vec::new(),
    }
}

/// What helps where the kernel can not keep a limit.
fn hint(file: &str, error: &io::Error) -> &'static str {
    match (file, error.kind()) {
        ("memory.memsw.limit_in_bytes", io::ErrorKind::NotFound) => {
            "; this kernel does not count swap: boot with swapaccount=1 on its command line"
        }
        _ => "",
    }
}

fn make_folder(folder: &Path) -> io::Result<()> {
    match fs::create_dir(folder) {
        // The first container below this cgroup.
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => fs::create_dir_all(folder),
        Err(there) if there.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result,
    }
}

/// Writes to a file that the kernel made with the cgroup; one that it did not make is a limit that it can
/// not keep.
fn set(path: &Path, value: &str) -> io::Result<()> {
    use std::io::Write;
    fs::OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controllers_are_told_what_a_container_may_use() {
        let all = Limits { memory: Some(64 << 20), cpu: Some(500), cpu_shares: 1, pids: 10 };
        let told = |limits: &Limits| {
            let each = CONTROLLERS.iter().flat_map(|controller| settings(controller, limits));
            each.map(|(file, value)| format!("{file}={value}")).collect::<Vec<_>>()
        };
        let expected = [
            "cpu.shares=2",
            "cpu.cfs_period_us=100000",
            "cpu.cfs_quota_us=50000",
            "memory.limit_in_bytes=67108864",
            "memory.memsw.limit_in_bytes=67108864",
            "memory.oom_control=0",
            "pids.max=10",
        ];
        assert_eq!(told(&all), expected);
        let none = Limits { memory: None, cpu: None, cpu_shares: 1024, pids: 0 };
        assert_eq!(told(&none), ["cpu.shares=1024", "pids.max=max"]);
    }
}
