//! Being a mirror: pulls what the fleet has applied from a device nearer to the leader, and hands it
//! to this device's own raft node. It decides whom to ask and how often; whether an entry fits is
//! decided by the raft node, which refuses one whose predecessor it does not have.

use std::time::Duration;

use openraft::async_runtime::WatchReceiver as _;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse};
use tokio::time::Instant;

use super::super::engine::Engine;
use super::super::message::{Request, Response};
use super::heard::pack;
use super::spool::COME_BACK;
use super::{Follow, Followed, Pull, lock};
use crate::storage::{Entry, Incoming, LogId, SnapshotMeta, Vote};

/// Time beyond the wait after which an answer is not expected any more.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// How long a piece of a snapshot may take.
const PIECE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long entries that were taken in may take to be applied.
const APPLY_WITHIN: Duration = Duration::from_secs(10);
/// Pause after the first failure; doubles up to the time between two polls.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Polls' time at another device before the parent is tried again; doubles while it stays silent.
const RETURN_AFTER: u32 = 15;
/// The most that it doubles to.
const RETURN_AFTER_MOST: u32 = 16 * RETURN_AFTER;
/// A connection lives only so long without a packet: longer waits poll instead.
const LONGEST_HELD: Duration = Duration::from_secs(30);

/// Where a mirror is in its search for someone who serves it.
#[derive(Default)]
struct Course {
    /// How many devices were passed over, counted along the list of upstreams.
    turn: usize,
    failures: u32,
    /// Polls that the present upstream answered.
    answered: u32,
    /// When the parent is tried again, and how long that was put off.
    back_at: Option<Instant>,
    put_off: u32,
    partial: Option<Partial>,
}

/// A snapshot of which a part has arrived.
struct Partial {
    upstream: u64,
    transfer: u64,
    incoming: Incoming,
}

/// What became of a poll.
enum Polled {
    /// Taken in; whether there was news.
    Fed { news: bool },
    /// The upstream is of no use at present; why, for people.
    Useless(String),
    /// Come back to the same one.
    Busy(Duration),
}

impl Course {
    fn next(&mut self, why: &str, upstream: u64) {
        tracing::debug!(upstream, why, "a mirror looks for another upstream");
        self.turn = self.turn.wrapping_add(1);
        self.failures = self.failures.saturating_add(1);
        self.answered = 0;
    }

    /// Goes back to the parent by and by. One that is switched off costs a pause each time.
    fn maybe_return(&mut self, poll: Duration) {
        if self.turn == 0 {
            if self.answered > RETURN_AFTER {
                (self.back_at, self.put_off) = (None, 0);
            }
            return;
        }
        let put_off = (self.put_off * 2).clamp(RETURN_AFTER, RETURN_AFTER_MOST);
        match self.back_at {
            Some(at) if Instant::now() >= at => {
                (self.turn, self.answered) = (0, 0);
                (self.back_at, self.put_off) = (None, put_off);
            }
            Some(_) => {}
            None => self.back_at = Some(Instant::now() + poll * put_off),
        }
    }
}

impl Engine {
    /// Follows the fleet for as long as this device is a mirror.
    pub(in crate::consensus) async fn follow(self) {
        let mut server = self.inner.raft.server_metrics();
        let mut course = Course::default();
        loop {
            if !self.is_mirror() && !self.forgotten() {
                *lock(&self.inner.mirroring.upstream) = None;
                lock(&self.inner.mirroring.note).clear();
                course = Course::default();
                // Ends early when the membership changes.
                match tokio::time::timeout(self.inner.mirroring.poll, server.changed()).await {
                    Ok(Err(_)) => return,
                    Ok(Ok(())) | Err(_) => continue,
                }
            }
            let began = Instant::now();
            let pause = self.take_turn(&mut course).await;
            // Ends early for a reader who waits for news. Until a retry nobody can hurry.
            if course.failures == 0 {
                let _ = tokio::time::timeout_at(began + pause, self.inner.mirroring.hurry.notified()).await;
            } else {
                tokio::time::sleep(pause).await;
            }
        }
    }

