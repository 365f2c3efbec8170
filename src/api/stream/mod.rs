//! `pods/exec`, `pods/attach` and `pods/portforward`: connections that stop being HTTP.
//!
//! kubectl up to 1.29 speaks SPDY/3.1, later ones and other clients a WebSocket. Both are turned
//! into streams of bytes here; the device that runs the pod does it, others only carry bytes.
//!
//! ```text
//! upgrade -> spdy | websocket -> Streams -> exec | attach | forward -> Runtime
//!        \-> relay -> the pod's device
//! ```

mod attach;
mod channel;
mod exec;
mod forward;
mod open;
mod relay;
mod spdy;
mod websocket;

use std::sync::Arc;

use bytes::Bytes;
use hyper::{HeaderMap, Method, header};
use serde_json::Value;

use super::Api;
use super::answer::{self, Answer};
use super::ask::Ask;
use super::failure::Failure;
use super::logs::container_of;
use super::read::key;
use super::route::Target;
use crate::reconciler::container::{ContainerRef, ContainerState};
use crate::resource::meta;
use crate::runtime::Runtime;

/// The most connections of this kind that a device holds at a time, those that it relays included:
/// half of what one peer may have open on one connection.
pub(super) const STREAMS_LIMIT: usize = 32;

/// The subresources that are streams.
pub(super) const SUBRESOURCES: [&str; 3] = ["attach", "exec", "portforward"];

/// What is done with the streams.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Purpose {
    Exec { command: Vec<String>, tty: bool, stdin: bool, stdout: bool, stderr: bool },
    Attach { tty: bool, stdin: bool, stdout: bool, stderr: bool },
    Forward { ports: Vec<u16> },
}

/// How the streams are carried.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Carrier {
    /// SPDY on the connection itself.
    Spdy,
    /// SPDY inside a WebSocket.
    Tunnel,
    /// Channels of a WebSocket; `halves` when the client can end one alone.
    Channels { halves: bool },
}

/// What both sides agreed on.
struct Agreement {
    carrier: Carrier,
    /// The protocol's name, as it is answered; empty for clients that named none.
    protocol: String,
    /// The answer to a WebSocket's key.
    accept: Option<String>,
}

impl Api {
    /// Opens streams to a pod, wherever it runs.
    pub(super) async fn streams(&self, target: &Target, ask: Ask) -> Result<Answer, Failure> {
        if !matches!(ask.method, Method::GET | Method::POST) {
            return Err(Failure::wrong_method());
        }
        let permits = self.inner.streams.clone();
        let permit = permits.try_acquire_owned().map_err(|_| {
            Failure::new(429, "TooManyRequests", format!("this device holds {STREAMS_LIMIT} streams to pods already"))
        })?;
        let pod = self.pod(target).await?;
        let purpose = purpose(&target.subresource, &ask)?;
        let agreement = agree(&ask.headers, matches!(purpose, Purpose::Forward { .. }))?;
        if let Some(node) = self.elsewhere(&pod, "a pod", ask.forwarded_by.as_deref())? {
            return self.relay(node, ask, permit).await;
        }
        let wanted = match purpose {
            Purpose::Forward { .. } => None,
            _ => Some(container_of(&pod, ask.query.get("container"))?),
        };
        if let (Purpose::Attach { tty, stdin, .. }, Some(container)) = (&purpose, &wanted) {
            attach::check(&pod, container, *tty, *stdin)?;
        }
        let (runtime, reference) = self.running(&pod, wanted.as_deref()).await?;
        self.open(ask, agreement, purpose, open::Subject { runtime, reference, key: key(target) }, permit)
    }

    /// The run of a container that goes on now; any container's for none.
    async fn running(&self, pod: &Value, container: Option<&str>) -> Result<(Arc<dyn Runtime>, ContainerRef), Failure> {
        let name = meta::name(pod);
        let Some(runtime) = self.inner.config.runtime.clone() else {
            return Err(Failure::internal(format!("this device runs no containers, pod {name} included")));
        };
        let listed = runtime.list().await;
        let listed = listed.map_err(|error| Failure::internal(format!("look at containers: {error}")))?;
        let ours = |reference: &ContainerRef| {
            reference.pod.uid == meta::uid(pod) && container.is_none_or(|name| reference.container == name)
        };
        let found = listed
            .into_iter()
            .filter(|found| matches!(found.state, ContainerState::Running { .. }) && ours(&found.reference))
            .max_by_key(|found| found.reference.attempt);
        match (found, container) {
            (Some(found), _) => Ok((runtime, found.reference)),
            (None, Some(container)) => Err(Failure::bad_request(format!(
                "container {container} of pod {name} is not running: see its state with kith describe pod {name}"
            ))),
            (None, None) => Err(Failure::bad_request(format!(
                "no container of pod {name} is running: see its state with kith describe pod {name}"
            ))),
        }
    }
}

