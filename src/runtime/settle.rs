//! What is done about a container whose shim was killed, and about what a killed agent left.
//! Blocking: called from a thread that may block.

#![expect(clippy::disallowed_methods, reason = "folders and the clock are what this works on")]

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use super::cgroup::Hierarchies;
use super::folder::{Folder, Lock, Order, Progress, Standing, is_container_id, write_whole};
use super::orphan;
use super::pidfd::Identity;
use super::seal::SealedExe;
use super::shim::waiter;
use crate::kill_point;
use crate::reconciler::container::{ContainerSpec, Exit, Namespace};
use crate::resource::Timestamp;

/// Exit code of a container that could not be started, as the field reports it.
pub(super) const CANNOT_RUN: i32 = 128;

/// Exit code of a container whose status nobody could read.
const STATUS_LOST: i32 = 255;

/// How often, and after which pause, a lock is asked for: about a second.
const LOCK_ATTEMPTS: u32 = 500;
const LOCK_PAUSE: Duration = Duration::from_millis(2);

/// The moment, as records carry it.
pub(super) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Brings an abandoned container back under a waiter, or to its end. Returns the new waiter.
pub(super) fn settle(folder: &Folder, exe: &SealedExe, hierarchies: &Hierarchies) -> Result<Option<Child>, String> {
    let at = |step: &str, error: io::Error| format!("{step} in {}: {error}", folder.path().display());
    match folder.standing() {
        Ok(Standing::Abandoned(_)) => {}
        Ok(_) => return Ok(None),
        // Removed meanwhile: as settled as can be.
        Err(gone) if gone.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(at("look around", error)),
    }
    if let Some(found) = orphan::of_folder(folder.path()).iter().find(|found| found.waits) {
        // An agent was killed between starting a new waiter and noting its pid.
        let progress = folder.progress().map_err(|error| at("read state.json", error))?;
        if let (Some(progress), Ok(shim)) = (progress, Identity::of(found.pid)) {
            folder.write_progress(&Progress { shim, ..progress }).map_err(|error| at("write state.json", error))?;
            return Ok(None);
        }
    }
    orphan::kill_creators(folder.path())?;
    let Some(lock) = lock_abandoned(folder).map_err(|error| at("lock", error))? else { return Ok(None) };
    // Somebody else may have settled it before the lock was ours.
    if !matches!(folder.standing_locked().map_err(|error| at("look again", error))?, Standing::Abandoned(_)) {
        return Ok(None);
    }
    let order = folder.order().map_err(|error| at("read spec.json", error))?;
    let progress = folder.progress().map_err(|error| at("read state.json", error))?;
    if let Some((init, started)) = progress.and_then(|progress| progress.running)
        && init.is_alive()
    {
        return attend(folder, &order, (init, started), lock, exe, hierarchies).map(Some);
    }
    hierarchies.kill(&order.cgroup).map_err(|error| error.to_string())?;
    let started = progress.and_then(|progress| progress.running).map(|(_, started)| started);
    let (code, message) = match started {
        Some(_) => (STATUS_LOST, "its shim was killed, and its exit status is lost"),
        None => (CANNOT_RUN, "its shim was killed before the program began"),
    };
    let exit = Exit { code, signal: None, oom_killed: false, started, finished: now(), message: message.into() };
    folder.write_exit(&exit).map_err(|error| at("write exit.json", error))?;
    Ok(None)
}

/// Takes the lock of a folder whose shim is dead: others only look at it, for a moment.
fn lock_abandoned(folder: &Folder) -> io::Result<Option<Lock>> {
    for _ in 0..LOCK_ATTEMPTS {
        if let Some(lock) = folder.lock()? {
            return Ok(Some(lock));
        }
        std::thread::sleep(LOCK_PAUSE);
    }
    Ok(None)
}

