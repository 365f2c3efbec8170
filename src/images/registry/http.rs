//! HTTP/1.1 to registries, plain or over TLS: one request after the other on a connection, kept for
//! the next one. Every step has its time, and every answer its length.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::header::{HOST, HeaderMap, HeaderValue, PROXY_AUTHORIZATION, USER_AGENT};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::error::RegistryError;
use super::proxy::{self, Proxies, Proxy};

/// How long one address of a host has to accept a connection, and a TLS handshake may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a name may take to be looked up.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an answer may take to begin.
const HEAD_TIMEOUT: Duration = Duration::from_mins(1);
/// How long nothing may come while an answer is being read.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 6;
/// Connections that are kept for the next request.
const IDLE_MAX: usize = 4;

/// What is sent.
pub(super) type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// Where a connection leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) tls: bool,
    pub(super) host: String,
    pub(super) port: u16,
}

impl Origin {
    /// Of an absolute URI.
    pub(super) fn of(uri: &Uri) -> Option<Self> {
        let tls = match uri.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let authority = uri.authority()?;
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        Some(Self { tls, host: authority.host().to_owned(), port })
    }

    /// As people write it: without the port that its scheme implies.
    pub(super) fn shown(&self) -> String {
        if self.port == if self.tls { 443 } else { 80 } {
            self.host.clone()
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    #[expect(clippy::needless_pass_by_value, reason = "a reason is a text or an error, made for this call")]
    fn unreachable(&self, step: &'static str, reason: impl ToString, hint: &str) -> RegistryError {
        RegistryError::Unreachable { host: self.shown(), step, reason: reason.to_string(), hint: hint.into() }
    }
}

struct Connection {
    origin: Origin,
    sender: SendRequest<Body>,
    _driver: AbortOnDropHandle<()>,
}

/// Connections to the registries of one pull or push.
pub(super) struct Http {
    tls: Option<Arc<rustls::ClientConfig>>,
    proxies: Arc<Proxies>,
    idle: Mutex<Vec<Connection>>,
}

/// An answer whose body is still to be read.
pub(super) struct Answer<'a> {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    origin: Origin,
    body: Incoming,
    connection: Option<Connection>,
    http: &'a Http,
}

impl Http {
    /// Without `tls`, only plain connections are made.
    pub(super) fn new(tls: Option<Arc<rustls::ClientConfig>>, proxies: Arc<Proxies>) -> Self {
        Self { tls, proxies, idle: Mutex::new(Vec::new()) }
    }

    /// Sends a request to the origin of its absolute URI.
    pub(super) async fn send(&self, mut request: Request<Body>) -> Result<Answer<'_>, RegistryError> {
        let Some(origin) = Origin::of(request.uri()) else {
            let reason = format!("{} is neither http nor https", request.uri());
            return Err(RegistryError::Malformed { host: String::new(), asked: "address".into(), reason });
        };
        let mut connection = match self.kept(&origin) {
            Some(connection) => connection,
            None => self.connect(&origin).await?,
        };
        let authority = request.uri().authority().map(|authority| authority.as_str().to_owned()).unwrap_or_default();
        // A proxy passes a plain request on, and has to be told where to.
        if let Some(proxy) = self.proxies.to(&origin).filter(|_| !origin.tls) {
            if let Some(who) = &proxy.authorization {
                request.headers_mut().insert(PROXY_AUTHORIZATION, who.clone());
            }
        } else {
            let path = request.uri().path_and_query().cloned();
            *request.uri_mut() = path.map_or_else(|| Uri::from_static("/"), Uri::from);
        }
        if let Ok(host) = HeaderValue::from_str(&authority) {
            request.headers_mut().insert(HOST, host);
        }
        request.headers_mut().insert(USER_AGENT, HeaderValue::from_static(concat!("kith/", env!("CARGO_PKG_VERSION"))));
        let sent = timeout(HEAD_TIMEOUT, connection.sender.send_request(request)).await;
        let answer = sent
            .map_err(|_| origin.unreachable("request", "no answer within a minute", ""))?
            .map_err(|error| origin.unreachable("request", chain(&error), ""))?;
        let (head, body) = answer.into_parts();
        let connection = Some(connection);
        Ok(Answer { status: head.status, headers: head.headers, origin, body, connection, http: self })
    }

