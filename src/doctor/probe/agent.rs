//! The agent's process, the unit that starts it, and other platforms beside it.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::super::facts::{Agent, Unit};
use super::{Given, System, host};

/// How long systemd is waited for.
const PATIENCE: Duration = Duration::from_secs(3);

/// Daemons of other platforms, as the kernel cuts their names.
const OTHERS: [&str; 13] = [
    "dockerd",
    "containerd",
    "balenad",
    "balena-engine-d",
    "k3s",
    "k3s-server",
    "k3s-agent",
    "kubelet",
    "kube-proxy",
    "k0s",
    "crio",
    "nomad",
    "ankaios-agent",
];

/// What is asked of the unit.
const PROPERTIES: &str = "LoadState,ActiveState,UnitFileState,Result,NRestarts,WatchdogUSec,KillMode";

pub(super) fn look(system: &System, given: &Given<'_>) -> Agent {
    let pid = holder(system, &given.config.run_dir.join("agent.lock"));
    let exe = pid.map(|pid| std::fs::read_link(system.path(&format!("/proc/{pid}/exe"))));
    let systemd = system.path("/run/systemd/system").is_dir();
    let programs = host::programs(system);
    Agent {
        pid,
        replaced: exe.and_then(Result::ok).map(|exe| exe.to_string_lossy().ends_with(" (deleted)")),
        answer: Some(given.answer.clone()),
        systemd,
        unit: if systemd { shown() } else { None },
        others: programs.into_iter().filter(|name| OTHERS.contains(&name.as_str())).collect(),
        settings: Some(given.settings.clone()),
    }
}

/// The pid of the program that has locked a file. The lock is not touched: an agent may be starting.
fn holder(system: &System, path: &std::path::Path) -> Option<u32> {
    let file = std::fs::metadata(path).ok()?;
    let (major, minor) = (nix::sys::stat::major(file.dev()), nix::sys::stat::minor(file.dev()));
    let wanted = format!("{major:02x}:{minor:02x}:{}", file.ino());
    let locks = system.text("/proc/locks")?;
    locks.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let found = fields.get(1) == Some(&"FLOCK") && fields.get(5) == Some(&wanted.as_str());
        found.then(|| fields.get(4)?.parse().ok())?
    })
}

/// What systemd says of the unit.
fn shown() -> Option<Unit> {
    let mut command = Command::new("systemctl");
    command.args(["show", "kith.service", "--no-pager", "--property", PROPERTIES]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()?;
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        match child.try_wait() {
            Ok(None) => std::thread::sleep(Duration::from_millis(10)),
            Ok(Some(status)) if status.success() => {
                let output = std::io::read_to_string(child.stdout.take()?).ok()?;
                return Some(unit(&output));
            }
            _ => return None,
        }
    }
    // A systemd that hangs says so by that.
    let _gone = child.kill();
    let _reaped = child.wait();
    None
}

fn unit(shown: &str) -> Unit {
    let values: BTreeMap<&str, &str> = shown.lines().filter_map(|line| line.split_once('=')).collect();
    let text = |name: &str| values.get(name).copied().unwrap_or_default().to_owned();
    Unit {
        load: text("LoadState"),
        active: text("ActiveState"),
        enabled: text("UnitFileState"),
        result: text("Result"),
        restarts: text("NRestarts").parse().unwrap_or(0),
        watchdog: text("WatchdogUSec"),
        kill_mode: text("KillMode"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_has_the_lock_is_found_and_not_disturbed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.lock");
        let file = std::fs::File::create(&path).unwrap();
        let system = System("/".into());
        assert_eq!(holder(&system, &path), None);
        file.lock().unwrap();
        assert_eq!(holder(&system, &path), Some(std::process::id()));
    }

    #[test]
    fn what_systemd_shows_is_understood() {
        let shown = "Result=watchdog\nNRestarts=7\nLoadState=loaded\nActiveState=activating\nUnitFileState=enabled\n\
                     WatchdogUSec=4min\nKillMode=process\n";
        let unit = unit(shown);
        assert_eq!((unit.restarts, unit.watchdog.as_str(), unit.result.as_str()), (7, "4min", "watchdog"));
    }
}
