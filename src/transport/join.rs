//! Joining: a device that holds a token and a device of the fleet prove to each other what they
//! know of it, over one connection.
//!
//! ```text
//! joiner -> fleet   Name  { token id }            (its key is proved by the handshake)
//! fleet  -> joiner  Proof { HMAC(SHA-256(secret), exporter of this TLS session) }
//! joiner -> fleet   Show  { secret, member }      (only after the proof held)
//! fleet  -> joiner  Granted | Refused
//! ```
//!
//! The proof is bound to the TLS session, so nobody in between can pass it on. An impostor never
//! sees the secret, and a stranger without the secret learns nothing but whether a token id exists.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use quinn::{Connection, Endpoint, EndpointConfig, RecvStream, SendStream, TokioRuntime};
use ring::hmac;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::dial::{Attempts, connect, explain};
use super::endpoint::Inner;
use super::frame::{self, FrameError, code};
use super::tls::{Expect, JOIN, Tls, TlsError};
use super::{JoinAsk, JoinGrant, JoinRefusal};
use crate::identity::{DeviceKey, Identity, Member, Token, token};
use crate::store::codec;

pub(super) const EXPORTER_LABEL: &[u8] = b"EXPORTER-kith-join-1";

/// Bytes of a message of a joiner.
const ASK_LIMIT: usize = 16 << 10;
/// Bytes of a message to a joiner; a grant lists all members.
const GRANT_LIMIT: usize = 4 << 20;
/// Bytes of a token's id.
const ID_LIMIT: usize = 64;
/// How long each step of a stranger may take.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the fleet may take to admit a device.
const ADMIT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the addresses of a token may take to answer a joiner, and how long the next one waits
/// for the one before.
const REACH_TIMEOUT: Duration = Duration::from_secs(6);
const REACH_STAGGER: Duration = Duration::from_millis(250);
/// Round-trip time assumed at first: a lost packet is sent again after three of it.
const FIRST_RTT: Duration = Duration::from_millis(150);
/// How often a joiner that waits for its grant makes sure that the fleet is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// How long the last packet to the fleet may take to leave.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(200);

/// What a joiner says; its form is fixed by `tests/golden/wire-join-1.txt`, as that of the answers.
#[derive(Serialize, Deserialize)]
pub(super) enum Ask {
    Name { token: String },
    Show { secret: [u8; 20], member: Member, replace: bool },
}

/// What it is answered.
#[derive(Serialize, Deserialize)]
pub(super) enum Answer {
    Proof([u8; 32]),
    Granted(JoinGrant),
    Refused(JoinRefusal),
}

