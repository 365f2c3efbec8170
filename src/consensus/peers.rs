//! Asking other members, and remembering who answered when. One slow peer costs only those who
//! wait for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::guard::{Guard, Presence, Verdict};
use super::message::{Answer, Envelope, Request, Response};
use crate::identity::{Member, Stamp};
use crate::storage::{LogId, Vote};
use crate::store::codec;
use crate::transport::{Wire, WireError};

/// How long a member that wrote counts as one that writes.
const LATELY: Duration = Duration::from_millis(100);

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
    #[error("this device takes no part: {0}")]
    Apart(String),
    #[error("{peer} is not heard: {reason}")]
    Unheard { peer: String, reason: String },
    #[error("the message can not be encoded: {0}")]
    Encode(String),
}

impl AskError {
    pub(super) fn timed_out(&self) -> bool {
        matches!(self, Self::Wire(WireError::TimedOut { .. }))
    }
}

/// What a leader's append says when it brings no entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) vote: Vote,
    pub(super) committed: Option<LogId>,
}

/// The other members as this device reaches them.
pub(super) struct Peers {
    pub(super) me: u64,
    pub(super) guard: Guard,
    wire: Arc<dyn Wire>,
    members: watch::Sender<Members>,
    heard: Mutex<BTreeMap<u64, Instant>>,
    started: Instant,
    /// When a leader's append or snapshot was last accepted here.
    leader_heard: Mutex<Option<Instant>>,
    /// When each member last sent transactions here.
    wrote: Mutex<BTreeMap<u64, Instant>>,
    /// When each member last asked this very device how far to read.
    asked: Mutex<BTreeMap<u64, Instant>>,
    transfers: AtomicU64,
    voters: Mutex<BTreeSet<u64>>,
    /// What each member acknowledged last of this device's words as leader, and when it was said.
    acknowledged: Mutex<BTreeMap<u64, (Word, Instant)>>,
}

impl Peers {
    pub(super) fn new(me: u64, wire: Arc<dyn Wire>, presence: Presence) -> Self {
        Self {
            me,
            guard: Guard::new(presence),
            wire,
            members: watch::Sender::new(Members::default()),
            heard: Mutex::default(),
            started: Instant::now(),
            leader_heard: Mutex::default(),
            wrote: Mutex::default(),
            asked: Mutex::default(),
            transfers: AtomicU64::new(1),
            voters: Mutex::default(),
            acknowledged: Mutex::default(),
        }
    }

    pub(super) fn members(&self) -> watch::Receiver<Members> {
        self.members.subscribe()
    }

    pub(super) fn set_members(&self, members: BTreeMap<u64, Member>) {
        lock(&self.heard).retain(|id, _| members.contains_key(id));
        lock(&self.wrote).retain(|id, _| members.contains_key(id));
        lock(&self.asked).retain(|id, _| members.contains_key(id));
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

    pub(super) fn set_voters(&self, voters: BTreeSet<u64>) {
        *lock(&self.voters) = voters;
    }

    /// Notes that a member took in a leader's word.
    pub(super) fn acknowledged(&self, id: u64, word: Word) {
        lock(&self.acknowledged).insert(id, (word, Instant::now()));
    }

    /// Whether a member does not vote, and acknowledged just this word a short time ago.
    pub(super) fn knows(&self, id: u64, word: Word, within: Duration) -> bool {
        let voters = lock(&self.voters);
        let votes = voters.is_empty() || voters.contains(&id);
        drop(voters);
        let known = lock(&self.acknowledged).get(&id).copied();
        !votes && known.is_some_and(|(last, at)| last == word && at.elapsed() < within)
    }

    /// Notes that a member gave a sign of life.
    pub(super) fn heard_from(&self, id: u64) {
        lock(&self.heard).insert(id, Instant::now());
    }

    /// Notes that a member sent transactions here.
    pub(super) fn note_writer(&self, id: u64) {
        lock(&self.wrote).insert(id, Instant::now());
    }

    /// Notes that a member asks how far to read.
    pub(super) fn note_reader(&self, id: u64) {
        lock(&self.asked).insert(id, Instant::now());
    }

    /// How long ago each member asked how far to read.
    pub(super) fn readers(&self) -> BTreeMap<u64, Duration> {
        lock(&self.asked).iter().map(|(&id, at)| (id, at.elapsed())).collect()
    }

    /// Whether a member sent transactions here a moment ago.
    pub(super) fn wrote_lately(&self, id: u64) -> bool {
        lock(&self.wrote).get(&id).is_some_and(|at| at.elapsed() < LATELY)
    }

    /// How long ago a member gave a sign of life to this process.
    pub(super) fn silence(&self, id: u64) -> Option<Duration> {
        lock(&self.heard).get(&id).map(Instant::elapsed)
    }

    /// How long ago each member gave a sign of life to this process.
    pub(super) fn silences(&self) -> BTreeMap<u64, Duration> {
        lock(&self.heard).iter().map(|(&id, at)| (id, at.elapsed())).collect()
    }

    /// Notes that a leader's word was accepted.
    pub(super) fn heard_leader(&self) {
        *lock(&self.leader_heard) = Some(Instant::now());
    }

    /// Notes that somebody nearer to the leader heard it so long ago.
    pub(super) fn heard_leader_ago(&self, age: Duration) {
        let at = Instant::now().checked_sub(age);
        let mut heard = lock(&self.leader_heard);
        *heard = (*heard).max(at);
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
        let outside = matches!(request, Request::Hello | Request::Enter(_));
        if !outside && *self.guard.verdict().borrow() != Verdict::Clear {
            return Err(AskError::Apart(self.guard.verdict().borrow().why()));
        }
        let knows = self.guard.latest(to).unwrap_or_default();
        let envelope = Envelope { from: self.me, to, stamp: self.guard.stamp(), knows, request };
        let bytes = codec::encode(&envelope).map_err(|error| AskError::Encode(error.to_string()))?;
        // The wire may wait longer than it promised while it dials: nobody here does.
        let answer = tokio::time::timeout(timeout, self.wire.call(&member, bytes, timeout)).await;
        let bytes = answer.map_err(|_| WireError::TimedOut { peer: member.name.clone(), waited: timeout }).flatten()?;
        match codec::decode::<Answer>(&bytes) {
            Ok(answer) => self.take_in(to, member.name, answer, outside),
            Err(error) => Err(AskError::Failed { peer: member.name, reason: error.to_string() }),
        }
    }

    /// An answer counts when the one who gave it does. Who asks to be let in takes any.
    fn take_in(&self, to: u64, peer: String, answer: Answer, outside: bool) -> Result<Response, AskError> {
        if let Response::Objected(objection) = &answer.response {
            self.guard.accused(objection);
            return Err(AskError::Unheard { peer, reason: format!("it objects: {objection:?}") });
        }
        match self.hear(to, answer.stamp) {
            Err(reason) if !outside => return Err(AskError::Unheard { peer, reason }),
            _ => {}
        }
        match answer.response {
            Response::Failed(reason) => Err(AskError::Failed { peer, reason }),
            response => Ok(response),
        }
    }

    /// Notes a sign of life of a member, if it counts.
    fn hear(&self, id: u64, sender: Stamp) -> Result<(), String> {
        self.guard.hear(id, sender).map_err(|objection| format!("{objection:?}"))?;
        self.heard_from(id);
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
