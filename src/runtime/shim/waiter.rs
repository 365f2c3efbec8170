//! The waiter: what a shim becomes once its container runs. It moves output into the log, reaps the
//! container's first process, and leaves the exit record. It decides nothing and keeps almost no memory.

#![expect(clippy::disallowed_methods, reason = "reads the count of kills")]

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::attach::Attach;
use super::console::INPUT;
use super::last_words;
use super::log::{LINE_MAX, LogFile, Stream};
use crate::reconciler::container::{Console, Exit};
use crate::resource::Timestamp;
use crate::runtime::cgroup::Hierarchies;
use crate::runtime::folder::{Folder, LogLimits, wake};
use crate::runtime::leash::Leash;
use crate::runtime::pages::forget_program;
use crate::runtime::pidfd::{self, Identity};
use crate::runtime::settle::now;

/// Descriptors that a shim hands to the waiter that it becomes: the ends to read the container's two
/// outputs and to write its input, or the two sides of its terminal.
pub(super) const STREAMS: [i32; 3] = [3, 4, 5];

/// Bytes of output a second that are logged; a container that writes more is slowed down, or it
/// would wear out the device's flash.
const BYTES_PER_SECOND: usize = 8 << 20;

/// Milliseconds for which a shim waits as it is, with all the memory that it has: to become a waiter costs
/// some two.
const BRIEF_MS: u8 = 20;

/// After so long without anything to do, a waiter gives back the pages that it has touched.
const QUIET: Duration = Duration::from_secs(5);

/// The waiter's command line, after `kith shim wait`.
pub(in crate::runtime) struct Args {
    pub(in crate::runtime) folder: PathBuf,
    pub(in crate::runtime) cgroup: String,
    /// Whether it takes over from a shim that was killed: it is not the container's parent then.
    pub(in crate::runtime) adopted: bool,
    /// Whether others share its processes: then what it leaves behind has to be ended.
    pub(in crate::runtime) shared: bool,
    /// What the container has beside its log.
    pub(in crate::runtime) console: Console,
    pub(in crate::runtime) init: Identity,
    pub(in crate::runtime) started: Timestamp,
    pub(in crate::runtime) oom_file: PathBuf,
    pub(in crate::runtime) log: LogLimits,
    pub(in crate::runtime) wake: PathBuf,
}

impl Args {
    pub(in crate::runtime) fn to_os(&self) -> Vec<OsString> {
        vec![
            "wait".into(),
            self.folder.clone().into(),
            self.cgroup.clone().into(),
            if self.adopted { "adopted" } else { "own" }.into(),
            if self.shared { "shared" } else { "alone" }.into(),
            console_word(self.console).into(),
            self.init.pid.to_string().into(),
            self.init.start.to_string().into(),
            self.started.0.to_string().into(),
            self.oom_file.clone().into(),
            self.log.path.clone().into(),
            self.log.max_bytes.to_string().into(),
            self.log.max_files.to_string().into(),
            self.wake.clone().into(),
        ]
    }

    /// The arguments, and the layers that follow them.
    pub(super) fn parse(args: &[OsString]) -> Option<(Self, &[OsString])> {
        let [
            folder,
            cgroup,
            kind,
            company,
            console,
            pid,
            start,
            started,
            oom_file,
            log,
            max_bytes,
            max_files,
            wake,
            layers @ ..,
        ] = args
        else {
            return None;
        };
        let number = |arg: &OsString| arg.to_str()?.parse::<u64>().ok();
        let args = Self {
            folder: folder.into(),
            cgroup: cgroup.to_str()?.to_owned(),
            adopted: kind == "adopted",
            shared: company == "shared",
            console: console_of(console.to_str()?),
            init: Identity { pid: i32::try_from(number(pid)?).ok()?, start: number(start)? },
            started: Timestamp(number(started)?),
            oom_file: oom_file.into(),
            log: LogLimits {
                path: log.into(),
                max_bytes: number(max_bytes)?,
                max_files: u32::try_from(number(max_files)?).ok()?,
            },
            wake: wake.into(),
        };
        Some((args, layers))
    }

    /// Whether the container is over at once. What it writes meanwhile stays in its pipes. One that can be
    /// attached to is not made to wait.
    pub(super) fn is_brief(&self) -> bool {
        if self.console.is_open() {
            return false;
        }
        let Ok(init) = pidfd::open(self.init.pid) else { return false };
        poll(&mut [PollFd::new(init.as_fd(), PollFlags::POLLIN)], BRIEF_MS).is_ok_and(|ended| ended > 0)
    }

    /// Becomes the waiter: same pid, same children, almost none of the memory.
    pub(super) fn exec(&self) -> io::Error {
        Command::new("/proc/self/exe").arg("shim").args(self.to_os()).env_clear().exec()
    }
}

