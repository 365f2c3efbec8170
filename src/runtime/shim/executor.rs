//! The last steps before the container's program: default signals, the seccomp filter, `exec`.
//! What fails here is reported through a pipe that a successful `exec` closes.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use libcontainer::oci_spec::runtime::Spec;
use libcontainer::workload::{Executor, ExecutorError, ExecutorValidationError};
use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};

use super::seccomp::{self, Filters};
use crate::reconciler::container::ContainerSpec;

/// Executes the program under its filter.
#[derive(Clone)]
pub(super) struct Confined {
    filters: Filters,
    /// Where to write why the program could not begin. A number, as libcontainer clones this freely.
    report: i32,
}

/// The executor and the end of the pipe that keeps its number valid.
pub(super) struct Armed {
    pub(super) confined: Confined,
    pub(super) report: OwnedFd,
}

impl Confined {
    /// Compiles the filter: a container whose filter can not be made is not started.
    pub(super) fn arm(spec: &ContainerSpec) -> Result<(io::PipeReader, Armed), String> {
        let filters = seccomp::filters(&spec.capabilities)?;
        let (reader, writer) = io::pipe().map_err(|error| format!("open a pipe: {error}"))?;
        let report = OwnedFd::from(writer);
        let confined = Self { filters, report: report.as_raw_fd() };
        Ok((reader, Armed { confined, report }))
    }

    #[expect(unsafe_code, reason = "borrows the pipe by number across clone")]
    fn fail(&self, reason: &str) -> ExecutorError {
        // SAFETY: the shim keeps the pipe open until this process has executed or ended.
        let report = unsafe { BorrowedFd::borrow_raw(self.report) };
        let _ = nix::unistd::write(report, reason.as_bytes());
        ExecutorError::Other(reason.to_owned())
    }
}

impl Executor for Confined {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let args = arguments(spec).map_err(|reason| self.fail(reason))?;
        default_signals();
        if let Err(reason) = self.filters.apply() {
            return Err(self.fail(&format!("apply the seccomp filter: {reason}")));
        }
        let Err(error) = nix::unistd::execvp(&args[0], &args);
        let program = args[0].to_string_lossy();
        Err(self.fail(&match error {
            Errno::ENOENT => format!("start {program}: no such program in the image, or its interpreter is missing"),
            Errno::EACCES => format!("start {program}: it is not executable for the container's user"),
            Errno::ENOEXEC => format!("start {program}: it is not a program for this device's processor"),
            error => format!("start {program}: {error}"),
        }))
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

/// The shim ignores some signals, and programs expect to inherit none of that.
#[expect(unsafe_code, reason = "restoring a disposition has no safe wrapper")]
fn default_signals() {
    for signal in 1..libc::SIGRTMAX() {
        // SAFETY: installs no handler code, only the default disposition.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
}
