//! What a probe or a hook does, made ready to be executed: names are resolved, nothing is left to
//! look up.

use std::time::Duration;

use k8s_openapi::api::core::v1::{
    Container, ExecAction, GRPCAction, HTTPGetAction, LifecycleHandler, Probe, TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// Something that is done to a container, or asked of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Handler {
    /// Runs a program inside the container; exit code 0 is a success.
    Exec(Vec<String>),
    /// Asks over HTTP; 200 to 399 is a success.
    Http(HttpAsk),
    /// Connects over TCP.
    Tcp {
        /// Name or address.
        host: String,
        /// Port.
        port: u16,
    },
    /// Asks `grpc.health.v1.Health/Check`.
    Grpc {
        /// Address.
        host: String,
        /// Port.
        port: u16,
        /// The service that is asked about; empty for the whole server.
        service: String,
    },
    /// Waits.
    Sleep(Duration),
    /// Can not be done: why.
    Unusable(String),
}

/// A request over HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpAsk {
    /// Whether over TLS; certificates are not checked, as a probe asks its own pod.
    pub tls: bool,
    /// Name or address to connect to.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Path and query, beginning with `/`.
    pub path: String,
    /// Headers.
    pub headers: Vec<(String, String)>,
}

/// Where the container is reached, and the container, whose ports have names.
#[derive(Clone, Copy)]
pub(super) struct Reached<'a> {
    pub(super) address: &'a str,
    pub(super) container: &'a Container,
}

impl Handler {
    pub(super) fn of_probe(probe: &Probe, reached: Reached<'_>) -> Self {
        if let Some(exec) = &probe.exec {
            return Self::exec(exec);
        }
        if let Some(http) = &probe.http_get {
            return Self::http(http, reached);
        }
        if let Some(tcp) = &probe.tcp_socket {
            return Self::tcp(tcp, reached);
        }
        if let Some(grpc) = &probe.grpc {
            return Self::grpc(grpc, reached);
        }
        Self::Unusable("the probe names no handler".into())
    }

    pub(super) fn of_hook(hook: &LifecycleHandler, reached: Reached<'_>) -> Self {
        if let Some(exec) = &hook.exec {
            return Self::exec(exec);
        }
        if let Some(http) = &hook.http_get {
            return Self::http(http, reached);
        }
        if let Some(tcp) = &hook.tcp_socket {
            return Self::tcp(tcp, reached);
        }
        if let Some(sleep) = &hook.sleep {
            return Self::Sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0)));
        }
        Self::Unusable("the hook names no handler".into())
    }

    fn exec(exec: &ExecAction) -> Self {
        match exec.command.clone().filter(|command| !command.is_empty()) {
            Some(command) => Self::Exec(command),
            None => Self::Unusable("the command is empty".into()),
        }
    }

    fn http(ask: &HTTPGetAction, reached: Reached<'_>) -> Self {
        let port = match port(&ask.port, reached.container) {
            Ok(port) => port,
            Err(why) => return Self::Unusable(why),
        };
        let path = ask.path.clone().unwrap_or_default();
        let headers = ask.http_headers.iter().flatten();
        Self::Http(HttpAsk {
            tls: ask.scheme.as_deref().is_some_and(|scheme| scheme.eq_ignore_ascii_case("https")),
            host: host(ask.host.as_deref(), reached.address),
            port,
            path: if path.starts_with('/') { path } else { format!("/{path}") },
            headers: headers.map(|header| (header.name.clone(), header.value.clone())).collect(),
        })
    }

    fn tcp(tcp: &TCPSocketAction, reached: Reached<'_>) -> Self {
        match port(&tcp.port, reached.container) {
            Ok(port) => Self::Tcp { host: host(tcp.host.as_deref(), reached.address), port },
            Err(why) => Self::Unusable(why),
        }
    }

    fn grpc(grpc: &GRPCAction, reached: Reached<'_>) -> Self {
        match u16::try_from(grpc.port) {
            Ok(port) => Self::Grpc {
                host: host(None, reached.address),
                port,
                service: grpc.service.clone().unwrap_or_default(),
            },
            Err(_) => Self::Unusable(format!("{} is not a port", grpc.port)),
        }
    }
}

/// The named host, else the pod's own address; a device that knows no address of its own has itself.
fn host(named: Option<&str>, own: &str) -> String {
    let named = named.filter(|named| !named.is_empty()).unwrap_or(own);
    if named.is_empty() { "127.0.0.1".into() } else { named.into() }
}

fn port(wanted: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match wanted {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let mut ports = container.ports.iter().flatten();
            let named = ports.find(|port| port.name.as_ref() == Some(name)).map(|port| port.container_port);
            let unknown = || format!("container {} has no port named {name:?}", container.name);
            name.parse().ok().or(named).ok_or_else(unknown)?
        }
    };
    u16::try_from(number).ok().filter(|port| *port > 0).ok_or_else(|| format!("{number} is not a port"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn handler(probe: serde_json::Value) -> Handler {
        let container: Container =
            serde_json::from_value(json!({"name": "c", "ports": [{"name": "web", "containerPort": 8080}]})).unwrap();
        let probe: Probe = serde_json::from_value(probe).unwrap();
        Handler::of_probe(&probe, Reached { address: "10.0.0.1", container: &container })
    }

    #[test]
    fn named_ports_and_hosts_are_resolved() {
        let ask = |tls, host: &str, port, path: &str| {
            Handler::Http(HttpAsk { tls, host: host.into(), port, path: path.into(), headers: Vec::new() })
        };
        assert_eq!(handler(json!({"httpGet": {"port": "web"}})), ask(false, "10.0.0.1", 8080, "/"));
        let secure = json!({"httpGet": {"port": 443, "scheme": "HTTPS", "host": "x", "path": "a?b=c"}});
        assert_eq!(handler(secure), ask(true, "x", 443, "/a?b=c"));
        assert_eq!(handler(json!({"tcpSocket": {"port": "81"}})), Handler::Tcp { host: "10.0.0.1".into(), port: 81 });
        let missing = handler(json!({"tcpSocket": {"port": "db"}}));
        assert_eq!(missing, Handler::Unusable("container c has no port named \"db\"".into()));
        assert_eq!(handler(json!({})), Handler::Unusable("the probe names no handler".into()));
    }
}
