//! What is known of one peer: its live connections, how dialling it went, when it was last heard.
//! The lock is held for a moment only, never over an await; who waits for a connection waits for
//! `changed`.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::frame::code;
use super::link::Link;
use super::settings::Timing;
use super::{Reach, WireError};
use crate::identity::DeviceKey;

/// One peer.
pub(super) struct Peer {
    pub(super) key: DeviceKey,
    own: DeviceKey,
    state: Mutex<State>,
    /// A connection came up, or dialling ended.
    pub(super) changed: Notify,
}

#[derive(Default)]
struct State {
    links: Vec<Arc<Link>>,
    dialing: bool,
    /// Failed dials since the last connection.
    failures: u32,
    /// All dials that ended, so that a waiter can tell that one ended since it began to wait.
    ended: u64,
    not_before: Option<Instant>,
    failure: Option<WireError>,
    /// When it was last heard, and how far away it was then.
    heard: Option<(Instant, Duration)>,
    /// Where its latest connection came from or went to.
    good: Option<SocketAddr>,
    /// Bytes that went and came over connections that are no more.
    past: (u64, u64),
}

/// What a caller that needs a connection should do.
pub(super) enum Way {
    /// Use this.
    Open(Arc<Link>),
    /// Dial; the caller was chosen to start it.
    Dial,
    /// Wait for `changed`, or until this moment and look again.
    Wait(Option<Instant>),
    /// Give up: the last dial failed.
    Failed(WireError),
}

