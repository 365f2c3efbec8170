//! What a pod asks of a device: CPU, memory, host ports, and the quality of service that follows.
//! It reads specs; it never decides where anything runs.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

use super::quantity::{NotAQuantity, Quantity};

/// How the names of device resources begin.
pub const DEVICES: &str = "kith.dev/";

/// CPU and memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Footprint {
    /// Thousandths of a core.
    pub cpu: u64,
    /// Bytes.
    pub memory: u64,
}

impl Footprint {
    /// Both amounts added, stopping at the largest number.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self { cpu: self.cpu.saturating_add(other.cpu), memory: self.memory.saturating_add(other.memory) }
    }

    /// The larger of each amount.
    #[must_use]
    pub fn or_more(self, other: Self) -> Self {
        Self { cpu: self.cpu.max(other.cpu), memory: self.memory.max(other.memory) }
    }
}

/// A port of the device that a pod takes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// Address; `0.0.0.0` is every address.
    pub ip: String,
    /// Port number.
    pub port: i32,
}

impl HostPort {
    /// Whether two pods can not have both on one device.
    pub fn conflicts(&self, other: &Self) -> bool {
        let any = |ip: &str| matches!(ip, "" | "0.0.0.0" | "::");
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip == other.ip || any(&self.ip) || any(&other.ip))
    }
}

/// One named amount of a container's limits, such as `memory`.
pub fn limit(container: &Container, name: &str) -> Result<Option<Quantity>, NotAQuantity> {
    amount(container.resources.as_ref().and_then(|resources| resources.limits.as_ref()), name)
}

/// One named amount of a container's requests; the limit stands in for a request that is not given.
pub fn request(container: &Container, name: &str) -> Result<Option<Quantity>, NotAQuantity> {
    let given = amount(container.resources.as_ref().and_then(|resources| resources.requests.as_ref()), name)?;
    if given.is_some() { Ok(given) } else { limit(container, name) }
}

/// One named amount of a list such as a node's `allocatable`.
pub fn amount(amounts: Option<&BTreeMap<String, Text>>, name: &str) -> Result<Option<Quantity>, NotAQuantity> {
    amounts.and_then(|amounts| amounts.get(name)).map(|text| text.0.parse()).transpose()
}

/// What a container requests; what can not be read counts as nothing.
fn requested(container: &Container) -> Footprint {
    let read = |name| request(container, name).ok().flatten().unwrap_or_default();
    Footprint { cpu: read("cpu").millis(), memory: read("memory").units() }
}

/// Whether an init container runs beside the main ones.
fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// The most that a pod requests at any moment of its life: main containers and sidecars run together,
/// an init container runs with the sidecars that began before it.
pub fn requests(spec: &PodSpec) -> Footprint {
    let (mut beside, mut most) = (Footprint::default(), Footprint::default());
    for init in spec.init_containers.iter().flatten() {
        let own = beside.plus(requested(init));
        most = most.or_more(own);
        if is_sidecar(init) {
            beside = own;
        }
    }
    spec.containers.iter().fold(beside, |sum, container| sum.plus(requested(container))).or_more(most)
}

/// The devices that a container asks for, by resource. A request is worth nothing without its limit.
pub fn devices(container: &Container) -> BTreeMap<String, u64> {
    let limits = container.resources.iter().flat_map(|resources| resources.limits.iter().flatten());
    let named = limits.filter(|(name, _)| name.starts_with(DEVICES));
    let counted = named.filter_map(|(name, text)| Some((name.clone(), text.0.parse::<Quantity>().ok()?.units())));
    counted.filter(|(_, count)| *count > 0).collect()
}

/// The devices that the containers of a pod ask for together.
pub fn all_devices(spec: &PodSpec) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for (name, count) in spec.containers.iter().flat_map(devices) {
        let sum: &mut u64 = all.entry(name).or_default();
        *sum = sum.saturating_add(count);
    }
    all
}

/// The ports of the device that a pod takes: its host ports, and on the host's network all that it declares.
pub fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    let on_host = spec.host_network == Some(true);
    let sidecars = spec.init_containers.iter().flatten().filter(|container| is_sidecar(container));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let number = port.host_port.filter(|number| *number != 0).or(on_host.then_some(port.container_port))?;
            Some(HostPort {
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".into()),
                ip: port.host_ip.clone().unwrap_or_default(),
                port: number,
            })
        })
        .collect()
}

/// Kubernetes' quality of service class: `Guaranteed`, `Burstable` or `BestEffort`.
pub fn qos_class(spec: &PodSpec) -> &'static str {
    let (mut any, mut guaranteed) = (false, true);
    for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
        for name in ["cpu", "memory"] {
            let limit = limit(container, name).ok().flatten().filter(|amount| *amount != Quantity::default());
            let request = request(container, name).ok().flatten().filter(|amount| *amount != Quantity::default());
            any |= limit.is_some() || request.is_some();
            guaranteed &= limit.is_some() && limit == request;
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> PodSpec {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn limits_stand_in_for_requests() {
        let pod = spec(
            r#"{"containers":[{"name":"a","resources":{"limits":{"cpu":"1","memory":"64Mi"},"requests":{"cpu":"250m"}}},
                {"name":"b","resources":{"requests":{"memory":"1Mi"}}}]}"#,
        );
        assert_eq!(requests(&pod), Footprint { cpu: 250, memory: 65 << 20 });
        assert_eq!(qos_class(&pod), "Burstable");
        assert_eq!(qos_class(&spec(r#"{"containers":[{"name":"a"}]}"#)), "BestEffort");
        let full = r#"{"containers":[{"name":"a","resources":{"limits":{"cpu":"1","memory":"64Mi"}}}]}"#;
        assert_eq!(qos_class(&spec(full)), "Guaranteed");
    }

    #[test]
    fn init_containers_and_sidecars_count_while_they_run() {
        let sized = |name: &str, cpu: u32, policy: &str| {
            format!(r#"{{"name":"{name}","resources":{{"requests":{{"cpu":"{cpu}m"}}}}{policy}}}"#)
        };
        let always = r#","restartPolicy":"Always""#;
        let pod = |early: u32, late: u32| {
            let init = [sized("a", early, ""), sized("b", 30, always), sized("c", late, "")].join(",");
            requests(&spec(&format!(r#"{{"initContainers":[{init}],"containers":[{}]}}"#, sized("m", 100, "")))).cpu
        };
        assert_eq!(pod(10, 10), 130, "main and sidecar together");
        assert_eq!(pod(200, 10), 200, "an init container before any sidecar");
        assert_eq!(pod(10, 200), 230, "an init container beside the sidecar");
    }

    #[test]
    fn declared_ports_are_host_ports_on_the_hosts_network() {
        let own =
            spec(r#"{"containers":[{"name":"a","ports":[{"containerPort":80},{"containerPort":81,"hostPort":90}]}]}"#);
        assert_eq!(host_ports(&own).iter().map(|port| port.port).collect::<Vec<_>>(), [90]);
        let host = PodSpec { host_network: Some(true), ..own };
        assert_eq!(host_ports(&host).iter().map(|port| port.port).collect::<Vec<_>>(), [80, 90]);
        let port = |protocol: &str, ip: &str| HostPort { protocol: protocol.into(), ip: ip.into(), port: 80 };
        assert!(port("TCP", "").conflicts(&port("TCP", "10.0.0.1")));
        assert!(!port("TCP", "10.0.0.2").conflicts(&port("TCP", "10.0.0.1")));
        assert!(!port("TCP", "").conflicts(&port("UDP", "")));
    }
}
