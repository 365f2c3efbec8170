//! Dialling: all addresses of a peer, one after the other without waiting long, the first that
//! proves the expected key and accepts ours wins.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use quinn::{Connection, ConnectionError, Endpoint};
use tokio::time::{Instant, timeout_at};

use super::frame::{FrameError, code};
use super::link::Link;
use super::tls::SERVER_NAME;

/// TLS alert `access_denied` (49) as a QUIC error code: a key was not accepted.
const ACCESS_DENIED: u64 = 0x100 | 0x31;

/// The most addresses of one peer that are tried in one dial.
const ADDRESS_LIMIT: usize = 16;

/// What an address answered.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    /// The key was refused, by this side or by the other.
    pub(super) untrusted: bool,
    pub(super) reason: String,
}

/// Connections to several addresses under way, each begun a little after the one before.
pub(super) struct Attempts<'a, F> {
    waiting: std::slice::Iter<'a, SocketAddr>,
    running: FuturesUnordered<BoxFuture<'a, (SocketAddr, Result<Connection, Failure>)>>,
    open: Vec<SocketAddr>,
    begin: F,
    stagger: Duration,
    deadline: Instant,
    timeout: Duration,
}

impl<'a, F, R> Attempts<'a, F>
where
    F: Fn(SocketAddr) -> R,
    R: Future<Output = Result<Connection, Failure>> + Send + 'a,
{
    pub(super) fn new(addresses: &'a [SocketAddr], stagger: Duration, timeout: Duration, begin: F) -> Self {
        let (first, _) = addresses.split_at(addresses.len().min(ADDRESS_LIMIT));
        let deadline = Instant::now() + timeout;
        let (waiting, running, open) = (first.iter(), FuturesUnordered::new(), Vec::new());
        Self { waiting, running, open, begin, stagger, deadline, timeout }
    }

    /// The next address that answered or failed; `None` when all have. Silence until the deadline
    /// is a failure too.
    pub(super) async fn next(&mut self) -> Option<(SocketAddr, Result<Connection, Failure>)> {
        loop {
            let next = self.waiting.next();
            if let Some(&address) = next {
                let attempt = (self.begin)(address);
                self.open.push(address);
                self.running.push(Box::pin(async move { (address, attempt.await) }));
            }
            let until = if next.is_some() { self.deadline.min(Instant::now() + self.stagger) } else { self.deadline };
            // `running` keeps what has not ended, so a step that times out loses nothing.
            match timeout_at(until, self.running.next()).await {
                Ok(Some((address, ended))) => {
                    self.open.retain(|open| *open != address);
                    return Some((address, ended));
                }
                Ok(None) if next.is_none() => return self.silent(),
                Err(_) if Instant::now() >= self.deadline => {
                    // Dropping attempts closes them.
                    self.running.clear();
                    self.open.extend(std::mem::take(&mut self.waiting));
                    return self.silent();
                }
                Ok(None) | Err(_) => {}
            }
        }
    }
}

impl<F> Attempts<'_, F> {
    /// One of the addresses that neither answered nor failed.
    fn silent(&mut self) -> Option<(SocketAddr, Result<Connection, Failure>)> {
        let reason = format!("no answer within {:?}", self.timeout);
        self.open.pop().map(|address| (address, Err(Failure { untrusted: false, reason })))
    }
}

/// Connects to the first address that proves the expected key and accepts ours; `Err` says what
/// each of them answered.
pub(super) async fn dial(
    endpoint: &Endpoint,
    config: &quinn::ClientConfig,
    addresses: &[SocketAddr],
    stagger: Duration,
    timeout: Duration,
) -> Result<Connection, Failure> {
    let begin = |address| attempt(endpoint, config.clone(), address);
    let mut attempts = Attempts::new(addresses, stagger, timeout, begin);
    let mut failures = Vec::new();
    while let Some((address, ended)) = attempts.next().await {
        match ended {
            Ok(connection) => return Ok(connection),
            Err(failure) => failures.push((address, failure)),
        }
    }
    Err(summary(&failures))
}

/// A connection, handshake finished on this side.
pub(super) async fn connect(
    endpoint: &Endpoint,
    config: quinn::ClientConfig,
    address: SocketAddr,
) -> Result<Connection, Failure> {
    let connecting = endpoint
        .connect_with(config, address, SERVER_NAME)
        .map_err(|error| Failure { untrusted: false, reason: error.to_string() })?;
    connecting.await.map_err(|error| explain(&error))
}

async fn attempt(endpoint: &Endpoint, config: quinn::ClientConfig, address: SocketAddr) -> Result<Connection, Failure> {
    let connection = connect(endpoint, config, address).await?;
    match Link::hello(&connection).await {
        Ok(()) => Ok(connection),
        Err(FrameError::Lost(error)) => Err(explain(&error)),
        Err(error) => Err(Failure { untrusted: false, reason: error.to_string() }),
    }
}

/// What the end of a connection means.
pub(super) fn explain(error: &ConnectionError) -> Failure {
    let refused = |reason: &str| Failure { untrusted: true, reason: reason.to_owned() };
    match error {
        ConnectionError::TransportError(error) if u64::from(error.code) == ACCESS_DENIED => {
            refused("another device answers at this address")
        }
        ConnectionError::ConnectionClosed(close) if u64::from(close.error_code) == ACCESS_DENIED => {
            refused("it does not trust this device's key")
        }
        ConnectionError::ApplicationClosed(close) if close.error_code == code::REMOVED => {
            refused("it removed this device from its fleet")
        }
        other => Failure { untrusted: false, reason: other.to_string() },
    }
}

/// One reason for all: a refusal of keys only if no address might still be the right one.
fn summary(failures: &[(SocketAddr, Failure)]) -> Failure {
    if failures.is_empty() {
        return Failure { untrusted: false, reason: "no address of it is known".into() };
    }
    let untrusted = failures.iter().all(|(_, failure)| failure.untrusted);
    let reasons: Vec<_> = failures.iter().map(|(address, failure)| format!("{address}: {}", failure.reason)).collect();
    Failure { untrusted, reason: reasons.join("; ") }
}
