//! What the containers of one pod share: a network, shared memory, a host name, and the files that
//! name others. It says what a pod's sandbox is to be; making it is the network's work.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use k8s_openapi::api::core::v1::{Pod, PodSpec};
use serde::{Deserialize, Serialize};

use super::container::{Namespace, PodRef, UserRange};
use super::target::NodeContext;
use crate::resource::Timestamp;

/// The domain under which pods have full names.
const DOMAIN: &str = "cluster.local";

/// The longest host name that the kernel keeps, in bytes.
const HOSTNAME_LIMIT: usize = 64;

/// The longest name of one host, in bytes.
const LABEL_LIMIT: usize = 63;

/// Everything that is needed to make a pod's sandbox: no decision is left after it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// Whose it is.
    pub pod: PodRef,
    /// Whether it has links and an address of its own; else the device's.
    pub own_network: bool,
    /// Whether it shares shared memory and message queues with the device.
    pub host_ipc: bool,
    /// What the kernel calls it.
    pub hostname: String,
    /// Names of its own address, best first.
    pub names: Vec<String>,
    /// Further addresses that it has names for.
    pub aliases: Vec<HostAlias>,
    /// Where it asks for names.
    pub resolver: Resolver,
    /// Ports of the device that lead to it. Empty on the device's network.
    pub ports: Vec<PublishedPort>,
    /// Kernel settings of its namespaces.
    pub sysctls: Vec<(String, String)>,
    /// Ids of the device for users of its own, whose root has power over these namespaces.
    #[serde(default)]
    pub users: Option<UserRange>,
}

/// One line of `/etc/hosts`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostAlias {
    /// The address.
    pub address: IpAddr,
    /// Its names.
    pub names: Vec<String>,
}

/// `/etc/resolv.conf`, as the pod wants it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolver {
    /// Whether it begins with what the device uses.
    pub as_device: bool,
    /// Servers after those.
    pub nameservers: Vec<IpAddr>,
    /// Domains to search after those.
    pub searches: Vec<String>,
    /// Options, `ndots:2`; one replaces the device's of the same name.
    pub options: Vec<String>,
}

/// Protocols whose ports are published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// Kubernetes' word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        }
    }
}

/// A port of the device that leads into a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PublishedPort {
    /// Which protocol's.
    pub protocol: Protocol,
    /// Only at this address of the device; `None`: at all of them.
    pub host_ip: Option<Ipv4Addr>,
    /// The device's port.
    pub host_port: u16,
    /// The pod's port.
    pub port: u16,
}

impl PublishedPort {
    /// Whether both can not be published on one device.
    pub fn conflicts(&self, other: &Self) -> bool {
        let same_address = self.host_ip.is_none() || other.host_ip.is_none() || self.host_ip == other.host_ip;
        self.protocol == other.protocol && self.host_port == other.host_port && same_address
    }
}

/// A sandbox as it is seen on this device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedSandbox {
    /// Whose it is.
    pub pod: PodRef,
    /// What became of it.
    pub state: SandboxState,
}

/// What became of a sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SandboxState {
    /// Containers can be started in it.
    Ready(ReadySandbox),
    /// It could not be made; nothing is left of it.
    Failed {
        /// When.
        at: Timestamp,
        /// Why.
        reason: String,
    },
}

/// A sandbox that containers can be started in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadySandbox {
    /// Its folder on the device: `hosts`, `resolv.conf`, and `shm` if shared memory is its own.
    pub folder: PathBuf,
    /// What the kernel calls it.
    pub hostname: String,
    /// Its address; `None` on the device's network.
    pub address: Option<IpAddr>,
    /// Links, addresses, ports.
    pub network: Namespace,
    /// Shared memory and message queues.
    pub ipc: Namespace,
    /// The host name.
    pub uts: Namespace,
    /// Users, if they are its own.
    pub users: Option<PathBuf>,
}

impl ObservedSandbox {
    /// The sandbox, if containers can be started in it.
    pub fn ready(&self) -> Option<&ReadySandbox> {
        match &self.state {
            SandboxState::Ready(ready) => Some(ready),
            SandboxState::Failed { .. } => None,
        }
    }
}