    fn kept(&self, origin: &Origin) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|connection| !connection.sender.is_closed());
        let at = idle.iter().position(|connection| connection.origin == *origin && connection.sender.is_ready())?;
        Some(idle.swap_remove(at))
    }

    fn keep(&self, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_MAX {
            idle.push(connection);
        }
    }

    async fn connect(&self, origin: &Origin) -> Result<Connection, RegistryError> {
        let stream = match self.proxies.to(origin) {
            None => dial(origin).await?,
            Some(proxy) => through(proxy, origin).await?,
        };
        if !origin.tls {
            return begin(origin, stream).await;
        }
        let Some(config) = &self.tls else {
            return Err(origin.unreachable("TLS handshake", "this pull speaks plain HTTP only", ""));
        };
        let bare = origin.host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(bare).map_err(|error| origin.unreachable("TLS handshake", error, ""))?;
        let handshake = tokio_rustls::TlsConnector::from(config.clone()).connect(name, stream);
        let stream = timeout(CONNECT_TIMEOUT, handshake)
            .await
            .map_err(|_| origin.unreachable("TLS handshake", "no answer within 10 seconds", ""))?
            .map_err(|error| origin.unreachable("TLS handshake", &error, &tls_hint(&error, origin)))?;
        begin(origin, stream).await
    }
}

/// Opens a connection to a proxy, and for TLS a tunnel through it.
async fn through(proxy: &Proxy, origin: &Origin) -> Result<TcpStream, RegistryError> {
    let failed = |reason: String| {
        let reason = format!("proxy {}: {reason}", proxy.origin.shown());
        origin.unreachable("connect", reason, "the proxy is set by [images] proxy in agent.toml, or by the environment")
    };
    let mut stream = dial(&proxy.origin).await.map_err(|error| match error {
        RegistryError::Unreachable { step, reason, .. } => failed(format!("{step}: {reason}")),
        other => other,
    })?;
    if origin.tls {
        let asked = timeout(CONNECT_TIMEOUT, proxy::tunnel(&mut stream, proxy, origin)).await;
        asked.map_err(|_| failed("no answer within 10 seconds".into()))?.map_err(failed)?;
    }
    Ok(stream)
}

/// Opens a TCP connection to the first address that takes it.
async fn dial(origin: &Origin) -> Result<TcpStream, RegistryError> {
    let bare = origin.host.trim_start_matches('[').trim_end_matches(']');
    let found = timeout(LOOKUP_TIMEOUT, tokio::net::lookup_host((bare, origin.port)))
        .await
        .map_err(|_| origin.unreachable("look up", "no name server answered within 10 seconds", ""))?
        .map_err(|error| origin.unreachable("look up", error, ""))?;
    let mut last = origin.unreachable("look up", "the name has no address", "");
    for address in found.take(ADDRESSES_MAX) {
        match timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Err(error)) => last = origin.unreachable("connect", error, ""),
            Err(_) => last = origin.unreachable("connect", format!("{address} did not answer within 10 seconds"), ""),
        }
    }
    Err(last)
}

async fn begin<S>(origin: &Origin, stream: S) -> Result<Connection, RegistryError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (sender, driver) = handshake.map_err(|error| origin.unreachable("connect", error, ""))?;
    let driver = AbortOnDropHandle::new(tokio::spawn(async move {
        let _ = driver.await;
    }));
    Ok(Connection { origin: origin.clone(), sender, _driver: driver })
}

fn tls_hint(error: &std::io::Error, origin: &Origin) -> String {
    let (text, table) = (error.to_string(), format!("[registries.{:?}] in agent.toml", origin.shown()));
    if text.contains("UnknownIssuer") {
        format!("name the authority that signed its certificate with ca_file under {table}")
    } else if text.contains("corrupt message") || text.contains("InvalidContentType") {
        format!("it seems to speak plain HTTP: if that is meant, set insecure = true under {table}")
    } else if text.contains("Expired") || text.contains("NotValidYet") {
        "compare this device's clock with the dates of the certificate".into()
    } else {
        String::new()
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

impl Answer<'_> {
    /// The next bytes of the body; `None` at its end.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, RegistryError> {
        loop {
            let next = timeout(STALL_TIMEOUT, self.body.frame()).await;
            let next = next.map_err(|_| self.origin.unreachable("read", "nothing came for 30 seconds", ""))?;
            match next {
                None => {
                    if let Some(connection) = self.connection.take() {
                        self.http.keep(connection);
                    }
                    return Ok(None);
                }
                Some(Err(error)) => return Err(self.origin.unreachable("read", chain(&error), "")),
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        return Ok(Some(bytes));
                    }
                }
            }
        }
    }

    /// The whole body, when it is not longer than `limit`.
    pub(super) async fn whole(mut self, limit: usize, asked: &str) -> Result<Vec<u8>, RegistryError> {
        let mut bytes = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            if bytes.len() + chunk.len() > limit {
                let reason = format!("the answer is longer than {limit} bytes");
                return Err(RegistryError::Malformed { host: self.origin.shown(), asked: asked.into(), reason });
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    /// A header as text; empty when it is not there.
    pub(super) fn header(&self, name: impl hyper::header::AsHeaderName) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}
