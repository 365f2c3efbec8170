//! The way into a container: everything that is done between a fork and the program of an exec.
//!
//! ```text
//! helper --fork--> envoy: cgroup, namespaces, terminal, folder, user, capabilities --clone--> program
//! ```
//!
//! The envoy gives up its rights before the program's process is made, and only that process is in
//! the container's pid namespace: nothing in the container ever sees one with more rights than it
//! has itself. libcontainer's own way in joins no user namespace and drops the filter; it is not used.

#![expect(clippy::disallowed_methods, reason = "opens what is needed before going in")]

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;

use libcontainer::oci_spec::runtime::Process;
use nix::errno::Errno;
use nix::libc;
use nix::sched::{CloneFlags, setns};
use nix::unistd::{ForkResult, Gid, Pid, Uid, fchown, fork};

use super::executor::{default_signals, execute, explain};
use super::seccomp::{self, Filters};
use super::{credentials, terminal};
use crate::runtime::cgroup::Hierarchies;
use crate::runtime::exec::{ExecSpec, TerminalSize};
use crate::runtime::folder::Folder;

/// Namespaces that a container may have of its own.
const NAMESPACES: [(&str, CloneFlags); 7] = [
    ("user", CloneFlags::CLONE_NEWUSER),
    ("mnt", CloneFlags::CLONE_NEWNS),
    ("net", CloneFlags::CLONE_NEWNET),
    ("ipc", CloneFlags::CLONE_NEWIPC),
    ("uts", CloneFlags::CLONE_NEWUTS),
    ("pid", CloneFlags::CLONE_NEWPID),
    ("cgroup", CloneFlags::CLONE_NEWCGROUP),
];

/// The most bytes that a failure is told in.
const REASON_LIMIT: u64 = 4096;

/// All that is needed to go in, gathered outside.
pub(super) struct Entry {
    init: OwnedFd,
    namespaces: CloneFlags,
    cgroups: Vec<File>,
    process: Process,
    filters: Filters,
    args: Vec<CString>,
    env: Vec<CString>,
    path: String,
    terminal: Option<TerminalSize>,
    /// The container's root user and group, as the device knows them.
    owner: (u32, u32),
}

impl Entry {
    /// Looks the container up as it is now.
    pub(super) fn prepare(folder: &Folder, cgroup: &str, spec: &ExecSpec) -> Result<Self, String> {
        let at = |step: &'static str| move |error: io::Error| format!("{step}: {error}");
        let progress = folder.progress().map_err(at("read state.json"))?;
        let running = progress.and_then(|progress| progress.running);
        let (identity, _) = running.ok_or("the container has not started yet")?;
        let init = identity.open().ok_or("the container is not running")?;
        let order = folder.order().map_err(at("read spec.json"))?;
        let process = process_of(folder)?;
        let namespaces = namespaces(identity.pid).map_err(at("look at the container's namespaces"))?;
        if !namespaces.contains(CloneFlags::CLONE_NEWNS) {
            return Err("the container has no mount namespace of its own: nothing is run in it".into());
        }
        let joined = Hierarchies::discover().and_then(|hierarchies| hierarchies.entrances(cgroup));
        let cgroups = joined.map_err(at("open the container's cgroup"))?;
        if cgroups.is_empty() {
            return Err(format!("the container's cgroup {cgroup} is gone"));
        }
        let user = process.user();
        let owner = (
            outside(identity.pid, "uid_map", user.uid()).map_err(at("look up the container's user"))?,
            outside(identity.pid, "gid_map", user.gid()).map_err(at("look up the container's group"))?,
        );
        let (env, path) = environment(&process, spec);
        let args = spec.args.iter().map(|arg| CString::new(arg.as_bytes())).collect::<Result<Vec<_>, _>>();
        let args = args.map_err(|_| "an argument holds a zero byte")?;
        if args.is_empty() {
            return Err("no program is named".into());
        }
        let filters = seccomp::filters(&order.spec)?;
        let terminal = spec.terminal;
        Ok(Self { init, namespaces, cgroups, process, filters, args, env, path, terminal, owner })
    }
}

/// The container's own process as it was configured.
fn process_of(folder: &Folder) -> Result<Process, String> {
    let bytes = fs::read(folder.path().join("config.json")).map_err(|error| format!("read config.json: {error}"))?;
    let mut config: serde_json::Value =
        serde_json::from_slice(&bytes).map_err(|error| format!("read config.json: {error}"))?;
    serde_json::from_value(config["process"].take()).map_err(|error| format!("read config.json: {error}"))
}

