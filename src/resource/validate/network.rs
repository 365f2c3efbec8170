//! What a pod may say about its network: names, name servers, ports.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use serde_json::Value;

use super::FieldError;
use super::pod::one_of;
use crate::resource::{meta, names};

/// Name servers and search domains that a pod may name, as Kubernetes has it.
const SERVERS_LIMIT: usize = 3;
const SEARCHES_LIMIT: usize = 32;
/// Bytes of all search domains.
const SEARCH_BYTES_LIMIT: usize = 2048;

/// Checks everything but the ports.
pub(super) fn spec(spec: &Value, path: &str, errors: &mut Vec<FieldError>) {
    one_of(spec, path, "dnsPolicy", &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"], errors);
    let config = format!("{path}.dnsConfig");
    let servers = meta::list_at(spec, "dnsConfig.nameservers");
    if spec.get("dnsPolicy").is_some_and(|policy| policy == "None") && servers.is_empty() {
        let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        errors.push(FieldError::required(format!("{config}.nameservers"), detail));
    }
    if servers.len() > SERVERS_LIMIT {
        let detail = format!("must not have more than {SERVERS_LIMIT} nameservers");
        errors.push(FieldError::invalid(format!("{config}.nameservers"), &Value::from(servers), &detail));
    }
    for (index, server) in servers.iter().enumerate() {
        address(server.as_str().unwrap_or_default(), &format!("{config}.nameservers[{index}]"), errors);
    }
    searches(meta::list_at(spec, "dnsConfig.searches"), &format!("{config}.searches"), errors);
    for (index, option) in meta::list_at(spec, "dnsConfig.options").iter().enumerate() {
        let (name, value) = (meta::text_at(option, "name"), meta::text_at(option, "value"));
        let path = format!("{config}.options[{index}]");
        if name.is_empty() {
            errors.push(FieldError::required(format!("{path}.name"), "must not be empty"));
        }
        for (field, text) in [("name", name), ("value", value)] {
            word(text, &format!("{path}.{field}"), errors);
        }
    }
    for (index, alias) in meta::list_at(spec, "hostAliases").iter().enumerate() {
        let path = format!("{path}.hostAliases[{index}]");
        address(meta::text_at(alias, "ip"), &format!("{path}.ip"), errors);
        for (index, name) in meta::list_at(alias, "hostnames").iter().enumerate() {
            if let Err(detail) = names::dns_subdomain(name.as_str().unwrap_or_default()) {
                errors.push(FieldError::invalid(format!("{path}.hostnames[{index}]"), name, &detail));
            }
        }
    }
}

fn searches(searches: &[Value], path: &str, errors: &mut Vec<FieldError>) {
    let bytes: usize = searches.iter().map(|domain| domain.as_str().map_or(0, str::len) + 1).sum();
    if searches.len() > SEARCHES_LIMIT || bytes > SEARCH_BYTES_LIMIT {
        let detail = format!("must not have more than {SEARCHES_LIMIT} domains of {SEARCH_BYTES_LIMIT} bytes together");
        errors.push(FieldError::invalid(path, &Value::from(searches), &detail));
    }
    for (index, domain) in searches.iter().enumerate() {
        // A dot at the end, or alone, is fine for a resolver.
        let text = domain.as_str().unwrap_or_default();
        let name = text.strip_suffix('.').unwrap_or(text);
        if let (true, Err(detail)) = (text != ".", names::dns_subdomain(name)) {
            errors.push(FieldError::invalid(format!("{path}[{index}]"), domain, &detail));
        }
    }
}

/// What stands in a line of `resolv.conf` must not end it.
fn word(text: &str, path: &str, errors: &mut Vec<FieldError>) {
    if text.contains(|letter: char| letter.is_whitespace() || letter.is_control()) {
        errors.push(FieldError::invalid(path, &Value::from(text), "must not have white space"));
    }
}

fn address(text: &str, path: &str, errors: &mut Vec<FieldError>) {
    if text.parse::<IpAddr>().is_err() {
        errors.push(FieldError::invalid(path, &Value::from(text), "must be a valid IP address"));
    }
}

/// A port of the device that a container takes: number, protocol, address.
pub(super) type Taken = (i64, String, Option<Ipv4Addr>);

/// Checks the ports of one container; `taken` has those of the device that others of the pod take.
pub(super) fn ports(
    container: &Value,
    path: &str,
    on_host: bool,
    taken: &mut Vec<Taken>,
    errors: &mut Vec<FieldError>,
) {
    let mut seen = BTreeSet::new();
    for (index, port) in meta::list_at(container, "ports").iter().enumerate() {
        let path = format!("{path}.ports[{index}]");
        let number = meta::integer_at(port, "containerPort");
        if number.is_none() {
            errors.push(FieldError::required(format!("{path}.containerPort"), ""));
        }
        for field in ["containerPort", "hostPort"] {
            if let Some(number) = meta::integer_at(port, field)
                && !(1..=65_535).contains(&number)
            {
                let detail = "must be between 1 and 65535, inclusive";
                errors.push(FieldError::invalid(format!("{path}.{field}"), &Value::from(number), detail));
            }
        }
        if let (Some(number), Some(host)) = (number, meta::integer_at(port, "hostPort")) {
            let protocol = meta::text_at(port, "protocol").to_owned();
            let at = host_ip(port, &path, errors);
            if on_host && host != number {
                let detail = "must match `containerPort` when `hostNetwork` is true";
                errors.push(FieldError::invalid(format!("{path}.hostPort"), &Value::from(host), detail));
            } else if taken.iter().any(|(other, of, there)| {
                *other == host && *of == protocol && (at.is_none() || there.is_none() || at == *there)
            }) {
                errors.push(FieldError::duplicate(format!("{path}.hostPort"), &Value::from(host)));
            }
            taken.push((host, protocol, at));
        }
        let name = meta::text_at(port, "name");
        if name.is_empty() {
            continue;
        }
        if let Err(detail) = names::port_name(name) {
            errors.push(FieldError::invalid(format!("{path}.name"), &Value::from(name), &detail));
        } else if !seen.insert(name) {
            errors.push(FieldError::duplicate(format!("{path}.name"), &Value::from(name)));
        }
    }
}

/// The one address of the device at which a port is published; `None`: at all of them.
fn host_ip(port: &Value, path: &str, errors: &mut Vec<FieldError>) -> Option<Ipv4Addr> {
    let text = meta::text_at(port, "hostIP");
    if matches!(text, "" | "0.0.0.0" | "::") {
        return None;
    }
    let address = text.parse();
    if address.is_err() {
        let detail = "must be an IPv4 address of the device; pods have no IPv6 in this release";
        errors.push(FieldError::invalid(format!("{path}.hostIP"), &Value::from(text), detail));
    }
    address.ok()
}
