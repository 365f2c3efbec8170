//! Whether this device can be reached, reaches others, and lets pods through.

use super::facts::{Chain, Port};
use super::{Check, Facts, Verdict};

/// Bytes of a buffer for QUIC below which bursts are lost.
const BUFFER: u64 = 208 << 10;

pub(super) const CHECKS: &[Check] = &[
    Check { id: "addresses", title: "the device has an address", judge: addresses },
    Check { id: "advertised", title: "what others are told is an address of the device", judge: advertised },
    Check { id: "port-peers", title: "the port for other devices is free, or Kith's", judge: peer_port },
    Check { id: "port-api", title: "the port for kubectl is free, or Kith's", judge: api_port },
    Check { id: "peers", title: "other devices answer", judge: peers },
    Check { id: "udp-buffers", title: "bursts of packets find room", judge: buffers },
    Check { id: "forwarding", title: "packets of pods are passed on", judge: forwarding },
    Check { id: "firewall-in", title: "no firewall keeps other devices out", judge: firewall_in },
    Check { id: "firewall-pods", title: "no firewall keeps pods in", judge: firewall_pods },
    Check { id: "firewall-legacy", title: "no older packet filter is in the way", judge: legacy },
    Check { id: "pod-network", title: "pods' addresses are nobody else's", judge: pod_network },
    Check { id: "resolvers", title: "names can be looked up", judge: resolvers },
    Check { id: "host-name", title: "the name of the device can name a node", judge: host_name },
];

fn addresses(facts: &Facts) -> Verdict {
    let network = &facts.network;
    if network.addresses.is_empty() {
        return Verdict::warning(
            "no link has an address: pods run, and nobody else is reached",
            "ip address; is the cable in, is Wi-Fi set up?",
        );
    }
    let seen = network.addresses.join(", ");
    if network.route == Some(false) {
        return Verdict::note(
            format!("{seen}; there is no way beyond the own network"),
            "fine for a fleet without images from outside",
        );
    }
    Verdict::ok(seen)
}

fn advertised(facts: &Facts) -> Verdict {
    let network = &facts.network;
    if network.foreign.is_empty() {
        return Verdict::ok("all of them are");
    }
    Verdict::note(
        format!("{} is on no link of this device", network.foreign.join(", ")),
        "right behind a router that leads the port here; else correct advertise in agent.toml",
    )
}

fn port(facts: &Facts, port: &Port, key: &str) -> Verdict {
    let address = &port.address;
    match port.taken {
        None => Verdict::unseen(facts, "who listens"),
        Some(false) if facts.agent.pid.is_some() => Verdict::note(
            format!("the agent runs, and nobody listens on {address} in this network namespace"),
            "it does so once the device is in a fleet: kith status",
        ),
        Some(false) => Verdict::ok(format!("{address} is free")),
        Some(true) if port.ours => Verdict::ok(format!("the agent listens on {address}")),
        Some(true) if port.owner.is_empty() => Verdict::unseen(facts, &format!("who listens on {address}")),
        Some(true) => Verdict::problem(
            format!("{} listens on {address}", port.owner),
            format!("stop it, or set {key} in agent.toml to another port"),
        ),
    }
}

fn peer_port(facts: &Facts) -> Verdict {
    port(facts, &facts.network.peer_port, "peer_listen")
}

fn api_port(facts: &Facts) -> Verdict {
    port(facts, &facts.network.api_port, "api_listen")
}

fn peers(facts: &Facts) -> Verdict {
    let Some(peers) = &facts.network.peers else {
        return match &facts.identity.fleet {
            Some(Ok(None)) => Verdict::skipped("the device is in no fleet"),
            _ => Verdict::unseen(facts, "the other devices' addresses"),
        };
    };
    if peers.is_empty() {
        return Verdict::skipped("there are no other devices");
    }
    let silent: Vec<String> = peers
        .iter()
        .filter(|peer| peer.answered.is_none())
        .map(|peer| format!("{} ({})", peer.name, peer.addresses.join(", ")))
        .collect();
    let slowest = peers.iter().filter_map(|peer| peer.answered).max().unwrap_or(0);
    let todo =
        "is it on, and is its agent? Does a firewall or a router in between let UDP through to that port, both ways?";
    match peers.len() - silent.len() {
        0 => Verdict::problem(format!("none of {} answers on its port: {}", peers.len(), silent.join(", ")), todo),
        all if silent.is_empty() => Verdict::ok(format!("{all} of {all}, within {slowest} ms")),
        some => Verdict::warning(format!("{some} of {} answer; silent: {}", peers.len(), silent.join(", ")), todo),
    }
}

fn buffers(facts: &Facts) -> Verdict {
    let Some((receive, send)) = facts.network.buffers else { return Verdict::unseen(facts, "the limits of buffers") };
    let seen = format!("a socket may have {} KiB for what arrives, {} KiB for what leaves", receive >> 10, send >> 10);
    if receive < BUFFER || send < BUFFER {
        return Verdict::note(
            seen,
            "sysctl -w net.core.rmem_max=2097152 net.core.wmem_max=2097152, and the same in /etc/sysctl.d/60-kith.conf",
        );
    }
    Verdict::ok(seen)
}