/// What a pod's sandbox is to be, or why it can not be as the pod says.
pub fn sandbox_spec(reference: &PodRef, pod: &Pod, node: &NodeContext) -> Result<SandboxSpec, String> {
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let own_network = spec.host_network != Some(true);
    let short = short_name(pod, spec, node);
    let domain = spec.subdomain.as_deref().filter(|name| own_network && !name.is_empty());
    let full = domain.map(|domain| format!("{short}.{domain}.{}.svc.{DOMAIN}", reference.namespace));
    let hostname = match &full {
        Some(full) if spec.set_hostname_as_fqdn == Some(true) => full.clone(),
        _ => short.clone(),
    };
    if hostname.len() > HOSTNAME_LIMIT {
        return Err(format!(
            "the host name {hostname} has {} bytes, but the kernel keeps {HOSTNAME_LIMIT}: shorten the pod's \
             hostname or subdomain, or leave setHostnameAsFQDN out",
            hostname.len()
        ));
    }
    Ok(SandboxSpec {
        pod: reference.clone(),
        own_network,
        host_ipc: spec.host_ipc == Some(true),
        hostname,
        names: full.into_iter().chain([short]).collect(),
        aliases: aliases(spec)?,
        resolver: resolver(spec)?,
        ports: if own_network { ports(spec)? } else { Vec::new() },
        sysctls: sysctls(spec),
        users: None,
    })
}

/// The host name of a pod's containers, without any domain.
fn short_name(pod: &Pod, spec: &PodSpec, node: &NodeContext) -> String {
    if spec.host_network == Some(true) {
        return node.name.clone();
    }
    let name = spec.hostname.clone().filter(|name| !name.is_empty()).or_else(|| pod.metadata.name.clone());
    let name: String = name.unwrap_or_default().chars().take(LABEL_LIMIT).collect();
    name.trim_end_matches(['-', '.']).to_owned()
}

fn aliases(spec: &PodSpec) -> Result<Vec<HostAlias>, String> {
    let all = spec.host_aliases.iter().flatten();
    all.map(|alias| {
        let address = parse_address("hostAliases", &alias.ip)?;
        Ok(HostAlias { address, names: alias.hostnames.clone().unwrap_or_default() })
    })
    .collect()
}

fn resolver(spec: &PodSpec) -> Result<Resolver, String> {
    let config = spec.dns_config.clone().unwrap_or_default();
    let servers = config.nameservers.iter().flatten();
    let options = config.options.into_iter().flatten().filter_map(|option| {
        let name = option.name?;
        Some(match option.value {
            Some(value) => format!("{name}:{value}"),
            None => name,
        })
    });
    Ok(Resolver {
        as_device: spec.dns_policy.as_deref() != Some("None"),
        nameservers: servers.map(|server| parse_address("dnsConfig.nameservers", server)).collect::<Result<_, _>>()?,
        searches: config.searches.unwrap_or_default(),
        options: options.collect(),
    })
}

fn parse_address(field: &str, text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| format!("{field}: {text:?} is not an IP address"))
}

fn ports(spec: &PodSpec) -> Result<Vec<PublishedPort>, String> {
    let declared = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let declared = declared.flat_map(|container| container.ports.iter().flatten());
    let mut published: Vec<PublishedPort> = Vec::new();
    for port in declared {
        let Some(host_port) = port.host_port.filter(|number| *number != 0) else { continue };
        let number =
            |field: &str, value: i32| u16::try_from(value).map_err(|_| format!("{field} is {value}: not a port"));
        let protocol = match port.protocol.as_deref().unwrap_or("TCP") {
            "TCP" => Protocol::Tcp,
            "UDP" => Protocol::Udp,
            other => return Err(format!("ports of protocol {other} can not be published")),
        };
        let host_ip = match port.host_ip.as_deref().unwrap_or_default() {
            "" | "0.0.0.0" | "::" => None,
            text => Some(text.parse().map_err(|_| format!("hostIP {text:?} is not an IPv4 address"))?),
        };
        let one = PublishedPort {
            protocol,
            host_ip,
            host_port: number("hostPort", host_port)?,
            port: number("containerPort", port.container_port)?,
        };
        if published.iter().any(|known| known.conflicts(&one)) {
            return Err(format!("hostPort {host_port}/{} is asked for twice", protocol.as_str()));
        }
        published.push(one);
    }
    Ok(published)
}

fn sysctls(spec: &PodSpec) -> Vec<(String, String)> {
    let asked = spec.security_context.iter().flat_map(|security| security.sysctls.iter().flatten());
    asked.map(|sysctl| (sysctl.name.replace('/', "."), sysctl.value.clone())).collect()
}
