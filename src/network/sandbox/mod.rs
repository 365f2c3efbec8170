//! What the containers of each pod share on this device: made, found again, removed. Nothing runs for
//! it: namespaces are held by mounts under `<run_dir>/pods/<uid>`, so they outlive the agent, and a
//! kill at any instant leaves either a whole sandbox or one that the next start removes.
//!
//! ```text
//! sandbox.json (not ready) -> hosts, resolv.conf, shm -> namespaces, links -> ports -> sandbox.json (ready)
//! ```

mod names;
mod namespaces;
mod record;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::NetworkError;
use crate::reconciler::container::PodRef;
use crate::reconciler::sandbox::{ObservedSandbox, SandboxSpec};
use names::{DeviceFiles, ResolvConf};
use namespaces::failed;
use record::Record;

/// Where resolvers that listen on the device itself keep the servers that they ask, best first.
const UPSTREAM: [&str; 3] = [
    "/run/systemd/resolve/resolv.conf",
    "/run/NetworkManager/no-stub-resolv.conf",
    "/run/resolvconf/interface/original",
];

/// Where sandboxes live on this device.
#[derive(Clone, Debug)]
pub struct SandboxesConfig {
    /// A folder that a reboot empties; sandboxes are in `pods` below it.
    pub run_dir: PathBuf,
}

/// The sandboxes of this device's pods.
#[derive(Clone, Debug)]
pub struct Sandboxes(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    folder: PathBuf,
    /// By the pod's uid.
    known: Mutex<BTreeMap<String, Record>>,
    /// What the device's resolver files said last.
    resolver: Mutex<DeviceFiles>,
}

impl Sandboxes {
    /// Finds the sandboxes of an earlier agent, and removes those that it had half made or half removed.
    pub fn open(config: SandboxesConfig) -> Result<Self, NetworkError> {
        let folder = config.run_dir.join("pods");
        make_private(&folder).map_err(|error| failed(format!("create {}", folder.display()), &error))?;
        forget_last_boot(&folder)?;
        let inner = Inner { folder, known: Mutex::default(), resolver: Mutex::default() };
        inner.sweep()?;
        Ok(Self(Arc::new(inner)))
    }

    /// The sandboxes that containers can be started in.
    pub fn list(&self) -> Vec<ObservedSandbox> {
        self.0.refresh_resolvers();
        let known = self.0.known();
        let ready = known.iter().filter(|(_, record)| record.ready);
        ready.map(|(uid, record)| record.observed(&self.0.folder.join(uid))).collect()
    }

    /// Makes a sandbox; one that is there already is left as it is. What can not be made whole leaves
    /// nothing. Returns what its containers will miss; empty when they miss nothing.
    pub async fn make(&self, spec: SandboxSpec) -> Result<String, NetworkError> {
        let inner = Arc::clone(&self.0);
        let made = tokio::task::spawn_blocking(move || inner.make(spec)).await;
        made.map_err(|error| failed("make the sandbox", &error))?
    }

    /// Removes a sandbox, whether it was whole or not; one that is not there is no failure.
    pub async fn remove(&self, pod: &PodRef) -> Result<(), NetworkError> {
        let (inner, uid) = (Arc::clone(&self.0), pod.uid.clone());
        let removed = tokio::task::spawn_blocking(move || inner.remove(&uid)).await;
        removed.map_err(|error| failed("remove the sandbox", &error))?
    }
}

impl Inner {
    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Record>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn make(&self, spec: SandboxSpec) -> Result<String, NetworkError> {
        let uid = spec.pod.uid.clone();
        let name =
            record::folder_name(&uid).ok_or_else(|| failed("name the sandbox", &format!("{uid:?} is no uid")))?;
        if self.known().get(&uid).is_some_and(|record| record.ready) {
            return Ok(String::new());
        }
        let folder = self.folder.join(name);
        self.discard(&uid)?;
        let made = self.build(spec, &folder);
        if made.is_err() {
            // Why it could not be made matters more than what could not be cleared away; that is tried
            // again before the next attempt.
            drop(self.discard(&uid));
        }
        made
    }

