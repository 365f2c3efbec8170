//! Process identity that survives pid reuse: pidfds, and the pid with its start time on disk.

#![expect(clippy::disallowed_methods, reason = "reads /proc")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::process::Child;

use nix::libc;
use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;

/// One process for good: a pid together with the moment it started, in clock ticks since boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    pub(super) pid: i32,
    pub(super) start: u64,
}

impl Identity {
    /// The process that has this pid now.
    pub(super) fn of(pid: i32) -> io::Result<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The name in parentheses may hold anything, parentheses included: fields count from the last one.
        let fields = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
        let start = fields.split_ascii_whitespace().nth(19).and_then(|field| field.parse().ok());
        let start = start.ok_or_else(|| io::Error::other(format!("no start time in /proc/{pid}/stat")))?;
        Ok(Self { pid, start })
    }

    /// This process itself.
    pub(super) fn own() -> io::Result<Self> {
        Self::of(nix::unistd::getpid().as_raw())
    }

    /// A handle on this very process; `None` once it is gone, also when its pid serves another.
    pub(super) fn open(self) -> Option<OwnedFd> {
        let fd = open(self.pid).ok()?;
        // Checked after opening: from here on the handle can not mean another process.
        (Self::of(self.pid).ok()? == self && !is_zombie(self.pid)).then_some(fd)
    }

    /// Whether it still runs.
    pub(super) fn is_alive(self) -> bool {
        Self::of(self.pid).is_ok_and(|found| found == self) && !is_zombie(self.pid)
    }
}

fn is_zombie(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_none_or(|(_, rest)| matches!(rest.trim_start().as_bytes().first(), Some(b'Z' | b'X')))
}

/// A handle on whichever process has this pid.
#[expect(unsafe_code, reason = "pidfd_open has no safe wrapper")]
pub(super) fn open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: two plain numbers; the result is checked before it becomes an owned descriptor.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = i32::try_from(fd).unwrap_or(-1);
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just handed this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Whether the process behind a handle has ended.
pub(super) fn has_ended(fd: &OwnedFd) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut polled = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    !matches!(poll(&mut polled, PollTimeout::ZERO), Ok(0))
}

/// Sends a signal; a process that is gone already is fine.
#[expect(unsafe_code, reason = "pidfd_send_signal has no safe wrapper")]
pub(super) fn send(fd: &OwnedFd, signal: i32) -> io::Result<()> {
    let none = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: an open descriptor, a number, and no siginfo.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd.as_raw_fd(), signal, none, 0) };
    match io::Error::last_os_error() {
        _ if result == 0 => Ok(()),
        gone if gone.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        error => Err(error),
    }
}

/// `struct pidfd_info`, first version (64 bytes).
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup: u64,
    ids: [u32; 11],
    exit_code: i32,
}

const PIDFD_INFO_EXIT: u64 = 1 << 3;

/// The wait status of a process that is not our child, after it ended: kernels from 6.15 know it.
#[expect(unsafe_code, reason = "PIDFD_GET_INFO has no safe wrapper")]
pub(super) fn wait_status(fd: &OwnedFd) -> Option<i32> {
    const PIDFD_GET_INFO: libc::c_ulong = (3 << 30) | (64 << 16) | (0xff << 8) | 0x0b;
    let mut info = PidfdInfo { mask: PIDFD_INFO_EXIT, ..PidfdInfo::default() };
    // SAFETY: the structure has the size that the request number carries, and outlives the call.
    let result = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), PIDFD_GET_INFO as _, &raw mut info) };
    (result == 0 && info.mask & PIDFD_INFO_EXIT != 0).then_some(info.exit_code)
}

/// Reaps a shim of ours once it has ended.
pub(super) async fn reap(mut child: Child) {
    if let Ok(fd) = open(child.id().cast_signed()) {
        ended(fd).await;
        let _ = child.wait();
    }
}

/// Returns once the process behind the handle has ended.
#[expect(unsafe_code, reason = "tokio wants a promise about the descriptor")]
pub(super) async fn ended(fd: OwnedFd) {
    // SAFETY: the descriptor is owned here, and nothing replaces or closes it before the watch is dropped.
    if let Ok(fd) = unsafe { AsyncFd::register_with_interest(fd, tokio::io::Interest::READABLE) } {
        let _ = fd.readable().await;
    }
}