/// Why this device could not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// No device of the token's fleet answered.
    #[error("none of the token's addresses answered: {reason}")]
    Unreachable {
        /// What each address answered.
        reason: String,
    },
    /// A device answered that does not know this token's secret.
    #[error(
        "the device at {address} could not prove that it belongs to the token's fleet; the secret was not shown to it"
    )]
    Impostor {
        /// Its address.
        address: SocketAddr,
    },
    /// The fleet said no.
    #[error("the fleet refused: {0}")]
    Refused(#[source] JoinRefusal),
    /// The fleet granted something else than the token says.
    #[error("the device at {address} belongs to fleet {found}, but the token is of fleet {expected}")]
    OtherFleet {
        /// Its address.
        address: SocketAddr,
        /// Its fleet.
        found: String,
        /// The token's fleet.
        expected: String,
    },
    /// The secret was shown, but no answer came: the fleet may have admitted this device.
    #[error("the connection to {address} broke before the fleet's answer came ({reason}): run the same command again")]
    Interrupted {
        /// Its address.
        address: SocketAddr,
        /// Why.
        reason: String,
    },
    /// This device can not open a socket.
    #[error("open a UDP socket")]
    Socket(#[from] std::io::Error),
    /// This device's keys do not work.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Enters a fleet with a token. Repeating it with the same keys is safe: a device that was admitted
/// before gets its grant again.
pub async fn join(token: &Token, identity: &Identity, member: Member, replace: bool) -> Result<JoinGrant, JoinError> {
    let mut config = Tls::new(identity)?.client(Expect::Anyone, JOIN)?;
    let mut quic = quinn::TransportConfig::default();
    quic.initial_rtt(FIRST_RTT).keep_alive_interval(Some(KEEP_ALIVE));
    // The fleet's device opens no stream to a joiner.
    quic.max_concurrent_bidi_streams(0u8.into()).max_concurrent_uni_streams(0u8.into());
    config.transport_config(Arc::new(quic));
    let endpoint = Endpoint::new(EndpointConfig::default(), None, any_socket()?, Arc::new(TokioRuntime))?;
    let begin = |address| connect(&endpoint, config.clone(), address);
    let mut attempts = Attempts::new(&token.addresses, REACH_STAGGER, REACH_TIMEOUT, begin);
    let mut reasons = Vec::new();
    let mut refusal = None;
    while let Some((address, reached)) = attempts.next().await {
        let connection = match reached {
            Ok(connection) => connection,
            Err(failure) => {
                reasons.push(format!("{address}: {}", failure.reason));
                continue;
            }
        };
        match ask(&connection, address, token, (member.clone(), replace)).await {
            Ok(grant) => {
                connection.close(code::DONE, b"joined");
                // So that the fleet's device need not wait for a timeout.
                let _ = timeout(CLOSE_TIMEOUT, endpoint.wait_idle()).await;
                return Ok(grant);
            }
            // Another device of the fleet may be able to.
            Err(JoinError::Refused(refused @ JoinRefusal::Unavailable { .. })) => refusal = Some(refused),
            Err(JoinError::Unreachable { reason }) => reasons.push(format!("{address}: {reason}")),
            Err(other) => return Err(other),
        }
    }
    if token.addresses.is_empty() {
        reasons.push("the token has no address".into());
    }
    Err(refusal.map_or(JoinError::Unreachable { reason: reasons.join("; ") }, JoinError::Refused))
}

fn any_socket() -> std::io::Result<UdpSocket> {
    // Reaches both families where the device has both.
    UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).or_else(|_| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))
}

async fn ask(
    connection: &Connection,
    address: SocketAddr,
    token: &Token,
    (member, replace): (Member, bool),
) -> Result<JoinGrant, JoinError> {
    let unreachable = |reason: String| JoinError::Unreachable { reason };
    let broken = |error: FrameError| match error {
        FrameError::Lost(error) => unreachable(explain(&error).reason),
        other => unreachable(other.to_string()),
    };
    let (mut send, mut recv) = connection.open_bi().await.map_err(|error| broken(error.into()))?;
    let name = Ask::Name { token: token.id.clone() };
    say(&mut send, &name, ASK_LIMIT).await.map_err(broken)?;
    match hear(&mut recv, GRANT_LIMIT, STEP_TIMEOUT * 2).await.map_err(broken)? {
        Answer::Proof(shown) => {
            let key = proof_key(&token.hash());
            let session = exporter(connection, &token.id).ok_or(JoinError::Impostor { address })?;
            hmac::verify(&key, &session, &shown).map_err(|_| JoinError::Impostor { address })?;
        }
        Answer::Refused(refusal) => return Err(JoinError::Refused(refusal)),
        Answer::Granted(_) => return Err(JoinError::Impostor { address }),
    }
    let interrupted = |error: FrameError| JoinError::Interrupted { address, reason: error.to_string() };
    let show = Ask::Show { secret: token.secret, member, replace };
    say(&mut send, &show, ASK_LIMIT).await.map_err(interrupted)?;
    let _ = send.finish();
    match hear(&mut recv, GRANT_LIMIT, ADMIT_TIMEOUT + STEP_TIMEOUT).await.map_err(interrupted)? {
        Answer::Granted(grant) if grant.fleet == token.fleet => Ok(grant),
        Answer::Granted(grant) => {
            Err(JoinError::OtherFleet { address, found: grant.fleet, expected: token.fleet.clone() })
        }
        Answer::Refused(refusal) => Err(JoinError::Refused(refusal)),
        Answer::Proof(_) => Err(interrupted(FrameError::Short)),
    }
}

