//! Namespaces of a pod with users of its own: a user namespace, and network, shared memory and host name
//! inside of it, so that the pod's root has power over these as root has over a device's, and over
//! nothing else.
//!
//! The kernel gives a namespace to the user namespace that its maker is in, and takes no process with
//! threads into another one. So a child makes them: it is forked from an agent with threads, makes system
//! calls and nothing else, and ends as soon as what it made is mounted.

use std::fs;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::libc;
use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork};

use crate::reconciler::container::UserRange;

/// Held while there is a child: another one would have copies of its pipes, and neither would see an end.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A process that is in new namespaces and waits for its end.
pub(super) struct Maker {
    child: Pid,
    hold: Option<PipeWriter>,
    _only: MutexGuard<'static, ()>,
}

impl Maker {
    /// Makes a user namespace with these ids, and the other namespaces in it.
    pub(super) fn begin(range: UserRange, others: CloneFlags) -> io::Result<Self> {
        if range.first == 0 || range.count == 0 {
            return Err(io::Error::other("a user namespace needs ids of its own"));
        }
        let only = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let ((mut told, tell), (held, hold)) = (io::pipe()?, io::pipe()?);
        let child = start(others, (&told, tell), (held, &hold))?;
        let mut maker = Self { child, hold: Some(hold), _only: only };
        told.read_exact(&mut [0]).map_err(|_| maker.why("make a user namespace"))?;
        let map = format!("0 {} {}", range.first, range.count);
        fs::write(format!("/proc/{child}/uid_map"), &map)?;
        fs::write(format!("/proc/{child}/gid_map"), &map)?;
        maker.go_on()?;
        told.read_exact(&mut [0]).map_err(|_| maker.why("make its namespaces in a user namespace"))?;
        Ok(maker)
    }

    /// The file of one of its namespaces.
    pub(super) fn namespace(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/{name}", self.child))
    }

    fn go_on(&mut self) -> io::Result<()> {
        self.hold.as_mut().map_or(Ok(()), |hold| hold.write_all(&[1]))
    }

    /// Why the child ended: its exit code is the number of the error.
    fn why(&mut self, step: &str) -> io::Error {
        self.hold = None;
        let code = match waitpid(self.child, None) {
            Ok(nix::sys::wait::WaitStatus::Exited(_, code)) => code,
            _ => 0,
        };
        self.child = Pid::from_raw(0);
        let cause = io::Error::from_raw_os_error(code);
        let hint = if code == libc::ENOSPC { ": see /proc/sys/user/max_user_namespaces" } else { "" };
        io::Error::new(cause.kind(), format!("{step}: {cause}{hint}"))
    }
}

impl Drop for Maker {
    fn drop(&mut self) {
        self.hold = None;
        if self.child.as_raw() > 0 {
            let _ = waitpid(self.child, None);
        }
    }
}

/// Forks the child. It says when it is in its user namespace, waits for the ids, says when it has made the
/// others, and waits for its end.
#[expect(unsafe_code, reason = "fork: see the top")]
fn start(
    others: CloneFlags,
    (told, mut tell): (&PipeReader, PipeWriter),
    (mut held, hold): (PipeReader, &PipeWriter),
) -> io::Result<Pid> {
    use std::os::fd::AsRawFd;
    let (told, hold) = (told.as_raw_fd(), hold.as_raw_fd());
    // SAFETY: the child only makes system calls: it takes no lock that another thread may hold, allocates
    // nothing, and leaves by `_exit` without running anything of its parent's.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(child),
        // SAFETY: system calls alone, on descriptors that are the child's own copies; see above.
        ForkResult::Child => unsafe {
            // Its copies of the parent's ends: a parent that is gone has to be seen.
            libc::close(told);
            libc::close(hold);
            let mut work = || -> nix::Result<()> {
                let failed = |_| nix::errno::Errno::EPIPE;
                unshare(CloneFlags::CLONE_NEWUSER)?;
                tell.write_all(&[1]).map_err(failed)?;
                held.read_exact(&mut [0]).map_err(failed)?;
                // What it makes belongs to the namespace's root.
                nix::errno::Errno::result(libc::syscall(libc::SYS_setresgid, 0, 0, 0))?;
                nix::errno::Errno::result(libc::syscall(libc::SYS_setresuid, 0, 0, 0))?;
                unshare(others)?;
                tell.write_all(&[1]).map_err(failed)?;
                let _ = held.read(&mut [0]);
                Ok(())
            };
            let code = work().err().map_or(0, |error| error as i32);
            libc::_exit(code)
        },
    }
}
