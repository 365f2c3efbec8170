//! The transport itself: one UDP socket, a connection for each peer made when it is first needed,
//! and the end of connections whose key is no longer trusted.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use quinn::{Connection, Endpoint, EndpointConfig, IdleTimeout, TokioRuntime, VarInt};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::dial::{self, dial};
use super::frame::{FrameError, code};
use super::link::Link;
use super::peer::{Peer, Way};
use super::settings::{Limits, Timing, TransportConfig};
use super::tls::{Expect, PEER, Tls, TlsError};
use super::{ByteStream, Reach, Service, Wire, WireError};
use crate::identity::{DeviceKey, Member, Trust};

/// How long two connections of one pair may live side by side before one is given up.
const DUPLICATE_GRACE: Duration = Duration::from_secs(5);

/// How long the acceptance of a byte stream may take once a connection is there.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a shutdown waits for tasks to end, and then for the last packets to leave.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);
const DRAIN_TIMEOUT: Duration = Duration::from_millis(500);

/// Handshakes that wait to be looked at, and bytes kept for all of them.
const INCOMING_LIMIT: usize = 128;
const INCOMING_BYTES: u64 = 256 << 10;

/// Bytes of a connection id.
const ID_LEN: usize = 8;

/// The transport can not start.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address can not be listened on.
    #[error("listen for other devices on {address} (UDP, peer_listen in agent.toml)")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// The keys do not work.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A setting is out of range.
    #[error("{setting} is out of range")]
    Setting {
        /// Which.
        setting: &'static str,
    },
}

/// Connections to all peers. Clones share them.
#[derive(Clone)]
pub struct Transport(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) endpoint: Endpoint,
    pub(super) tls: Tls,
    pub(super) own: DeviceKey,
    pub(super) trust: Trust,
    pub(super) timing: Timing,
    pub(super) limits: Limits,
    pub(super) server: quinn::ServerConfig,
    quic: Arc<quinn::TransportConfig>,
    peers: Mutex<BTreeMap<DeviceKey, Arc<Peer>>>,
    pub(super) service: watch::Sender<Option<Arc<dyn Service>>>,
    serving: AtomicBool,
    pub(super) stop: CancellationToken,
    pub(super) tasks: TaskTracker,
    pub(super) handshakes: Arc<Semaphore>,
    pub(super) joins: Arc<Semaphore>,
    links: AtomicU64,
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transport").field("own", &self.0.own).finish_non_exhaustive()
    }
}

impl Transport {
    /// Binds the socket. Peers can be called from now on; they are answered from
    /// [`serve`](Self::serve) on. Needs a tokio runtime around it.
    pub fn bind(config: TransportConfig) -> Result<Self, BindError> {
        let TransportConfig { listen, identity, trust, timing, limits } = config;
        let listen_error = |source| BindError::Listen { address: listen, source };
        let tls = Tls::new(&identity)?;
        let quic = quic_settings(&timing, &limits)?;
        let mut server = quinn::ServerConfig::with_crypto(Arc::new(tls.server(trust.clone())?));
        server.transport_config(quic.clone());
        server.max_incoming(INCOMING_LIMIT);
        server.incoming_buffer_size(INCOMING_BYTES / 4).incoming_buffer_size_total(INCOMING_BYTES);
        let socket = UdpSocket::bind(listen).map_err(listen_error)?;
        let settings = endpoint_settings(identity.reset_secret());
        let endpoint = Endpoint::new(settings, Some(server.clone()), socket, Arc::new(TokioRuntime));
        let inner = Arc::new(Inner {
            endpoint: endpoint.map_err(listen_error)?,
            tls,
            own: identity.key(),
            trust,
            timing,
            limits,
            server,
            quic,
            peers: Mutex::default(),
            service: watch::Sender::new(None),
            serving: AtomicBool::new(false),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            handshakes: Arc::new(Semaphore::new(limits.handshakes)),
            joins: Arc::new(Semaphore::new(limits.joins)),
            links: AtomicU64::new(0),
        });
        inner.tasks.spawn(inner.clone().follow_trust());
        Ok(Self(inner))
    }

