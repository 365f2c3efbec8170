//! Being attached to a container: the agent's side. The container's shim has its input and its
//! terminal, and goes on when the agent ends; see `shim::attach`.
//!
//! ```text
//! agent --input, its end, sizes--> socket of the shim --> container
//!       <--output as it is written--
//! ```

#![expect(clippy::disallowed_methods, reason = "opens the folder of a container")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, recv, send, socket};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::exec::TerminalSize;
use super::folder::Folder;
use crate::reconciler::container::Console;

/// The socket's name in the container's folder.
pub(super) const SOCKET: &str = "attach";

/// How often, and after which pause, a shim is asked that may not listen yet: five seconds.
const ATTEMPTS: u32 = 100;
const PAUSE: Duration = Duration::from_millis(50);

/// Bytes of input in one message.
const PIECE: usize = 4 << 10;

/// The largest piece of output, with the number of its stream: what a shim keeps for the first one who
/// comes, which is as much as it reads at once.
const OUTPUT_LIMIT: usize = (16 << 10) + 1;

/// What is told to a shim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message<'a> {
    /// Whoever is attached writes to the input: it may end with them.
    Writes,
    /// Input.
    Input(&'a [u8]),
    /// No more input comes.
    End,
    /// The size of the terminal that the container's is shown on.
    Size(TerminalSize),
}

impl<'a> Message<'a> {
    /// Bytes of the largest one.
    pub(super) const LIMIT: usize = PIECE + 1;

    /// One that arrived; `None` for what is none.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        match bytes.split_first()? {
            (b'w', []) => Some(Self::Writes),
            (b'i', input) => Some(Self::Input(input)),
            (b'e', []) => Some(Self::End),
            (b's', &[a, b, c, d]) => {
                let (width, height) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
                Some(Self::Size(TerminalSize { width, height }))
            }
            _ => None,
        }
    }

    fn to_bytes(self) -> Vec<u8> {
        match self {
            Self::Writes => vec![b'w'],
            Self::Input(input) => [b"i", input].concat(),
            Self::End => vec![b'e'],
            Self::Size(TerminalSize { width, height }) => {
                [&b"s"[..], &width.to_be_bytes(), &height.to_be_bytes()].concat()
            }
        }
    }
}

/// The address of a container's socket. Its path may be longer than an address holds: it is found
/// through the folder, which has to stay open meanwhile.
pub(super) fn address(folder: &Folder) -> io::Result<(File, UnixAddr)> {
    let opened = File::open(folder.path())?;
    let address = UnixAddr::new(format!("/proc/self/fd/{}/{SOCKET}", opened.as_raw_fd()).as_str())?;
    Ok((opened, address))
}

/// Which stream a container wrote to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// Its output, or its terminal.
    Stdout,
    /// Its second output.
    Stderr,
}

/// An attachment to a running container. Dropping it lets go.
#[derive(Debug)]
pub struct Attached {
    socket: AsyncFd<OwnedFd>,
    /// What the container has.
    pub console: Console,
}

impl Attached {
    /// What the container wrote next; `None` at its end.
    pub async fn receive(&self) -> io::Result<Option<(Written, Vec<u8>)>> {
        let mut buffer = vec![0; OUTPUT_LIMIT];
        let received = self.socket.async_io(Interest::READABLE, |socket| {
            recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT).map_err(io::Error::from)
        });
        let length = match received.await {
            Ok(length) => length,
            Err(error) if error.raw_os_error() == Some(nix::libc::ECONNRESET) => 0,
            Err(error) => return Err(error),
        };
        buffer.truncate(length);
        if buffer.is_empty() {
            return Ok(None);
        }
        let stream = buffer.remove(0);
        Ok(Some((if stream == 2 { Written::Stderr } else { Written::Stdout }, buffer)))
    }

    /// Writes to the container's input; waits while it takes nothing.
    pub async fn write(&self, bytes: &[u8]) -> io::Result<()> {
        for piece in bytes.chunks(PIECE) {
            self.say(Message::Input(piece)).await?;
        }
        Ok(())
    }

    /// Says that no more input comes. What that means is said by the container's spec.
    pub async fn end(&self) -> io::Result<()> {
        self.say(Message::End).await
    }

    /// Tells the container the size of the terminal that its own is shown on.
    pub async fn resize(&self, size: TerminalSize) -> io::Result<()> {
        self.say(Message::Size(size)).await
    }

    async fn say(&self, message: Message<'_>) -> io::Result<()> {
        let bytes = message.to_bytes();
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let said = self.socket.async_io(Interest::WRITABLE, |socket| {
            send(socket.as_raw_fd(), &bytes, flags).map(drop).map_err(io::Error::from)
        });
        said.await
    }
}

/// Attaches to a container; `None` for one that has neither input nor terminal.
pub(super) async fn begin(folder: &Folder, writes: bool) -> Result<Option<Attached>, String> {
    let console = folder.order().map_err(|error| format!("read spec.json: {error}"))?.spec.console;
    if !console.is_open() {
        return Ok(None);
    }
    let mut attempts = 0;
    let socket = loop {
        attempts += 1;
        match reach(folder) {
            Ok(socket) => break socket,
            // A container that was just started: its shim becomes its waiter.
            Err(error) if attempts < ATTEMPTS && is_early(&error) => tokio::time::sleep(PAUSE).await,
            Err(error) if is_early(&error) && console.tty => {
                return Err("its terminal is gone: the process that held it was killed".into());
            }
            Err(error) => return Err(format!("reach its shim: {error}")),
        }
    };
    let attached = Attached { socket, console };
    if writes {
        attached.say(Message::Writes).await.map_err(|error| format!("reach its shim: {error}"))?;
    }
    Ok(Some(attached))
}

fn is_early(error: &io::Error) -> bool {
    // EAGAIN: too many at the door at this moment.
    [Errno::ENOENT, Errno::ECONNREFUSED, Errno::EAGAIN].iter().any(|code| error.raw_os_error() == Some(*code as i32))
}

#[expect(unsafe_code, reason = "tokio wants a promise about the descriptor")]
fn reach(folder: &Folder) -> io::Result<AsyncFd<OwnedFd>> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    let (_folder, address) = address(folder)?;
    connect(socket.as_raw_fd(), &address)?;
    // SAFETY: the descriptor is owned here, and nothing replaces or closes it before the watch is dropped.
    let watched = unsafe { AsyncFd::register(socket) };
    watched.map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_way() {
        let size = TerminalSize { width: 132, height: 50 };
        for message in [Message::Writes, Message::Input(b"ls\n"), Message::End, Message::Size(size)] {
            assert_eq!(Message::parse(&message.to_bytes()), Some(message));
        }
        for wrong in [&b""[..], b"x", b"s\0\0", b"e1"] {
            assert_eq!(Message::parse(wrong), None);
        }
    }
}
