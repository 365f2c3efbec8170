//! Brings one container to life, then becomes its waiter.

#![expect(clippy::disallowed_methods, reason = "opens the files of one container")]

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::Mode;
use serde_json::Value;

use super::console::{self, Given};
use super::executor::Confined;
use super::log::LogFile;
use super::users::Users;
use super::{devices, limits, rootfs, spec, waiter};
use crate::reconciler::container::{Exit, Namespace};
use crate::resource::{Timestamp, chain};
use crate::runtime::cgroup::Hierarchies;
use crate::runtime::folder::{Folder, Order, Progress, wake, write_private};
use crate::runtime::leash;
use crate::runtime::pidfd::Identity;
use crate::runtime::seal;
use crate::runtime::settle::{CANNOT_RUN, now};

/// What the kernel should think of when memory runs out: of almost anything before a waiter.
const SHIM_OOM_SCORE: &str = "-998";

const OOM_SCORE: &str = "/proc/self/oom_score_adj";

/// Runs `kith shim create FOLDER`. Standard input is the folder's lock, output goes to the agent.
pub(super) fn run(folder: &Path) -> ExitCode {
    let folder = Folder::new(folder);
    let outcome = seal::require().and_then(|()| {
        let order = folder.order().map_err(|error| format!("read spec.json: {error}"))?;
        let alive = create(&folder, &order);
        // Whoever waits for this container looks now, whichever way it went.
        if let Err(reason) = &alive {
            record_failure(&folder, reason);
        }
        wake(&order.wake);
        alive
    });
    match outcome {
        Ok(waiting) => match waiting.go_on() {
            Ok(over) => return over,
            Err(error) => println!("become the waiter: {error}"),
        },
        Err(reason) => println!("{reason}"),
    }
    ExitCode::FAILURE
}

/// A container that runs, with what its waiter needs.
struct Waiting {
    args: waiter::Args,
    lock: OwnedFd,
    streams: Vec<File>,
    layers: Vec<File>,
}

impl Waiting {
    /// Waits for the container: across `exec`, with everything handed over, unless its program has done
    /// all that it does by the time that this would take. Returns only if that fails, or it is over.
    #[expect(unsafe_code, reason = "descriptors get the numbers that the waiter expects")]
    fn go_on(self) -> io::Result<ExitCode> {
        print!("ok");
        let _ = io::stdout().flush();
        let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
        let handed = [(self.lock.as_raw_fd(), 0), (null.as_raw_fd(), 1), (null.as_raw_fd(), 2)];
        // First out of the way of the numbers that are handed out, then onto them.
        let streams = self.streams.iter().map(above_handed).collect::<io::Result<Vec<_>>>()?;
        let layers = self.layers.iter().map(above_handed).collect::<io::Result<Vec<_>>>()?;
        let streams = streams.iter().zip(waiter::STREAMS).map(|(fd, number)| (fd.as_raw_fd(), number));
        for (from, to) in handed.into_iter().chain(streams) {
            // SAFETY: plain descriptor numbers; the targets are either standard streams or unused, as
            // everything that stays open was moved above them.
            if unsafe { libc::dup2(from, to) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        // Their numbers may be another's by now. They close with `exec`, or with this process.
        std::mem::forget((null, self.lock, self.streams, self.layers));
        if self.args.is_brief() {
            return Ok(waiter::run(&self.args, &[]));
        }
        for layer in &layers {
            // SAFETY: an open descriptor and a flag: it survives `exec`, and with it the lock on a layer.
            unsafe { libc::fcntl(layer.as_raw_fd(), libc::F_SETFD, 0) };
        }
        Err(self.args.exec())
    }
}

/// A copy numbered above those that the waiter expects.
#[expect(unsafe_code, reason = "F_DUPFD_CLOEXEC with a lower bound")]
fn above_handed(file: &File) -> io::Result<OwnedFd> {
    // SAFETY: an open descriptor and a number; the result is checked and ours alone.
    let fd = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 10) };
    // SAFETY: as above.
    if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(unsafe { OwnedFd::from_raw_fd(fd) }) }
}

