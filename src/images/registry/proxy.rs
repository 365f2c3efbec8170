//! The proxy that stands between this device and registries, where there is one: from agent.toml, or
//! from the agent's environment as other programs know it (`HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`).

use std::fmt::Write as _;
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hyper::header::HeaderValue;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::http::Origin;
use crate::config::{ImagesConfig, ProxyAddress};

/// The longest answer to a request for a tunnel, in bytes.
const ANSWER_MAX: usize = 8 << 10;

/// A proxy, and who asks it.
#[derive(Clone, Debug)]
pub(super) struct Proxy {
    pub(super) origin: Origin,
    pub(super) authorization: Option<HeaderValue>,
}

impl Proxy {
    fn at(address: ProxyAddress) -> Result<Self, String> {
        let basic = |user: &String| HeaderValue::from_str(&format!("Basic {}", BASE64.encode(user)));
        let authorization = address.user.as_ref().map(basic).transpose().map_err(|error| error.to_string())?;
        let authorization = authorization.map(|mut value| {
            value.set_sensitive(true);
            value
        });
        Ok(Self { origin: Origin { tls: false, host: address.host, port: address.port }, authorization })
    }
}

/// Which registries are reached through which proxy.
#[derive(Clone, Debug, Default)]
pub(in crate::images) struct Proxies {
    /// For registries over TLS.
    https: Option<Proxy>,
    /// For plain ones.
    http: Option<Proxy>,
    none: Vec<Exempt>,
}

impl Proxies {
    /// What agent.toml says, and the environment where that says nothing. A variable that can not be
    /// read is told in the log and counts as none.
    pub(in crate::images) fn of(config: &ImagesConfig, environment: impl Fn(&str) -> Option<String>) -> Self {
        let variable = |names: [&str; 2]| {
            let (name, text) = names.into_iter().find_map(|name| Some((name, environment(name)?)))?;
            match text.trim() {
                "" => None,
                text => text
                    .parse()
                    .and_then(Proxy::at)
                    .map_err(|reason: String| tracing::warn!(name, reason, "a proxy of the environment is not used"))
                    .ok(),
            }
        };
        let configured = config.proxy.parse().and_then(Proxy::at).ok();
        let none = if config.no_proxy.is_empty() {
            let text = ["NO_PROXY", "no_proxy"].into_iter().find_map(&environment).unwrap_or_default();
            text.split([',', ' ']).map(str::to_owned).collect()
        } else {
            config.no_proxy.clone()
        };
        Self {
            https: configured.clone().or_else(|| variable(["HTTPS_PROXY", "https_proxy"])),
            http: configured.or_else(|| variable(["HTTP_PROXY", "http_proxy"])),
            none: none.iter().filter_map(|text| Exempt::parse(text.trim())).collect(),
        }
    }

    /// The proxy for a registry.
    pub(super) fn to(&self, origin: &Origin) -> Option<&Proxy> {
        let host = bare(&origin.host).to_ascii_lowercase();
        let address = host.parse::<IpAddr>().ok();
        let own = host == "localhost" || address.is_some_and(|address| address.is_loopback());
        if own || self.none.iter().any(|exempt| exempt.covers(&host, address, origin.port)) {
            return None;
        }
        if origin.tls { self.https.as_ref() } else { self.http.as_ref() }
    }
}

/// What is reached without a proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Exempt {
    /// Everything.
    All,
    /// A domain with all below it, or what is below it alone; at one port or at any.
    Domain { name: String, below_only: bool, port: Option<u16> },
    /// An address, or a range of them.
    Range { address: IpAddr, prefix: u8 },
}

impl Exempt {
    fn parse(text: &str) -> Option<Self> {
        if text.is_empty() {
            return None;
        }
        if text == "*" {
            return Some(Self::All);
        }
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        if let Ok(address) = bare(address).parse::<IpAddr>() {
            let most = if address.is_ipv4() { 32 } else { 128 };
            let prefix = prefix.map_or(Some(most), |prefix| prefix.parse().ok().filter(|prefix| *prefix <= most))?;
            return Some(Self::Range { address, prefix });
        }
        let (name, port) = match text.rsplit_once(':') {
            Some((name, port)) => (name, Some(port.parse().ok()?)),
            None => (text, None),
        };
        let name = name.strip_prefix('*').unwrap_or(name).to_ascii_lowercase();
        let below_only = name.starts_with('.');
        Some(Self::Domain { name: name.trim_start_matches('.').to_owned(), below_only, port })
    }

