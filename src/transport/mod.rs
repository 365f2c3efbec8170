//! Connections between devices: one QUIC connection for each pair, requests and byte streams on
//! it. It moves bytes between keys that the fleet trusts; it never looks inside them.

mod accept;
mod dial;
mod endpoint;
mod frame;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
pub mod join;
mod link;
pub mod multicast;
mod peer;
mod settings;
mod tls;

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::identity::{DeviceKey, Epoch, Member};

pub use crate::identity::JoinRefusal;
pub use endpoint::{BindError, Transport};
pub use join::JoinError;
pub use settings::{Limits, Timing, TransportConfig};

/// A peer could not be asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WireError {
    /// No address of the peer answered.
    #[error("reach {peer}: {reason}")]
    Unreachable {
        /// The peer's name.
        peer: String,
        /// What each address answered.
        reason: String,
    },
    /// The connection is up, but the answer did not come.
    #[error("{peer} did not answer within {waited:?}")]
    TimedOut {
        /// The peer's name.
        peer: String,
        /// How long the caller waited.
        waited: Duration,
    },
    /// The peer does not trust this device, or this device does not trust the peer.
    #[error("{peer} is not trusted: {reason}")]
    Untrusted {
        /// The peer's name.
        peer: String,
        /// Which side refused, and why.
        reason: String,
    },
    /// A request or an answer is larger than the other side takes.
    #[error("a message to or from {peer} is too large{}: the limit is {limit} bytes", size.map(|size| format!(" ({size} bytes)")).unwrap_or_default())]
    TooLarge {
        /// The peer's name.
        peer: String,
        /// Its size in bytes, when it is known.
        size: Option<u64>,
        /// The limit in bytes.
        limit: usize,
    },
}

/// How a peer stands, as far as this device knows. Soft state: it is never written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// The latest moment at which a packet of it is known to have arrived.
    pub seen: std::time::Instant,
    /// Round-trip time, as last measured.
    pub rtt: Duration,
    /// Whether a connection to it is up.
    pub connected: bool,
    /// Bytes of UDP payload that went to it since the agent started.
    pub sent: u64,
    /// Bytes that came from it.
    pub received: u64,
}

/// Asks peers: a request and an answer, both opaque bytes.
pub trait Wire: Send + Sync + 'static {
    /// Sends a request to a member and waits for its answer. When the connection breaks in between,
    /// the request is sent once more, so it may arrive twice: requests must bear that.
    fn call<'a>(
        &'a self,
        peer: &'a Member,
        request: Vec<u8>,
        timeout: Duration,
    ) -> BoxFuture<'a, Result<Vec<u8>, WireError>>;
}

/// A two-way byte stream.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// What this device answers to its peers and to those who hold a join token.
pub trait Service: Send + Sync + 'static {
    /// Answers a request of a trusted peer.
    fn call(&self, from: DeviceKey, request: Vec<u8>) -> BoxFuture<'_, Vec<u8>>;

    /// Takes over a byte stream that a trusted peer opened to this device's HTTP API.
    fn stream(&self, from: DeviceKey, stream: Box<dyn ByteStream>);

    /// The SHA-256 of a join token's secret: with it this device proves to the joiner that it
    /// belongs to the token's fleet, before the joiner shows the secret.
    fn token_hash<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<[u8; 32], JoinRefusal>>;

    /// Consumes a token whose secret was shown, and makes its bearer a member.
    fn join(&self, ask: JoinAsk) -> BoxFuture<'_, Result<JoinGrant, JoinRefusal>>;
}

/// A device that showed a token's secret, and who it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinAsk {
    /// The token's id.
    pub token: String,
    /// The device as it wants to be known; the key is the one that it proved on this connection.
    pub member: Member,
    /// It takes the place of the member that has its name now.
    pub replace: bool,
}

/// What a new member needs to take part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinGrant {
    /// The fleet's id.
    pub fleet: String,
    /// The id that was handed out: never used before, never used again.
    pub member_id: u64,
    /// Everyone, the new member included.
    pub members: BTreeMap<u64, Member>,
    /// Certificate of the fleet's authority for the HTTPS API, PEM.
    pub authority: String,
    /// The fleet's epoch.
    pub epoch: Epoch,
}

#[cfg(test)]
mod tests;
