//! Connections between devices: one QUIC connection for each pair, requests and byte streams on
//! it. It moves bytes between keys that the fleet trusts; it never looks inside them.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::identity::{DeviceKey, Member};

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
}

/// Asks peers: a request and an answer, both opaque bytes.
pub trait Wire: Send + Sync + 'static {
    /// Sends a request to a member and waits for its answer.
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
}

/// Why a join was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum JoinRefusal {
    /// No such token here.
    #[error("this fleet knows no such token; it may have been revoked, used up long ago, or made by another fleet")]
    UnknownToken,
    /// Too late.
    #[error("the token expired at {at}")]
    Expired {
        /// When, RFC 3339.
        at: String,
    },
    /// Another device used it.
    #[error("the token was already used")]
    Used,
    /// The secret is wrong.
    #[error("the token's secret is wrong")]
    WrongSecret,
    /// The name is taken by another key.
    #[error("a device named {name} is already a member of this fleet")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// No leader could be reached to admit the device.
    #[error("the fleet can not admit a device now: {reason}")]
    Unavailable {
        /// Why.
        reason: String,
    },
}
