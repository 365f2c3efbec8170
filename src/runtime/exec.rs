//! Programs that are run inside a container beside its own: the agent's side.
//!
//! ```text
//! agent --descriptors, order--> kith shim exec --fork--> enters the container --clone--> program
//!       <--pid, exit code------       | watches both
//! ```
//!
//! Each has a helper of its own, which ends the program, with all that it started in its session,
//! when the agent lets go of it or dies.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::pin::Pin;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use nix::libc;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, BufReader, Interest, ReadBuf};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;

use super::folder::Folder;
use super::pidfd::reap;
use super::seal::SealedExe;

/// How long it may take until the program runs or is refused.
const START_TIMEOUT: Duration = Duration::from_mins(1);

/// The longest order to a helper, and the longest answer, in bytes.
pub(super) const ORDER_LIMIT: u64 = 1 << 20;

/// Precedes a terminal's descriptor.
pub(super) const TERMINAL_MARK: u8 = b'm';
/// Comes with the descriptors of an order.
pub(super) const ORDER_MARK: u8 = b'o';

/// The size of a terminal, in characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// What is to be run in a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecSpec {
    /// Program and arguments.
    pub args: Vec<String>,
    /// Added to the container's own environment.
    pub env: Vec<(String, String)>,
    /// A terminal of this size instead of pipes.
    pub terminal: Option<TerminalSize>,
    /// Whether something is written to its standard input; otherwise that is empty.
    pub stdin: bool,
}

/// What a program wrote, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Captured {
    /// The exit code; `None` when its time was up and it was killed.
    pub code: Option<i32>,
    /// The beginning of what it wrote to both of its streams.
    pub output: Vec<u8>,
}

/// A stream to a program.
pub type Input = Box<dyn AsyncWrite + Send + Unpin>;
/// A stream from a program.
pub type Output = Box<dyn AsyncRead + Send + Unpin>;

/// A program that runs in a container.
pub struct ExecSession {
    /// Its input, when it was asked for; dropping it ends the input.
    pub stdin: Option<Input>,
    /// Its output; everything that it writes when it has a terminal.
    pub stdout: Option<Output>,
    /// Its second output; none when it has a terminal.
    pub stderr: Option<Output>,
    /// Its terminal, to be resized.
    pub terminal: Option<Terminal>,
    /// Its end.
    pub running: Running,
}

/// The program's life: dropping this kills it.
#[derive(Debug)]
pub struct Running {
    control: BufReader<UnixStream>,
    /// The program's pid on the device.
    pub pid: i32,
}

impl Running {
    /// Waits for the program's end and tells its exit code. Cancel-safe: nothing is lost between calls.
    pub async fn ended(&mut self) -> Result<i32, String> {
        // The answer is one short line, written at once.
        let buffer = self.control.fill_buf().await.map_err(|error| error.to_string())?;
        match serde_json::from_slice(buffer) {
            Ok(Told::Exited(code)) => Ok(code),
            Ok(Told::Failed(why)) => Err(why),
            _ => Err("its helper was killed, and the program with it".into()),
        }
    }
}

/// What a helper tells, one line each.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Told {
    /// The program runs and has this pid on the device.
    Running(i32),
    /// It could not begin.
    Failed(String),
    /// It ended with this code.
    Exited(i32),
}

/// Runs a program in the container of a folder.
pub(super) async fn begin(
    exe: &SealedExe,
    folder: &Folder,
    cgroup: &str,
    spec: ExecSpec,
) -> Result<ExecSession, String> {
    let (ends, ours) = Ends::open(&spec).map_err(|error| format!("open pipes: {error}"))?;
    begin_with(exe, folder, cgroup, spec, ends, ours).await
}

/// Runs a program to its end, or to that of its time, and keeps the beginning of what it writes.
pub(super) async fn capture(
    exe: &SealedExe,
    folder: &Folder,
    cgroup: &str,
    args: Vec<String>,
    timeout: Duration,
    limit: usize,
) -> Result<Captured, String> {
    let spec = ExecSpec { args, ..ExecSpec::default() };
    let (ends, ours) = Ends::merged().map_err(|error| format!("open pipes: {error}"))?;
    let mut output = Vec::new();
    let whole = async {
        let mut session = begin_with(exe, folder, cgroup, spec, ends, ours).await?;
        let mut stdout = session.stdout.take();
        let mut chunk = [0; 4096];
        let code = loop {
            // Cancel-safe: a read of a pipe, and a wait that loses nothing.
            tokio::select! {
                biased;
                read = read_some(&mut stdout, &mut chunk) => match read {
                    0 => stdout = None,
                    read => keep(&mut output, &chunk[..read], limit),
                },
                code = session.running.ended() => break code?,
            }
        };
        // What is in the pipe was written before the end; what others write later is not waited for.
        for _ in 0..PIPE_READS {
            match tokio::time::timeout(Duration::ZERO, read_some(&mut stdout, &mut chunk)).await {
                Ok(read) if read > 0 => keep(&mut output, &chunk[..read], limit),
                _ => break,
            }
        }
        Ok::<i32, String>(code)
    };
    let code = match tokio::time::timeout(timeout, whole).await {
        Ok(code) => Some(code?),
        Err(_) => None,
    };
    Ok(Captured { code, output })
}