    /// Whether this device stands in the membership as it knows it, and yet no leader writes to it:
    /// it may have been made a mirror while it slept. What others have applied is true either way.
    fn forgotten(&self) -> bool {
        let limit = self.inner.mirroring.given_up_after().max(self.inner.timing.given_up_after());
        !self.leadership().borrow().is_leader && self.inner.peers.leader_wait() > limit
    }

    /// Polls once, and says how long to wait from the beginning of it until the next time.
    async fn take_turn(&self, course: &mut Course) -> Duration {
        let mirroring = &self.inner.mirroring;
        let mut upstreams = self.tree().upstreams(self.inner.id);
        if upstreams.is_empty() {
            let contacts: Vec<u64> = mirroring.contacts.keys().copied().filter(|&id| id != self.inner.id).collect();
            let start = usize::try_from(self.inner.id).unwrap_or(0);
            upstreams = (0..contacts.len()).map(|more| contacts[(start + more) % contacts.len()]).collect();
        }
        if upstreams.is_empty() {
            // Nobody to ask: a device that is about to found a fleet, or to be written to.
            return mirroring.poll;
        }
        course.maybe_return(mirroring.poll);
        let upstream = upstreams[course.turn % upstreams.len()];
        let polled = self.poll(upstream, course).await;
        match polled {
            Polled::Fed { news } => {
                course.failures = 0;
                course.answered = course.answered.saturating_add(1);
                *lock(&mirroring.upstream) = Some(upstream);
                lock(&mirroring.note).clear();
                match (news, mirroring.poll > LONGEST_HELD) {
                    (true, _) => mirroring.pace,
                    (false, true) => mirroring.poll,
                    (false, false) => Duration::ZERO,
                }
            }
            Polled::Busy(pause) => {
                course.failures = course.failures.max(1);
                pause.mul_f64(0.5 + mirroring.chance())
            }
            Polled::Useless(why) => {
                if course.failures as usize >= upstreams.len() {
                    *lock(&mirroring.upstream) = None;
                    lock(&mirroring.note).clone_from(&why);
                }
                course.next(&why, upstream);
                let longest = FIRST_PAUSE.saturating_mul(1 << course.failures.min(16)).min(mirroring.poll);
                longest.mul_f64(0.5 + mirroring.chance() / 2.0)
            }
        }
    }

    async fn poll(&self, upstream: u64, course: &mut Course) -> Polled {
        let mirroring = &self.inner.mirroring;
        let at = self.inner.state.last_applied();
        // A first question to somebody is answered at once: it tells whether this is the right one.
        let held = course.answered > 0 && mirroring.poll <= LONGEST_HELD;
        let wait = if held { mirroring.poll } else { Duration::ZERO };
        let taken = mirroring.heard.take(Instant::now(), mirroring.poll * 2);
        let request = Request::Follow(Follow { at, wait, signs: pack(&taken) });
        let fallback = mirroring.contacts.get(&upstream);
        let followed = match self.inner.peers.ask(upstream, fallback, request, wait + ANSWER_WITHIN).await {
            Ok(Response::Followed(followed)) => followed,
            Ok(other) => return Polled::Useless(format!("an answer that does not fit: {other:?}")),
            Err(error) => {
                mirroring.heard.put_back(taken);
                return Polled::Useless(error.to_string());
            }
        };
        let name = self.inner.peers.name(upstream);
        match followed {
            Followed::Entries { vote, entries, age } => {
                let stale = age > mirroring.given_up_after();
                let polled = self.take_entries(at, vote, entries).await;
                if matches!(polled, Polled::Fed { .. }) {
                    self.inner.peers.heard_leader_ago(age);
                    if stale {
                        return Polled::Useless(format!("{name} has not heard a leader for {} s", age.as_secs()));
                    }
                }
                polled
            }
            Followed::TooOld => self.fetch(upstream, course).await,
            Followed::Behind => Polled::Useless(format!("{name} is behind this device, or knows no leader")),
            Followed::Diverged => {
                let why = format!("the state of this device is from another history of the fleet than that of {name}");
                tracing::error!(why, "this mirror does not follow");
                Polled::Useless(why)
            }
        }
    }