    fn build(&self, spec: SandboxSpec, folder: &Path) -> Result<String, NetworkError> {
        let uid = spec.pod.uid.clone();
        let mut record = Record { spec, address: None, ready: false };
        make_private(folder).map_err(|error| failed(format!("create {}", folder.display()), &error))?;
        record.write(folder).map_err(|error| failed("write sandbox.json", &error))?;
        self.known().insert(uid.clone(), record.clone());
        let note = self.write_names(&record, folder).map_err(|error| failed("write the names", &error))?;
        if !record.spec.host_ipc {
            namespaces::mount_shared_memory(folder)?;
        }
        namespaces::make(&record.spec, folder, || Ok(()))?;
        record.ready = true;
        record.write(folder).map_err(|error| failed("write sandbox.json", &error))?;
        self.known().insert(uid, record);
        Ok(note)
    }

    fn remove(&self, uid: &str) -> Result<(), NetworkError> {
        let Some(name) = record::folder_name(uid) else { return Ok(()) };
        let folder = self.folder.join(name);
        let known = self.known().get(uid).cloned();
        if let Some(mut record) = known {
            record.ready = false;
            record.write(&folder).map_err(|error| failed("write sandbox.json", &error))?;
            self.known().insert(uid.to_owned(), record);
        }
        self.discard(uid)
    }

    /// Takes away all that there may be of a sandbox that is not ready.
    fn discard(&self, uid: &str) -> Result<(), NetworkError> {
        namespaces::clear(&self.folder.join(uid))?;
        self.known().remove(uid);
        Ok(())
    }

    fn sweep(&self) -> Result<(), NetworkError> {
        let entries = fs::read_dir(&self.folder);
        let entries = entries.map_err(|error| failed(format!("list {}", self.folder.display()), &error))?;
        for entry in entries.flatten().filter(|entry| entry.path().is_dir()) {
            let folder = entry.path();
            match Record::read(&folder).filter(|record| record.ready && record.is_whole(&folder)) {
                Some(record) => drop(self.known().insert(record.spec.pod.uid.clone(), record)),
                None => namespaces::clear(&folder)?,
            }
        }
        Ok(())
    }

    /// Writes `hosts` and `resolv.conf`; returns what the pod will miss.
    fn write_names(&self, record: &Record, folder: &Path) -> io::Result<String> {
        let device = fs::read_to_string("/etc/hosts").unwrap_or_default();
        let hosts = names::hosts(&record.spec, record.address.map(IpAddr::V4), &device);
        fs::write(folder.join("hosts"), hosts)?;
        let files = device_files();
        let ResolvConf { text, note } = names::resolv_conf(&record.spec.resolver, record.spec.own_network, &files);
        fs::write(folder.join("resolv.conf"), text)?;
        Ok(note)
    }

    /// Lets pods follow when the device came to another network and asks other servers.
    fn refresh_resolvers(&self) {
        let files = device_files();
        let mut last = self.resolver.lock().unwrap_or_else(PoisonError::into_inner);
        if *last == files {
            return;
        }
        for (uid, record) in self.known().iter().filter(|(_, record)| record.ready) {
            let ResolvConf { text, .. } = names::resolv_conf(&record.spec.resolver, record.spec.own_network, &files);
            if let Err(error) = rewrite(&self.folder.join(uid).join("resolv.conf"), text.as_bytes()) {
                tracing::warn!(pod = record.spec.pod.name, %error, "a pod's resolv.conf could not be brought up to date");
                return;
            }
        }
        *last = files;
    }
}

/// Writes a file in place, for those who have it mounted.
fn rewrite(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if fs::read(path).is_ok_and(|found| found == bytes) {
        return Ok(());
    }
    fs::OpenOptions::new().write(true).truncate(true).open(path)?.write_all(bytes)
}

fn device_files() -> DeviceFiles {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    DeviceFiles { own: read("/etc/resolv.conf"), upstream: UPSTREAM.iter().map(|path| read(path)).collect() }
}

fn make_private(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Namespaces do not outlive a reboot: sandboxes of another boot are removed unread.
fn forget_last_boot(folder: &Path) -> Result<(), NetworkError> {
    let forget = || -> io::Result<()> {
        let boot = fs::read("/proc/sys/kernel/random/boot_id")?;
        let note = folder.join("boot_id");
        if fs::read(&note).is_ok_and(|known| known == boot) {
            return Ok(());
        }
        for entry in fs::read_dir(folder)?.flatten().filter(|entry| entry.path().is_dir()) {
            namespaces::clear(&entry.path()).map_err(io::Error::other)?;
        }
        let draft = folder.join("boot_id.new");
        fs::write(&draft, &boot)?;
        fs::rename(draft, note)
    };
    forget().map_err(|error| failed(format!("forget the sandboxes of an earlier boot in {}", folder.display()), &error))
}