impl Peer {
    pub(super) fn new(own: DeviceKey, key: DeviceKey) -> Self {
        Self { key, own, state: Mutex::default(), changed: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many dials have ended.
    pub(super) fn ended(&self) -> u64 {
        self.lock().ended
    }

    /// Decides how a caller gets a connection. `since` is what `ended` said when it began to ask.
    pub(super) fn way(&self, since: u64, deadline: Instant) -> Way {
        let mut state = self.lock();
        state.sweep();
        if let Some(link) = state.best(self.own) {
            return Way::Open(link);
        }
        if state.dialing {
            return Way::Wait(None);
        }
        let failure = state.failure.clone();
        match (failure, state.not_before) {
            (Some(failure), _) if state.ended != since => Way::Failed(failure),
            (Some(failure), Some(at)) if at > deadline => Way::Failed(failure),
            (_, Some(at)) if at > Instant::now() => Way::Wait(Some(at)),
            _ => {
                state.dialing = true;
                Way::Dial
            }
        }
    }

    /// The addresses to dial, the one that worked last first.
    pub(super) fn ordered(&self, addresses: &[SocketAddr]) -> Vec<SocketAddr> {
        let plain = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        let mut ordered: Vec<_> = self.lock().good.into_iter().map(plain).collect();
        ordered.extend(addresses.iter().copied().filter(|address| !ordered.contains(address)).collect::<Vec<_>>());
        ordered
    }

    /// An address that may be a good one, unless a connection proves another.
    pub(super) fn hint(&self, address: SocketAddr) {
        let mut state = self.lock();
        state.sweep();
        if state.links.is_empty() && state.good != Some(address) {
            state.good = Some(address);
            state.not_before = None;
        }
    }

    /// Takes in a new connection and says whether it is one too many for the pair. At most
    /// `limit` are kept: the peer may be trusted, but not with all memory.
    pub(super) fn add(&self, link: Arc<Link>, limit: usize) -> bool {
        let mut state = self.lock();
        state.sweep();
        if link.dialed {
            state.dialing = false;
            state.ended += 1;
        }
        (state.failures, state.not_before, state.failure) = (0, None, None);
        state.good = Some(link.connection.remote_address());
        state.links.push(link);
        while state.links.len() > limit {
            let oldest = state.links.remove(0);
            oldest.connection.close(code::DUPLICATE, b"too many connections");
            state.note(&oldest);
            state.remember(&oldest);
        }
        let superfluous = state.links.len() > 1;
        drop(state);
        self.changed.notify_waiters();
        superfluous
    }

    /// Notes a dial that failed, and when the next may start. `chance` is in 0..1.
    pub(super) fn dial_failed(&self, failure: WireError, timing: &Timing, chance: f64) {
        let mut state = self.lock();
        state.dialing = false;
        state.ended += 1;
        state.not_before = Some(Instant::now() + pause(state.failures, timing, chance));
        state.failures = state.failures.saturating_add(1);
        state.failure = Some(failure);
        drop(state);
        self.changed.notify_waiters();
    }

    /// Of two connections of a pair, both sides prefer the one that the lower key dialled; the
    /// side that dialled the other one closes it once it is unused. Says whether to look again.
    pub(super) fn prune(&self) -> bool {
        let mut state = self.lock();
        state.sweep();
        let Some(best) = state.best(self.own) else { return false };
        for link in &state.links {
            if link.number != best.number && link.dialed && !link.is_busy() {
                link.connection.close(code::DUPLICATE, b"another connection is kept");
            }
        }
        state.sweep();
        state.links.iter().any(|link| link.number != best.number && link.dialed)
    }

    /// Drops connections from which nothing came for `silence`: a call on one ran out of time.
    pub(super) fn drop_silent(&self, silence: Duration) {
        let mut state = self.lock();
        for link in &state.links {
            if link.silent() >= silence {
                link.connection.close(code::SILENT, b"no answer");
            }
        }
        state.sweep();
    }

    /// Closes all connections.
    pub(super) fn close(&self, code: quinn::VarInt, reason: &[u8]) {
        let mut state = self.lock();
        for link in state.links.drain(..) {
            link.connection.close(code, reason);
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// When the peer was last heard, and how far away it is; `None` when it never was.
    pub(super) fn reach(&self) -> Option<Reach> {
        let mut state = self.lock();
        state.sweep();
        let connected = !state.links.is_empty();
        for link in state.links.clone() {
            state.note(&link);
        }
        let (seen, rtt) = state.heard?;
        let (sent, received) = state.links.iter().map(|link| bytes(link)).fold(state.past, plus);
        Some(Reach { seen: seen.into_std(), rtt, connected, sent, received })
    }
}

#[cfg(test)]
impl Peer {
    /// Live connections, and whether this device dialled the preferred one.
    pub(super) fn links(&self) -> (usize, Option<bool>) {
        let mut state = self.lock();
        state.sweep();
        (state.links.len(), state.best(self.own).map(|link| link.dialed))
    }

    pub(super) fn preferred(&self) -> Option<Arc<Link>> {
        self.lock().best(self.own)
    }
}

impl State {
    /// Forgets closed connections, but not when they were last heard.
    fn sweep(&mut self) {
        let (open, closed): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.links).into_iter().partition(|link| link.is_open());
        self.links = open;
        for link in closed {
            self.note(&link);
            self.remember(&link);
        }
    }

    /// Keeps the bytes of a connection that goes.
    fn remember(&mut self, link: &Link) {
        self.past = plus(self.past, bytes(link));
    }

    fn note(&mut self, link: &Link) {
        let at = link.heard();
        if self.heard.is_none_or(|(known, _)| known <= at) {
            self.heard = Some((at, link.connection.rtt()));
        }
    }

    /// The connection that both sides of a pair prefer: dialled by the lower key, else the newest.
    fn best(&self, own: DeviceKey) -> Option<Arc<Link>> {
        let rank = |link: &&Arc<Link>| (link.dialed == (own < link.key), link.number);
        self.links.iter().max_by_key(rank).cloned()
    }
}

/// Bytes that went and came over a connection.
fn bytes(link: &Link) -> (u64, u64) {
    let stats = link.connection.stats();
    (stats.udp_tx.bytes, stats.udp_rx.bytes)
}

fn plus(one: (u64, u64), other: (u64, u64)) -> (u64, u64) {
    (one.0 + other.0, one.1 + other.1)
}

/// The pause after a failed dial: doubles with each, half of it by chance so that devices that
/// lost the same peer do not come back at the same time.
fn pause(failures: u32, timing: &Timing, chance: f64) -> Duration {
    let full = timing.backoff.saturating_mul(1 << failures.min(16)).min(timing.backoff_max);
    full.mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Profile;

    #[test]
    fn pauses_double_up_to_the_longest_and_differ_by_chance() {
        let timing = Timing::of(Profile::Lan);
        assert_eq!(pause(0, &timing, 1.0), timing.backoff);
        assert_eq!(pause(1, &timing, 1.0), timing.backoff * 2);
        assert_eq!(pause(2, &timing, 0.0), timing.backoff * 2);
        assert_eq!(pause(u32::MAX, &timing, 1.0), timing.backoff_max);
    }
}