    /// The address that the socket got.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.0.endpoint.local_addr()
    }

    /// Answers peers and joiners with this service, until [`shutdown`](Self::shutdown).
    pub fn serve(&self, service: Arc<dyn Service>) {
        if self.0.stop.is_cancelled() {
            return;
        }
        self.0.service.send_replace(Some(service));
        if !self.0.serving.swap(true, Ordering::Relaxed) {
            self.0.tasks.spawn(self.0.clone().accept_all());
        }
    }

    /// Opens a byte stream to a peer's HTTP API.
    pub async fn open(&self, peer: &Member) -> Result<Box<dyn ByteStream>, WireError> {
        let wait = OPEN_TIMEOUT + self.0.timing.handshake;
        let stream = self.0.exchange(peer, wait, |link| async move { link.open().await }).await?;
        Ok(Box::new(stream))
    }

    /// Somebody says that a peer is at this address: it is dialled first, if there is no connection.
    pub fn hint(&self, key: DeviceKey, address: SocketAddr) {
        if self.0.trust.contains(&key) && key != self.0.own {
            self.0.peer(key).hint(address);
        }
    }

    /// Every peer that was ever heard since the start, and when.
    pub fn reachable(&self) -> BTreeMap<DeviceKey, Reach> {
        let peers: Vec<_> = self.0.peers().values().cloned().collect();
        peers.iter().filter_map(|peer| Some((peer.key, peer.reach()?))).collect()
    }

    /// Ends all connections and waits until nothing of this transport runs any more. The socket is
    /// closed when the last clone is dropped.
    pub async fn shutdown(&self) {
        self.0.stop.cancel();
        self.0.service.send_replace(None);
        self.0.endpoint.close(code::STOPPING, b"stopping");
        self.0.tasks.close();
        if timeout(SHUTDOWN_TIMEOUT, self.0.tasks.wait()).await.is_err() {
            tracing::warn!(running = self.0.tasks.len(), "tasks of the transport did not end in time");
        }
        self.0.peers().clear();
        // Peers that did not get the last packet notice by their idle timeout.
        let _ = timeout(DRAIN_TIMEOUT, self.0.endpoint.wait_idle()).await;
    }
}

impl Wire for Transport {
    fn call<'a>(
        &'a self,
        peer: &'a Member,
        request: Vec<u8>,
        timeout: Duration,
    ) -> BoxFuture<'a, Result<Vec<u8>, WireError>> {
        Box::pin(async move {
            let (request, limit) = (&request[..], self.0.limits.message);
            self.0.exchange(peer, timeout, |link| async move { link.call(request, limit).await }).await
        })
    }
}