/// Those of its namespaces that are not this process's own.
fn namespaces(pid: i32) -> io::Result<CloneFlags> {
    let mut own = CloneFlags::empty();
    for (name, flag) in NAMESPACES {
        let identity = |of: &str| fs::metadata(format!("/proc/{of}/ns/{name}")).map(|found| (found.dev(), found.ino()));
        if identity("self")? != identity(&pid.to_string())? {
            own |= flag;
        }
    }
    Ok(own)
}

/// What an id inside the container is on the device.
fn outside(pid: i32, map: &str, id: u32) -> io::Result<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/{map}"))?;
    let found = text.lines().find_map(|line| {
        let mut numbers = line.split_ascii_whitespace().map(|word| word.parse::<u32>().ok());
        let (inside, outside, count) = (numbers.next()??, numbers.next()??, numbers.next()??);
        let offset = id.checked_sub(inside).filter(|offset| *offset < count)?;
        outside.checked_add(offset)
    });
    found.ok_or_else(|| io::Error::other(format!("{id} is not in {map} of the container")))
}

/// The container's environment with what is added, and its search path.
fn environment(process: &Process, spec: &ExecSpec) -> (Vec<CString>, String) {
    let mut pairs: Vec<String> = process.env().clone().unwrap_or_default();
    let named = |pairs: &[String], name: &str| {
        pairs.iter().position(|pair| pair.strip_prefix(name).is_some_and(|rest| rest.starts_with('=')))
    };
    if spec.terminal.is_some() && named(&pairs, "TERM").is_none() {
        pairs.push("TERM=xterm".into());
    }
    for (name, value) in &spec.env {
        while let Some(known) = named(&pairs, name) {
            pairs.remove(known);
        }
        pairs.push(format!("{name}={value}"));
    }
    let path = pairs.iter().rev().find_map(|pair| pair.strip_prefix("PATH=")).unwrap_or_default().to_owned();
    (pairs.into_iter().filter_map(|pair| CString::new(pair).ok()).collect(), path)
}

/// The processes on their way in, as the helper sees them.
pub(super) struct Child {
    /// The envoy, a child of the helper.
    pub(super) envoy: Pid,
    /// The program's pid comes here, as soon as it has one.
    pub(super) born: io::PipeReader,
    /// Why the program could not begin comes here; nothing, and the end, when it did.
    pub(super) report: io::PipeReader,
}