/// The device's own namespaces, to return to.
struct Outside([(File, CloneFlags); 4]);

impl Outside {
    fn open() -> io::Result<Self> {
        let open = |name: &str, flag| Ok::<_, io::Error>((File::open(format!("/proc/self/ns/{name}"))?, flag));
        Ok(Self([
            open("net", CloneFlags::CLONE_NEWNET)?,
            open("ipc", CloneFlags::CLONE_NEWIPC)?,
            open("uts", CloneFlags::CLONE_NEWUTS)?,
            open("mnt", CloneFlags::CLONE_NEWNS)?,
        ]))
    }

    fn enter(&self) -> Result<(), String> {
        self.0.iter().try_for_each(|(namespace, flag)| {
            setns(namespace.as_fd(), *flag).map_err(|error| format!("leave the container's namespaces: {error}"))
        })
    }
}

fn create(folder: &Folder, order: &Order) -> Result<Waiting, String> {
    let at = |step: &'static str| move |error: io::Error| format!("{step}: {error}");
    // libcontainer leaves a program the groups of whoever started it when it is to have none.
    nix::unistd::setgroups(&[]).map_err(|error| format!("drop the agent's groups: {error}"))?;
    let lock = take_lock().map_err(at("take the lock"))?;
    let _ = nix::unistd::setsid();
    nix::sys::stat::umask(Mode::from_bits_truncate(0o022));
    let shim = Identity::own().map_err(at("look up the shim"))?;
    folder.write_progress(&Progress { shim, running: None }).map_err(at("write state.json"))?;

    let layers = order
        .layers
        .iter()
        .map(|layer| waiter::hold_layer(&layer.clone().into_os_string()))
        .collect::<io::Result<Vec<_>>>();
    let layers = layers.map_err(at("open the image's layers"))?;
    let hierarchies = Hierarchies::discover().map_err(at("look for cgroups"))?;
    let (given, kept) = console::open(folder, order).map_err(at("open the container's streams"))?;

    // The root is mounted where only this process and the container see it: nothing to unmount later,
    // whoever is killed when.
    let outside = Outside::open().map_err(at("open the device's namespaces"))?;
    unshare(CloneFlags::CLONE_NEWNS).map_err(|error| format!("make a mount namespace: {error}"))?;
    let nothing = None::<&str>;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_SLAVE, nothing)
        .map_err(|error| format!("detach the mount namespace: {error}"))?;
    let users = order.spec.namespaces.user.map(|range| Users::of(range, &order.spec.namespaces)).transpose()?;
    let prepared = rootfs::prepare(folder, order, users.as_ref())?;
    let mut config = spec::config(order, &prepared, &hierarchies, users.as_ref())?;

    let oom_score = fs::read(OOM_SCORE).map_err(at("read the shim's OOM score"))?;
    let allowed = allowed_oom_score(order.spec.oom_score_adj, &oom_score);
    config["process"]["oomScoreAdj"] = allowed.map_err(at("look for the OOM score that is allowed"))?.into();
    let (init, started) = launch(folder, order, &config, &hierarchies, given)?;
    let streams = kept.into_files().map_err(at("take the container's terminal"))?;
    outside.enter()?;
    drop(users);
    reset_oom_score(&oom_score).map_err(at("reset the shim's OOM score"))?;
    leash::tie(folder, &order.spec).map_err(at("write the container's leash"))?;
    // Whoever reads that it runs may ask for its log.
    LogFile::new(order.log.clone()).open();
    folder.write_progress(&Progress { shim, running: Some((init, started)) }).map_err(at("write state.json"))?;
    let args = waiter::Args {
        folder: folder.path().to_owned(),
        cgroup: order.cgroup.clone(),
        adopted: false,
        shared: order.spec.namespaces.pid != Namespace::Own,
        console: order.spec.console,
        init,
        started,
        oom_file: hierarchies.oom_file(&order.cgroup),
        log: order.log.clone(),
        wake: order.wake.clone(),
    };
    Ok(Waiting { args, lock, streams, layers })
}