/// More reads of 4 KiB than a pipe can be filled with.
const PIPE_READS: usize = 64;

fn keep(output: &mut Vec<u8>, read: &[u8], limit: usize) {
    let room = limit.saturating_sub(output.len());
    output.extend_from_slice(&read[..read.len().min(room)]);
}

/// Reads; waits for ever where there is nothing to read from. 0 is the end, however it came.
async fn read_some(from: &mut Option<Output>, chunk: &mut [u8]) -> usize {
    match from {
        Some(from) => from.read(chunk).await.unwrap_or(0),
        None => std::future::pending().await,
    }
}

/// The program's ends of its streams.
struct Ends(Vec<OwnedFd>);

/// The agent's ends.
struct Ours {
    stdin: Option<Input>,
    stdout: Option<Output>,
    stderr: Option<Output>,
}

impl Ends {
    fn open(spec: &ExecSpec) -> io::Result<(Self, Ours)> {
        if spec.terminal.is_some() {
            // The terminal is made inside the container and comes back from there.
            return Ok((Self(Vec::new()), Ours { stdin: None, stdout: None, stderr: None }));
        }
        let (in_read, in_write) = io::pipe()?;
        let stdin = spec.stdin.then(|| pipe::Sender::from_owned_fd(in_write.into())).transpose()?;
        let (out_read, out_write) = io::pipe()?;
        let (err_read, err_write) = io::pipe()?;
        let ours = Ours {
            stdin: stdin.map(|stdin| Box::new(stdin) as Input),
            stdout: Some(Box::new(pipe::Receiver::from_owned_fd(out_read.into())?)),
            stderr: Some(Box::new(pipe::Receiver::from_owned_fd(err_read.into())?)),
        };
        Ok((Self(vec![in_read.into(), out_write.into(), err_write.into()]), ours))
    }

    /// No input, and both outputs in one.
    fn merged() -> io::Result<(Self, Ours)> {
        let (in_read, _) = io::pipe()?;
        let (out_read, out_write) = io::pipe()?;
        let stdout: Output = Box::new(pipe::Receiver::from_owned_fd(out_read.into())?);
        let ends = vec![in_read.into(), out_write.try_clone()?.into(), out_write.into()];
        Ok((Self(ends), Ours { stdin: None, stdout: Some(stdout), stderr: None }))
    }
}

async fn begin_with(
    exe: &SealedExe,
    folder: &Folder,
    cgroup: &str,
    spec: ExecSpec,
    ends: Ends,
    ours: Ours,
) -> Result<ExecSession, String> {
    let at = |step: &'static str| move |error: io::Error| format!("{step}: {error}");
    let (near, far) = UnixStream::pair().map_err(at("open a socket"))?;
    let far = far.into_std().and_then(|far| far.set_nonblocking(false).map(|()| far)).map_err(at("open a socket"))?;
    let child = Command::new(exe.path())
        .args(["shim".as_ref(), "exec".as_ref(), folder.path().as_os_str(), cgroup.as_ref()])
        .env_clear()
        .current_dir("/")
        .stdin(OwnedFd::from(far))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(at("start the helper"))?;
    // Reaped whenever it ends, also when nobody waits for this session any more.
    tokio::spawn(reap(child));
    let begun = async {
        send_descriptors(&near, &ends.0).await.map_err(at("hand over the streams"))?;
        drop(ends);
        let mut order = serde_json::to_vec(&spec).map_err(|error| error.to_string())?;
        order.push(b'\n');
        let mut near = near;
        tokio::io::AsyncWriteExt::write_all(&mut near, &order).await.map_err(at("send the order"))?;
        let (first, terminal) = receive_first(&near).await.map_err(at("wait for the helper"))?;
        let mut control = BufReader::new(near);
        let mut line = if first == TERMINAL_MARK { Vec::new() } else { vec![first] };
        (&mut control).take(ORDER_LIMIT).read_until(b'\n', &mut line).await.map_err(at("wait for the helper"))?;
        match serde_json::from_slice(&line) {
            Ok(Told::Running(pid)) => Ok((control, pid, terminal)),
            Ok(Told::Failed(why)) => Err(why),
            _ => Err("its helper was killed".into()),
        }
    };
    let begun = tokio::time::timeout(START_TIMEOUT, begun).await;
    let (control, pid, terminal) = begun.map_err(|_| format!("it did not begin within {START_TIMEOUT:?}"))??;
    let running = Running { control, pid };
    let Some(master) = terminal else {
        return Ok(ExecSession {
            stdin: ours.stdin,
            stdout: ours.stdout,
            stderr: ours.stderr,
            terminal: None,
            running,
        });
    };
    let terminal = Terminal::new(master).map_err(at("open the terminal"))?;
    Ok(ExecSession {
        stdin: spec.stdin.then(|| Box::new(terminal.clone()) as Input),
        stdout: Some(Box::new(terminal.clone())),
        stderr: None,
        terminal: Some(terminal),
        running,
    })
}

