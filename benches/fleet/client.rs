//! Clients that are as thin as they can be: HTTP/1.1 over TLS to Kith, gRPC over TLS to etcd.

use std::path::Path;
use std::sync::Arc;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use kith::config::Profile;
use kith::consensus::{Presence, Writer, WriterConfig};
use kith::identity::{Enrolment, Identity, Run, Stamp, Trust};
use kith::resource::Timestamp;
use kith::store::{Batch, Key, Outcome, Write};
use kith::transport::{Transport, TransportConfig};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

pub type Fault = Box<dyn std::error::Error + Send + Sync>;

fn connector(dir: &Path, protocol: &[u8]) -> Result<TlsConnector, Fault> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(dir.join("ca.pem"))?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(
            vec![CertificateDer::from_pem_file(dir.join("cert.pem"))?],
            PrivateKeyDer::from_pem_file(dir.join("key.pem"))?,
        )?;
    config.alpn_protocols = vec![protocol.to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

/// A joined device that only writes: its own key, QUIC to the leader, no replica.
pub struct Engine(Writer);

impl Engine {
    pub fn join(data_dir: &Path) -> Result<Self, Fault> {
        let identity = Arc::new(Identity::load(data_dir)?);
        let enrolment = Enrolment::load(data_dir)?.ok_or("the device is in no fleet")?;
        let trust = Trust::in_members(enrolment.members.values());
        let any = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
        let transport = Transport::bind(TransportConfig::new(any, identity, trust, Profile::Lan))?;
        Ok(Self(Writer::start(WriterConfig {
            wire: Arc::new(transport),
            member_id: enrolment.member_id,
            members: enrolment.members,
            presence: Presence { stamp: Stamp { epoch: enrolment.epoch, run: Run::default() }, ..Presence::default() },
            wall: Arc::new(|| {
                let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
                Timestamp(u64::try_from(now.as_millis()).unwrap_or_default())
            }),
            client: rand::random(),
        })))
    }

    pub async fn put(&self, name: &str, value: &[u8]) -> Result<(), Fault> {
        let key = Key::new("bench.kith.dev/Value", "default", name);
        let batch = Batch { checks: Vec::new(), writes: vec![Write::Put { key, body: value.to_vec() }] };
        match self.0.propose(batch).await? {
            Outcome::Applied { .. } => Ok(()),
            refused @ Outcome::Refused { .. } => Err(format!("{refused:?}").into()),
        }
    }
}

/// An open HTTP/1.1 connection to a Kith API.
pub struct Kith(http1::SendRequest<Full<Bytes>>);

impl Kith {
    pub async fn tls(address: &str, certificates: &Path) -> Result<Self, Fault> {
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        let ip: std::net::SocketAddr = address.parse()?;
        let stream = connector(certificates, b"http/1.1")?.connect(ServerName::from(ip.ip()), tcp).await?;
        Self::over(stream).await
    }

    pub async fn unix(socket: &str) -> Result<Self, Fault> {
        Self::over(UnixStream::connect(socket).await?).await
    }

    async fn over(
        stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    ) -> Result<Self, Fault> {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self(sender))
    }

    pub async fn get(&mut self, path: &str) -> Result<u16, Fault> {
        let request = hyper::Request::get(path).header("host", "kith").body(Full::default())?;
        self.0.ready().await?;
        let response = self.0.send_request(request).await?;
        let status = response.status().as_u16();
        // A stale answer would be no answer to a linearizable read.
        if response.headers().contains_key("warning") {
            return Err("a stale read".into());
        }
        response.into_body().collect().await?;
        Ok(status)
    }

    pub async fn post(&mut self, path: &str, body: Bytes) -> Result<u16, Fault> {
        let request = hyper::Request::post(path)
            .header("host", "kith")
            .header("content-type", "application/json")
            .body(Full::new(body))?;
        self.0.ready().await?;
        let response = self.0.send_request(request).await?;
        let status = response.status().as_u16();
        response.into_body().collect().await?;
        Ok(status)
    }
}

/// An open HTTP/2 connection to an etcd member; clones share it.
#[derive(Clone)]
pub struct Etcd(h2::client::SendRequest<Bytes>);

impl Etcd {
    pub async fn tls(address: &str, certificates: &Path) -> Result<Self, Fault> {
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        let ip: SocketAddr = address.parse()?;
        let stream = connector(certificates, b"h2")?.connect(ServerName::from(ip.ip()), tcp).await?;
        let (sender, connection) = h2::client::handshake(stream).await?;
        tokio::spawn(connection);
        Ok(Self(sender))
    }

    /// `etcdserverpb.KV/Put` with a key and a value.
    pub async fn put(&self, key: &str, value: &[u8]) -> Result<(), Fault> {
        self.call("https://etcd/etcdserverpb.KV/Put", fields_message(&[(0x0a, key.as_bytes()), (0x12, value)])).await
    }

    /// `etcdserverpb.KV/Range` of one key, linearizable.
    pub async fn get(&self, key: &str) -> Result<(), Fault> {
        self.call("https://etcd/etcdserverpb.KV/Range", fields_message(&[(0x0a, key.as_bytes())])).await
    }

    async fn call(&self, path: &str, message: Bytes) -> Result<(), Fault> {
        let request =
            hyper::Request::post(path).header("content-type", "application/grpc").header("te", "trailers").body(())?;
        let mut sender = self.0.clone().ready().await?;
        let (response, mut stream) = sender.send_request(request, false)?;
        stream.send_data(message, true)?;
        let mut body = response.await?.into_body();
        while let Some(chunk) = body.data().await {
            let chunk = chunk?;
            body.flow_control().release_capacity(chunk.len())?;
        }
        let trailers = body.trailers().await?.ok_or("no trailers")?;
        match trailers.get("grpc-status").map(hyper::header::HeaderValue::as_bytes) {
            Some(b"0") => Ok(()),
            other => Err(format!("grpc-status {other:?}").into()),
        }
    }
}

/// A gRPC frame that holds a message of these length-delimited fields.
fn fields_message(fields: &[(u8, &[u8])]) -> Bytes {
    let mut message = BytesMut::new();
    for (tag, field) in fields {
        message.put_u8(*tag);
        let mut length = field.len();
        while length >= 0x80 {
            message.put_u8((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        message.put_u8(length as u8);
        message.put_slice(field);
    }
    let mut frame = BytesMut::with_capacity(message.len() + 5);
    frame.put_u8(0);
    frame.put_u32(message.len() as u32);
    frame.put_slice(&message);
    frame.freeze()
}
