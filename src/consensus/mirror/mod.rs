//! Mirrors: members that keep the same replica as everyone else without costing the leader anything.
//! They stand in the replicated state and not in openraft's membership. A mirror pulls committed
//! entries from a device nearer to the leader and hands them to its own raft node exactly as a
//! leader would, so its log, its state and its checks are those of any follower, and it turns into
//! a standby by one change of the membership. It never votes, and it never passes on what it has
//! not applied.

mod admit;
mod feed;
mod follow;
mod heard;
mod relay;
#[cfg(test)]
pub(super) mod samples;
mod spool;
pub mod standby;
pub mod tree;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use openraft::async_runtime::WatchReceiver as _;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

pub(super) use heard::Signs;

use super::engine::Engine;
use crate::config::Profile;
use crate::identity::Member;
use crate::storage::{Entry, LogId, SnapshotMeta, Vote};
use spool::Spool;

/// How a device takes part in a fleet that is too large for everyone to follow the leader.
#[derive(Clone, Debug)]
pub struct MirrorSettings {
    /// Members that follow the leader without voting; the rest are mirrors. Every device that may
    /// lead should have the same number.
    pub standbys: usize,
    /// The longest time between two polls of a mirror that hears nothing new; `None` takes the
    /// profile's.
    pub poll: Option<Duration>,
    /// Members to ask as long as this device's replica lists nobody.
    pub contacts: BTreeMap<u64, Member>,
}

impl Default for MirrorSettings {
    fn default() -> Self {
        Self { standbys: standby::STANDBYS, poll: None, contacts: BTreeMap::new() }
    }
}

/// The longest time between two polls of a mirror that hears nothing new.
pub fn poll_interval(profile: Profile) -> Duration {
    match profile {
        Profile::Lan | Profile::Wan => profile.heartbeat() * 20,
        // A link that costs money has no connection between two polls, and each makes a new one.
        Profile::Metered => profile.heartbeat() * 60,
    }
}

/// What one engine knows as a mirror, and as one that mirrors pull from.
pub(super) struct Mirroring {
    pub(super) standbys: usize,
    pub(super) poll: Duration,
    /// Least time between two polls while there is news: writes that come faster travel together.
    pace: Duration,
    contacts: BTreeMap<u64, Member>,
    heard: heard::Heard,
    /// On the leader: how many entries each mirror was behind.
    behind: Mutex<BTreeMap<u64, u64>>,
    pub(super) spool: Spool,
    /// Whom this mirror pulls from.
    upstream: Mutex<Option<u64>>,
    /// What keeps this mirror from following, for people.
    note: Mutex<String>,
    /// Somebody waits for news: the pace does not count.
    hurry: Notify,
    chance: AtomicU64,
}

impl Mirroring {
    /// `seed` differs for every start of every engine.
    pub(super) fn new(settings: MirrorSettings, profile: Profile, seed: u64) -> Self {
        Self {
            standbys: settings.standbys,
            poll: settings.poll.unwrap_or_else(|| poll_interval(profile)),
            pace: profile.heartbeat() * 2,
            contacts: settings.contacts,
            heard: heard::Heard::default(),
            behind: Mutex::default(),
            spool: Spool::default(),
            upstream: Mutex::default(),
            note: Mutex::default(),
            hurry: Notify::new(),
            chance: AtomicU64::new(seed),
        }
    }

    /// Silence of the leader after which a mirror counts as cut off: each level may add one poll.
    pub(super) fn given_up_after(&self) -> Duration {
        self.poll * 4
    }

    /// From 0 to 1: it spreads devices that all lost the same thing at the same moment.
    fn chance(&self) -> f64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let drawn = self.chance.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        let mixed = (drawn ^ (drawn >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        f64::from((mixed >> 33) as u32) / f64::from(u32::MAX >> 1)
    }

    pub(super) fn upstream(&self) -> Option<u64> {
        *lock(&self.upstream)
    }

    pub(super) fn note(&self) -> String {
        lock(&self.note).clone()
    }

    pub(super) fn behind(&self, id: u64) -> Option<u64> {
        lock(&self.behind).get(&id).copied()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Asks for what comes after an entry.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Follow {
    /// The last entry that the mirror has applied.
    at: Option<LogId>,
    /// How long the answer may wait for news.
    wait: Duration,
    /// Who was heard below.
    signs: Signs,
}

/// What comes after an entry.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Followed {
    /// Applied entries, none if there is no news.
    Entries {
        /// The vote of the leader whom the answering device follows.
        vote: Vote,
        entries: Vec<Entry>,
        /// How long the leader has not been heard.
        age: Duration,
    },
    /// These entries are gone: take a snapshot.
    TooOld,
    /// The mirror is ahead of the answering device, or that one knows no leader.
    Behind,
    /// The mirror's last entry is not in the answering device's log: it is from another history.
    Diverged,
}

/// Asks for a piece of the answering device's state.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Pull {
    /// The transfer to go on with; zero for a new one.
    transfer: u64,
    offset: u64,
}

/// A piece of a snapshot.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Pulled {
    vote: Vote,
    transfer: u64,
    offset: u64,
    bytes: Vec<u8>,
    /// Comes with the last piece.
    end: Option<SnapshotMeta>,
}

impl Engine {
    /// Whether this device stands outside of openraft's membership. A device that just joined does
    /// until it learns otherwise.
    pub fn is_mirror(&self) -> bool {
        let server = self.inner.raft.server_metrics();
        let server = server.borrow_watched();
        server.membership_config.nodes().all(|(&id, _)| id != self.inner.id)
    }

    /// The members of openraft's membership, and this device: whoever knows these finds the fleet.
    pub fn anchors(&self) -> BTreeMap<u64, Member> {
        let server = self.inner.raft.server_metrics().borrow_watched().clone();
        let nodes = server.membership_config.nodes().map(|(&id, member)| (id, member.clone()));
        let own = self.inner.peers.member(self.inner.id).map(|member| (self.inner.id, member));
        nodes.chain(own).collect()
    }

    /// The fleet as the rule of the tree sees it.
    fn tree(&self) -> tree::Tree {
        let server = self.inner.raft.server_metrics().borrow_watched().clone();
        let voters = server.membership_config.voter_ids().collect();
        let nodes: Vec<u64> = server.membership_config.nodes().map(|(&id, _)| id).collect();
        let mut fleet = tree::Fleet { voters, leader: server.current_leader, ..tree::Fleet::default() };
        fleet.learners = nodes.iter().copied().filter(|id| !fleet.voters.contains(id)).collect();
        let mirrors = self.inner.state.mirrors().borrow().clone();
        fleet.mirrors = mirrors.keys().copied().filter(|id| !nodes.contains(id)).collect();
        // One that left the membership leads on until that is committed; nobody needs it here.
        fleet.leader = fleet.leader.filter(|leader| fleet.voters.contains(leader));
        tree::Tree::from(&fleet)
    }
}
