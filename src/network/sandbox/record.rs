//! A sandbox on disk, under `<run_dir>/pods/<uid>`: `sandbox.json` says what it is and how far it
//! got, and appears whole, by rename. Beside it lie the files and mounts that containers share.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::reconciler::container::Namespace;
use crate::reconciler::sandbox::{ObservedSandbox, ReadySandbox, SandboxSpec, SandboxState};

/// Names of namespaces in the folder, and in `/proc/<pid>/ns`.
pub(super) const NET: &str = "net";
pub(super) const IPC: &str = "ipc";
pub(super) const UTS: &str = "uts";
pub(super) const USER: &str = "user";

/// What is mounted in a sandbox's folder, as far as it is the pod's own.
const MOUNTS: [&str; 5] = [NET, IPC, UTS, USER, "shm"];

/// What is known of a sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) spec: SandboxSpec,
    /// Its address, if its network is its own.
    pub(super) address: Option<Ipv4Addr>,
    /// Whether it was made whole, and is not being removed.
    pub(super) ready: bool,
}

impl Record {
    pub(super) fn observed(&self, folder: &Path) -> ObservedSandbox {
        let at = |name: &str| Namespace::At(folder.join(name));
        let spec = &self.spec;
        let ready = ReadySandbox {
            folder: folder.to_owned(),
            hostname: spec.hostname.clone(),
            address: self.address.map(Into::into),
            network: if spec.own_network { at(NET) } else { Namespace::Host },
            ipc: if spec.host_ipc { Namespace::Host } else { at(IPC) },
            uts: at(UTS),
            users: spec.users.map(|_| folder.join(USER)),
        };
        ObservedSandbox { pod: spec.pod.clone(), state: SandboxState::Ready(ready) }
    }

    /// Writes it, whole. Not synced: a power cut empties this folder.
    pub(super) fn write(&self, folder: &Path) -> io::Result<()> {
        let draft = folder.join("sandbox.new");
        fs::write(&draft, serde_json::to_vec(self)?)?;
        fs::rename(&draft, folder.join("sandbox.json"))
    }

    /// `None` when there is none, or none that can be read: such a folder is removed.
    pub(super) fn read(folder: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(folder.join("sandbox.json")).ok()?).ok()
    }

    /// Whether all that it stands for is still mounted.
    pub(super) fn is_whole(&self, folder: &Path) -> bool {
        let wanted = MOUNTS.into_iter().filter(|name| match *name {
            NET => self.spec.own_network,
            UTS => true,
            USER => self.spec.users.is_some(),
            _ => !self.spec.host_ipc,
        });
        wanted.into_iter().all(|name| is_mounted(folder, &folder.join(name)))
    }
}

/// Whether something else than its folder's file system is at a path.
pub(super) fn is_mounted(folder: &Path, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| fs::metadata(path).map(|found| found.dev()).ok();
    device(path).is_some_and(|there| device(folder) != Some(there))
}

/// A pod's uid, if it can name a folder.
pub(super) fn folder_name(uid: &str) -> Option<PathBuf> {
    let fits = uid.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    (fits && (1..=64).contains(&uid.len())).then(|| PathBuf::from(uid))
}