/// Answers one joiner, whose key was proved by the handshake.
pub(super) async fn answer(inner: &Inner, connection: &Connection, key: DeviceKey) {
    let Ok(_permit) = inner.joins.try_acquire() else {
        connection.close(code::BUSY, b"too many devices join at once: try again");
        return;
    };
    match converse(inner, connection, key).await {
        Ok(mut send) => {
            let _ = send.finish();
            // The joiner closes once it has the answer.
            let _ = timeout(STEP_TIMEOUT, connection.closed()).await;
        }
        Err(error) => tracing::debug!(joiner = %key, %error, "a join was broken off"),
    }
    connection.close(code::DONE, b"");
}

async fn converse(inner: &Inner, connection: &Connection, key: DeviceKey) -> Result<SendStream, FrameError> {
    let (mut send, mut recv) = timeout(STEP_TIMEOUT, connection.accept_bi()).await.map_err(|_| FrameError::Short)??;
    let Ask::Name { token } = hear(&mut recv, ASK_LIMIT, STEP_TIMEOUT).await? else {
        return Err(FrameError::Aborted(code::NONSENSE));
    };
    let outcome = admit(inner, connection, key, token, (&mut send, &mut recv)).await?;
    let answer = match outcome {
        Ok(grant) => Answer::Granted(grant),
        Err(refusal) => {
            tracing::info!(joiner = %key, reason = %refusal, "a join was refused");
            Answer::Refused(refusal)
        }
    };
    say(&mut send, &answer, GRANT_LIMIT).await?;
    Ok(send)
}

async fn admit(
    inner: &Inner,
    connection: &Connection,
    key: DeviceKey,
    token: String,
    (send, recv): (&mut SendStream, &mut RecvStream),
) -> Result<Result<JoinGrant, JoinRefusal>, FrameError> {
    let late = || JoinRefusal::Unavailable { reason: format!("no answer within {ADMIT_TIMEOUT:?}") };
    if token.len() > ID_LIMIT {
        return Ok(Err(JoinRefusal::UnknownToken));
    }
    let service = inner.service().await;
    let hash = match timeout(ADMIT_TIMEOUT, service.token_hash(&token)).await.unwrap_or_else(|_| Err(late())) {
        Ok(hash) => hash,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let session = exporter(connection, &token).ok_or(FrameError::Short)?;
    let mut proof = [0; 32];
    proof.copy_from_slice(hmac::sign(&proof_key(&hash), &session).as_ref());
    say(send, &Answer::Proof(proof), GRANT_LIMIT).await?;
    let Ask::Show { secret, member, replace } = hear(recv, ASK_LIMIT, STEP_TIMEOUT).await? else {
        return Err(FrameError::Aborted(code::NONSENSE));
    };
    if !token::matches(&secret, &hash) {
        return Ok(Err(JoinRefusal::WrongSecret));
    }
    if member.key != key {
        // Only a faulty or hostile joiner names a key that it does not have.
        return Err(FrameError::Aborted(code::NONSENSE));
    }
    let admitted = timeout(ADMIT_TIMEOUT, service.join(JoinAsk { token, member, replace })).await;
    Ok(admitted.unwrap_or_else(|_| Err(late())))
}

/// Both sides' messages, for fuzzers.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn decode_any(bytes: &[u8]) {
    let _ = codec::decode::<Ask>(bytes);
    let _ = codec::decode::<Answer>(bytes);
}

pub(super) fn proof_key(hash: &[u8; 32]) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, hash)
}

/// Bytes that only the two ends of this very TLS session know.
fn exporter(connection: &Connection, token: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    connection.export_keying_material(&mut bytes, EXPORTER_LABEL, token.as_bytes()).ok()?;
    Some(bytes)
}

async fn say<T: Serialize>(send: &mut SendStream, message: &T, limit: usize) -> Result<(), FrameError> {
    let bytes = codec::encode(message).map_err(|_| FrameError::Short)?;
    frame::write(send, &bytes, limit).await
}

async fn hear<T: serde::de::DeserializeOwned>(
    recv: &mut RecvStream,
    limit: usize,
    wait: Duration,
) -> Result<T, FrameError> {
    let bytes = timeout(wait, frame::read(recv, limit)).await.map_err(|_| FrameError::Short)??;
    codec::decode(&bytes).map_err(|_| FrameError::Aborted(code::NONSENSE))
}
