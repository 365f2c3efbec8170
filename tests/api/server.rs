//! Listening, limits, discovery.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};

use crate::fleet::{DEPLOYMENTS, Fleet, PODS, pod};

#[tokio::test]
async fn discovery_and_the_fleets_own_corner() {
    let fleet = Fleet::new().await;
    let device = fleet.device("a").await;
    assert_eq!(device.get("/version").await.expect(200)["major"], "1");
    assert_eq!(device.get("/healthz").await.text, "ok");
    assert_eq!(device.get("/api").await.expect(200)["versions"], json!(["v1"]));
    assert_eq!(device.get("/apis").await.expect(200)["groups"][0]["name"], "apps");
    assert_eq!(device.get("/apis/batch/v1").await.status, 404);
    assert_eq!(device.get("/openapi/v2").await.expect(200)["swagger"], "2.0");
    let schema = device.get("/openapi/v3/apis/apps/v1").await.expect(200);
    assert!(schema["components"]["schemas"]["io.k8s.api.apps.v1.Deployment"]["properties"]["spec"].is_object());
    assert_eq!(device.get("/kith/v1/status?a=b").await.text, "GET a=b root");
    assert_eq!(device.get("/kith/v1/nothing").await.status, 404);
    assert_eq!(device.send("POST", "/version", &json!({})).await.status, 405);
}

#[tokio::test]
async fn large_and_broken_requests_are_refused() {
    let fleet = Fleet::new().await;
    let device = fleet.device("a").await;
    let large = vec![b' '; (3 << 20) + 1];
    let refused = device.ask("POST", PODS, &[("content-type", "application/json")], &large).await;
    assert_eq!(refused.expect(413)["reason"], "RequestEntityTooLarge");
    let broken = device.ask("POST", PODS, &[("content-type", "application/json")], b"{\"a\": ").await;
    assert!(broken.expect(400)["message"].as_str().unwrap().contains("line 1"));
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    assert_eq!(device.ask("POST", PODS, &[], deep.as_bytes()).await.status, 400);
    let protobuf = device.ask("POST", PODS, &[("content-type", "application/vnd.kubernetes.protobuf")], b"k8s\0").await;
    assert_eq!(protobuf.expect(415)["reason"], "UnsupportedMediaType");
    assert_eq!(device.ask("GET", PODS, &[("accept", "text/html")], b"").await.status, 406);
    for odd in [
        json!([]),
        json!(null),
        json!({"metadata": []}),
        json!({"kind": 1}),
        json!({"metadata": {"name": 7}}),
        json!({"spec": "x"}),
    ] {
        for path in [PODS, DEPLOYMENTS, "/api/v1/namespaces", "/api/v1/nodes", "/api/v1/namespaces/default/events"] {
            let reply = device.send("POST", path, &odd).await;
            assert!([400, 422].contains(&reply.status), "{odd} to {path}: {}", reply.text);
        }
    }
}

#[tokio::test]
async fn yaml_is_taken_too() {
    let fleet = Fleet::new().await;
    let device = fleet.device("a").await;
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {k: v}\n";
    let maps = "/api/v1/namespaces/default/configmaps";
    let made = device.ask("POST", maps, &[("content-type", "application/yaml")], yaml.as_bytes()).await.expect(201);
    assert_eq!(made["data"]["k"], "v");
}

#[tokio::test]
async fn garbage_harms_nobody() {
    let fleet = Fleet::new().await;
    let device = fleet.device("a").await;
    for garbage in [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc"[..], b"GET\r\n\r\n", b"\0\0\0\0", &[0xff; 200_000]] {
        let mut stream = TcpStream::connect(&device.address).await.unwrap();
        // The server may hang up before it has read everything.
        let _ = stream.write_all(garbage).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    assert_eq!(device.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn the_unix_socket_is_roots_and_replaces_a_stale_one() {
    let fleet = Fleet::new().await;
    let device = fleet.device("a").await;
    let path = fleet.logs.path().join("kith.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let (api, socket) = (device.api.clone(), path.clone());
    let serving = tokio::spawn(async move { api.serve_unix(&socket).await });
    let mut stream = loop {
        match UnixStream::connect(&path).await {
            Ok(stream) => break stream,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    stream.write_all(b"GET /kith/v1/status HTTP/1.1\r\nhost: kith\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("GET  root"), "{answer}");
    fleet.shutdown.cancel();
    serving.await.unwrap().unwrap();
}

/// A certificate authority, a server's settings that trust it, and a client's with one certificate.
fn certificates() -> (rustls::ServerConfig, rustls::ClientConfig, rustls::ClientConfig) {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
    let authority_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = params.self_signed(&authority_key).unwrap();
    let issuer = Issuer::new(params, authority_key);
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.der().clone()).unwrap();
    let issue = |name: &str, groups: &str| {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".into()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.distinguished_name.push(DnType::OrganizationName, groups);
        let certificate = params.signed_by(&key, &issuer).unwrap();
        (vec![certificate.der().clone()], rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap())
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let roots = Arc::new(roots);
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
        .allow_unauthenticated()
        .build()
        .unwrap();
    let (chain, key) = issue("server", "kith");
    let versions = rustls::DEFAULT_VERSIONS;
    let server =
        rustls::ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions).unwrap();
    let server = server.with_client_cert_verifier(verifier).with_single_cert(chain, key).unwrap();
    let client = || {
        let builder = rustls::ClientConfig::builder_with_provider(provider.clone());
        builder.with_protocol_versions(versions).unwrap().with_root_certificates(roots.clone())
    };
    let (chain, key) = issue("alice", "system:masters");
    (server, client().with_client_auth_cert(chain, key).unwrap(), client().with_no_client_auth())
}

#[tokio::test]
async fn certificates_name_users() {
    let fleet = Fleet::new().await;
    let device = fleet.device("a").await;
    let (server, alice, stranger) = certificates();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let api = device.api.clone();
    let serving = tokio::spawn(async move { api.serve_tls(listener, Arc::new(server)).await });
    let ask = async |config: rustls::ClientConfig, path: &str| {
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = TcpStream::connect(address).await.unwrap();
        let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
        let mut stream = connector.connect(name, stream).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: kith\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    };
    let mut garbage = TcpStream::connect(address).await.unwrap();
    garbage.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert!(ask(alice, "/kith/v1/status").await.ends_with("GET  alice"));
    assert!(ask(stranger.clone(), "/version").await.starts_with("HTTP/1.1 200"));
    let refused = ask(stranger, PODS).await;
    assert!(refused.starts_with("HTTP/1.1 401") && refused.contains("client certificate"), "{refused}");
    fleet.shutdown.cancel();
    serving.await.unwrap();
}

#[tokio::test]
async fn many_objects_are_listed_whole() {
    let fleet = Fleet::new().await;
    let device = fleet.device("a").await;
    for number in 0..50 {
        device.send("POST", PODS, &pod(&format!("web-{number}"))).await.expect(201);
    }
    let list: Value = device.get(&format!("{PODS}?limit=10")).await.expect(200);
    assert_eq!(list["items"].as_array().unwrap().len(), 50);
    assert!(list["metadata"].get("continue").is_none());
    assert_eq!(device.get(&format!("{PODS}?continue=abc")).await.status, 410);
}
