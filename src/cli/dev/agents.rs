//! The agents of a development fleet: started into their namespaces, found again by pid and start
//! time, killed.

use std::fs;
use std::io::{Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill as signal};
use nix::unistd::Pid;

use super::fleet::Device;
use super::inside;
use crate::cli::failure::{Doing, Failure};
use crate::network::netns;

/// Pause between looks at something that is ending.
const PAUSE: Duration = Duration::from_millis(5);
/// Looks until it should have ended: ten seconds.
const LOOKS: u32 = 2_000;
/// Bytes of a log's end that are shown when an agent fails.
const TAIL: u64 = 2_000;

/// A pid and the time its program started, in clock ticks since boot: together they never mean
/// another program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Running {
    pid: i32,
    start: u64,
}

impl Running {
    fn of(pid: i32) -> Option<Self> {
        Self::in_stat(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    fn in_stat(pid: i32, stat: &str) -> Option<Self> {
        // The name in parentheses may hold anything: fields count from the last one.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        let threads: u32 = fields.get(17)?.parse().ok()?;
        let start = fields.get(19)?.parse().ok()?;
        // The first thread of a killed program may be gone while another still waits for the disk:
        // until that one is gone too, its files are open and its ports are taken.
        let gone = matches!(fields[0], "Z" | "X") && threads <= 1;
        (!gone).then_some(Self { pid, start })
    }

    fn parse(text: &str) -> Option<Self> {
        let (pid, start) = text.trim().split_once(' ')?;
        Some(Self { pid: pid.parse().ok()?, start: start.parse().ok()? })
    }
}

fn pid_file(device: &Device) -> PathBuf {
    device.dir.join("agent.pid")
}

/// Its agent's log.
pub(super) fn log_file(device: &Device) -> PathBuf {
    device.dir.join("agent.log")
}

/// The pid of a device's agent, if it runs.
pub(super) fn running(device: &Device) -> Option<i32> {
    let known = Running::parse(&fs::read_to_string(pid_file(device)).ok()?)?;
    (Running::of(known.pid) == Some(known)).then_some(known.pid)
}

/// Starts a device's agent in its namespace, in a session of its own; returns its pid.
pub(super) fn start(device: &Device) -> Result<i32, Failure> {
    let path = log_file(device);
    let step = || format!("start the agent of {}", device.name());
    let log = fs::OpenOptions::new().create(true).append(true).open(&path).doing(step)?;
    let errors = log.try_clone().doing(step)?;
    let mut command = Command::new(std::env::current_exe().doing(|| "find this program".into())?);
    command.arg("--config").arg(device.config_file()).arg("agent").current_dir("/");
    command.stdin(Stdio::null()).stdout(log).stderr(errors);
    inside::clean_environment(&mut command);
    own_session(&mut command);
    let child = netns::within(&device.namespace(), || command.spawn().doing(step))?;
    let pid = i32::try_from(child.id()).doing(step)?;
    let known = Running::of(pid).ok_or_else(|| died(device))?;
    fs::write(pid_file(device), format!("{} {}\n", known.pid, known.start)).doing(step)?;
    Ok(pid)
}

/// The agent is to outlive this command and its terminal.
#[expect(unsafe_code, reason = "a new session is made between fork and exec")]
fn own_session(command: &mut Command) {
    // SAFETY: setsid is a plain system call, allowed between fork and exec.
    unsafe {
        command.pre_exec(|| Ok(nix::unistd::setsid().map(drop)?));
    }
}

/// The failure of an agent that ended by itself, with the end of its log.
pub(super) fn died(device: &Device) -> Failure {
    let path = log_file(device);
    let end = fs::File::open(&path).and_then(|mut file| {
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
        std::io::read_to_string(file)
    });
    let mut failure = Failure::failed(format!("the agent of {} ended", device.name()));
    let end = end.unwrap_or_default();
    let told = end.lines().rev().find(|line| line.starts_with("error:"));
    if let Some(last) = told.or_else(|| end.trim().lines().last()) {
        failure.chain.push(last.to_owned());
    }
    failure.hint(format!("its log: {}", path.display()))
}

/// Kills a device's agent with -9 and waits until it is gone; returns its pid if it ran.
pub(super) fn kill(device: &Device) -> Result<Option<i32>, Failure> {
    let Some(pid) = running(device) else { return Ok(None) };
    end(&[pid])?;
    Ok(Some(pid))
}

/// Kills these and waits until they are gone.
pub(super) fn end(pids: &[i32]) -> Result<(), Failure> {
    let known: Vec<_> = pids.iter().filter_map(|pid| Running::of(*pid)).collect();
    for one in &known {
        // Gone in the meantime is as good.
        _ = signal(Pid::from_raw(one.pid), Signal::SIGKILL);
    }
    for _ in 0..LOOKS {
        if known.iter().all(|one| Running::of(one.pid) != Some(*one)) {
            return Ok(());
        }
        std::thread::sleep(PAUSE);
    }
    Err(Failure::failed(format!("{pids:?} did not end although they were killed"))
        .hint("a program that waits for a disk can not be killed: look at dmesg"))
}

/// Kills all that lives in a network namespace: agent, shims, containers, whatever was run inside.
/// Returns how many there were.
pub(super) fn end_all_in(namespace: &str) -> Result<usize, Failure> {
    let mut count = 0;
    // Whoever starts another one while it is looked for is found in the next round.
    for _ in 0..LOOKS {
        let found = inhabitants(namespace);
        if found.is_empty() {
            return Ok(count);
        }
        count += found.len();
        end(&found)?;
    }
    Err(Failure::failed(format!("something keeps starting programs in {namespace}")))
}

/// The pids of all that lives in a network namespace, without this command.
pub(super) fn inhabitants(namespace: &str) -> Vec<i32> {
    use std::os::unix::fs::MetadataExt;
    let Some(inode) = netns::inode(namespace) else { return Vec::new() };
    let own = std::process::id();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let lives_there = |pid: &i32| {
        let there = fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|found| found.ino() == inode);
        there && pid.unsigned_abs() != own && Running::of(*pid).is_some()
    };
    pids.filter(lives_there).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_that_serves_another_program_is_not_the_agent() {
        let own = Running::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert_eq!(Running::parse(&format!("{} {}\n", own.pid, own.start)), Some(own));
        let dir = tempfile::tempdir().unwrap();
        let fleet = super::super::fleet::Fleet::new("t".into(), Some(dir.path().to_owned())).unwrap();
        let device = fleet.numbered(1);
        fs::create_dir_all(&device.dir).unwrap();
        assert_eq!(running(&device), None);
        fs::write(pid_file(&device), format!("{} {}", own.pid, own.start)).unwrap();
        assert_eq!(running(&device), Some(own.pid));
        fs::write(pid_file(&device), format!("{} {}", own.pid, own.start + 1)).unwrap();
        assert_eq!(running(&device), None);
        fs::write(pid_file(&device), "rubbish").unwrap();
        assert_eq!(running(&device), None);
    }

    #[test]
    fn a_killed_program_runs_until_its_last_thread_is_gone() {
        let stat = |state: &str, threads: u32| {
            format!(
                "7 (kith) agent) {state} 1 7 7 0 -1 4228 9 0 0 0 1 1 0 0 20 0 {threads} 0 4242 0 0 18446744073709551615"
            )
        };
        let running = Some(Running { pid: 7, start: 4242 });
        assert_eq!(Running::in_stat(7, &stat("S", 3)), running);
        assert_eq!(Running::in_stat(7, &stat("Z", 2)), running);
        assert_eq!(Running::in_stat(7, &stat("Z", 1)), None);
        assert_eq!(Running::in_stat(7, "rubbish"), None);
    }

    #[test]
    fn everything_in_a_namespace_is_found_and_ended() {
        let name = format!("kith-test-{}-end", std::process::id());
        netns::create(&name).expect("make a network namespace: this test needs root");
        let spawn = || Command::new("sleep").arg("100").spawn().doing(|| "sleep".into());
        let mut children = [netns::within(&name, spawn).unwrap(), netns::within(&name, spawn).unwrap()];
        let mut outside = spawn().unwrap();
        assert_eq!(inhabitants(&name).len(), 2);
        assert_eq!(end_all_in(&name).unwrap(), 2);
        assert!(inhabitants(&name).is_empty());
        assert!(outside.try_wait().unwrap().is_none(), "a program outside lives on");
        outside.kill().unwrap();
        outside.wait().unwrap();
        for child in &mut children {
            child.wait().unwrap();
        }
        netns::remove(&name).unwrap();
    }
}
