//! The last steps before the container's program: default signals, the seccomp filter, `exec`.
//! What fails here is reported through a pipe that a successful `exec` closes.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use libcontainer::oci_spec::runtime::Spec;
use libcontainer::workload::{Executor, ExecutorError, ExecutorValidationError};
use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::unistd::execve;

use super::privileges;
use super::seccomp::{self, Filters};
use super::terminal;
use crate::reconciler::container::ContainerSpec;
use crate::runtime::exec::TerminalSize;

/// The size of a terminal that nobody looks at yet.
const FIRST_SIZE: TerminalSize = TerminalSize { width: 80, height: 24 };

/// Executes the program under its filter.
#[derive(Clone)]
pub(super) struct Confined {
    filters: Filters,
    /// What to keep, where the filter needs more to be applied: see [`privileges`].
    capabilities: Option<Vec<String>>,
    /// Where to write why the program could not begin. A number, as libcontainer clones this freely.
    report: i32,
    /// Where to send the two sides of the terminal that the program is to have.
    terminal: Option<i32>,
}

/// The executor and the end of the pipe that keeps its number valid.
pub(super) struct Armed {
    pub(super) confined: Confined,
    pub(super) report: OwnedFd,
}

impl Confined {
    /// Compiles the filter: a container whose filter can not be made is not started.
    pub(super) fn arm(spec: &ContainerSpec, terminal: Option<i32>) -> Result<(io::PipeReader, Armed), String> {
        let filters = seccomp::filters(spec)?;
        let (reader, writer) = io::pipe().map_err(|error| format!("open a pipe: {error}"))?;
        let report = OwnedFd::from(writer);
        let capabilities = (!spec.confinement.no_new_privileges).then(|| spec.capabilities.clone());
        let confined = Self { filters, capabilities, report: report.as_raw_fd(), terminal };
        Ok((reader, Armed { confined, report }))
    }

    #[expect(unsafe_code, reason = "borrows the pipe by number across clone")]
    fn fail(&self, reason: &str) -> ExecutorError {
        // SAFETY: the shim keeps the pipe open until this process has executed or ended.
        let report = unsafe { BorrowedFd::borrow_raw(self.report) };
        let _ = nix::unistd::write(report, reason.as_bytes());
        ExecutorError::Other(reason.to_owned())
    }

    /// Makes the terminal, and puts it in place of the three streams.
    #[expect(unsafe_code, reason = "borrows the socket by number across clone, and descriptors by number")]
    fn take_terminal(to: i32) -> Result<(), String> {
        let (master, slave) = terminal::open(FIRST_SIZE)?;
        // SAFETY: the shim keeps the socket open until this process has executed or ended.
        let socket = unsafe { BorrowedFd::borrow_raw(to) };
        terminal::hand_over(&socket, &[&master, &slave]).map_err(|error| format!("hand it over: {error}"))?;
        terminal::take(&slave).map_err(|error| format!("take it: {error}"))?;
        for stream in 0..3 {
            // SAFETY: an open descriptor and the number of a standard stream, which nothing here owns.
            if unsafe { libc::dup2(slave.as_raw_fd(), stream) } < 0 {
                return Err(format!("connect the streams: {}", io::Error::last_os_error()));
            }
        }
        Ok(())
    }
}

impl Executor for Confined {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let args = arguments(spec).map_err(|reason| self.fail(reason))?;
        if let Some(Err(reason)) = self.terminal.map(Self::take_terminal) {
            return Err(self.fail(&format!("give the program a terminal: {reason}")));
        }
        default_signals();
        if let Err(reason) = self.filters.apply() {
            return Err(self.fail(&format!("apply the seccomp filter: {reason}")));
        }
        if let Some(capabilities) = &self.capabilities
            && let Err(error) = privileges::reduce(capabilities)
        {
            return Err(self.fail(&format!("drop capabilities: {error}")));
        }
        let env = std::env::vars_os().map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes()].concat());
        let env: Vec<CString> = env.filter_map(|pair| CString::new(pair).ok()).collect();
        let pairs = spec.process().as_ref().and_then(|process| process.env().as_deref()).unwrap_or_default();
        let path = pairs.iter().rev().find_map(|pair| pair.strip_prefix("PATH=")).unwrap_or_default();
        let error = execute(&args, &env, path);
        Err(self.fail(&explain(&args[0].to_string_lossy(), error)))
    }

    /// Nothing to check ahead: `exec` itself says what is wrong, and says it exactly.
    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        arguments(spec).map(drop).map_err(|reason| ExecutorValidationError::ArgValidationError(reason.into()))
    }
}

fn arguments(spec: &Spec) -> Result<Vec<CString>, &'static str> {
    let args = spec.process().as_ref().and_then(|process| process.args().as_ref()).ok_or("no program is named")?;
    let args: Result<Vec<CString>, _> = args.iter().map(|arg| CString::new(arg.as_bytes())).collect();
    match args {
        Ok(args) if args.is_empty() => Err("no program is named"),
        Ok(args) => Ok(args),
        Err(_) => Err("an argument holds a zero byte"),
    }
}

/// Why a program could not be executed.
pub(super) fn explain(program: &str, error: Errno) -> String {
    match error {
        Errno::ENOENT => format!("start {program}: no such program in the image, or its interpreter is missing"),
        Errno::EACCES => format!("start {program}: it is not executable for the container's user"),
        Errno::ENOEXEC => format!("start {program}: it is not a program for this device's processor"),
        error => format!("start {program}: {error}"),
    }
}

/// Executes the program, looked for along `path` unless it is named by a path. Not `execvp`: that would
/// hand a program of another processor to a shell. Returns only if nothing could be executed.
pub(super) fn execute(args: &[CString], env: &[CString], path: &str) -> Errno {
    let name = args[0].as_bytes();
    if name.contains(&b'/') {
        let Err(error) = execve(&args[0], args, env);
        return error;
    }
    let mut worst = Errno::ENOENT;
    for folder in path.split(':').filter(|folder| !folder.is_empty()) {
        let Ok(program) = CString::new([folder.as_bytes(), b"/", name].concat()) else { continue };
        let Err(error) = execve(&program, args, env);
        match error {
            Errno::ENOENT | Errno::ENOTDIR => {}
            // It may still be found where this user may execute it.
            Errno::EACCES => worst = error,
            error => return error,
        }
    }
    worst
}

/// The shim ignores some signals, and what started it may have; programs expect to inherit none of that.
#[expect(unsafe_code, reason = "restoring a disposition has no safe wrapper")]
pub(super) fn default_signals() {
    /// Larger than the kernel's `struct sigaction` on any architecture; all zero is the default.
    const DEFAULT: [u64; 8] = [0; 8];
    /// Bytes of the kernel's signal set.
    const SET: usize = 8;
    for signal in 1..=64 {
        let none = std::ptr::null_mut::<u64>();
        // SAFETY: the kernel reads its structure from a larger constant and writes nothing back. The C
        // library's own function would leave out the two signals that it keeps for itself.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, DEFAULT.as_ptr(), none, SET) };
    }
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
}
