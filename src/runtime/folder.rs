//! A container's folder under `<run_dir>/containers`: what the agent, the shim and the waiter tell
//! each other. Every file appears whole, by rename; the lock is held by the shim as long as it lives.

#![expect(clippy::disallowed_methods, reason = "these are the files")]

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::libc;
use serde::{Deserialize, Serialize};

use super::pidfd::Identity;
use crate::reconciler::container::{ContainerSpec, ContainerState, Exit, ObservedContainer};
use crate::resource::Timestamp;

/// What the agent orders: the whole input of a shim.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) spec: ContainerSpec,
    /// Unpacked layers, lowest first.
    pub(super) layers: Vec<PathBuf>,
    /// Cgroup of the container, from the root of each hierarchy.
    pub(super) cgroup: String,
    /// Folder of the writable layer.
    pub(super) scratch: PathBuf,
    /// The resolver's settings that the container sees.
    pub(super) resolv_conf: PathBuf,
    pub(super) log: LogLimits,
    /// The pipe that wakes the agent.
    pub(super) wake: PathBuf,
}

/// Where and how much a container may log.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct LogLimits {
    pub(super) path: PathBuf,
    pub(super) max_bytes: u64,
    pub(super) max_files: u32,
}

/// How far a shim got.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Progress {
    pub(super) shim: Identity,
    /// The container's first process and when it started; absent before.
    pub(super) running: Option<(Identity, Timestamp)>,
}

/// What a folder says about its container.
#[derive(Debug)]
pub(super) enum Standing {
    /// A shim is at work or waits.
    Attended(ObservedContainer),
    /// It ended, and the record is written.
    Over(ObservedContainer),
    /// Nobody attends to it: its shim was killed. It is as it was last known, until it is settled.
    Abandoned(ObservedContainer),
}

/// The folder of one container.
#[derive(Clone, Debug)]
pub(super) struct Folder(PathBuf);

/// The folder's lock, free once every copy of its descriptor is closed: nobody attends to the container.
pub(super) type Lock = File;