/// Of `i`nput, `o`nce and `t`erminal, what a container has.
fn console_word(console: Console) -> String {
    let letters = [(console.stdin, 'i'), (console.once, 'o'), (console.tty, 't')];
    letters.into_iter().map(|(has, letter)| if has { letter } else { '-' }).collect()
}

fn console_of(word: &str) -> Console {
    Console { stdin: word.contains('i'), once: word.contains('o'), tty: word.contains('t') }
}

/// Waits for the container to end and records how.
pub(super) fn run(args: &Args, layers: &[OsString]) -> ExitCode {
    ignore_signals();
    if args.adopted {
        let _ = nix::unistd::setsid();
    }
    let folder = Folder::new(&args.folder);
    // Held for as long as the container lives: whoever clears layers away sees that these are in use.
    let _layers: Vec<File> = layers.iter().filter_map(|layer| hold_layer(layer).ok()).collect();
    let Some(pipes) = Pipes::open(args, &folder) else { return ExitCode::FAILURE };
    let status = attend(args, pipes, Leash::of(&folder));
    if args.shared {
        // Its pid namespace goes on, and would let them go on.
        let _ = Hierarchies::discover().and_then(|hierarchies| hierarchies.kill(&args.cgroup));
    }
    let (code, signal, message) = match status {
        Some(status) if libc::WIFSIGNALED(status) => (128 + libc::WTERMSIG(status), Some(libc::WTERMSIG(status)), ""),
        Some(status) => (libc::WEXITSTATUS(status), None, ""),
        None => (255, None, "its shim was killed earlier, and this kernel does not keep the exit status"),
    };
    let finished = now();
    // What is known of the end comes before what the container says.
    let said = || folder.order().map(|order| last_words::of(&order, code)).unwrap_or_default();
    let message = if message.is_empty() { said() } else { message.into() };
    let oom_killed = oom_kills(&args.oom_file);
    let exit = Exit { code, signal, oom_killed, started: Some(args.started), finished, message };
    // A folder that is gone was removed on purpose: there is nobody left to tell.
    let _ = folder.write_exit(&exit);
    wake(&args.wake);
    ExitCode::SUCCESS
}

/// Keeps a layer from being cleared away as long as the handle is open.
pub(super) fn hold_layer(layer: &OsString) -> io::Result<File> {
    let folder = File::open(layer)?;
    folder.lock_shared()?;
    Ok(folder)
}

struct Pipes {
    streams: [(Option<File>, Stream); 2],
    attach: Option<Attach>,
    init: Option<OwnedFd>,
    /// The container's side of its terminal.
    _terminal: Option<File>,
}

impl Pipes {
    #[expect(unsafe_code, reason = "takes over descriptors that the shim left open at known numbers")]
    fn open(args: &Args, folder: &Folder) -> Option<Self> {
        // SAFETY: the shim that executed this program put the descriptors here, and nothing else owns them.
        let inherited = |index: usize| unsafe { File::from_raw_fd(STREAMS[index]) };
        let named =
            |name: &str, options: &mut OpenOptions| options.custom_flags(libc::O_NONBLOCK).open(folder.pipe(name)).ok();
        let console = args.console;
        let (stdout, stderr, input, terminal) = match (args.adopted, console.tty) {
            (false, true) => {
                let terminal = inherited(0);
                let input = terminal.try_clone().ok();
                (Some(terminal), None, input, Some(inherited(1)))
            }
            (false, false) => (Some(inherited(0)), Some(inherited(1)), console.stdin.then(|| inherited(2)), None),
            // A terminal is gone with the shim that had it.
            (true, true) => (None, None, None, None),
            (true, false) => {
                let output = |name| named(name, OpenOptions::new().read(true));
                let input = if console.stdin { named(INPUT, OpenOptions::new().write(true)) } else { None };
                (Some(output("stdout")?), Some(output("stderr")?), input, None)
            }
        };
        let listens = console.is_open() && !(args.adopted && console.tty);
        let attach = if listens { Attach::open(folder, console, input).ok() } else { None };
        let init = if args.adopted { args.init.open() } else { pidfd::open(args.init.pid).ok() };
        let streams = [(stdout, Stream::new("stdout")), (stderr, Stream::new("stderr"))];
        Some(Self { streams, attach, init, _terminal: terminal })
    }
}

