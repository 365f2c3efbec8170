//! Asking other members, and remembering who answered when. One slow peer costs only those who
//! wait for it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::message::{Envelope, Request, Response};
use crate::identity::Member;
use crate::store::codec;
use crate::transport::{Wire, WireError};

/// Everyone in the replicated membership, by member id.
pub type Members = Arc<BTreeMap<u64, Member>>;

/// A member could not be asked, or gave no usable answer.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("there is no member with id {0}")]
    Unknown(u64),
    #[error("{peer} answered: {reason}")]
    Failed { peer: String, reason: String },
    #[error("the message can not be encoded: {0}")]
    Encode(String),
}

impl AskError {
    pub(super) fn timed_out(&self) -> bool {
        matches!(self, Self::Wire(WireError::TimedOut { .. }))
    }
}

/// The other members as this device reaches them.
pub(super) struct Peers {
    pub(super) me: u64,
    wire: Arc<dyn Wire>,
    members: watch::Sender<Members>,
    heard: Mutex<BTreeMap<u64, Instant>>,
    started: Instant,
    /// When a leader's append or snapshot was last accepted here.
    leader_heard: Mutex<Option<Instant>>,
    transfers: AtomicU64,
}

impl Peers {
    pub(super) fn new(me: u64, wire: Arc<dyn Wire>) -> Self {
        Self {
            me,
            wire,
            members: watch::Sender::new(Members::default()),
            heard: Mutex::default(),
            started: Instant::now(),
            leader_heard: Mutex::default(),
            transfers: AtomicU64::new(1),
        }
    }

    pub(super) fn members(&self) -> watch::Receiver<Members> {
        self.members.subscribe()
    }

    pub(super) fn set_members(&self, members: BTreeMap<u64, Member>) {
        lock(&self.heard).retain(|id, _| members.contains_key(id));
        self.members.send_if_modified(|known| {
            let changed = **known != members;
            if changed {
                *known = Arc::new(members);
            }
            changed
        });
    }

    pub(super) fn member(&self, id: u64) -> Option<Member> {
        self.members.borrow().get(&id).cloned()
    }

    /// The name of a member, for people.
    pub(super) fn name(&self, id: u64) -> String {
        self.members.borrow().get(&id).map_or_else(|| format!("member {id}"), |member| member.name.clone())
    }

    /// A number that no other snapshot transfer of this process has.
    pub(super) fn next_transfer(&self) -> u64 {
        self.transfers.fetch_add(1, Ordering::Relaxed)
    }

    /// Notes that a member gave a sign of life.
    pub(super) fn heard_from(&self, id: u64) {
        lock(&self.heard).insert(id, Instant::now());
    }

    /// How long ago a member gave a sign of life to this process.
    pub(super) fn silence(&self, id: u64) -> Option<Duration> {
        lock(&self.heard).get(&id).map(Instant::elapsed)
    }

    /// Notes that a leader's word was accepted.
    pub(super) fn heard_leader(&self) {
        *lock(&self.leader_heard) = Some(Instant::now());
    }

    /// How long ago a leader's word was accepted by this process.
    pub(super) fn leader_silence(&self) -> Option<Duration> {
        lock(&self.leader_heard).map(|at| at.elapsed())
    }

    /// How long this process has waited for a leader's word.
    pub(super) fn leader_wait(&self) -> Duration {
        self.leader_silence().unwrap_or_else(|| self.started.elapsed())
    }

    /// Asks a member. `fallback` is used while the membership does not list it yet.
    pub(super) async fn ask(
        &self,
        to: u64,
        fallback: Option<&Member>,
        request: Request,
        timeout: Duration,
    ) -> Result<Response, AskError> {
        let member = self.member(to).or_else(|| fallback.cloned()).ok_or(AskError::Unknown(to))?;
        let bytes = codec::encode(&Envelope { from: self.me, to, request })
            .map_err(|error| AskError::Encode(error.to_string()))?;
        // The wire may wait longer than it promised while it dials: nobody here does.
        let answer = tokio::time::timeout(timeout, self.wire.call(&member, bytes, timeout)).await;
        let bytes = answer.map_err(|_| WireError::TimedOut { peer: member.name.clone(), waited: timeout }).flatten()?;
        self.heard_from(to);
        match codec::decode(&bytes) {
            Ok(Response::Failed(reason)) => Err(AskError::Failed { peer: member.name, reason }),
            Ok(response) => Ok(response),
            Err(error) => Err(AskError::Failed { peer: member.name, reason: error.to_string() }),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
