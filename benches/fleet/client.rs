//! Clients that are as thin as they can be: HTTP/1.1 over TLS to Kith, gRPC over TLS to etcd.

use std::path::Path;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
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

/// An open HTTP/2 connection to an etcd member.
pub struct Etcd(h2::client::SendRequest<Bytes>);

impl Etcd {
    pub async fn tls(address: &str, certificates: &Path) -> Result<Self, Fault> {
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        let ip: std::net::SocketAddr = address.parse()?;
        let stream = connector(certificates, b"h2")?.connect(ServerName::from(ip.ip()), tcp).await?;
        let (sender, connection) = h2::client::handshake(stream).await?;
        tokio::spawn(connection);
        Ok(Self(sender))
    }

    /// `etcdserverpb.KV/Put` with a key and a value.
    pub async fn put(&mut self, key: &str, value: &[u8]) -> Result<(), Fault> {
        let request = hyper::Request::post("https://etcd/etcdserverpb.KV/Put")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())?;
        let mut sender = self.0.clone().ready().await?;
        let (response, mut stream) = sender.send_request(request, false)?;
        stream.send_data(put_message(key.as_bytes(), value), true)?;
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

/// A gRPC frame that holds `PutRequest { key: 1, value: 2 }`.
fn put_message(key: &[u8], value: &[u8]) -> Bytes {
    let mut message = BytesMut::new();
    for (tag, field) in [(0x0au8, key), (0x12, value)] {
        message.put_u8(tag);
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