impl Child {
    /// The program, a child of the helper too; `None` when it never came to be.
    pub(super) fn program(&mut self) -> io::Result<Option<Pid>> {
        let mut number = [0; 4];
        match self.born.read_exact(&mut number) {
            Ok(()) => Ok(Some(Pid::from_raw(i32::from_ne_bytes(number)))),
            Err(end) if end.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Why it could not begin.
    pub(super) fn failure(&mut self) -> String {
        let reason = self.failure_if_any();
        if reason.is_empty() {
            "it was killed before it began: the container ended, or is out of memory".into()
        } else {
            reason
        }
    }

    /// Why it could not begin; empty when it did.
    pub(super) fn failure_if_any(&mut self) -> String {
        let mut reason = Vec::new();
        let _ = (&mut self.report).take(REASON_LIMIT).read_to_end(&mut reason);
        String::from_utf8_lossy(&reason).into_owned()
    }
}

/// Sends an envoy into the container.
#[expect(unsafe_code, reason = "fork")]
pub(super) fn start(entry: &Entry, control: &UnixStream, streams: Vec<OwnedFd>) -> io::Result<Child> {
    let (born, born_writer) = io::pipe()?;
    let (report, report_writer) = io::pipe()?;
    // SAFETY: this process has one thread, so the child finds nothing half done.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(Child { envoy: child, born, report }),
        ForkResult::Child => {
            drop((born, report));
            let mut report = report_writer;
            if let Err(reason) = travel(entry, control, streams, born_writer, &mut report) {
                let _ = report.write_all(reason.as_bytes());
            }
            // SAFETY: ends this process without running what belongs to the helper.
            unsafe { libc::_exit(1) }
        }
    }
}

/// The envoy: goes in, gives up its rights, and makes the program's process.
fn travel(
    entry: &Entry,
    control: &UnixStream,
    streams: Vec<OwnedFd>,
    mut born: io::PipeWriter,
    report: &mut io::PipeWriter,
) -> Result<(), String> {
    die_with_parent();
    for mut cgroup in &entry.cgroups {
        cgroup.write_all(b"0").map_err(|error| format!("join the container's cgroup: {error}"))?;
    }
    if let Some(score) = entry.process.oom_score_adj() {
        fs::write("/proc/self/oom_score_adj", score.to_string())
            .map_err(|error| format!("set the OOM score: {error}"))?;
    }
    for stream in &streams {
        // Programs open /dev/stdout again, also those that run as a user.
        let (uid, gid) = (Uid::from_raw(entry.owner.0), Gid::from_raw(entry.owner.1));
        fchown(stream, Some(uid), Some(gid)).map_err(|error| format!("hand over the streams: {error}"))?;
    }
    credentials::limit(entry.process.rlimits().as_deref().unwrap_or_default())?;
    setns(entry.init.as_fd(), entry.namespaces).map_err(|error| match error {
        Errno::ESRCH => "the container has ended".to_owned(),
        error => format!("enter the container's namespaces: {error}"),
    })?;
    let streams = match entry.terminal {
        Some(size) => {
            let (master, slave) = terminal::open(size)?;
            let handed = terminal::hand_over(control, &[&master]);
            handed.map_err(|error| format!("hand over the terminal: {error}"))?;
            vec![slave]
        }
        None => streams,
    };
    let cwd = entry.process.cwd();
    let arrive = || nix::unistd::chdir(cwd);
    let arrived = arrive();
    if entry.filters.needs_rights() {
        entry.filters.apply().map_err(|reason| format!("apply the seccomp filter: {reason}"))?;
    }
    credentials::assume(&entry.process)?;
    // The folder may be open to the user alone.
    arrived.or_else(|_| arrive()).map_err(|error| format!("enter the folder {}: {error}", cwd.display()))?;
    die_with_parent();
    match clone_sibling().map_err(|error| format!("make a process in the container: {error}"))? {
        Some(program) => {
            let _ = born.write_all(&program.to_ne_bytes());
            Ok(())
        }
        None => Err(become_program(entry, &streams, report)),
    }
}

/// The program's process: only what has to be done inside is left. Returns why it could not begin.
#[expect(unsafe_code, reason = "descriptors by number")]
fn become_program(entry: &Entry, streams: &[OwnedFd], report: &io::PipeWriter) -> String {
    die_with_parent();
    // The helper may have died before that: then nobody reads reports any more.
    let mut polled = [nix::poll::PollFd::new(report.as_fd(), nix::poll::PollFlags::empty())];
    if nix::poll::poll(&mut polled, nix::poll::PollTimeout::ZERO) != Ok(0) {
        return "the helper is gone".into();
    }
    if let Err(error) = nix::unistd::setsid() {
        return format!("begin a session: {error}");
    }
    let numbers = match streams {
        [terminal] => {
            if let Err(error) = terminal::take(terminal) {
                return format!("take the terminal: {error}");
            }
            [terminal.as_raw_fd(); 3]
        }
        [stdin, stdout, stderr] => [stdin.as_raw_fd(), stdout.as_raw_fd(), stderr.as_raw_fd()],
        _ => return "the streams are missing".into(),
    };
    for (from, to) in numbers.into_iter().zip(0..) {
        // SAFETY: the streams have numbers above the standard ones, which are all open.
        if unsafe { libc::dup2(from, to) } < 0 {
            return format!("connect the streams: {}", io::Error::last_os_error());
        }
    }
    // SAFETY: plain numbers; all but the standard streams close with `exec`.
    unsafe { super::close_others(libc::CLOSE_RANGE_CLOEXEC) };
    default_signals();
    if !entry.filters.needs_rights()
        && let Err(reason) = entry.filters.apply()
    {
        return format!("apply the seccomp filter: {reason}");
    }
    let error = execute(&entry.args, &entry.env, &entry.path);
    explain(&entry.args[0].to_string_lossy(), error)
}

/// The kernel kills this process when its parent ends; a change of user forgets that.
#[expect(unsafe_code, reason = "prctl")]
fn die_with_parent() {
    // SAFETY: plain numbers.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) };
}

/// Forks a child of this process's parent; `None` in the child.
#[expect(unsafe_code, reason = "clone with CLONE_PARENT")]
fn clone_sibling() -> io::Result<Option<i32>> {
    let flags = libc::c_long::from(libc::CLONE_PARENT | libc::SIGCHLD);
    // SAFETY: like fork: no memory is shared, the stack is kept, and this process has one thread.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    match i32::try_from(pid).unwrap_or(-1) {
        0 => Ok(None),
        pid if pid > 0 => Ok(Some(pid)),
        _ => Err(io::Error::last_os_error()),
    }
}
