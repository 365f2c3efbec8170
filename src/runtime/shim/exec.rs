//! `kith shim exec`: runs one more program in a container, watches it, and ends it when the agent
//! lets go. It stays outside itself; `enter` has what goes in.
//!
//! Standard input is the socket to the agent. It closes when the agent dies too.

#![expect(clippy::disallowed_methods, reason = "looks at processes")]

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::enter::{self, Child, Entry};
use crate::runtime::exec::{ExecSpec, ORDER_LIMIT, ORDER_MARK, Told, receive};
use crate::runtime::folder::Folder;
use crate::runtime::{pidfd, seal};

/// Looks for processes of a session before giving up: one may fork while it is looked for.
const SWEEPS: u32 = 200;

/// Runs `kith shim exec FOLDER CGROUP`.
pub(super) fn run(folder: &Path, cgroup: &str) -> ExitCode {
    let Ok(mut control) = prepare() else { return ExitCode::FAILURE };
    let outcome = seal::require().and_then(|()| attend(&mut control, &Folder::new(folder), cgroup));
    let told = outcome.map_or_else(Told::Failed, Told::Exited);
    // An agent that is gone needs to hear nothing.
    let _ = tell(&mut control, &told);
    ExitCode::SUCCESS
}

/// Closes what the agent may have left open, hides this process, and takes the socket.
#[expect(unsafe_code, reason = "prctl and close_range")]
fn prepare() -> io::Result<UnixStream> {
    // SAFETY: plain numbers; nothing in this process has a descriptor above the standard ones yet.
    unsafe {
        super::close_others(0);
        libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0);
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
    }
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    let control = io::stdin().as_fd().try_clone_to_owned()?;
    nix::unistd::dup2_stdin(std::fs::File::open("/dev/null")?)?;
    Ok(control.into())
}

fn tell(control: &mut UnixStream, told: &Told) -> io::Result<()> {
    let mut line = serde_json::to_vec(told)?;
    line.push(b'\n');
    control.write_all(&line)
}

/// The order, with the program's streams.
fn receive_order(control: &UnixStream) -> io::Result<(ExecSpec, Vec<OwnedFd>)> {
    let (mark, streams) = receive(control.as_raw_fd())?;
    if mark != ORDER_MARK {
        return Err(io::Error::other("this is no order"));
    }
    let mut line = Vec::new();
    BufReader::new(control.take(ORDER_LIMIT)).read_until(b'\n', &mut line)?;
    let spec: ExecSpec = serde_json::from_slice(&line)?;
    if streams.len() != if spec.terminal.is_some() { 0 } else { 3 } {
        return Err(io::Error::other("the streams are missing"));
    }
    Ok((spec, streams))
}

/// Runs the program and tells its exit code.
fn attend(control: &mut UnixStream, folder: &Folder, cgroup: &str) -> Result<i32, String> {
    let (spec, streams) = receive_order(control).map_err(|error| format!("receive the order: {error}"))?;
    let entry = Entry::prepare(folder, cgroup, &spec)?;
    let mut child = enter::start(&entry, control, streams).map_err(|error| format!("fork: {error}"))?;
    let program = match born(control, &mut child) {
        Ok(Some(program)) => program,
        Ok(None) => {
            let reason = child.failure();
            let _ = waitpid(child.envoy, None);
            return Err(reason);
        }
        Err(gone) => {
            let _ = nix::sys::signal::kill(child.envoy, Signal::SIGKILL);
            let _ = waitpid(child.envoy, None);
            // It may have been born after the last look.
            if let Ok(Some(program)) = child.program() {
                end_session(program);
                let _ = waitpid(program, None);
            }
            return Err(gone);
        }
    };
    let _ = waitpid(child.envoy, None);
    watch(control, &mut child, program)
}

/// Waits until the program's process exists; `None` when it never came to be, an error when the
/// agent is gone.
fn born(control: &UnixStream, child: &mut Child) -> Result<Option<Pid>, String> {
    if wait_either(control, child.born.as_fd())? {
        return Err("the agent let go".into());
    }
    child.program().map_err(|error| format!("wait for the program: {error}"))
}

/// Waits for either; says whether it was the agent that let go.
fn wait_either(control: &UnixStream, other: std::os::fd::BorrowedFd<'_>) -> Result<bool, String> {
    loop {
        let mut polled = [PollFd::new(control.as_fd(), PollFlags::POLLIN), PollFd::new(other, PollFlags::POLLIN)];
        match poll(&mut polled, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(format!("wait: {error}")),
        }
        if polled[1].any().unwrap_or(false) {
            return Ok(false);
        }
        // The agent says nothing more: whatever comes is its end.
        if polled[0].any().unwrap_or(false) {
            return Ok(true);
        }
    }
}

/// Watches the program from before its `exec` to its end.
fn watch(control: &mut UnixStream, child: &mut Child, program: Pid) -> Result<i32, String> {
    let handle = pidfd::open(program.as_raw()).map_err(|error| format!("watch the program: {error}"))?;
    let let_go = wait_either(control, child.report.as_fd())?;
    let reason = if let_go { String::new() } else { child.failure_if_any() };
    if reason.is_empty() && !let_go {
        let told = tell(control, &Told::Running(program.as_raw()));
        if told.is_ok() && !wait_either(control, handle.as_fd())? {
            return Ok(exit_code(program));
        }
    }
    end_session(program);
    let code = exit_code(program);
    if reason.is_empty() { Ok(code) } else { Err(reason) }
}

/// Reaps the program.
fn exit_code(program: Pid) -> i32 {
    loop {
        match waitpid(program, Some(WaitPidFlag::empty())) {
            Ok(WaitStatus::Exited(_, code)) => return code,
            Ok(WaitStatus::Signaled(_, signal, _)) => return 128 + signal as i32,
            Err(nix::errno::Errno::EINTR) | Ok(_) => {}
            Err(_) => return 255,
        }
    }
}

/// Kills every process of the program's session. What put itself into another lives on, as it
/// asked for. The program itself is not reaped yet, so its number means nothing else.
fn end_session(program: Pid) {
    let _ = nix::sys::signal::kill(program, Signal::SIGKILL);
    for _ in 0..SWEEPS {
        let found = session(program.as_raw());
        if found.is_empty() {
            return;
        }
        for pid in found {
            let Ok(handle) = pidfd::open(pid) else { continue };
            // Asked again once the handle can mean no other process.
            if in_session(pid, program.as_raw()) {
                let _ = pidfd::send(&handle, libc::SIGKILL);
            }
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

/// The living processes of a session.
fn session(leader: i32) -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| in_session(*pid, leader)).collect()
}

fn in_session(pid: i32, leader: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let Some((_, rest)) = stat.rsplit_once(')') else { return false };
    let mut fields = rest.split_ascii_whitespace();
    let alive = fields.next().is_some_and(|state| !matches!(state, "Z" | "X"));
    alive && fields.nth(2).is_some_and(|session| session.parse() == Ok(leader))
}