fn nothing_asked() -> Failure {
    Failure::bad_request("you must specify at least one of stdin, stdout, stderr")
}

fn purpose(subresource: &str, ask: &Ask) -> Result<Purpose, Failure> {
    let flag = |name: &str| ask.query.flag(name);
    match subresource {
        "exec" => {
            let command = ask.query.all("command");
            if command.is_empty() {
                return Err(Failure::bad_request("you must specify at least one command for the container"));
            }
            let tty = flag("tty");
            let (stdin, stdout, stderr) = (flag("stdin"), flag("stdout"), flag("stderr") && !tty);
            if !stdin && !stdout && !stderr {
                return Err(nothing_asked());
            }
            Ok(Purpose::Exec { command, tty, stdin, stdout, stderr })
        }
        "attach" => {
            let tty = flag("tty");
            let (stdin, stdout, stderr) = (flag("stdin"), flag("stdout"), flag("stderr") && !tty);
            if !stdin && !stdout && !stderr {
                return Err(nothing_asked());
            }
            Ok(Purpose::Attach { tty, stdin, stdout, stderr })
        }
        _ => {
            let words = ask.query.all("ports");
            let ports = words.iter().flat_map(|word| word.split(',')).filter(|word| !word.is_empty());
            let wrong = |word: &str| Failure::bad_request(format!("ports: {word:?} is no port"));
            let ports = ports.map(|word| word.parse().ok().filter(|port| *port > 0).ok_or_else(|| wrong(word)));
            Ok(Purpose::Forward { ports: ports.collect::<Result<_, _>>()? })
        }
    }
}

/// The refusal of a request that does not ask for streams.
fn not_upgradable() -> Failure {
    Failure::bad_request("unable to upgrade: the request must ask for an upgrade to SPDY/3.1 or to a websocket")
}

/// Picks the protocol: of those that the client offers, its first that is known here.
fn agree(headers: &HeaderMap, forwards: bool) -> Result<Agreement, Failure> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let offered = |name: &str| -> Vec<String> {
        let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).map(|word| word.trim().to_owned()).filter(|w| !w.is_empty()).collect()
    };
    let unknown = |offered: &[String]| {
        Failure::new(403, "Forbidden", format!("none of the protocols is spoken here: {}", offered.join(", ")))
    };
    let upgrade = text(header::UPGRADE.as_str()).to_ascii_lowercase();
    if upgrade == "spdy/3.1" {
        let offered = offered("x-stream-protocol-version");
        let known =
            |name: &&String| if forwards { *name == "portforward.k8s.io" } else { *name == "v4.channel.k8s.io" };
        let protocol = offered.iter().find(known).cloned();
        // Clients of the first release named nothing to forward ports.
        let protocol = if forwards && offered.is_empty() { Some(String::new()) } else { protocol };
        let protocol = protocol.ok_or_else(|| unknown(&offered))?;
        return Ok(Agreement { carrier: Carrier::Spdy, protocol, accept: None });
    }
    let socket_key = text("sec-websocket-key");
    if upgrade != "websocket" || socket_key.is_empty() {
        return Err(not_upgradable());
    }
    let offered = offered("sec-websocket-protocol");
    let carrier = |name: &str| match name {
        "SPDY/3.1+portforward.k8s.io" if forwards => Some(Carrier::Tunnel),
        "v5.channel.k8s.io" => Some(Carrier::Channels { halves: true }),
        "v4.channel.k8s.io" => Some(Carrier::Channels { halves: false }),
        _ => None,
    };
    let found = offered.iter().find_map(|name| Some((carrier(name)?, name.clone())));
    let (carrier, protocol) = found.ok_or_else(|| unknown(&offered))?;
    Ok(Agreement { carrier, protocol, accept: Some(websocket::accept(socket_key)) })
}

impl Agreement {
    /// The answer that hands the connection over.
    fn answer(&self) -> Answer {
        let mut response = answer::whole(101, "", Bytes::new());
        let headers = response.headers_mut();
        headers.clear();
        let mut set = |name: &'static str, value: &str| {
            if let Ok(value) = header::HeaderValue::from_str(value) {
                headers.insert(name, value);
            }
        };
        set("connection", "Upgrade");
        if let Some(accept) = &self.accept {
            set("upgrade", "websocket");
            set("sec-websocket-accept", accept);
            set("sec-websocket-protocol", &self.protocol);
        } else {
            set("upgrade", "SPDY/3.1");
            if !self.protocol.is_empty() {
                set("x-stream-protocol-version", &self.protocol);
            }
        }
        response
    }
}

/// For fuzzers: frames of SPDY.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz(bytes: &[u8]) {
    spdy::fuzz(bytes);
}

/// Seeds for them.
#[cfg(test)]
pub(crate) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    spdy::seeds()
}

#[cfg(test)]
mod tests;
