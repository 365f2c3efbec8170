//! The HTTP API, with Kubernetes' conventions, over the replicated store. It parses requests,
//! admits objects, proposes writes and shows what the local replica holds, saying how old that is.
//! It never decides where a pod runs or what a device does.
//!
//! ```text
//! bytes -> server -> route -> read | watch | write | delete | scale | logs -> Replica
//!                               \-> stream (exec, attach, portforward) -> Runtime
//!                               \-> discovery, openapi, Extra (the fleet's own corner, /kith/...)
//! ```
#![expect(clippy::disallowed_methods, reason = "the edge draws unique ids, and reads log files")]

mod access;
mod admit;
mod answer;
mod ask;
mod counting;
mod delete;
mod discovery;
mod ephemeral;
mod eviction;
mod failure;
pub mod fleet;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod handle;
mod logs;
mod metrics;
mod openapi;
mod patience;
mod peer;
mod pods;
mod priority;
mod read;
mod route;
mod scale;
mod secret;
mod server;
mod stream;
mod watch;
mod write;

use std::path::PathBuf;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

pub use access::ADMINISTRATORS;
pub use failure::Failure;
pub use peer::{PeerStreams, Stream, Unreachable};
pub use secret::{LockedValue, Secrecy, place_of};
pub use server::ServeError;

use crate::consensus::Replica;
use crate::resource::{Timestamp, kind, meta};
use crate::runtime::Runtime;
use crate::store::{Batch, Check, Key, Precondition, Write};

/// The namespaces that every fleet has from the start.
pub const FIRST_NAMESPACES: [&str; 2] = ["default", "kube-system"];

/// What the API is built from.
pub struct ApiConfig {
    /// The store as this device has it.
    pub replica: Arc<dyn Replica>,
    /// The way to the APIs of other devices.
    pub peers: Arc<dyn PeerStreams>,
    /// Who locks and opens the values of secrets.
    pub secrecy: Arc<dyn Secrecy>,
    /// The fleet's own corner under `/kith/`.
    pub extra: Arc<dyn Extra>,
    /// The containers of this device; none where it runs none.
    pub runtime: Option<Arc<dyn Runtime>>,
    /// Where containers of this device log.
    pub log_dir: PathBuf,
    /// This device's name.
    pub node_name: String,
    /// The release, such as `0.1.0`.
    pub version: String,
    /// Connections at the same time, all clients together.
    pub connections: usize,
    /// The wall clock.
    pub clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    /// Ends every connection and stream when cancelled.
    pub shutdown: CancellationToken,
}

/// The API of one device. Clones share everything.
#[derive(Clone)]
pub struct Api {
    inner: Arc<Inner>,
}

struct Inner {
    config: ApiConfig,
    /// One permit for each open connection.
    connections: Arc<Semaphore>,
    /// One for each that has become streams to a pod.
    streams: Arc<Semaphore>,
}

impl Api {
    /// An API that serves nothing yet.
    pub fn new(config: ApiConfig) -> Self {
        let connections = Arc::new(Semaphore::new(config.connections));
        let streams = Arc::new(Semaphore::new(stream::STREAMS_LIMIT));
        Self { inner: Arc::new(Inner { config, connections, streams }) }
    }

    fn replica(&self) -> &dyn Replica {
        &*self.inner.config.replica
    }

    fn now(&self) -> Timestamp {
        (self.inner.config.clock)()
    }
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// `CN` of the certificate.
    pub name: String,
    /// `O`s of the certificate.
    pub groups: Vec<String>,
}

impl User {
    /// Whoever may open the unix socket: root on this device.
    pub fn root() -> Self {
        Self { name: "root".into(), groups: vec![ADMINISTRATORS.into(), "system:authenticated".into()] }
    }

    /// A device of the fleet, over its authenticated connection.
    pub fn device(name: &str) -> Self {
        let groups = vec!["system:nodes".into(), "system:authenticated".into()];
        Self { name: format!("system:node:{name}"), groups }
    }

    /// The device that this is; `None` for a person.
    pub fn as_device(&self) -> Option<&str> {
        self.name.strip_prefix("system:node:").filter(|_| self.groups.iter().any(|group| group == "system:nodes"))
    }

    /// Someone without a certificate.
    pub fn anonymous() -> Self {
        Self { name: "system:anonymous".into(), groups: vec!["system:unauthenticated".into()] }
    }

    fn is_anonymous(&self) -> bool {
        self.groups.iter().any(|group| group == "system:unauthenticated")
    }
}

/// A request to the fleet's own corner.
#[derive(Clone, Debug)]
pub struct ExtraRequest {
    /// `GET`, `POST`, ...
    pub method: String,
    /// The whole path, such as `/kith/v1/status`.
    pub path: String,
    /// The raw query, without `?`; empty when there is none.
    pub query: String,
    /// The whole body.
    pub body: Vec<u8>,
    /// Who asks.
    pub user: User,
}

/// An answer from the fleet's own corner.
pub struct ExtraResponse {
    /// HTTP status code.
    pub status: u16,
    /// Such as `application/json`.
    pub content_type: String,
    /// The body.
    pub body: ExtraBody,
}

/// A body that comes as it is made.
pub type ByteChunks = futures_util::stream::BoxStream<'static, std::io::Result<bytes::Bytes>>;

/// The body of an answer from the fleet's own corner.
pub enum ExtraBody {
    /// All of it.
    Whole(Vec<u8>),
    /// As it is made.
    Stream(ByteChunks),
}

/// What the agent serves under `/kith/`, beyond Kubernetes.
pub trait Extra: Send + Sync + 'static {
    /// Answers a request; `None` when there is nothing at its path.
    fn handle(&self, request: ExtraRequest) -> Option<BoxFuture<'static, ExtraResponse>>;
}

/// The first objects of a new fleet: its namespaces and priority classes. Refused when they exist already.
pub fn founding(now: Timestamp) -> Batch {
    let mut batch = Batch::default();
    let namespaces = FIRST_NAMESPACES.into_iter().map(|name| {
        let mut object = serde_json::json!({"apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": name}, "spec": {}, "status": {"phase": "Active"}});
        crate::resource::defaults::apply(&kind::NAMESPACE, &mut object);
        (&kind::NAMESPACE, name, object)
    });
    let classes = priority::first_classes().map(|(name, object)| (&kind::PRIORITY_CLASS, name, object));
    for (kind, name, mut object) in namespaces.chain(classes) {
        meta::set(&mut object, "uid", new_uid().into());
        meta::set(&mut object, "creationTimestamp", now.to_string().into());
        let key = Key::new(kind.store_kind(), "", name);
        batch.checks.push(Check { key: key.clone(), expect: Precondition::Absent });
        batch.writes.push(Write::Put { key, body: object.to_string().into_bytes() });
    }
    batch
}

/// Where devices ask each other for layers of images: followed by `/` and a digest.
pub const BLOBS: &str = "/kith/v1/blobs";

/// A random UUID, version 4.
pub fn new_uid() -> String {
    let bits: u128 = rand::random();
    let bits = bits & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62);
    let text = format!("{bits:032x}");
    format!("{}-{}-{}-{}-{}", &text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uids_are_version_4() {
        let uid = new_uid();
        assert_eq!(uid.len(), 36);
        assert_eq!(&uid[14..15], "4");
        assert!(["8", "9", "a", "b"].contains(&&uid[19..20]), "{uid}");
        assert_ne!(uid, new_uid());
    }
}