impl Inner {
    pub(super) fn peers(&self) -> std::sync::MutexGuard<'_, BTreeMap<DeviceKey, Arc<Peer>>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn peer(&self, key: DeviceKey) -> Arc<Peer> {
        self.peers().entry(key).or_insert_with(|| Arc::new(Peer::new(self.own, key))).clone()
    }

    /// Does something over a connection to a peer. A connection that turns out to be dead (the peer
    /// restarted) is replaced once within the time.
    async fn exchange<T, F, R>(self: &Arc<Self>, member: &Member, wait: Duration, step: F) -> Result<T, WireError>
    where
        F: Fn(Arc<Link>) -> R,
        R: Future<Output = Result<T, FrameError>>,
    {
        let name = || member.name.clone();
        let deadline = Instant::now() + wait;
        let mut replaced = false;
        loop {
            let (peer, link) = self.link_to(member, deadline).await?;
            let error = match self.watched(&link, step(link.clone()), deadline, !replaced).await {
                Some(Ok(answer)) => return Ok(answer),
                Some(Err(error)) => error,
                None => {
                    peer.drop_silent(self.timing.silence);
                    return Err(WireError::TimedOut { peer: name(), waited: wait });
                }
            };
            let reason = match error {
                FrameError::Lost(error) => match dial::explain(&error) {
                    refused if refused.untrusted => {
                        return Err(WireError::Untrusted { peer: name(), reason: refused.reason });
                    }
                    _ if !replaced => {
                        replaced = true;
                        continue;
                    }
                    lost => lost.reason,
                },
                FrameError::TooLarge { size, limit } => {
                    return Err(WireError::TooLarge { peer: name(), size: Some(size), limit });
                }
                FrameError::Aborted(code::TOO_LARGE) => {
                    return Err(WireError::TooLarge { peer: name(), size: None, limit: self.limits.message });
                }
                error @ (FrameError::Aborted(_) | FrameError::Short) => error.to_string(),
            };
            return Err(WireError::Unreachable { peer: name(), reason });
        }
    }

    /// Runs a step until the deadline (`None`). While another connection may still be tried, one
    /// that stays silent is closed early, which ends the step as lost.
    async fn watched<T>(
        &self,
        link: &Link,
        step: impl Future<Output = Result<T, FrameError>>,
        deadline: Instant,
        replaceable: bool,
    ) -> Option<Result<T, FrameError>> {
        let mut step = pin!(step);
        loop {
            let look = (Instant::now() + self.timing.silence).min(deadline);
            if let Ok(ended) = timeout_at(look, step.as_mut()).await {
                return Some(ended);
            }
            if Instant::now() >= deadline {
                return None;
            }
            if replaceable && link.silent() >= 2 * self.timing.silence {
                link.connection.close(code::SILENT, b"no answer");
            }
        }
    }

    async fn link_to(
        self: &Arc<Self>,
        member: &Member,
        deadline: Instant,
    ) -> Result<(Arc<Peer>, Arc<Link>), WireError> {
        if member.key == self.own || !self.trust.contains(&member.key) {
            let reason =
                if member.key == self.own { "it is this device itself" } else { "this device does not list it" };
            return Err(WireError::Untrusted { peer: member.name.clone(), reason: reason.into() });
        }
        let unreachable = |reason: &str| WireError::Unreachable { peer: member.name.clone(), reason: reason.into() };
        let peer = self.peer(member.key);
        let since = peer.ended();
        loop {
            let mut changed = pin!(peer.changed.notified());
            // From here on no change is missed, so the state can be looked at.
            changed.as_mut().enable();
            let mut wake = deadline;
            match peer.way(since, deadline) {
                Way::Open(link) => return Ok((peer.clone(), link)),
                Way::Failed(error) => return Err(error),
                Way::Wait(until) => wake = until.unwrap_or(deadline).min(deadline),
                // A task of its own: it goes on when this caller gives up, for the next one.
                Way::Dial if !self.stop.is_cancelled() => {
                    self.tasks.spawn(self.clone().dial(peer.clone(), member.clone()));
                }
                Way::Dial => return Err(unreachable("this agent is stopping")),
            }
            tokio::select! {
                // Each arm only waits; nothing is lost when another one ends first.
                () = changed => {}
                () = self.stop.cancelled() => return Err(unreachable("this agent is stopping")),
                () = tokio::time::sleep_until(wake) => {
                    if wake == deadline {
                        return Err(unreachable("no connection came up in time"));
                    }
                }
            }
        }
    }

    async fn dial(self: Arc<Self>, peer: Arc<Peer>, member: Member) {
        let dialed = match self.tls.client(Expect::Key(peer.key), PEER) {
            Ok(mut config) => {
                config.transport_config(self.quic.clone());
                let addresses = peer.ordered(&member.addresses);
                tokio::select! {
                    // Dropping the dial closes its attempts.
                    () = self.stop.cancelled() => return,
                    dialed = dial(&self.endpoint, &config, &addresses, self.timing.stagger, self.timing.handshake) => dialed,
                }
            }
            Err(error) => Err(dial::Failure { untrusted: false, reason: error.to_string() }),
        };
        match dialed {
            Ok(connection) => self.adopt(&peer, connection, true),
            Err(failure) => {
                let (name, reason) = (member.name, failure.reason);
                tracing::debug!(peer = name, reason, "no connection");
                let failure = if failure.untrusted {
                    WireError::Untrusted { peer: name, reason }
                } else {
                    WireError::Unreachable { peer: name, reason }
                };
                peer.dial_failed(failure, &self.timing, chance());
            }
        }
    }

    /// Puts a new connection to use.
    pub(super) fn adopt(self: &Arc<Self>, peer: &Arc<Peer>, connection: Connection, dialed: bool) {
        let number = self.links.fetch_add(1, Ordering::Relaxed);
        let link = Arc::new(Link::new(connection, peer.key, dialed, number));
        tracing::debug!(peer = %peer.key, address = %link.connection.remote_address(), dialed, "connected");
        let superfluous = peer.add(link.clone(), self.limits.links);
        // The key may have been removed while the handshake ran; from `add` on, `follow_trust`
        // sees the connection.
        if !self.trust.contains(&peer.key) {
            link.connection.close(code::REMOVED, b"not a member");
            return;
        }
        self.tasks.spawn(self.clone().answer(link));
        if superfluous {
            self.tasks.spawn(self.clone().prune(peer.clone()));
        }
    }

    async fn prune(self: Arc<Self>, peer: Arc<Peer>) {
        loop {
            tokio::select! {
                // Both arms only wait.
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(DUPLICATE_GRACE) => {}
            }
            if !peer.prune() {
                return;
            }
        }
    }

    /// Closes the connections of keys that lost the fleet's trust.
    async fn follow_trust(self: Arc<Self>) {
        let mut changed = self.trust.changed();
        loop {
            tokio::select! {
                // Both arms only wait; a change is marked until it is seen.
                () = self.stop.cancelled() => return,
                ended = changed.changed() => if ended.is_err() { return },
            }
            let removed: Vec<_> = {
                let mut peers = self.peers();
                let gone: Vec<_> = peers.keys().filter(|key| !self.trust.contains(key)).copied().collect();
                gone.iter().filter_map(|key| peers.remove(key)).collect()
            };
            for peer in removed {
                tracing::info!(peer = %peer.key, "no longer a member: its connections are closed");
                peer.close(code::REMOVED, b"not a member");
            }
        }
    }
}

