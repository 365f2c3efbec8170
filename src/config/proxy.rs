//! The address of a proxy, as agent.toml and the environment write it.

use std::str::FromStr;

/// The port of a proxy that names none.
const PORT: u16 = 3128;

/// `http://[USER:PASSWORD@]HOST[:PORT]`.
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyAddress {
    /// Name or address; one of IPv6 in brackets.
    pub host: String,
    /// Its TCP port.
    pub port: u16,
    /// `USER:PASSWORD`, for the proxy itself.
    pub user: Option<String>,
}

impl std::fmt::Debug for ProxyAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl FromStr for ProxyAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| Err(format!("{why}; a proxy is http://[USER:PASSWORD@]HOST[:PORT]"));
        let rest = match text.split_once("://") {
            Some(("http", rest)) => rest,
            Some((scheme, _)) => return wrong(&format!("a proxy is not spoken to by {scheme}")),
            None => text,
        };
        let rest = rest.trim_end_matches('/');
        let (user, place) = rest.rsplit_once('@').map_or((None, rest), |(user, place)| (Some(user), place));
        let (host, port) = match place.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => match port.parse::<u16>() {
                Ok(port) if port > 0 => (host, port),
                _ => return wrong(&format!("{port:?} is no port")),
            },
            _ => (place, PORT),
        };
        if host.is_empty() || host.contains(['/', ' ', '@', '?', '#']) {
            return wrong(&format!("{host:?} is no host"));
        }
        Ok(Self { host: host.to_owned(), port, user: user.map(plain) })
    }
}

/// Without the percent signs that stand for other letters.
fn plain(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let code = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        if let (b'%', Some(byte)) = (first, tail.get(..2).and_then(code)) {
            bytes.push(byte);
            rest = &tail[2..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_proxies_are_read() {
        let proxy: ProxyAddress = "http://jo:a%40b@cache.lan:8080/".parse().unwrap();
        assert_eq!((proxy.host.as_str(), proxy.port, proxy.user.as_deref()), ("cache.lan", 8080, Some("jo:a@b")));
        assert!(!format!("{proxy:?}").contains("jo"), "a password is not logged");
        assert_eq!("cache.lan".parse::<ProxyAddress>().unwrap().port, PORT);
        assert_eq!("[fd00::1]:80".parse::<ProxyAddress>().unwrap().host, "[fd00::1]");
        for wrong in ["", "https://a", "socks5://a", "http://", "http://a:b", "http://a:0", "a b"] {
            assert!(wrong.parse::<ProxyAddress>().is_err(), "{wrong}");
        }
    }
}
