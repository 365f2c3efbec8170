//! The network of this device's pods: one bridge, a cable to each pod, and the rules between them and
//! the rest. All of it is in the network namespace of the agent; none of it needs the agent to live.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::link::Links;
use super::rules::{self, BRIDGE, Published, Rules};
use super::{NetworkError, failed};
use crate::config::Range;
use crate::reconciler::sandbox::{Protocol, PublishedPort};

/// A pod's only link beside `lo`.
const POD_LINK: &str = "eth0";

/// How the names of the cables' ends on the device begin.
const CABLE: &str = "kith-";

/// Packet size where no link leads anywhere.
const DEFAULT_MTU: u32 = 1500;

/// How long a cable may take until the bridge passes its packets on.
const CARRY_WITHIN: Duration = Duration::from_secs(3);

/// The setting that makes a device pass on packets.
const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";

/// The network of one device's pods.
#[derive(Clone, Debug)]
pub(super) struct PodNetwork {
    /// Addresses of this device's pods.
    pub(super) range: Range,
    /// Where it is noted whether the device passed on packets before.
    note: PathBuf,
    /// Held while the bridge is looked at and made: pods begin beside each other.
    making: Arc<Mutex<()>>,
}

/// How a pod is connected.
#[derive(Clone, Copy, Debug)]
pub(super) struct Connection {
    pub(super) address: Ipv4Addr,
    pub(super) gateway: Ipv4Addr,
    pub(super) prefix: u8,
    pub(super) mtu: u32,
}

impl PodNetwork {
    pub(super) fn new(range: Range, run_dir: &std::path::Path) -> Self {
        Self { range, note: run_dir.join("forwarded-before"), making: Arc::default() }
    }

    /// Makes the bridge and what belongs to it, as far as it is missing. Returns the packet size.
    pub(super) fn ensure(&self) -> Result<u32, NetworkError> {
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        let mtu = on_links(async |links| {
            let (all, networks) = links.networks().await?;
            let overlaps = |&(address, prefix): &(Ipv4Addr, u8)| {
                let other = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
                let both = other & u32::from(self.range.mask());
                u32::from(address) & both == u32::from(self.range.base()) & both
            };
            let foreign = networks.iter().filter(|(_, prefix, name)| name != BRIDGE && *prefix > 0);
            if let Some((address, prefix, name)) =
                foreign.into_iter().find(|(address, prefix, _)| overlaps(&(*address, *prefix)))
            {
                return Err(failed(
                    "give addresses to pods",
                    &format!(
                        "{} overlaps with {address}/{prefix} of {name}: set another pod_network in agent.toml",
                        self.range
                    ),
                ));
            }
            let mtu = links.uplink_mtu().await?.unwrap_or(DEFAULT_MTU);
            let gateway = self.range.gateway();
            if !all.iter().any(|link| link.name == BRIDGE) {
                links.add_fixed_bridge(BRIDGE, hardware(gateway), mtu).await?;
            }
            for (address, prefix, _) in networks.iter().filter(|(_, _, name)| name == BRIDGE) {
                if (*address, *prefix) != (gateway, self.range.prefix()) {
                    links.remove_address(BRIDGE, *address, *prefix).await?;
                }
            }
            if !networks.iter().any(|found| *found == (gateway, self.range.prefix(), BRIDGE.into())) {
                links.add_address(BRIDGE, gateway.into(), self.range.prefix()).await?;
            }
            // Before it is up: no address of IPv6 appears on it.
            drop(set(&format!("/proc/sys/net/ipv6/conf/{BRIDGE}/disable_ipv6"), "1"));
            links.set_up(BRIDGE).await?;
            // What the device sends from 127.0.0.1 to a published port leaves by the bridge.
            let local = format!("/proc/sys/net/ipv4/conf/{BRIDGE}/route_localnet");
            set(&local, "1").map_err(|error| failed(format!("set {local}"), &error))?;
            Ok(mtu)
        })?;
        self.forward()?;
        Ok(mtu)
    }

    /// Makes the device pass on packets, and notes whether it did before.
    fn forward(&self) -> Result<(), NetworkError> {
        let step = |error: io::Error| failed("let packets of pods pass", &error);
        let now = fs::read_to_string(FORWARDING).map_err(step)?;
        if !self.note.exists() {
            let draft = self.note.with_extension("new");
            fs::write(&draft, now.trim()).and_then(|()| fs::rename(&draft, &self.note)).map_err(step)?;
        }
        if now.trim() == "0" { set(FORWARDING, "1").map_err(step) } else { Ok(()) }
    }

    /// Whether the device passed on packets of others before its pods came.
    pub(super) fn forwarded_before(&self) -> bool {
        fs::read_to_string(&self.note).is_ok_and(|text| text.trim() != "0")
    }

    /// The connection of a pod.
    pub(super) fn connection(&self, address: Ipv4Addr, mtu: u32) -> Connection {
        Connection { address, gateway: self.range.gateway(), prefix: self.range.prefix(), mtu }
    }

