//! What this device is: its size, its system, its addresses. Read once at start, for its node.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use crate::identity::Fingerprint;

/// What a device says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hardware {
    /// Cores.
    pub cpus: u64,
    /// Bytes of memory.
    pub memory: u64,
    /// Bytes of the file system that holds the agent's data.
    pub disk: u64,
    /// Kubernetes' word for the processor: `amd64`, `arm64`, `arm`.
    pub architecture: &'static str,
    /// Kernel release.
    pub kernel: String,
    /// Name and version of the distribution.
    pub os: String,
    /// Stays the same for the life of the installation.
    pub machine_id: String,
    /// Changes with each boot.
    pub boot_id: String,
}

impl Hardware {
    /// Reads `/proc`, `/etc` and the file system under `data_dir`. What can not be read is empty.
    pub fn read(data_dir: &Path) -> Self {
        let meminfo = text("/proc/meminfo");
        let kib = meminfo
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:"))
            .and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
        let os_release = text("/etc/os-release");
        let os = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).unwrap_or("Linux");
        #[allow(clippy::useless_conversion, reason = "a c_ulong has 32 bits on armv7")]
        let disk =
            nix::sys::statvfs::statvfs(data_dir).map_or(0, |stat| stat.blocks() * u64::from(stat.fragment_size()));
        Self {
            cpus: std::thread::available_parallelism().map_or(1, |n| n.get() as u64),
            memory: kib.unwrap_or(0) * 1024,
            disk,
            architecture: match std::env::consts::ARCH {
                "x86_64" => "amd64",
                "aarch64" => "arm64",
                other => other,
            },
            kernel: text("/proc/sys/kernel/osrelease"),
            os: os.trim_matches('"').to_owned(),
            machine_id: text("/etc/machine-id"),
            boot_id: text("/proc/sys/kernel/random/boot_id"),
        }
    }
}

/// Where a machine's serial number may stand, best first.
const SERIALS: [&str; 3] =
    ["/proc/device-tree/serial-number", "/sys/class/dmi/id/product_uuid", "/sys/class/dmi/id/board_serial"];

/// What vendors write where they should write a serial number.
const NO_SERIALS: [&str; 5] = ["none", "default string", "to be filled by o.e.m.", "not specified", "0"];

/// Interfaces that come and go with programs, by the beginning of their names.
const VIRTUAL: [&str; 11] = ["lo", "docker", "br-", "virbr", "veth", "cni", "kith", "tun", "tap", "wg", "dummy"];

/// By what this machine can be told from another one.
pub fn fingerprint() -> Fingerprint {
    let serials = SERIALS.iter().map(|path| text(path).trim_end_matches('\0').trim().to_owned());
    let real = |serial: &String| !serial.is_empty() && !NO_SERIALS.contains(&serial.to_lowercase().as_str());
    let interfaces = nix::ifaddrs::getifaddrs().into_iter().flatten();
    let links = interfaces.filter_map(|interface| {
        let name = &interface.interface_name;
        let address = interface.address.as_ref()?.as_link_addr()?.addr()?;
        let real = !VIRTUAL.iter().any(|prefix| name.starts_with(prefix)) && address != [0; 6];
        real.then(|| hex::encode(address))
    });
    Fingerprint { serial: serials.into_iter().find(real).unwrap_or_default(), links: links.collect() }
}

/// The device's own name, where the settings give none.
pub fn host_name() -> String {
    text("/proc/sys/kernel/hostname").to_ascii_lowercase()
}

/// Addresses of the interfaces that are up: those that other devices may try, global ones first.
pub fn addresses() -> Vec<IpAddr> {
    let mut found: BTreeMap<(u8, String, usize), IpAddr> = BTreeMap::new();
    let interfaces = nix::ifaddrs::getifaddrs().into_iter().flatten();
    for (index, interface) in interfaces.enumerate() {
        let up = interface.flags.contains(nix::net::if_::InterfaceFlags::IFF_UP);
        let Some(address) = interface.address.as_ref().and_then(ip) else { continue };
        // The network of this device's pods is no way to it for others.
        let own = interface.interface_name == crate::network::sandbox::BRIDGE;
        if up && !own && !address.is_loopback() && !is_link_local(address) {
            found.insert((u8::from(address.is_ipv6()), interface.interface_name.clone(), index), address);
        }
    }
    let mut addresses: Vec<IpAddr> = found.into_values().collect();
    addresses.dedup();
    addresses
}

fn ip(address: &nix::sys::socket::SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|found| IpAddr::V4(found.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|found| IpAddr::V6(found.ip())))
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

fn text(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_a_size() {
        let hardware = Hardware::read(Path::new("/"));
        assert!(hardware.cpus > 0 && hardware.memory > 1 << 20 && hardware.disk > 0, "{hardware:?}");
        assert!(!hardware.boot_id.is_empty() && !hardware.kernel.is_empty());
    }
}
