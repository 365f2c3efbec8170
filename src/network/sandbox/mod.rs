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
#[cfg(test)]
mod tests;
mod users;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::pods::{self, PodNetwork};
pub(crate) use super::rules::BRIDGE;
use super::rules::{self, Published, Rules};
use super::{NetworkError, conntrack, failed, netfilter};
use crate::config::Range;
use crate::reconciler::container::PodRef;
use crate::reconciler::sandbox::{ObservedSandbox, SandboxSpec};
use names::{DeviceFiles, ResolvConf};
use record::Record;

/// Where resolvers that listen on the device itself keep the servers that they ask, best first.
const UPSTREAM: [&str; 3] = [
    "/run/systemd/resolve/resolv.conf",
    "/run/NetworkManager/no-stub-resolv.conf",
    "/run/resolvconf/interface/original",
];

/// Pause after the rules of a firewall moved: they mostly do so together.
const SETTLE: Duration = Duration::from_millis(100);

/// Where sandboxes live on this device.
#[derive(Clone, Debug)]
pub struct SandboxesConfig {
    /// A folder that a reboot empties; sandboxes are in `pods` below it.
    pub run_dir: PathBuf,
    /// Addresses of this device's pods.
    pub range: Range,
}

/// The sandboxes of this device's pods.
#[derive(Clone, Debug)]
pub struct Sandboxes(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    folder: PathBuf,
    /// By the pod's uid.
    known: Mutex<BTreeMap<String, Record>>,
    network: PodNetwork,
    /// Held while ports are published or withdrawn: the rules are written from all sandboxes.
    publishing: Mutex<()>,
    /// The address that was given away last.
    last: Mutex<Option<Ipv4Addr>>,
    /// What the device's resolver files said last.
    resolver: Mutex<DeviceFiles>,
}

impl Sandboxes {
    /// Finds the sandboxes of an earlier agent, and removes those that it had half made or half removed.
    pub fn open(config: &SandboxesConfig) -> Result<Self, NetworkError> {
        let folder = config.run_dir.join("pods");
        make_private(&folder).map_err(|error| failed(format!("create {}", folder.display()), &error))?;
        forget_last_boot(&folder)?;
        let range = range_in_use(&folder, config.range);
        let inner = Inner {
            folder,
            known: Mutex::default(),
            network: PodNetwork::new(range, &config.run_dir),
            publishing: Mutex::default(),
            last: Mutex::default(),
            resolver: Mutex::default(),
        };
        inner.sweep()?;
        Ok(Self(Arc::new(inner)))
    }