impl Folder {
    pub(super) fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// The container's id.
    pub(super) fn id(&self) -> String {
        self.0.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    pub(super) fn exit_path(&self) -> PathBuf {
        self.0.join("exit.json")
    }

    /// The pipe behind the container's `stdout` or `stderr`.
    pub(super) fn pipe(&self, stream: &str) -> PathBuf {
        self.0.join(stream)
    }

    /// Creates the folder with its order, atomically and under lock.
    pub(super) fn create(&self, order: &Order) -> io::Result<Lock> {
        if self.0.exists() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "it exists already"));
        }
        let draft = Self(self.0.with_file_name(format!(".new-{}", self.id())));
        let _ = fs::remove_dir_all(&draft.0);
        make_private(&draft.0)?;
        write_private(&draft.0.join("spec.json"), &serde_json::to_vec(order)?)?;
        let lock = draft.lock()?.ok_or_else(|| io::Error::other("a folder just made is locked"))?;
        fs::rename(&draft.0, &self.0)?;
        Ok(lock)
    }

    /// Takes the lock, unless somebody has it.
    pub(super) fn lock(&self) -> io::Result<Option<Lock>> {
        let file = self.lock_file()?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Whether a shim has the lock. Asks for a shared one: those who only look do not mislead each other.
    fn is_locked(&self) -> io::Result<bool> {
        match self.lock_file()?.try_lock_shared() {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn lock_file(&self) -> io::Result<File> {
        OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(self.0.join("lock"))
    }

    pub(super) fn order(&self) -> io::Result<Order> {
        Ok(serde_json::from_slice(&fs::read(self.0.join("spec.json"))?)?)
    }

    pub(super) fn progress(&self) -> io::Result<Option<Progress>> {
        read_whole(&self.0.join("state.json"))
    }

    pub(super) fn exit(&self) -> io::Result<Option<Exit>> {
        read_whole(&self.exit_path())
    }

    pub(super) fn write_progress(&self, progress: &Progress) -> io::Result<()> {
        write_whole(&self.0.join("state.json"), &serde_json::to_vec(progress)?)
    }

    pub(super) fn write_exit(&self, exit: &Exit) -> io::Result<()> {
        write_whole(&self.exit_path(), &serde_json::to_vec(exit)?)
    }

    /// What the files say, and whether a shim still stands behind them.
    pub(super) fn standing(&self) -> io::Result<Standing> {
        self.look(|| self.is_locked())
    }

    /// The same for who has the lock.
    pub(super) fn standing_locked(&self) -> io::Result<Standing> {
        self.look(|| Ok(false))
    }

    fn look(&self, is_locked: impl FnOnce() -> io::Result<bool>) -> io::Result<Standing> {
        if let Some(over) = self.over()? {
            return Ok(over);
        }
        let progress = self.progress()?;
        let attended = match progress {
            Some(progress) => progress.shim.is_alive(),
            None => is_locked()?,
        };
        let state = match progress.and_then(|progress| progress.running) {
            Some((init, started)) => ContainerState::Running { started, pid: init.pid.unsigned_abs() },
            None => ContainerState::Creating,
        };
        let observed = self.observed(state)?;
        if attended {
            return Ok(Standing::Attended(observed));
        }
        // It may have ended between the two looks.
        Ok(self.over()?.unwrap_or(Standing::Abandoned(observed)))
    }

    fn over(&self) -> io::Result<Option<Standing>> {
        let Some(exit) = self.exit()? else { return Ok(None) };
        Ok(Some(Standing::Over(self.observed(ContainerState::Exited(exit))?)))
    }

    fn observed(&self, state: ContainerState) -> io::Result<ObservedContainer> {
        let spec = self.order()?.spec;
        let devices = spec.devices.into_iter().map(|device| device.path).collect();
        Ok(ObservedContainer { reference: spec.reference, image: spec.image, state, devices })
    }
}

/// A name that is safe as a folder and as a cgroup.
pub(super) fn check_id(id: &str) -> Result<(), String> {
    let fits = id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'));
    if fits && !id.starts_with('.') && (1..=200).contains(&id.len()) {
        Ok(())
    } else {
        Err(format!("{id:?} can not name a container"))
    }
}

/// Whether a name has the shape `<uid>-<container>-<attempt>`.
pub(super) fn is_container_id(name: &str) -> bool {
    let mut parts = name.rsplitn(3, '-');
    parts.next().is_some_and(|attempt| attempt.parse::<u32>().is_ok())
        && parts.next().is_some()
        && parts.next().is_some()
}

/// Whether what is written to a folder stays in memory. Variables of containers may be secret.
pub fn is_in_memory(folder: &Path) -> bool {
    use nix::sys::statfs::{FsType, TMPFS_MAGIC, statfs};
    /// Magic number of ramfs.
    const RAMFS: FsType = FsType(0x8584_58f6);
    statfs(folder).is_ok_and(|found| [TMPFS_MAGIC, RAMFS].contains(&found.filesystem_type()))
}

/// Makes a folder that only root gets to, with its parents.
pub(super) fn make_private(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Writes a new file that only root reads: variables of a container may be secret.
pub(super) fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path)?;
    file.write_all(bytes)
}

fn read_whole<T: for<'de> Deserialize<'de>>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes a file that is there whole or not at all. Not synced: a power cut empties this folder.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let draft = path.with_extension("new");
    let mut file = File::create(&draft)?;
    file.write_all(bytes)?;
    fs::rename(&draft, path)
}

/// Tells the agent, if there is one, that something changed.
pub(super) fn wake(pipe: &Path) {
    // Without an agent there is no reader: opening fails, and the next agent looks by itself.
    if let Ok(mut pipe) = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(pipe) {
        let _ = pipe.write(&[1]);
    }
}
