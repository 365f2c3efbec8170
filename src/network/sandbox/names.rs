//! The text of a pod's `/etc/hosts` and `/etc/resolv.conf`. Pure: what the device has is handed in.

use std::fmt::Write as _;
use std::net::IpAddr;

use crate::reconciler::sandbox::{Resolver, SandboxSpec};

/// Name servers that a C library reads.
const SERVERS_LIMIT: usize = 3;

/// Domains that a pod searches at most, and their bytes, as Kubernetes has it.
const SEARCHES_LIMIT: usize = 32;
const SEARCH_BYTES_LIMIT: usize = 2048;

/// `/etc/hosts` of a pod with an address of its own, or on the network of a device with these names.
pub(super) fn hosts(spec: &SandboxSpec, address: Option<IpAddr>, device: &str) -> String {
    let mut text = String::from("# Written by Kith for this pod.\n");
    match address {
        Some(address) => {
            text.push_str("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
            let _ = writeln!(text, "{address}\t{}", spec.names.join(" "));
        }
        None => text.push_str(&of_device(device, &spec.hostname)),
    }
    for alias in spec.aliases.iter().filter(|alias| !alias.names.is_empty()) {
        let _ = writeln!(text, "{}\t{}", alias.address, alias.names.join(" "));
    }
    text
}

/// The device's own names, and the host name of those who share its network.
fn of_device(device: &str, hostname: &str) -> String {
    let has = |name: &str| {
        let lines = device.lines().map(|line| line.split('#').next().unwrap_or_default());
        lines.flat_map(|line| line.split_whitespace().skip(1)).any(|known| known == name)
    };
    let mut lines: Vec<String> = device.lines().map(str::to_owned).collect();
    if !has("localhost") {
        lines.push("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback".into());
    }
    if !hostname.is_empty() && !has(hostname) {
        lines.push(format!("127.0.1.1\t{hostname}"));
    }
    lines.join("\n") + "\n"
}

/// What the device's resolver files say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct DeviceFiles {
    /// `/etc/resolv.conf`.
    pub(super) own: String,
    /// Where a resolver on the device itself (systemd-resolved, NetworkManager) keeps the servers that
    /// it asks, best first.
    pub(super) upstream: Vec<String>,
}

/// A pod's `/etc/resolv.conf`, and what is to be said about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ResolvConf {
    pub(super) text: String,
    /// What the pod will miss; empty when it misses nothing.
    pub(super) note: String,
}

#[derive(Clone, Debug, Default)]
struct Parsed {
    servers: Vec<String>,
    searches: Vec<String>,
    options: Vec<String>,
}

/// Puts together what the device uses and what the pod asks for. A pod with a network of its own can
/// not reach a server on the device's loopback: the servers behind it are used instead.
pub(super) fn resolv_conf(wanted: &Resolver, own_network: bool, device: &DeviceFiles) -> ResolvConf {
    if wanted.as_device && !own_network && *wanted == (Resolver { as_device: true, ..Resolver::default() }) {
        return ResolvConf { text: device.own.clone(), note: String::new() };
    }
    let mut note = String::new();
    let mut all = Parsed::default();
    if wanted.as_device {
        all = parse(&device.own);
        if own_network {
            reach(&mut all, device);
            if all.servers.is_empty() && wanted.nameservers.is_empty() {
                note = "the pod can resolve no names: the device asks a resolver on its own loopback address, which \
                        a pod can not reach, or none at all; set dnsConfig.nameservers in the pod"
                    .into();
            }
        }
    }
    all.servers.extend(wanted.nameservers.iter().map(IpAddr::to_string));
    all.searches.extend(wanted.searches.iter().cloned());
    for option in &wanted.options {
        let name = option.split(':').next().unwrap_or_default();
        all.options.retain(|known| known.split(':').next() != Some(name));
        all.options.push(option.clone());
    }
    unique(&mut all.servers);
    unique(&mut all.searches);
    if all.servers.len() > SERVERS_LIMIT {
        let kept = all.servers[..SERVERS_LIMIT].join(" ");
        note = format!("a resolver asks {SERVERS_LIMIT} name servers at most; the pod asks {kept}, and not the others");
        all.servers.truncate(SERVERS_LIMIT);
    }
    let mut bytes = 0;
    let fitting = all.searches.iter().take(SEARCHES_LIMIT).take_while(|domain| {
        bytes += domain.len() + 1;
        bytes <= SEARCH_BYTES_LIMIT
    });
    let fitting = fitting.count();
    if fitting < all.searches.len() {
        note = format!("only the first {fitting} of {} search domains are used", all.searches.len());
        all.searches.truncate(fitting);
    }
    ResolvConf { text: render(&all, &note), note }
}