    /// Brings the network of the pods that there are back to what it should be, for ever: a firewall
    /// that is loaded anew often begins by removing all rules, of whomever.
    pub async fn attend(self) {
        let heard = netfilter::changes().and_then(register);
        let heard = match heard {
            Ok(heard) => heard,
            Err(error) => {
                tracing::warn!(%error, "changes of the packet filter are not heard of");
                return std::future::pending().await;
            }
        };
        loop {
            let inner = Arc::clone(&self.0);
            let healed = tokio::task::spawn_blocking(move || inner.heal()).await;
            if let Err(error) = healed.map_err(|error| failed("look after the pods' network", &error)).flatten() {
                tracing::error!(%error, "the network of this device's pods is not as it should be");
            }
            // Cancel-safe: what was heard only means that it is looked at again.
            let Ok(mut ready) = heard.readable().await else { return };
            tokio::time::sleep(SETTLE).await;
            netfilter::drain(heard.get_ref());
            ready.clear_ready();
        }
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

/// Removes every sandbox, the bridge and the rules, for a device that is to be as it was before Kith.
/// No container may run any more. Says what there was.
pub fn remove_everything(config: &SandboxesConfig) -> Result<Vec<String>, NetworkError> {
    let folder = config.run_dir.join("pods");
    let mut count = 0;
    for entry in fs::read_dir(&folder).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir()) {
        namespaces::clear(&entry.path())?;
        count += 1;
    }
    namespaces::clear(&folder)?;
    let mut removed = PodNetwork::new(config.range, &config.run_dir).remove()?;
    if count > 0 {
        removed.insert(0, format!("what the containers of {count} pods shared: namespaces, mounts, links"));
    }
    Ok(removed)
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
            drop(self.remove(&uid));
        }
        made
    }

    fn build(&self, spec: SandboxSpec, folder: &Path) -> Result<String, NetworkError> {
        let uid = spec.pod.uid.clone();
        let mtu = if spec.own_network { self.network.ensure()? } else { 0 };
        let mut record = self.reserve(spec)?;
        for port in &record.spec.ports {
            pods::probe(port)?;
        }
        make_private(folder).map_err(|error| failed(format!("create {}", folder.display()), &error))?;
        record.write(folder).map_err(|error| failed("write sandbox.json", &error))?;
        let note = Self::write_names(&record, folder).map_err(|error| failed("write the names", &error))?;
        if !record.spec.host_ipc {
            namespaces::mount_shared_memory(folder)?;
        }
        let device = pods::own_namespace().map_err(|error| failed("open the device's network", &error))?;
        let connection = record.address.map(|address| self.network.connection(address, mtu));
        namespaces::make(&record.spec, folder, || match connection {
            Some(connection) => pods::connect(connection, &uid, device.as_fd()),
            None => Ok(()),
        })?;
        if connection.is_some() {
            PodNetwork::plug(&uid)?;
        }
        let _one = self.publishing();
        record.ready = true;
        self.known().insert(uid, record.clone());
        if connection.is_some() {
            self.write_rules(!record.spec.ports.is_empty())?;
            forget_datagrams(&record);
        }
        record.write(folder).map_err(|error| failed("write sandbox.json", &error))?;
        Ok(note)
    }

    /// Takes address and ports for a sandbox that is going to be made.
    fn reserve(&self, spec: SandboxSpec) -> Result<Record, NetworkError> {
        let mut known = self.known();
        for port in &spec.ports {
            let taken = known.values().find(|record| record.spec.ports.iter().any(|other| other.conflicts(port)));
            if let Some(other) = taken {
                let step = format!("publish host port {}/{}", port.host_port, port.protocol.as_str());
                let pod = &other.spec.pod;
                return Err(failed(step, &format!("pod {}/{} has it on this device", pod.namespace, pod.name)));
            }
        }
        let mut address = None;
        if spec.own_network {
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            let range = self.network.range;
            let taken = |address| known.values().any(|record| record.address == Some(address));
            address = range.next_free(*last, taken);
            if address.is_none() {
                return Err(failed("give the pod an address", &format!("all of {range} are taken")));
            }
            *last = address;
        }
        let record = Record { spec, address, ready: false };
        known.insert(record.spec.pod.uid.clone(), record.clone());
        Ok(record)
    }

    fn publishing(&self) -> MutexGuard<'_, ()> {
        self.publishing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The rules as they should be; `None` while no pod has a network of its own.
    fn rules(&self) -> Option<Rules> {
        let known = self.known();
        let own = known.values().filter(|record| record.ready && record.spec.own_network);
        let mut any = false;
        let mut ports = Vec::new();
        for record in own {
            any = true;
            let pod = &record.spec.pod;
            let Some(address) = record.address else { continue };
            let name = format!("{}/{}", pod.namespace, pod.name);
            ports.extend(record.spec.ports.iter().map(|port| Published {
                port: *port,
                pod: address,
                name: name.clone(),
            }));
        }
        any.then(|| self.network.rules(ports))
    }

    /// Writes the rules: always, or only if some are missing. The caller has `publishing`.
    fn write_rules(&self, always: bool) -> Result<(), NetworkError> {
        let rules = match self.rules() {
            Some(rules) => rules,
            // The last published port goes too.
            None if always => self.network.rules(Vec::new()),
            None => return Ok(()),
        };
        let write = || {
            if always || rules::count()? != rules.count() { rules.write() } else { Ok(()) }
        };
        write().map_err(|error| failed("write the packet filter's table kith", &error))
    }

    /// Brings links and rules back to what they should be.
    fn heal(&self) -> Result<(), NetworkError> {
        if self.rules().is_none() {
            return Ok(());
        }
        let _one = self.publishing();
        self.write_rules(false)
    }

    fn remove(&self, uid: &str) -> Result<(), NetworkError> {
        let Some(name) = record::folder_name(uid) else { return Ok(()) };
        let folder = self.folder.join(name);
        let known = self.known().get(uid).cloned();
        if let Some(mut record) = known {
            record.ready = false;
            if record.write(&folder).is_err() {
                // On a full disk: one without its record is removed by the next agent as well.
                drop(fs::remove_file(folder.join("sandbox.json")));
            }
            let _one = self.publishing();
            self.known().insert(uid.to_owned(), record.clone());
            if !record.spec.ports.is_empty() {
                self.write_rules(true)?;
                forget_datagrams(&record);
            }
        }
        self.discard(uid)
    }

    /// Takes away all that there may be of a sandbox that is not ready.
    fn discard(&self, uid: &str) -> Result<(), NetworkError> {
        let connected = self.known().get(uid).is_some_and(|record| record.spec.own_network);
        if connected {
            // At once: the kernel takes its time with the namespace.
            PodNetwork::unplug(uid)?;
        }
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
        if self.rules().is_some() || PodNetwork::exists() {
            // Pods that need none of it are started all the same.
            if let Err(error) = self.adopt() {
                tracing::error!(%error, "the network of this device's pods is not as it should be");
            }
        }
        Ok(())
    }

    /// Brings bridge, cables and rules in line with the sandboxes that were found.
    fn adopt(&self) -> Result<(), NetworkError> {
        self.network.ensure()?;
        let known = self.known().clone();
        PodNetwork::unplug_others(|name| pods::is_cable_of(name, known.keys()))?;
        let rules = self.rules().unwrap_or_else(|| self.network.rules(Vec::new()));
        rules.write().map_err(|error| failed("write the packet filter's table kith", &error))
    }

    /// Writes `hosts` and `resolv.conf`; returns what the pod will miss.
    fn write_names(record: &Record, folder: &Path) -> io::Result<String> {
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

#[expect(unsafe_code, reason = "tokio wants a promise about the descriptor")]
fn register(fd: std::os::fd::OwnedFd) -> io::Result<AsyncFd<std::os::fd::OwnedFd>> {
    // SAFETY: the descriptor is owned here, and nothing replaces or closes it before it is dropped.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}

/// The range of the pods that there are: a device that was given another one, with its settings or with
/// its place in a fleet, keeps the old one until they are gone and its agent starts again.
fn range_in_use(folder: &Path, wanted: Range) -> Range {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut addresses = entries.filter_map(|entry| Record::read(&entry.path()).filter(|record| record.ready)?.address);
    match addresses.find(|address| !wanted.holds(*address)) {
        Some(address) => {
            let range = wanted.around(address);
            tracing::info!(%range, %wanted, "pods keep their range until they are gone and the agent starts again");
            range
        }
        None => wanted,
    }
}

/// Datagrams that are on their way to its ports find the pod as it is now.
fn forget_datagrams(record: &Record) {
    if let Err(error) = conntrack::forget(&record.spec.ports, record.address) {
        tracing::warn!(pod = record.spec.pod.name, %error, "old ways of datagrams to a pod could not be forgotten");
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
