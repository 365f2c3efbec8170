//! Terminals of a container's own devpts: made from inside of it, handed to who stays outside.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::libc;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::sys::statfs::{FsType, fstatfs};

use crate::runtime::exec::{TERMINAL_MARK, TerminalSize, resize};

/// Magic number of devpts.
const DEVPTS: FsType = FsType(0x1cd1);
/// Major and minor number of the multiplexer of terminals.
const MULTIPLEXER: (u64, u64) = (5, 2);

/// A new terminal of the container's own devpts: its two sides. The container may have put anything at
/// that path.
#[expect(unsafe_code, reason = "ioctls of terminals")]
pub(super) fn open(size: TerminalSize) -> Result<(OwnedFd, OwnedFd), String> {
    let at = |step: &'static str| move |error: Errno| format!("{step}: {error}");
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let root = nix::fcntl::open("/", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(at("open the container's root"))?;
    let how = OpenHow::new().flags(flags).resolve(ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_IN_ROOT);
    let master = openat2(&root, "dev/pts/ptmx", how).map_err(at("open /dev/pts/ptmx of the container"))?;
    let found = fstat(&master).map_err(at("look at /dev/pts/ptmx"))?;
    let device = (nix::sys::stat::major(found.st_rdev), nix::sys::stat::minor(found.st_rdev));
    let kind = SFlag::from_bits_truncate(found.st_mode & SFlag::S_IFMT.bits());
    let system = fstatfs(&master).map_err(at("look at /dev/pts"))?.filesystem_type();
    if kind != SFlag::S_IFCHR || device != MULTIPLEXER || system != DEVPTS {
        return Err("/dev/pts/ptmx of the container is no terminal multiplexer: refused".into());
    }
    let unlocked: libc::c_int = 0;
    // SAFETY: an open terminal and a number that outlives the call.
    if unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlocked) } != 0 {
        return Err(format!("unlock the terminal: {}", io::Error::last_os_error()));
    }
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: an open terminal and flags; the result is checked.
    let slave = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) };
    if slave < 0 {
        return Err(format!("open the terminal: {}", io::Error::last_os_error()));
    }
    // SAFETY: the kernel just handed this descriptor to us alone.
    let slave = unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(slave) };
    resize(&master, size).map_err(|error| format!("set the size of the terminal: {error}"))?;
    Ok((master, slave))
}

/// Sends sides of a terminal to who waits for them.
pub(super) fn hand_over(to: &impl AsRawFd, sides: &[&OwnedFd]) -> io::Result<()> {
    let numbers: Vec<i32> = sides.iter().map(|side| side.as_raw_fd()).collect();
    let rights = [ControlMessage::ScmRights(&numbers)];
    let mark = [IoSlice::new(&[TERMINAL_MARK])];
    sendmsg::<()>(to.as_raw_fd(), &mark, &rights, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

/// Makes a terminal the one of this process's session.
#[expect(unsafe_code, reason = "an ioctl")]
pub(super) fn take(terminal: &OwnedFd) -> io::Result<()> {
    // SAFETY: an open descriptor and a number.
    if unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