async fn send_descriptors(socket: &UnixStream, descriptors: &[OwnedFd]) -> io::Result<()> {
    let raw: Vec<i32> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    socket
        .async_io(Interest::WRITABLE, || {
            let rights = [ControlMessage::ScmRights(&raw)];
            let rights = if raw.is_empty() { &rights[..0] } else { &rights[..] };
            let sent =
                sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(&[ORDER_MARK])], rights, MsgFlags::MSG_NOSIGNAL, None);
            sent.map(drop).map_err(io::Error::from)
        })
        .await
}

/// The first byte of an answer, and the descriptor that comes with it.
async fn receive_first(socket: &UnixStream) -> io::Result<(u8, Option<OwnedFd>)> {
    socket.async_io(Interest::READABLE, || receive(socket.as_raw_fd()).map(|(byte, mut fds)| (byte, fds.pop()))).await
}

/// One byte, and the descriptors that come with it.
#[expect(unsafe_code, reason = "descriptors arrive as numbers")]
pub(super) fn receive(socket: i32) -> io::Result<(u8, Vec<OwnedFd>)> {
    let mut byte = [0];
    let mut buffer = nix::cmsg_space!([i32; 3]);
    let mut descriptors = Vec::new();
    let mut parts = [IoSliceMut::new(&mut byte)];
    let message = recvmsg::<()>(socket, &mut parts, Some(&mut buffer), MsgFlags::MSG_CMSG_CLOEXEC)?;
    if message.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = part {
            // SAFETY: the kernel just installed these for this process, and nothing else knows them.
            descriptors.extend(numbers.into_iter().map(|number| unsafe { OwnedFd::from_raw_fd(number) }));
        }
    }
    Ok((byte[0], descriptors))
}

/// The agent's side of a program's terminal.
#[derive(Clone, Debug)]
pub struct Terminal(Arc<AsyncFd<OwnedFd>>);

/// What a terminal takes for the end of input at the beginning of a line.
const END_OF_INPUT: u8 = 4;

nix::ioctl_write_ptr_bad!(set_size, libc::TIOCSWINSZ, libc::winsize);

impl Terminal {
    #[expect(unsafe_code, reason = "tokio wants a promise about the descriptor")]
    fn new(master: OwnedFd) -> io::Result<Self> {
        use nix::fcntl::{FcntlArg, OFlag, fcntl};
        fcntl(&master, FcntlArg::F_SETFL(OFlag::O_RDWR | OFlag::O_NONBLOCK))?;
        // SAFETY: the descriptor is owned here, and nothing replaces or closes it before the watch is dropped.
        let watched = unsafe { AsyncFd::register(master) };
        Ok(Self(Arc::new(watched.map_err(io::Error::from)?)))
    }

    /// Tells the program the size of the terminal that it is shown on.
    pub fn resize(&self, size: TerminalSize) -> io::Result<()> {
        resize(&self.0, size)
    }
}

/// Sets the size of a terminal.
#[expect(unsafe_code, reason = "an ioctl")]
pub(super) fn resize(terminal: &impl AsRawFd, size: TerminalSize) -> io::Result<()> {
    let size = libc::winsize { ws_row: size.height, ws_col: size.width, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: an open descriptor and a structure that outlives the call.
    unsafe { set_size(terminal.as_raw_fd(), &raw const size) }.map(drop).map_err(io::Error::from)
}

impl AsyncRead for Terminal {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.0.poll_read_ready(cx))?;
            let unfilled = buf.initialize_unfilled();
            match ready.try_io(|fd| nix::unistd::read(fd, unfilled).map_err(io::Error::from)) {
                Ok(Ok(count)) => {
                    buf.advance(count);
                    return Poll::Ready(Ok(()));
                }
                // Nobody has the other side open any more.
                Ok(Err(error)) if error.raw_os_error() == Some(libc::EIO) => return Poll::Ready(Ok(())),
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for Terminal {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.0.poll_write_ready(cx))?;
            if let Ok(done) = ready.try_io(|fd| nix::unistd::write(fd, bytes).map_err(io::Error::from)) {
                return Poll::Ready(done);
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// A terminal has no half that could be closed: the program is told as by a keyboard.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_write(cx, &[END_OF_INPUT]).map_ok(drop)
    }
}