/// Starts a waiter for a container that lives without one.
fn attend(
    folder: &Folder,
    order: &Order,
    (init, started): (Identity, Timestamp),
    lock: Lock,
    exe: &SealedExe,
    hierarchies: &Hierarchies,
) -> Result<Child, String> {
    let args = waiter::Args {
        folder: folder.path().to_owned(),
        cgroup: order.cgroup.clone(),
        adopted: true,
        shared: order.spec.namespaces.pid != Namespace::Own,
        init,
        started,
        oom_file: hierarchies.oom_file(&order.cgroup),
        log: order.log.clone(),
        wake: order.wake.clone(),
    };
    let child = spawn(
        exe,
        args.to_os()
            .iter()
            .chain(order.layers.iter().map(|layer| layer.as_os_str().to_owned()).collect::<Vec<_>>().iter()),
        lock,
        None,
    )
    .map_err(|error| format!("start a new waiter for {}: {error}", folder.path().display()))?;
    let shim = Identity::of(child.id().cast_signed()).map_err(|error| error.to_string())?;
    let progress = Progress { shim, running: Some((init, started)) };
    folder
        .write_progress(&progress)
        .map_err(|error| format!("write state.json of {}: {error}", folder.path().display()))?;
    Ok(child)
}

/// Executes the binary as a shim that inherits the lock as its standard input.
pub(super) fn spawn<'a>(
    exe: &SealedExe,
    args: impl Iterator<Item = &'a std::ffi::OsString>,
    lock: Lock,
    report: Option<(OwnedFd, OwnedFd)>,
) -> io::Result<Child> {
    let mut command = Command::new(exe.path());
    command.arg("shim").args(args).env_clear().current_dir("/").stdin(lock);
    match report {
        Some((stdout, stderr)) => command.stdout(stdout).stderr(stderr),
        None => command.stdout(Stdio::null()).stderr(Stdio::null()),
    };
    command.spawn()
}

/// Containers do not outlive a reboot: folders of another boot are removed unread.
pub(super) fn forget_last_boot(run_dir: &Path, cgroup: &str, hierarchies: &Hierarchies) -> io::Result<()> {
    let boot = fs::read("/proc/sys/kernel/random/boot_id")?;
    let note = run_dir.join("boot_id");
    if fs::read(&note).is_ok_and(|known| known == boot) {
        return Ok(());
    }
    for entry in fs::read_dir(run_dir.join("containers"))? {
        let entry = entry?;
        if let Some(id) = entry.file_name().to_str().filter(|id| is_container_id(id)) {
            // Nothing runs in it after a real reboot, but a copied folder must not leak a cgroup either.
            hierarchies.remove(&format!("{}/{id}", cgroup.trim_end_matches('/')))?;
        }
        remove_dir(&entry.path())?;
    }
    write_whole(&note, &boot)
}

/// Removes what is left of a container that is over. Its log stays.
pub(super) fn remove(folder: &Folder, scratch: &Path, cgroup: &str, hierarchies: &Hierarchies) -> io::Result<()> {
    hierarchies.remove(cgroup)?;
    kill_point::reached("remove:cgroup");
    remove_dir(scratch)?;
    kill_point::reached("remove:scratch");
    let grave = folder.path().with_file_name(format!(".old-{}", folder.id()));
    remove_dir(&grave)?;
    match fs::rename(folder.path(), &grave) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        result => result?,
    }
    kill_point::reached("remove:buried");
    remove_dir(&grave)
}

/// Removes a folder that may be gone already.
pub(super) fn remove_dir(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io::Error::new(error.kind(), format!("remove {}: {error}", path.display()))),
        Ok(()) => Ok(()),
    }
}

/// The resolver's settings for a container: its pod's, or the device's.
pub(super) fn resolv_conf(spec: &ContainerSpec, run_dir: &Path) -> io::Result<PathBuf> {
    if let Some(sandbox) = &spec.sandbox {
        return Ok(sandbox.join("resolv.conf"));
    }
    let own = run_dir.join("resolv.conf");
    refresh_resolv_conf(&own)?;
    Ok(own)
}

/// The resolver's settings of the device, in a file of ours that containers see. Written in place, so
/// that running containers follow the device to another network.
fn refresh_resolv_conf(path: &Path) -> io::Result<()> {
    let wanted = fs::read("/etc/resolv.conf").unwrap_or_default();
    if fs::read(path).is_ok_and(|found| found == wanted) {
        return Ok(());
    }
    OpenOptions::new().create(true).truncate(true).write(true).open(path)?.write_all(&wanted)
}
