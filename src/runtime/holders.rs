//! The processes that hold the pid namespaces of pods whose containers share their processes: one a
//! pod, started before its first container and ended after its last one. Blocking.

#![expect(clippy::disallowed_methods, reason = "folders of pods")]

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::libc::SIGKILL;

use super::pidfd::{self, Identity};
use super::seal::SealedExe;
use super::settle::remove_dir;
use crate::reconciler::container::{ContainerSpec, Namespace};

/// The folder of the holder whose processes a container shares. Other paths are namespaces that there
/// are already.
pub(super) fn wanted(spec: &ContainerSpec, holders: &Path) -> Option<PathBuf> {
    match &spec.namespaces.pid {
        Namespace::At(pod) if pod.starts_with(holders) => Some(pod.clone()),
        _ => None,
    }
}

/// Whether one of these containers is of a pod.
pub(super) fn is_of(uid: &str, ids: &[String]) -> bool {
    ids.iter().any(|id| id.strip_prefix(uid).is_some_and(|rest| rest.starts_with('-')))
}

/// The namespace of a pod, as a path to enter it by. Starts its holder if there is none.
pub(super) fn ensure(folder: &Path, cgroup: &str, exe: &SealedExe) -> Result<PathBuf, String> {
    let at = |step: &str, error: io::Error| format!("{step} {}: {error}", folder.display());
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|error| at("make", error))?;
    let lock = File::open(folder).map_err(|error| at("open", error))?;
    lock.lock().map_err(|error| at("lock", error))?;
    if let Some(holder) = living(folder) {
        return Ok(namespace(holder));
    }
    let started = Command::new(exe.path())
        .args(["shim", "hold"])
        .arg(folder)
        .arg(cgroup)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .map_err(|error| at("start the holder of", error))?;
    let holder = living(folder).filter(|_| started.status.success());
    holder.map(namespace).ok_or_else(|| format!("hold a pid namespace: {}", String::from_utf8_lossy(&started.stdout)))
}

fn namespace(holder: Identity) -> PathBuf {
    PathBuf::from(format!("/proc/{}/ns/pid", holder.pid))
}

fn living(folder: &Path) -> Option<Identity> {
    let identity: Identity = serde_json::from_slice(&fs::read(folder.join("holder.json")).ok()?).ok()?;
    identity.is_alive().then_some(identity)
}

/// Ends the holder of a pod, and with it all that is left in its namespace.
pub(super) fn release(folder: &Path) -> io::Result<()> {
    if let Some(handle) = living(folder).and_then(Identity::open) {
        pidfd::send(&handle, SIGKILL)?;
    }
    remove_dir(folder)
}

/// Ends the holders of pods that have no container any more.
pub(super) fn sweep(holders: &Path, lives: impl Fn(&str) -> bool) -> io::Result<()> {
    let entries = match fs::read_dir(holders) {
        Err(none) if none.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let held = entry.path().join("holder.json").exists();
        if held && entry.file_name().to_str().is_none_or(|uid| !lives(uid)) {
            release(&entry.path())?;
        }
    }
    Ok(())
}
