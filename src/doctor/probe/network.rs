//! Addresses, ports and who has them, packet filters, names.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use super::super::facts::{Chain, Network, Port};
use super::{Given, System, Target, peers};
use crate::config::{Config, Range};
use crate::identity::Enrolment;

/// The state of a TCP socket that listens, and of a UDP socket that is bound.
const LISTENS: &str = "0A";
const BOUND: &str = "07";

/// The bridge of pods.
const BRIDGE: &str = "kith0";

pub(super) fn look(system: &System, given: &Given<'_>, root: bool) -> Network {
    let config = given.config;
    let own = addresses();
    let told = config.advertise.iter().map(SocketAddr::ip).filter(|ip| !own.contains(ip));
    let targets = given.peers.clone().or_else(|| enrolled(config));
    let routes = system.text("/proc/net/route").unwrap_or_default();
    Network {
        foreign: told.map(|ip| ip.to_string()).collect(),
        addresses: own.iter().filter(|ip| !ip.is_loopback()).map(ToString::to_string).collect(),
        route: Some(routes_of(&routes).any(|(_, _, prefix)| prefix == 0) || six(system)),
        peer_port: port(system, ["udp", "udp6"], BOUND, config.peer_listen, root),
        api_port: port(system, ["tcp", "tcp6"], LISTENS, config.api_listen, root),
        buffers: system.number("/proc/sys/net/core/rmem_max").zip(system.number("/proc/sys/net/core/wmem_max")),
        bridge: system.text("/proc/net/dev").is_some_and(|links| links.contains(&format!("{BRIDGE}:"))),
        forwarding: system.number::<u8>("/proc/sys/net/ipv4/ip_forward").map(|value| value == 1),
        chains: root.then(chains),
        legacy: legacy(system),
        pod_network: config.pod_network.to_string(),
        clashes: clashes(&routes, config.pod_network),
        resolvers: Some(resolvers(system)),
        host_name: system.text("/proc/sys/kernel/hostname").unwrap_or_default(),
        name: config.name.clone(),
        peers: targets.map(|targets| peers::ask(&targets)),
    }
}

/// Whether the ports are those of this agent.
pub(super) fn own(network: &mut Network, agent: Option<u32>) {
    let Some(pid) = agent else { return };
    for port in [&mut network.peer_port, &mut network.api_port] {
        port.ours = port.owner.ends_with(&format!("(pid {pid})"));
    }
}

/// The other members as this device last knew them.
fn enrolled(config: &Config) -> Option<Vec<Target>> {
    let enrolment = Enrolment::load(&config.data_dir).ok()??;
    let others = enrolment.members.into_iter().filter(|(id, _)| *id != enrolment.member_id);
    Some(others.map(|(_, member)| Target { name: member.name, addresses: member.addresses }).collect())
}

/// Addresses of links that are up, without those of pods and without those that hold on one link only.
fn addresses() -> Vec<IpAddr> {
    let mut found = Vec::new();
    for interface in nix::ifaddrs::getifaddrs().into_iter().flatten() {
        let Some(address) = interface.address.as_ref() else { continue };
        let v4 = address.as_sockaddr_in().map(|found| IpAddr::V4(found.ip()));
        let Some(ip) = v4.or_else(|| address.as_sockaddr_in6().map(|found| IpAddr::V6(found.ip()))) else { continue };
        let local = matches!(ip, IpAddr::V4(v4) if v4.is_link_local())
            || matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
        let up = interface.flags.contains(nix::net::if_::InterfaceFlags::IFF_UP);
        if up && !local && interface.interface_name != BRIDGE {
            found.push(ip);
        }
    }
    found
}

/// Whether there is a default route of IPv6.
fn six(system: &System) -> bool {
    let routes = system.text("/proc/net/ipv6_route").unwrap_or_default();
    routes.lines().any(|line| line.starts_with(&format!("{:032x} 00 ", 0)) && !line.trim_end().ends_with(" lo"))
}

/// Links, networks and lengths of the routes of IPv4.
fn routes_of(text: &str) -> impl Iterator<Item = (&str, Ipv4Addr, u32)> {
    text.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        // As the kernel has them in memory: the first byte of the address is the lowest.
        let number = |index: usize| Some(u32::from_str_radix(fields.get(index)?, 16).ok()?.swap_bytes());
        let swap = |value: u32| if cfg!(target_endian = "little") { value } else { value.swap_bytes() };
        Some((*fields.first()?, Ipv4Addr::from(swap(number(1)?)), swap(number(7)?).count_ones()))
    })
}