    /// Hands entries to the raft node, and waits until they are applied: the next poll goes on from
    /// there, so nothing is asked for twice and nothing is left out.
    async fn take_entries(&self, at: Option<LogId>, vote: Vote, entries: Vec<Entry>) -> Polled {
        let committed = entries.last().map(|entry| entry.log_id).or(at);
        let news = !entries.is_empty();
        if !news && self.inner.raft.metrics().borrow_watched().vote == vote {
            return Polled::Fed { news };
        }
        let append = AppendEntriesRequest { vote, prev_log_id: at, entries, leader_commit: committed };
        let request = Request::Append(append);
        if let Some(why) = self.no_room_for(&request) {
            return Polled::Useless(why);
        }
        let Request::Append(append) = request else { return Polled::Useless(String::new()) };
        match self.inner.raft.append_entries(append).await {
            Ok(AppendEntriesResponse::Success | AppendEntriesResponse::PartialSuccess(_)) => {}
            Ok(refused) => return Polled::Useless(format!("its entries do not fit here: {refused}")),
            Err(error) => return Polled::Useless(error.to_string()),
        }
        let next = committed.map_or(0, |committed| committed.index + 1);
        let mut applied = self.inner.state.applied();
        match tokio::time::timeout(APPLY_WITHIN, applied.wait_for(|&applied| applied >= next)).await {
            Ok(Ok(_)) => Polled::Fed { news },
            _ => Polled::Useless("this device does not keep up".into()),
        }
    }

    /// Takes in a snapshot piece by piece. What arrived is kept when the upstream falls silent, and
    /// gone on with if it still has the same one.
    async fn fetch(&self, upstream: u64, course: &mut Course) -> Polled {
        if let Some(why) = self.no_room_to_follow() {
            return Polled::Useless(why);
        }
        let mut partial = match course.partial.take().filter(|known| known.upstream == upstream) {
            Some(known) => known,
            None => match self.inner.state.receive() {
                Ok(incoming) => Partial { upstream, transfer: 0, incoming },
                Err(error) => return Polled::Useless(error.to_string()),
            },
        };
        loop {
            let pull = Request::Pull(Pull { transfer: partial.transfer, offset: partial.incoming.bytes() });
            let fallback = self.inner.mirroring.contacts.get(&upstream);
            let pulled = match self.inner.peers.ask(upstream, fallback, pull, PIECE_TIMEOUT).await {
                Ok(Response::Pulled(pulled)) => pulled,
                Ok(Response::Busy(pause)) => return Polled::Busy(pause.min(COME_BACK * 10)),
                Ok(other) => return Polled::Useless(format!("an answer that does not fit: {other:?}")),
                Err(error) => {
                    course.partial = Some(partial);
                    return Polled::Useless(error.to_string());
                }
            };
            if pulled.transfer != partial.transfer {
                partial.transfer = pulled.transfer;
                if partial.incoming.bytes() > 0 {
                    partial.incoming = match self.inner.state.receive() {
                        Ok(incoming) => incoming,
                        Err(error) => return Polled::Useless(error.to_string()),
                    };
                }
            }
            if pulled.offset != partial.incoming.bytes() {
                return Polled::Useless("a piece of another part of the snapshot came".into());
            }
            if let Err(error) = partial.incoming.push(&pulled.bytes) {
                return Polled::Useless(error.to_string());
            }
            if let Some(meta) = pulled.end {
                return self.install_pulled(pulled.vote, partial.incoming, meta).await;
            }
        }
    }

    async fn install_pulled(&self, vote: Vote, incoming: Incoming, meta: SnapshotMeta) -> Polled {
        let last = meta.last_log_id;
        match self.install(vote, incoming, meta).await {
            Response::SnapshotDone(_) if self.inner.state.last_applied() >= last => Polled::Fed { news: true },
            Response::SnapshotDone(_) => Polled::Useless("its snapshot does not fit here".into()),
            Response::Failed(why) => Polled::Useless(why),
            other => Polled::Useless(format!("the snapshot was not taken in: {other:?}")),
        }
    }
}