    fn covers(&self, host: &str, address: Option<IpAddr>, at: u16) -> bool {
        match self {
            Self::All => true,
            Self::Domain { name, below_only, port } => {
                let below = host.strip_suffix(name.as_str()).is_some_and(|rest| rest.ends_with('.'));
                port.is_none_or(|port| port == at) && (below || (!below_only && host == name))
            }
            Self::Range { address: base, prefix } => match (base, address) {
                (IpAddr::V4(base), Some(IpAddr::V4(address))) => {
                    let shift = 32 - u32::from(*prefix);
                    u32::from(*base).checked_shr(shift) == u32::from(address).checked_shr(shift)
                }
                (IpAddr::V6(base), Some(IpAddr::V6(address))) => {
                    let shift = 128 - u32::from(*prefix);
                    u128::from(*base).checked_shr(shift) == u128::from(address).checked_shr(shift)
                }
                _ => false,
            },
        }
    }
}

fn bare(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

/// Asks a proxy to pass bytes on to a registry. An error is what it said.
pub(super) async fn tunnel(stream: &mut TcpStream, proxy: &Proxy, to: &Origin) -> Result<(), String> {
    let Origin { host, port, .. } = to;
    let mut request = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n");
    if let Some(who) = proxy.authorization.as_ref().and_then(|who| who.to_str().ok()) {
        let _ = write!(request, "Proxy-Authorization: {who}\r\n");
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
    let mut answer = Vec::new();
    // Byte by byte: what follows belongs to the registry.
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() >= ANSWER_MAX {
            return Err("its answer is too long".into());
        }
        match stream.read_u8().await {
            Ok(byte) => answer.push(byte),
            Err(error) => return Err(format!("it broke off: {error}")),
        }
    }
    let first = String::from_utf8_lossy(&answer);
    let first = first.lines().next().unwrap_or_default();
    match first.split_whitespace().nth(1) {
        Some("200") => Ok(()),
        Some("407") => Err("it wants to know who asks: put USER:PASSWORD@ into its address".into()),
        _ => Err(format!(
            "it refuses: {}",
            first.chars().filter(|letter| !letter.is_control()).take(100).collect::<String>()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(tls: bool, place: &str) -> Origin {
        let (host, port) = place.rsplit_once(':').unwrap();
        Origin { tls, host: host.into(), port: port.parse().unwrap() }
    }

    #[test]
    fn the_environment_counts_where_the_settings_are_silent() {
        let environment = |name: &str| match name {
            "HTTPS_PROXY" => Some("http://secure:1".to_owned()),
            "http_proxy" => Some("plain:2".to_owned()),
            "NO_PROXY" => Some("near.lan, .far.lan:5000,10.0.0.0/8,fd00::/8".to_owned()),
            _ => None,
        };
        let port = |proxies: &Proxies, tls, place: &str| proxies.to(&origin(tls, place)).map(|p| p.origin.port);
        let proxies = Proxies::of(&ImagesConfig::default(), environment);
        assert_eq!((port(&proxies, true, "r.io:443"), port(&proxies, false, "r.io:80")), (Some(1), Some(2)));
        for direct in [
            "near.lan:443",
            "a.near.lan:443",
            "x.far.lan:5000",
            "10.1.2.3:443",
            "[fd12::1]:443",
            "localhost:5000",
            "127.0.0.1:1",
        ] {
            assert_eq!(port(&proxies, true, direct), None, "{direct}");
        }
        for not in ["clear.lan:443", "far.lan:5000", "x.far.lan:443", "11.1.2.3:443", "[fe80::1]:443"] {
            assert_eq!(port(&proxies, true, not), Some(1), "{not}");
        }
        let config = ImagesConfig { proxy: "own:3".into(), no_proxy: vec!["x.lan".into()], ..ImagesConfig::default() };
        let own = Proxies::of(&config, environment);
        assert_eq!((port(&own, true, "near.lan:443"), port(&own, false, "x.lan:80")), (Some(3), None));
        let all = ImagesConfig { no_proxy: vec!["*".into()], ..config };
        assert_eq!(port(&Proxies::of(&all, environment), true, "r.io:443"), None);
    }
}