/// Replaces servers that only the device reaches by those behind them.
fn reach(all: &mut Parsed, device: &DeviceFiles) {
    let reachable = |server: &String| server.parse::<IpAddr>().is_ok_and(|ip| !ip.is_loopback() && ip.is_ipv4());
    all.servers.retain(reachable);
    for file in &device.upstream {
        if !all.servers.is_empty() {
            return;
        }
        let behind = parse(file);
        all.servers.extend(behind.servers.into_iter().filter(reachable));
        all.searches.extend(behind.searches);
    }
}

fn parse(text: &str) -> Parsed {
    let mut found = Parsed::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (keyword, values) = (words.next().unwrap_or_default(), words.map(str::to_owned));
        match keyword {
            "nameserver" => found.servers.extend(values.take(1)),
            // The last one counts.
            "search" | "domain" => found.searches = values.filter(|domain| domain != ".").collect(),
            "options" => found.options.extend(values),
            _ => {}
        }
    }
    found
}

fn unique(list: &mut Vec<String>) {
    let mut seen = std::collections::BTreeSet::new();
    list.retain(|one| seen.insert(one.clone()));
}

fn render(all: &Parsed, note: &str) -> String {
    let mut text = String::from("# Written by Kith for this pod.\n");
    if !note.is_empty() {
        let _ = writeln!(text, "# {note}");
    }
    if !all.searches.is_empty() {
        let _ = writeln!(text, "search {}", all.searches.join(" "));
    }
    for server in &all.servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    if !all.options.is_empty() {
        let _ = writeln!(text, "options {}", all.options.join(" "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(own: &str, upstream: &[&str]) -> DeviceFiles {
        DeviceFiles { own: own.into(), upstream: upstream.iter().map(|text| (*text).to_owned()).collect() }
    }

    fn lines(conf: &ResolvConf) -> Vec<&str> {
        conf.text.lines().filter(|line| !line.starts_with('#')).collect()
    }

    #[test]
    fn a_pod_resolves_as_its_device_does() {
        let wanted = Resolver { as_device: true, ..Resolver::default() };
        let plain = device("search lan\nnameserver 10.0.0.1\noptions ndots:1\n", &[]);
        let found = resolv_conf(&wanted, true, &plain);
        assert_eq!(lines(&found), ["search lan", "nameserver 10.0.0.1", "options ndots:1"]);
        assert_eq!(found.note, "");
        let stub = device("nameserver 127.0.0.53\nsearch .\n", &["nameserver 9.9.9.9\nnameserver ::1\nsearch home\n"]);
        assert_eq!(lines(&resolv_conf(&wanted, true, &stub)), ["search home", "nameserver 9.9.9.9"]);
        assert_eq!(resolv_conf(&wanted, false, &stub).text, stub.own, "on the device's network the stub answers");
        let dark = resolv_conf(&wanted, true, &device("nameserver 127.0.0.1\n", &["nameserver 127.0.0.53\n"]));
        assert!(dark.note.contains("dnsConfig.nameservers") && dark.text.contains("# the pod can resolve no names"));
    }

    #[test]
    fn what_the_pod_asks_for_comes_on_top() {
        let wanted = Resolver {
            as_device: true,
            nameservers: vec!["1.1.1.1".parse().unwrap(), "10.0.0.1".parse().unwrap()],
            searches: vec!["shop.lan".into()],
            options: vec!["ndots:5".into()],
        };
        let here = device("search lan\nnameserver 10.0.0.1\noptions ndots:1 edns0\n", &[]);
        let expected = ["search lan shop.lan", "nameserver 10.0.0.1", "nameserver 1.1.1.1", "options edns0 ndots:5"];
        assert_eq!(lines(&resolv_conf(&wanted, true, &here)), expected);
        let none = Resolver { as_device: false, ..wanted.clone() };
        let own = ["search shop.lan", "nameserver 1.1.1.1", "nameserver 10.0.0.1", "options ndots:5"];
        assert_eq!(lines(&resolv_conf(&none, true, &here)), own);
        let many = Resolver { nameservers: (1..=5).map(|n| IpAddr::from([1, 1, 1, n])).collect(), ..none };
        let many = resolv_conf(&many, false, &here);
        assert_eq!(lines(&many).iter().filter(|line| line.starts_with("nameserver")).count(), 3);
        assert!(many.note.contains("1.1.1.3, and not the others"), "{}", many.note);
    }
}