/// Creates and starts the container; returns once its own program runs.
fn launch(
    folder: &Folder,
    order: &Order,
    config: &Value,
    hierarchies: &Hierarchies,
    ends: Given,
) -> Result<(Identity, Timestamp), String> {
    let write = |config: &Value| {
        let bytes = serde_json::to_vec(config).map_err(io::Error::other);
        let written = bytes.and_then(|bytes| write_private(&folder.path().join("config.json"), &bytes));
        written.map_err(|error| format!("write config.json: {error}"))
    };
    let escalates = !order.spec.confinement.no_new_privileges;
    let mut given = config.clone();
    if escalates {
        spec::with_needed(&mut given);
    }
    write(&given)?;
    let entrances = if hierarchies.is_unified() {
        Vec::new()
    } else {
        limits::make(hierarchies, &order.cgroup, &order.spec.limits)?
    };
    let (mut failure, executor) = Confined::arm(&order.spec, ends.terminal.as_ref().map(AsRawFd::as_raw_fd))?;
    let mut builder = ContainerBuilder::new(folder.id(), SyscallType::default());
    if let Some(stdin) = ends.stdin {
        builder = builder.with_stdin(stdin);
    }
    let built = builder
        .with_executor(executor.confined)
        .with_cgroup_entrances(entrances)
        .with_root_path(folder.path().join("oci"))
        .map_err(|error| format!("create the container: {}", chain(&error)))?
        .with_stdout(ends.stdout)
        .with_stderr(ends.stderr)
        .as_init(folder.path())
        .with_systemd(false)
        .with_detach(true)
        .build();
    let mut container = built.map_err(|error| format!("create the container: {}", chain(&error)))?;
    let pid = container.pid().ok_or("create the container: it has no process")?;
    let init = Identity::of(pid.as_raw()).map_err(|error| format!("look up the container's process: {error}"))?;
    if escalates {
        // What it says of the container from now on is what the container has.
        write(config)?;
    }
    // Its cgroup exists, and its program does not run yet.
    devices::confine(&order.spec, hierarchies, &order.cgroup)?;
    container.start().map_err(|error| format!("start the container: {}", chain(&error)))?;
    let started = now();
    // The program's `exec` closes the last writer; what it could not do, it writes first.
    drop(executor.report);
    drop(ends.terminal);
    let mut reason = String::new();
    failure.read_to_string(&mut reason).map_err(|error| format!("wait for the program: {error}"))?;
    if reason.is_empty() { Ok((init, started)) } else { Err(reason) }
}

/// The score for the container: the wanted one, or where it is now. Going below that takes
/// `CAP_SYS_RESOURCE`, and a device whose agent has to do without it still runs its pods.
fn allowed_oom_score(wanted: i32, current: &[u8]) -> io::Result<i32> {
    match fs::write(OOM_SCORE, wanted.to_string()) {
        Ok(()) => Ok(wanted),
        Err(refused) if refused.kind() == io::ErrorKind::PermissionDenied => {
            let current = String::from_utf8_lossy(current);
            current.trim().parse().map_err(io::Error::other)
        }
        Err(error) => Err(error),
    }
}

/// libcontainer gave this process the container's score, and leaves it.
fn reset_oom_score(earlier: &[u8]) -> io::Result<()> {
    // Without CAP_SYS_RESOURCE, going back to where it was is all that is allowed.
    fs::write(OOM_SCORE, SHIM_OOM_SCORE).or_else(|_| fs::write(OOM_SCORE, earlier))
}

/// The standard input is the lock; moves it away so that containers never see it.
fn take_lock() -> io::Result<OwnedFd> {
    let lock = io::stdin().as_fd().try_clone_to_owned()?;
    nix::unistd::dup2_stdin(File::open("/dev/null")?)?;
    Ok(lock)
}

fn record_failure(folder: &Folder, reason: &str) {
    let exit = Exit {
        code: CANNOT_RUN,
        signal: None,
        oom_killed: false,
        started: None,
        finished: now(),
        message: reason.to_owned(),
    };
    if let Err(error) = folder.write_exit(&exit) {
        println!("write exit.json: {error}");
    }
}
