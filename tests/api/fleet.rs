//! APIs of a fleet in memory, on loopback, and a client that speaks to them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use kith::api::{Api, ApiConfig, Extra, ExtraRequest, ExtraResponse, PeerStreams, Stream, Unreachable, User};
use kith::consensus::Replica as _;
use kith::resource::Timestamp;
use kith::store::{Batch, Key, Write};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::memory::Memory;

/// 2026-01-31T07:05:09Z
pub(crate) const NOW: Timestamp = Timestamp(1_769_843_109_000);

/// Who serves which device's API.
type Addresses = Arc<Mutex<BTreeMap<String, String>>>;

struct Peers(Addresses);

impl PeerStreams for Peers {
    fn open<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<Box<dyn Stream>, Unreachable>> {
        let address = self.0.lock().unwrap().get(node).cloned();
        Box::pin(async move {
            let address = address.ok_or_else(|| Unreachable(format!("{node} has no address")))?;
            let stream = TcpStream::connect(address).await.map_err(|error| Unreachable(error.to_string()))?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        })
    }
}

struct Corner;

impl Extra for Corner {
    fn handle(&self, request: ExtraRequest) -> Option<BoxFuture<'static, ExtraResponse>> {
        (request.path == "/kith/v1/status").then(|| {
            let body = format!("{} {} {}", request.method, request.query, request.user.name).into_bytes();
            Box::pin(async move {
                ExtraResponse {
                    status: 200,
                    content_type: "text/plain".into(),
                    body: kith::api::ExtraBody::Whole(body),
                }
            }) as BoxFuture<'static, ExtraResponse>
        })
    }
}

pub(crate) struct Fleet {
    pub(crate) memory: Arc<Memory>,
    /// The fleet's key for secrets; without one, nobody can open them.
    pub(crate) vault: Arc<kith::identity::Vault>,
    addresses: Addresses,
    pub(crate) logs: tempfile::TempDir,
    pub(crate) shutdown: CancellationToken,
}

/// One device's API on loopback.
pub(crate) struct Device {
    pub(crate) api: Api,
    pub(crate) address: String,
}

impl Fleet {
    pub(crate) async fn new() -> Self {
        let memory = Arc::new(Memory::new());
        memory.propose(kith::api::founding(NOW)).await.unwrap();
        let logs = tempfile::tempdir().unwrap();
        let vault = Arc::new(kith::identity::Vault::generate().unwrap());
        Self { memory, vault, addresses: Addresses::default(), logs, shutdown: CancellationToken::new() }
    }

    pub(crate) fn log_dir(&self, node: &str) -> PathBuf {
        self.logs.path().join(node)
    }

    pub(crate) async fn device(&self, node: &str) -> Device {
        let api = Api::new(ApiConfig {
            replica: self.memory.clone(),
            peers: Arc::new(Peers(self.addresses.clone())),
            secrecy: Arc::new(Locksmith(self.vault.clone())),
            extra: Arc::new(Corner),
            runtime: None,
            log_dir: self.log_dir(node),
            node_name: node.to_owned(),
            version: "0.1.0".into(),
            connections: 512,
            clock: Arc::new(|| NOW),
            shutdown: self.shutdown.clone(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        self.addresses.lock().unwrap().insert(node.to_owned(), address.clone());
        let serving = api.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let api = serving.clone();
                tokio::spawn(async move { api.serve_connection(stream, User::root()).await });
            }
        });
        Device { api, address }
    }

    /// Writes an object as a device would, past the API.
    pub(crate) async fn put(&self, kind: &str, object: &Value) {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        let key = Key::new(kind, text("namespace"), text("name"));
        let write = Write::Put { key, body: object.to_string().into_bytes() };
        self.memory.propose(Batch { checks: Vec::new(), writes: vec![write] }).await.unwrap();
    }

    /// A device's node, ready.
    pub(crate) async fn node(&self, name: &str) {
        let status = json!({"conditions": [{"type": "Ready", "status": "True"}],
            "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}], "nodeInfo": {"kubeletVersion": "v0.1.0"}});
        let object = json!({"apiVersion": "v1", "kind": "Node", "spec": {}, "status": status,
            "metadata": {"name": name, "uid": name, "creationTimestamp": "2026-01-31T07:00:09Z"}});
        self.put("Node", &object).await;
    }
}

/// What came back.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) warnings: Vec<String>,
    pub(crate) text: String,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// The body of an answer that must be this status.
    #[track_caller]
    pub(crate) fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text);
        self.json()
    }
}

impl Device {
    pub(crate) async fn open(
        &self,
        method: &str,
        path: &str,
        head: &[(&str, &str)],
        body: &[u8],
    ) -> Response<Incoming> {
        let stream = TcpStream::connect(&self.address).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header("host", "kith");
        for (name, value) in head {
            request = request.header(*name, *value);
        }
        sender.send_request(request.body(Full::new(Bytes::copy_from_slice(body))).unwrap()).await.unwrap()
    }

    pub(crate) async fn ask(&self, method: &str, path: &str, head: &[(&str, &str)], body: &[u8]) -> Reply {
        let response = self.open(method, path, head, body).await;
        let status = response.status().as_u16();
        let warnings = response.headers().get_all("warning").iter().map(|value| value.to_str().unwrap().to_owned());
        let warnings = warnings.collect();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        Reply { status, warnings, text: String::from_utf8_lossy(&bytes).into_owned() }
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.ask("GET", path, &[], b"").await
    }

    pub(crate) async fn delete(&self, path: &str) -> Reply {
        self.ask("DELETE", path, &[], b"").await
    }

    pub(crate) async fn send(&self, method: &str, path: &str, body: &Value) -> Reply {
        self.ask(method, path, &[("content-type", "application/json")], body.to_string().as_bytes()).await
    }

    pub(crate) async fn patch(&self, kind: &str, path: &str, body: &Value) -> Reply {
        let content_type = format!("application/{kind}");
        self.ask("PATCH", path, &[("content-type", &content_type)], body.to_string().as_bytes()).await
    }
}

pub(crate) const PODS: &str = "/api/v1/namespaces/default/pods";
pub(crate) const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

pub(crate) fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"hostNetwork": true, "containers": [{"name": "main", "image": "web:1"}]}})
}

pub(crate) fn deployment(name: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": {
        "replicas": 2, "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": {"app": name}},
            "spec": {"hostNetwork": true, "containers": [{"name": "main", "image": "web:1"}]}}}})
}

impl Fleet {
    /// Removes an object that has no namespace, as the planner would.
    pub(crate) async fn remove(&self, kind: &str, name: &str) {
        let write = Write::Delete { key: Key::new(kind, "", name) };
        self.memory.propose(Batch { checks: Vec::new(), writes: vec![write] }).await.unwrap();
    }
}

/// Locks and opens with the fleet's own key, as a voter does.
struct Locksmith(Arc<kith::identity::Vault>);

impl kith::api::Secrecy for Locksmith {
    fn lock(&self, place: &str, value: &[u8]) -> Result<Vec<u8>, String> {
        kith::identity::vault::lock(&self.0.public_key(), place, value).map_err(|error| error.to_string())
    }

    fn unlock(&self, values: Vec<kith::api::LockedValue>) -> BoxFuture<'_, Result<Vec<Vec<u8>>, String>> {
        let opened = values
            .iter()
            .map(|value| self.0.unlock(&value.place, &value.bytes).map(|opened| opened.to_vec()))
            .collect::<Result<_, _>>();
        Box::pin(std::future::ready(opened.map_err(|error| error.to_string())))
    }
}