/// Routes of others into the addresses of pods.
fn clashes(routes: &str, pods: Range) -> Vec<String> {
    let overlaps = |base: Ipv4Addr, prefix: u32| {
        let shorter = prefix.min(pods.prefix().into());
        let mask = u32::MAX.checked_shl(32 - shorter).unwrap_or(0);
        u32::from(base) & mask == u32::from(pods.base()) & mask
    };
    routes_of(routes)
        .filter(|(link, base, prefix)| *prefix > 0 && *link != BRIDGE && overlaps(*base, *prefix))
        .map(|(link, base, prefix)| format!("{base}/{prefix} on {link}"))
        .collect()
}

fn chains() -> Result<Vec<Chain>, String> {
    let chains = crate::network::trial::chains().map_err(|error| error.to_string())?;
    let chain = |chain: crate::network::trial::Hooked| Chain {
        family: chain.family.into(),
        table: chain.table,
        name: chain.name,
        hook: chain.hook.into(),
        drops: chain.drops,
        rules: chain.rules,
    };
    Ok(chains.into_iter().map(chain).collect())
}

/// Tables of the older packet filter.
fn legacy(system: &System) -> Vec<String> {
    let names = ["/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"].map(|path| system.text(path));
    let mut found: Vec<String> =
        names.iter().flatten().flat_map(|text| text.split_whitespace()).map(str::to_owned).collect();
    found.sort();
    found.dedup();
    found
}

fn resolvers(system: &System) -> Result<Vec<String>, String> {
    let bytes = std::fs::read(system.path("/etc/resolv.conf")).map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&bytes);
    let servers = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    Ok(servers.filter_map(|rest| Some(rest.split_whitespace().next()?.to_owned())).collect())
}

/// Who has a port, in this network namespace.
fn port(system: &System, tables: [&str; 2], state: &str, address: SocketAddr, root: bool) -> Port {
    let mut inode = None;
    let mut readable = false;
    for table in tables {
        let Some(text) = system.text(&format!("/proc/net/{table}")) else { continue };
        readable = true;
        inode = inode.or_else(|| listener(&text, state, address.port()));
    }
    Port {
        address: address.to_string(),
        taken: readable.then_some(inode.is_some()),
        owner: inode.filter(|_| root).and_then(|inode| owner(system, inode)).unwrap_or_default(),
        ours: false,
    }
}

/// The inode of the socket that has a port.
fn listener(table: &str, state: &str, port: u16) -> Option<u64> {
    let port = format!("{port:04X}");
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let found = fields.get(1)?.rsplit_once(':')?.1 == port && *fields.get(3)? == state;
        found.then(|| fields.get(9)?.parse().ok())?
    })
}

/// The program that has a socket open.
fn owner(system: &System, inode: u64) -> Option<String> {
    let wanted = format!("socket:[{inode}]");
    let pids = system.names("/proc").into_iter().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
    for pid in pids {
        let folder = system.path(&format!("/proc/{pid}/fd"));
        let has =
            |name: &String| std::fs::read_link(folder.join(name)).is_ok_and(|target| target == Path::new(&wanted));
        if super::names(&folder).iter().any(has) {
            let name = system.text(&format!("/proc/{pid}/comm")).unwrap_or_default();
            return Some(format!("{name} (pid {pid})"));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_that_has_a_port_is_named() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let system = System("/".into());
        let found = port(&system, ["tcp", "tcp6"], LISTENS, socket.local_addr().unwrap(), true);
        assert_eq!(found.taken, Some(true));
        assert!(found.owner.ends_with(&format!("(pid {})", std::process::id())), "{found:?}");
        drop(socket);
    }

    #[test]
    fn routes_into_the_addresses_of_pods_are_found() {
        let routes = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\n\
             eth0\t00000000\t0101A8C0\t0003\t0\t0\t0\t00000000\t0\n\
             eth0\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\n\
             kith0\t00012A0A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\n\
             tun0\t0000000A\t00000000\t0001\t0\t0\t0\t000000FF\t0\n\
             wlan0\t00072A0A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\n";
        assert_eq!(clashes(routes, Range::DEFAULT), ["10.0.0.0/8 on tun0", "10.42.7.0/24 on wlan0"]);
        assert!(
            routes_of(routes).any(|(link, base, prefix)| (link, base, prefix) == ("eth0", Ipv4Addr::UNSPECIFIED, 0))
        );
    }
}