/// Logs until the container's first process ends; returns its wait status, where it can be known.
fn attend(args: &Args, mut pipes: Pipes, mut leash: Option<Leash>) -> Option<i32> {
    let mut log = LogFile::new(args.log.clone());
    log.open();
    let mut buffer = vec![0; LINE_MAX];
    let mut quiet = Some(Duration::ZERO);
    let mut budget = Budget { window: Instant::now(), left: BYTES_PER_SECOND };
    while let Some(init) = &pipes.init {
        let held = pipes.attach.as_mut().and_then(Attach::hold);
        let pause = [budget.pause(), held].into_iter().flatten().min();
        let mut polled = vec![PollFd::new(init.as_fd(), PollFlags::POLLIN)];
        if pause.is_none() {
            let open = pipes.streams.iter().filter_map(|(pipe, _)| pipe.as_ref());
            polled.extend(open.map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN)));
        }
        if let Some(attach) = &pipes.attach {
            attach.watch(&mut polled);
        }
        let end = || drop(Hierarchies::discover().and_then(|hierarchies| hierarchies.kill(&args.cgroup)));
        let left = leash.as_mut().map(|leash| leash.hold(end));
        if wait(&mut polled, pause, &mut quiet, left).is_err() {
            continue;
        }
        if polled[0].any().unwrap_or(false) {
            break;
        }
        if pause.is_none() {
            budget.left = budget.left.saturating_sub(pipes.drain(&mut log, &mut buffer, 1));
        }
        if let Some(attach) = &mut pipes.attach {
            attach.turn();
        }
    }
    // Nobody writes any more: what is in the pipes is all that comes.
    if let Some(attach) = &mut pipes.attach {
        attach.finish();
    }
    pipes.drain(&mut log, &mut buffer, FINAL_READS);
    pipes.streams.iter_mut().for_each(|(_, stream)| stream.finish(&mut log));
    let init = pipes.init?;
    if args.adopted { pidfd::wait_status(&init) } else { reap(args.init.pid) }
}

/// Waits for what there is to do. Where nothing comes for as long as `quiet` says, first gives back what
/// the last work has touched: it is most of what a waiter would keep. It waits for no longer than is `left`.
fn wait(
    polled: &mut [PollFd<'_>],
    pause: Option<Duration>,
    quiet: &mut Option<Duration>,
    left: Option<Duration>,
) -> nix::Result<()> {
    let limit = |time: Duration| PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX);
    if let Some(time) = pause.or(*quiet).map(|time| left.map_or(time, |left| left.min(time))) {
        if poll(polled, limit(time))? > 0 || pause.is_some() {
            *quiet = Some(QUIET);
            return Ok(());
        }
        forget_program();
        *quiet = None;
    }
    // What ends by time alone has touched nothing of what was given back, or next to nothing.
    if poll(polled, left.map_or(PollTimeout::NONE, limit))? > 0 {
        *quiet = Some(QUIET);
    }
    Ok(())
}

/// More reads than a pipe of the largest size can fill.
const FINAL_READS: usize = 256;

impl Pipes {
    /// Reads what is there, so often at most for each stream; forgets one that all writers have closed.
    /// Returns the bytes read.
    fn drain(&mut self, log: &mut LogFile, buffer: &mut [u8], reads: usize) -> usize {
        let mut total = 0;
        for ((pipe, stream), number) in self.streams.iter_mut().zip(1..) {
            for _ in 0..reads {
                let Some(open) = pipe else { break };
                match open.read(buffer) {
                    Ok(count) if count > 0 => {
                        stream.push(&buffer[..count], log);
                        if let Some(attach) = &mut self.attach {
                            attach.tell(number, &buffer[..count]);
                        }
                        total += count;
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    // Its end; of a terminal, that it was hung up.
                    Ok(_) | Err(_) => {
                        *pipe = None;
                        stream.finish(log);
                    }
                }
            }
        }
        total
    }
}

/// How much may still be logged in this second.
struct Budget {
    window: Instant,
    left: usize,
}

impl Budget {
    /// How long to leave the pipes alone; `None` when they may be read.
    fn pause(&mut self) -> Option<Duration> {
        let spent = self.window.elapsed();
        if spent >= Duration::from_secs(1) {
            *self = Self { window: Instant::now(), left: BYTES_PER_SECOND };
        }
        (self.left == 0).then(|| Duration::from_secs(1).saturating_sub(spent).max(Duration::from_millis(1)))
    }
}

#[expect(unsafe_code, reason = "the raw status is what the record is made from")]
fn reap(pid: i32) -> Option<i32> {
    let mut status = 0;
    loop {
        // SAFETY: a plain number and a local that outlives the call.
        if unsafe { libc::waitpid(pid, &raw mut status, 0) } == pid {
            return Some(status);
        }
        if io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return None;
        }
    }
}

/// Whether the kernel killed something in the cgroup for lack of memory.
fn oom_kills(file: &std::path::Path) -> bool {
    let counts = fs::read_to_string(file).unwrap_or_default();
    counts.lines().any(|line| line.strip_prefix("oom_kill ").is_some_and(|count| count.trim() != "0"))
}

/// Nobody stops a waiter by accident: it ends when its container does.
#[expect(unsafe_code, reason = "ignoring a signal has no safe wrapper")]
fn ignore_signals() {
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT, libc::SIGPIPE] {
        // SAFETY: installs no handler code, only the disposition to ignore.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}
