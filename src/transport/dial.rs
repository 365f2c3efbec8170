//! Dialling: all addresses of a peer, one after the other without waiting long, the first that
//! proves the expected key and accepts ours wins.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use quinn::{Connection, ConnectionError, Endpoint};
use tokio::time::Instant;

use super::frame::{FrameError, code};
use super::link::Link;
use super::tls::SERVER_NAME;

/// TLS alert `access_denied` as a QUIC error code: a key was not accepted.
const ACCESS_DENIED: u64 = 0x100 | 49;

/// The most addresses of one peer that are tried in one dial.
const ADDRESS_LIMIT: usize = 16;

/// What an address answered.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    /// The key was refused, by this side or by the other.
    pub(super) untrusted: bool,
    pub(super) reason: String,
}

/// Tries all addresses until `timeout`; `Err` says what each of them answered.
pub(super) async fn dial(
    endpoint: &Endpoint,
    config: &quinn::ClientConfig,
    addresses: &[SocketAddr],
    stagger: Duration,
    timeout: Duration,
) -> Result<Connection, Failure> {
    if addresses.is_empty() {
        return Err(Failure { untrusted: false, reason: "no address of it is known".into() });
    }
    let deadline = Instant::now() + timeout;
    let mut waiting = addresses.iter().take(ADDRESS_LIMIT);
    let mut attempts = FuturesUnordered::new();
    let mut failures: Vec<(SocketAddr, Failure)> = Vec::new();
    loop {
        let next = waiting.next();
        if let Some(&address) = next {
            attempts.push(async move { (address, attempt(endpoint, config.clone(), address).await) });
        } else if attempts.is_empty() {
            return Err(summary(&failures));
        }
        let until = if next.is_some() { (Instant::now() + stagger).min(deadline) } else { deadline };
        // `attempts` keeps what has not ended, so a step that times out loses nothing.
        match tokio::time::timeout_at(until, attempts.next()).await {
            Ok(Some((_, Ok(connection)))) => return Ok(connection),
            Ok(Some((address, Err(failure)))) => failures.push((address, failure)),
            Ok(None) => {}
            Err(_) if Instant::now() >= deadline => {
                let silent = addresses.iter().filter(|address| failures.iter().all(|(known, _)| known != *address));
                let reason = format!("no answer within {timeout:?}");
                let silent: Vec<_> =
                    silent.map(|address| (*address, Failure { untrusted: false, reason: reason.clone() })).collect();
                failures.extend(silent);
                return Err(summary(&failures));
            }
            Err(_) => {}
        }
    }
}

async fn attempt(endpoint: &Endpoint, config: quinn::ClientConfig, address: SocketAddr) -> Result<Connection, Failure> {
    let connecting = endpoint
        .connect_with(config, address, SERVER_NAME)
        .map_err(|error| Failure { untrusted: false, reason: error.to_string() })?;
    let connection = connecting.await.map_err(|error| explain(&error))?;
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
    let untrusted = !failures.is_empty() && failures.iter().all(|(_, failure)| failure.untrusted);
    let reasons: Vec<_> = failures.iter().map(|(address, failure)| format!("{address}: {}", failure.reason)).collect();
    Failure { untrusted, reason: reasons.join("; ") }
}