fn forwarding(facts: &Facts) -> Verdict {
    match facts.network.forwarding {
        Some(true) => Verdict::ok("net.ipv4.ip_forward is 1"),
        Some(false) if facts.network.bridge => Verdict::warning(
            "something set net.ipv4.ip_forward to 0 after pods were plugged in: they reach nothing outside",
            "sysctl -w net.ipv4.ip_forward=1; grep -r ip_forward /etc/sysctl.conf /etc/sysctl.d",
        ),
        Some(false) => Verdict::ok("net.ipv4.ip_forward is 0; the agent sets it when a pod needs it"),
        None => Verdict::unseen(facts, "net.ipv4.ip_forward"),
    }
}

/// Chains of one hook that drop what no rule of theirs lets through.
fn dropping<'a>(facts: &'a Facts, hook: &str) -> Result<Vec<&'a Chain>, Verdict> {
    match &facts.network.chains {
        None => Err(Verdict::unseen(facts, "the packet filter")),
        Some(Err(why)) => Err(Verdict::skipped(format!("the packet filter does not answer: {why}"))),
        Some(Ok(chains)) => Ok(chains.iter().filter(|chain| chain.hook == hook && chain.drops).collect()),
    }
}

fn named(chains: &[&Chain]) -> String {
    let names: Vec<String> = chains
        .iter()
        .map(|chain| format!("{} {} {} ({} rules)", chain.family, chain.table, chain.name, chain.rules))
        .collect();
    names.join(", ")
}

fn firewall_in(facts: &Facts) -> Verdict {
    let found = match dropping(facts, "input") {
        Ok(found) => found,
        Err(verdict) => return verdict,
    };
    if found.is_empty() {
        return Verdict::ok("nothing is dropped that no rule names");
    }
    let (peers, api) = (port_of(&facts.network.peer_port), port_of(&facts.network.api_port));
    let chain = found[0];
    Verdict::note(
        format!("{} drops what no rule lets in; whether one lets Kith in can not be told", named(&found)),
        format!(
            "if other devices do not reach this one: nft insert rule {} {} {} udp dport {peers} accept, and tcp dport {api} for kubectl",
            chain.family, chain.table, chain.name
        ),
    )
}

fn port_of(port: &Port) -> &str {
    port.address.rsplit(':').next().unwrap_or_default()
}

fn firewall_pods(facts: &Facts) -> Verdict {
    let found = match dropping(facts, "forward") {
        Ok(found) => found,
        Err(verdict) => return verdict,
    };
    let Some(chain) = found.first() else { return Verdict::ok("nothing is dropped that no rule names") };
    let (family, table, name) = (&chain.family, &chain.table, &chain.name);
    Verdict::warning(
        format!(
            "{} drops what no rule lets through: pods are cut off unless one names kith0 (docker and ufw make such chains)",
            named(&found)
        ),
        format!(
            "nft insert rule {family} {table} {name} iifname kith0 accept; nft insert rule {family} {table} {name} oifname kith0 accept; and the same where that firewall keeps its rules"
        ),
    )
}

fn legacy(facts: &Facts) -> Verdict {
    let tables = &facts.network.legacy;
    if tables.is_empty() {
        return Verdict::ok("no table of the older one is there");
    }
    Verdict::note(
        format!("the older packet filter is in use ({}): its rules count beside those of Kith", tables.join(", ")),
        "iptables-legacy -S tells them; update-alternatives --set iptables /usr/sbin/iptables-nft moves to the newer",
    )
}

fn pod_network(facts: &Facts) -> Verdict {
    let network = &facts.network;
    if network.clashes.is_empty() {
        return Verdict::ok(network.pod_network.clone());
    }
    Verdict::problem(
        format!("pods get addresses of {}, and so has {}", network.pod_network, network.clashes.join(", ")),
        "set pod_network in agent.toml to a range that nothing else uses, the same on all devices",
    )
}

fn resolvers(facts: &Facts) -> Verdict {
    match &facts.network.resolvers {
        None => Verdict::unseen(facts, "/etc/resolv.conf"),
        Some(Err(why)) => Verdict::warning(
            format!("/etc/resolv.conf: {why}: no image comes from a registry by its name"),
            "echo 'nameserver 192.0.2.53' > /etc/resolv.conf, with the address of yours",
        ),
        Some(Ok(servers)) if servers.is_empty() => Verdict::warning(
            "/etc/resolv.conf names no server: no image comes from a registry by its name",
            "is the network up? resolvectl status, or nmcli device show",
        ),
        Some(Ok(servers)) => Verdict::ok(servers.join(", ")),
    }
}

fn host_name(facts: &Facts) -> Verdict {
    let network = &facts.network;
    let own = network.host_name.split('.').next().unwrap_or_default().to_lowercase();
    let name = if network.name.is_empty() { own } else { network.name.clone() };
    if crate::resource::names::dns_label(&name).is_err() {
        return Verdict::problem(
            format!("{name:?} can not name a node: it takes 1 to 63 of a-z, 0-9 and -"),
            "hostnamectl set-hostname NAME, or name = \"...\" in agent.toml",
        );
    }
    if ["localhost", "raspberrypi", "debian", "dietpi", "armbian", "ubuntu", "orangepi"].contains(&name.as_str()) {
        return Verdict::note(
            format!("{name} is what every such device is called: a second one can not join"),
            "kith init --name NAME, or kith join TOKEN --name NAME",
        );
    }
    Verdict::ok(name)
}
