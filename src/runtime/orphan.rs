//! Finds what a killed shim left behind: processes that still carry a shim's command line. They are
//! its clones between `clone` and `exec`, which may not have reached any cgroup yet.

#![expect(clippy::disallowed_methods, reason = "reads /proc")]

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::libc::SIGKILL;

use super::RuntimeError;
use super::cgroup::Hierarchies;
use super::pidfd;

/// A process whose command line is `kith shim <act> <folder> <cgroup> ...`.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) pid: i32,
    /// Whether it is a waiter, or holds a pod's processes; else it is a shim that creates, or a clone of one, or one that runs a
    /// program in the container.
    pub(super) waits: bool,
    /// Whether it runs a program beside the container's own.
    execs: bool,
}

/// How long killed processes may take to be gone: on a busy device they wait for a processor to die on.
const PATIENCE: Duration = Duration::from_secs(10);

/// Looks that may be blurred before that is taken for how this device is.
const BLURRED_LOOKS: usize = 200;

/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(1);

/// What one look through `/proc` saw.
#[derive(Default)]
struct Look {
    found: Vec<Found>,
    /// A process was just becoming another program: for that moment it has no command line, and it
    /// may be a shim on its way to be a waiter.
    blurred: bool,
}

/// The processes of the shim of one folder.
pub(super) fn of_folder(folder: &Path) -> Vec<Found> {
    let folder = folder.as_os_str().as_encoded_bytes();
    look(|args| args.first() == Some(&folder)).found
}

/// Kills the shim of one folder and its clones, waiters excepted.
pub(super) fn kill_creators(folder: &Path) -> Result<(), String> {
    let folder = folder.as_os_str().as_encoded_bytes();
    kill_all(|| {
        let mut seen = look(|args| args.first() == Some(&folder));
        seen.found.retain(|found| !found.waits && !found.execs);
        seen
    })
}

/// Ends everything that runs under a cgroup, without any of it leaving a record, and removes the
/// cgroup: what a power cut does. Returns whether there was such a cgroup.
pub fn kill_everything(cgroup: &str) -> Result<bool, RuntimeError> {
    let failed = |reason: String| RuntimeError::Setup { step: format!("kill everything under {cgroup}"), reason };
    if cgroup.trim_matches('/').is_empty() || cgroup.contains("..") {
        return Err(failed("a cgroup below the root must be named".into()));
    }
    let inside = |name: &[u8]| name.strip_prefix(cgroup.as_bytes()).is_some_and(|rest| matches!(rest, [] | [b'/', ..]));
    kill_all(|| look(|args| args.get(1).is_some_and(|name| inside(name)))).map_err(failed)?;
    let hierarchies = Hierarchies::discover().map_err(|error| failed(error.to_string()))?;
    let existed = hierarchies.exists(cgroup);
    hierarchies.kill(cgroup).and_then(|()| hierarchies.remove(cgroup)).map_err(|error| failed(error.to_string()))?;
    Ok(existed)
}

fn kill_all(look: impl Fn() -> Look) -> Result<(), String> {
    let begun = Instant::now();
    let (mut clean, mut blurred) = (0, 0);
    loop {
        let seen = look();
        if seen.found.is_empty() {
            if seen.blurred && blurred < BLURRED_LOOKS {
                blurred += 1;
                std::thread::sleep(PAUSE);
                continue;
            }
            clean += 1;
            // Twice: a clone made behind the reader's back is seen the second time.
            if clean == 2 {
                return Ok(());
            }
            continue;
        }
        clean = 0;
        if begun.elapsed() > PATIENCE {
            return Err(format!(
                "processes {:?} do not die",
                seen.found.iter().map(|found| found.pid).collect::<Vec<_>>()
            ));
        }
        for process in &seen.found {
            if let Ok(fd) = pidfd::open(process.pid) {
                let _ = pidfd::send(&fd, SIGKILL);
            }
        }
        std::thread::sleep(PAUSE);
    }
}

fn look(wanted: impl Fn(&[&[u8]]) -> bool) -> Look {
    let own = nix::unistd::getpid().as_raw();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok()).filter(|pid| *pid != own);
    let mut seen = Look::default();
    for pid in pids {
        let Ok(line) = fs::read(format!("/proc/{pid}/cmdline")) else { continue };
        if line.is_empty() {
            // Threads of the kernel and the dead have no program either.
            seen.blurred |= fs::read_link(format!("/proc/{pid}/exe")).is_ok();
            continue;
        }
        let mut args = line.split(|byte| *byte == 0).skip(1);
        let (waits, execs) = match (args.next(), args.next()) {
            (Some(b"shim"), Some(b"wait" | b"idle")) => (true, false),
            (Some(b"shim"), Some(b"create")) => (false, false),
            (Some(b"shim"), Some(b"exec")) => (false, true),
            _ => continue,
        };
        if wanted(&args.collect::<Vec<_>>()) {
            seen.found.push(Found { pid, waits, execs });
        }
    }
    seen
}
