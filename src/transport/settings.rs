//! Times and limits of the transport, each with its unit.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::config::Profile;
use crate::identity::{Identity, Trust};

/// What a transport is bound with.
#[derive(Clone, Debug)]
pub struct TransportConfig {
    /// UDP address to listen on and to dial from.
    pub listen: SocketAddr,
    /// The keys that this device proves.
    pub identity: Arc<Identity>,
    /// The keys that it accepts; kept current by its owner.
    pub trust: Trust,
    /// How patient it is.
    pub timing: Timing,
    /// How much it takes in.
    pub limits: Limits,
}

impl TransportConfig {
    /// The settings of a profile.
    pub fn new(listen: SocketAddr, identity: Arc<Identity>, trust: Trust, profile: Profile) -> Self {
        Self { listen, identity, trust, timing: Timing::of(profile), limits: Limits::default() }
    }
}

/// How long to wait for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// A connection without a packet for so long is dead.
    pub idle: Duration,
    /// A quiet connection sends a packet this often; `None` leaves that to the fleet's heartbeats.
    pub keep_alive: Option<Duration>,
    /// A connection that nobody used for so long, and at most twice as long, is closed.
    pub unused: Duration,
    /// Whether larger packets than the internet's least are tried out, and tried again later.
    pub probe_mtu: bool,
    /// All of a handshake, with all addresses tried.
    pub handshake: Duration,
    /// Round-trip time assumed before one was measured: lost handshake packets are sent again
    /// after three of it.
    pub first_rtt: Duration,
    /// The next address of a peer is tried when the one before has not answered for so long.
    pub stagger: Duration,
    /// Pause after the first failed dial; doubles up to `backoff_max`, half of it drawn at random.
    pub backoff: Duration,
    /// Longest pause between dials.
    pub backoff_max: Duration,
    /// A call that ran out of time on a connection that was silent for so long drops it.
    pub silence: Duration,
}

impl Timing {
    /// The times that suit a profile.
    pub fn of(profile: Profile) -> Self {
        let ms = Duration::from_millis;
        match profile {
            Profile::Lan => Self {
                idle: ms(3_000),
                keep_alive: Some(ms(1_000)),
                unused: ms(60_000),
                probe_mtu: true,
                handshake: ms(2_000),
                first_rtt: ms(30),
                stagger: ms(100),
                backoff: ms(50),
                backoff_max: ms(1_000),
                silence: ms(250),
            },
            Profile::Wan => Self {
                idle: ms(15_000),
                keep_alive: Some(ms(5_000)),
                unused: ms(60_000),
                probe_mtu: true,
                handshake: ms(8_000),
                first_rtt: ms(150),
                stagger: ms(250),
                backoff: ms(250),
                backoff_max: ms(5_000),
                silence: ms(2_000),
            },
            Profile::Metered => Self {
                // A new handshake costs as much as a dozen words of the leader.
                idle: profile.sign_of_life() * 3,
                keep_alive: None,
                unused: profile.sign_of_life() * 3,
                probe_mtu: false,
                handshake: ms(20_000),
                first_rtt: ms(333),
                stagger: ms(1_000),
                backoff: ms(2_000),
                backoff_max: ms(60_000),
                silence: ms(10_000),
            },
        }
    }
}

/// How much is taken in at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests and byte streams that one peer may have open on one connection. A connection's
    /// idle memory grows with it.
    pub streams: u32,
    /// Bytes of one request or one answer.
    pub message: usize,
    /// Bytes of one stream that may be on the way.
    pub stream_window: u32,
    /// Bytes of one connection that may be on the way.
    pub connection_window: u32,
    /// Handshakes at once.
    pub handshakes: usize,
    /// Joins at once.
    pub joins: usize,
    /// Connections that one peer may have; two dials that cross make two.
    pub links: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            streams: 64,
            message: 64 << 20,
            stream_window: 256 << 10,
            connection_window: 1 << 20,
            handshakes: 64,
            joins: 8,
            links: 4,
        }
    }
}
