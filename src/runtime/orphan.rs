//! Finds what a killed shim left behind: processes that still carry a shim's command line. They are
//! its clones between `clone` and `exec`, which may not have reached any cgroup yet.

#![expect(clippy::disallowed_methods, reason = "reads /proc")]

use std::fs;
use std::path::Path;

use nix::libc::SIGKILL;

use super::RuntimeError;
use super::cgroup::Hierarchies;
use super::pidfd;

/// A process whose command line is `kith shim <act> <folder> <cgroup> ...`.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) pid: i32,
    /// Whether it is a waiter, or holds a pod's processes; else it is a shim that creates, or a clone of one.
    pub(super) waits: bool,
}

/// Sweeps through `/proc` before giving up: a process can fork while it is read.
const SWEEPS: usize = 100;

/// The processes of the shim of one folder.
pub(super) fn of_folder(folder: &Path) -> Vec<Found> {
    let folder = folder.as_os_str().as_encoded_bytes();
    matching(|args| args.first() == Some(&folder))
}

/// Kills the shim of one folder and its clones, waiters excepted.
pub(super) fn kill_creators(folder: &Path) -> Result<(), String> {
    let folder = folder.as_os_str().as_encoded_bytes();
    kill_all(|| matching(|args| args.first() == Some(&folder)).into_iter().filter(|found| !found.waits).collect())
}

/// Ends everything that runs under a cgroup, without any of it leaving a record, and removes the
/// cgroup: what a power cut does. For `kith dev`.
pub fn kill_everything(cgroup: &str) -> Result<(), RuntimeError> {
    let failed = |reason: String| RuntimeError::Setup { step: format!("kill everything under {cgroup}"), reason };
    if cgroup.trim_matches('/').is_empty() || cgroup.contains("..") {
        return Err(failed("a cgroup below the root must be named".into()));
    }
    let inside = |name: &[u8]| name.strip_prefix(cgroup.as_bytes()).is_some_and(|rest| matches!(rest, [] | [b'/', ..]));
    kill_all(|| matching(|args| args.get(1).is_some_and(|name| inside(name)))).map_err(failed)?;
    let hierarchies = Hierarchies::discover().map_err(|error| failed(error.to_string()))?;
    hierarchies.kill(cgroup).and_then(|()| hierarchies.remove(cgroup)).map_err(|error| failed(error.to_string()))
}

fn kill_all(find: impl Fn() -> Vec<Found>) -> Result<(), String> {
    let mut clean = 0;
    for _ in 0..SWEEPS {
        let found = find();
        if found.is_empty() {
            clean += 1;
            // Twice: a clone made behind the reader's back is seen the second time.
            if clean == 2 {
                return Ok(());
            }
            continue;
        }
        clean = 0;
        for process in &found {
            if let Ok(fd) = pidfd::open(process.pid) {
                let _ = pidfd::send(&fd, SIGKILL);
            }
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    Err(format!("processes {:?} do not die", find().iter().map(|found| found.pid).collect::<Vec<_>>()))
}

fn matching(wanted: impl Fn(&[&[u8]]) -> bool) -> Vec<Found> {
    let own = nix::unistd::getpid().as_raw();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok()).filter(|pid| *pid != own);
    pids.filter_map(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let mut args = line.split(|byte| *byte == 0).skip(1);
        if args.next()? != b"shim" {
            return None;
        }
        let waits = match args.next()? {
            b"wait" | b"idle" => true,
            b"create" => false,
            _ => return None,
        };
        wanted(&args.collect::<Vec<_>>()).then_some(Found { pid, waits })
    })
    .collect()
}