fn quic_settings(timing: &Timing, limits: &Limits) -> Result<Arc<quinn::TransportConfig>, BindError> {
    let mut quic = quinn::TransportConfig::default();
    let idle = IdleTimeout::try_from(timing.idle).map_err(|_| BindError::Setting { setting: "the idle timeout" })?;
    quic.max_idle_timeout(Some(idle))
        .keep_alive_interval(timing.keep_alive)
        .initial_rtt(timing.first_rtt)
        .max_concurrent_bidi_streams(VarInt::from_u32(limits.streams))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(limits.stream_window))
        .receive_window(VarInt::from_u32(limits.connection_window))
        .send_window(u64::from(limits.connection_window))
        .datagram_receive_buffer_size(None);
    if !timing.probe_mtu {
        quic.mtu_discovery_config(None);
    }
    Ok(Arc::new(quic))
}

/// Reset tokens stay the same over a restart, so that a peer that still holds an
/// old connection is told at once that it is gone.
fn endpoint_settings(secret: &[u8; 64]) -> EndpointConfig {
    let mut settings = EndpointConfig::new(Arc::new(ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret)));
    settings.cid_generator(|| Box::new(RandomIds));
    settings
}

/// Connection ids that any run of this device may have made: quinn's own ids carry a mark of the
/// run, and packets with another run's mark are dropped without a word.
struct RandomIds;

impl quinn::ConnectionIdGenerator for RandomIds {
    #[expect(clippy::disallowed_methods, reason = "ids are drawn at random")]
    fn generate_cid(&mut self) -> quinn::ConnectionId {
        quinn::ConnectionId::new(&rand::random::<[u8; ID_LEN]>())
    }

    fn cid_len(&self) -> usize {
        ID_LEN
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// A number in 0..1 to spread pauses with.
#[expect(clippy::disallowed_methods, reason = "pauses differ by chance")]
fn chance() -> f64 {
    rand::random()
}
