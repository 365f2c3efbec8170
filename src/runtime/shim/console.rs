//! A container's standard streams: what it is given, and the ends that stay with its shim.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid};

use crate::runtime::exec::{TERMINAL_MARK, receive};
use crate::runtime::folder::{Folder, Order};

/// The container's ends.
pub(super) struct Given {
    pub(super) stdin: Option<OwnedFd>,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
    /// Where it sends its terminal, which is made inside of it and takes the place of the others.
    pub(super) terminal: Option<UnixStream>,
}

/// The shim's ends.
pub(super) enum Kept {
    /// To read its two outputs, and to write its input if it has one.
    Pipes(Vec<File>),
    /// The terminal comes from here once the container runs.
    Terminal(UnixStream),
}

/// Opens the streams of a container.
pub(super) fn open(folder: &Folder, order: &Order) -> io::Result<(Given, Kept)> {
    if order.spec.console.tty {
        let (near, far) = UnixStream::pair()?;
        // What it has until its terminal is there.
        let (_, stdout) = io::pipe()?;
        let stderr = OwnedFd::from(stdout.try_clone()?);
        let given = Given { stdin: None, stdout: stdout.into(), stderr, terminal: Some(far) };
        return Ok((given, Kept::Terminal(near)));
    }
    let (stdout_read, stdout) = output(folder, "stdout", order)?;
    let (stderr_read, stderr) = output(folder, "stderr", order)?;
    let mut kept = vec![stdout_read, stderr_read];
    let mut stdin = None;
    if order.spec.console.stdin {
        let (given, write) = input(folder, order)?;
        stdin = Some(OwnedFd::from(given));
        kept.push(write);
    }
    let given = Given { stdin, stdout: stdout.into(), stderr: stderr.into(), terminal: None };
    Ok((given, Kept::Pipes(kept)))
}

impl Kept {
    /// The ends in the waiter's order: of a terminal, the side to talk to it and the container's side,
    /// without which it would seem to hang up whenever no program has it open.
    pub(super) fn into_files(self) -> io::Result<Vec<File>> {
        let socket = match self {
            Self::Pipes(files) => return Ok(files),
            Self::Terminal(socket) => socket,
        };
        // The program runs, so that it was sent; a call that would wait finds a defect.
        socket.set_nonblocking(true)?;
        let (mark, sides) = receive(socket.as_raw_fd())?;
        if mark != TERMINAL_MARK || sides.len() != 2 {
            return Err(io::Error::other("it was not sent"));
        }
        fcntl(&sides[0], FcntlArg::F_SETFL(OFlag::O_RDWR | OFlag::O_NONBLOCK))?;
        Ok(sides.into_iter().map(File::from).collect())
    }
}

/// A named pipe, so that a new waiter finds it again: the end to read, and the one for the container.
fn output(folder: &Folder, name: &str, order: &Order) -> io::Result<(File, File)> {
    let path = make(folder, name, order)?;
    let read = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path)?;
    // For both: then a killed waiter does not break the container's pipe, writes just wait for the next.
    let write = OpenOptions::new().read(true).write(true).open(&path)?;
    Ok((read, write))
}

/// The same for its input: the container's end, and the one to write to. Only the shim has that: its
/// input ends when the shim closes it.
fn input(folder: &Folder, order: &Order) -> io::Result<(File, File)> {
    let path = make(folder, INPUT, order)?;
    // Opening one side waits for the other, unless somebody has both.
    let _both = OpenOptions::new().read(true).write(true).open(&path)?;
    let read = OpenOptions::new().read(true).open(&path)?;
    let write = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(&path)?;
    Ok((read, write))
}

/// The name of the pipe behind a container's input. It is removed when the input has ended for good.
pub(super) const INPUT: &str = "stdin";

fn make(folder: &Folder, name: &str, order: &Order) -> io::Result<std::path::PathBuf> {
    let path = folder.pipe(name);
    nix::unistd::mkfifo(&path, Mode::from_bits_truncate(0o600))?;
    // Programs open /dev/stdout again, also those that run as a user.
    let first = order.spec.namespaces.user.map_or(0, |range| range.first);
    let (uid, gid) = (first.saturating_add(order.spec.uid), first.saturating_add(order.spec.gid));
    nix::unistd::chown(&path, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    Ok(path)
}