    /// Plugs the device's end of a pod's cable into the bridge.
    pub(super) fn plug(uid: &str) -> Result<(), NetworkError> {
        let name = cable(uid);
        on_links(async |links| {
            links.plug_in(&name, BRIDGE).await?;
            let carries = links.wait_until_it_carries(&name);
            // The first packets of a pod may be late; that is no reason not to start it.
            let _ = tokio::time::timeout(CARRY_WITHIN, carries).await;
            Ok(())
        })
    }

    /// Removes a pod's cable; one that is not there is no failure.
    pub(super) fn unplug(uid: &str) -> Result<(), NetworkError> {
        let name = cable(uid);
        on_links(async |links| links.remove(&name).await)
    }

    /// Removes the cables of pods that are not known.
    pub(super) fn unplug_others(known: impl Fn(&str) -> bool + Sync) -> Result<(), NetworkError> {
        on_links(async |links| {
            for link in links.networks().await?.0 {
                if link.name.starts_with(CABLE) && !known(&link.name) {
                    links.remove(&link.name).await?;
                }
            }
            Ok(())
        })
    }

    /// Whether there is anything of it.
    pub(super) fn exists() -> bool {
        on_links(async |links| links.find(BRIDGE).await).is_ok()
    }

    /// The rules for these ports.
    pub(super) fn rules(&self, ports: Vec<Published>) -> Rules {
        Rules { range: self.range, forwards: self.forwarded_before(), ports }
    }

    /// Removes bridge and rules, and lets the device be as it was. Says what there was.
    pub(super) fn remove(&self) -> Result<Vec<String>, NetworkError> {
        let mut removed = Vec::new();
        if rules::remove().map_err(|error| failed("remove the packet filter's table kith", &error))? {
            removed.push("the packet filter's table kith".to_owned());
        }
        Self::unplug_others(|_| false)?;
        if Self::exists() {
            on_links(async |links| links.remove(BRIDGE).await)?;
            removed.push(format!("the bridge {BRIDGE}"));
        }
        if self.note.exists() {
            if !self.forwarded_before() {
                set(FORWARDING, "0").map_err(|error| failed("stop passing on packets", &error))?;
                removed.push("the kernel setting net.ipv4.ip_forward = 1".to_owned());
            }
            fs::remove_file(&self.note).map_err(|error| failed(format!("remove {}", self.note.display()), &error))?;
        }
        Ok(removed)
    }
}

/// Connects the namespace of the calling thread: a cable to the device, an address, a way out.
pub(super) fn connect(connection: Connection, uid: &str, device: BorrowedFd<'_>) -> Result<(), NetworkError> {
    on_links(async |links| {
        links.set_up("lo").await?;
        let Connection { address, gateway, prefix, mtu } = connection;
        links.lay_cable_to(POD_LINK, hardware(address), mtu, device, &cable(uid)).await?;
        links.add_address(POD_LINK, address.into(), prefix).await?;
        links.set_up(POD_LINK).await?;
        links.add_default_route(gateway).await
    })
}

/// The network namespace of the calling thread.
pub(super) fn own_namespace() -> io::Result<fs::File> {
    fs::File::open("/proc/thread-self/ns/net")
}

/// Whether a port of the device is free: a program that listens there would hear nothing any more.
pub(super) fn probe(port: &PublishedPort) -> Result<(), NetworkError> {
    let address = SocketAddr::from((port.host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED), port.host_port));
    let bound = match port.protocol {
        Protocol::Tcp => TcpListener::bind(address).map(drop),
        Protocol::Udp => UdpSocket::bind(address).map(drop),
    };
    match bound {
        Err(taken) if taken.kind() == io::ErrorKind::AddrInUse => Err(failed(
            format!("publish host port {}/{}", port.host_port, port.protocol.as_str()),
            &"a program on the device listens there already",
        )),
        // An address that the device has not got yet is no reason to wait for it.
        _ => Ok(()),
    }
}

/// The name of a pod's cable on the device.
fn cable(uid: &str) -> String {
    use sha2::Digest;
    let digest = sha2::Sha256::digest(uid.as_bytes());
    format!("{CABLE}{}", hex::encode(&digest[..5]))
}

/// Whether this is the name of the cable of one of these pods.
pub(super) fn is_cable_of<'a>(name: &str, mut uids: impl Iterator<Item = &'a String>) -> bool {
    uids.any(|uid| cable(uid) == name)
}

/// A hardware address that follows from the address: who has it next is known under the same one.
fn hardware(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x0a, 0x58, a, b, c, d]
}

/// Runs work on the links of the calling thread's namespace. On a thread of its own, which is in the same
/// namespace: the caller's may belong to a runtime.
fn on_links<T: Send>(work: impl AsyncFnOnce(Links) -> Result<T, NetworkError> + Send) -> Result<T, NetworkError> {
    let work = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(NetworkError::Netlink)?.block_on(async { work(Links::open()?).await })
    };
    std::thread::scope(|scope| scope.spawn(work).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
}

fn set(path: &str, value: &str) -> io::Result<()> {
    if fs::read_to_string(path)?.trim() == value {
        return Ok(());
    }
    fs::write(path, value)
}
