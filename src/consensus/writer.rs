//! Writing to a fleet with the key of one of its devices, without a replica: what is proposed goes
//! to the leader in the same groups and over the same connections as an engine's. It decides whom
//! to ask next; it never answers anything and holds nothing on disk.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::engine::WallClock;
use super::guard::Presence;
use super::message::{Proposed, Request, Response, ToLeader};
use super::peers::Peers;
use super::propose::{GROUPS, Groups, Pending, Proposal, Session};
use super::replica::ProposeError;
use super::timing::{PROPOSE_TIMEOUT, RETRY};
use crate::identity::Member;
use crate::store::{Batch, Outcome};
use crate::transport::Wire;

/// Proposals waiting to be carried; the next one waits for room.
const QUEUE: usize = 256;

/// What a writer needs.
pub struct WriterConfig {
    /// Reaches the fleet.
    pub wire: Arc<dyn Wire>,
    /// The member whose key the wire proves.
    pub member_id: u64,
    /// Everyone who may be the leader.
    pub members: BTreeMap<u64, Member>,
    /// The epoch of the fleet, and a run that nobody counts.
    pub presence: Presence,
    /// Tells the wall clock that stamps transactions.
    pub wall: WallClock,
    /// A random number that no other proposer has.
    pub client: u64,
}

/// Proposes to a fleet until it is dropped. Whoever waits then is told that it stopped.
pub struct Writer {
    queue: mpsc::Sender<Proposal>,
    _stop: DropGuard,
}

struct Carrier {
    peers: Peers,
    members: Vec<u64>,
    session: Session,
    wall: WallClock,
    /// Position in `members` of the one to ask: the leader, as far as is known.
    ask: AtomicU64,
}

impl Writer {
    /// Starts to carry proposals. Needs a tokio runtime around it.
    pub fn start(config: WriterConfig) -> Self {
        let WriterConfig { wire, member_id, members, presence, wall, client } = config;
        let peers = Peers::new(member_id, wire, presence);
        let others = members.keys().copied().filter(|&id| id != member_id).collect();
        peers.set_members(members);
        let carrier =
            Arc::new(Carrier { peers, members: others, session: Session::new(client), wall, ask: AtomicU64::new(0) });
        let (queue, proposed) = mpsc::channel(QUEUE);
        let stop = CancellationToken::new();
        tokio::spawn(stop.clone().run_until_cancelled_owned(carrier.carry_all(proposed, stop.clone())));
        Self { queue, _stop: stop.drop_guard() }
    }

    /// Carries a batch to the leader and waits until a quorum has it on disk and the leader applied
    /// it. Gives up within two seconds when there is no quorum.
    pub async fn propose(&self, batch: Batch) -> Result<Outcome, ProposeError> {
        let (proposal, outcome) = Proposal::new(batch)?;
        self.queue.send(proposal).await.map_err(|_| ProposeError::Stopping)?;
        outcome.await.unwrap_or(Err(ProposeError::Stopping))
    }
}

impl Carrier {
    async fn carry_all(self: Arc<Self>, proposed: mpsc::Receiver<Proposal>, stop: CancellationToken) {
        let slots = Arc::new(Semaphore::new(GROUPS));
        let mut groups = Groups::new(proposed);
        loop {
            let Ok(slot) = slots.clone().acquire_owned().await else { return };
            let Some(group) = groups.next(&self.session, &self.wall).await else { return };
            let carrier = self.clone();
            // Dropped half way, a group's callers learn that the writer stopped.
            tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
                carrier.carry(group).await;
                drop(slot);
            }));
        }
    }

    async fn carry(&self, mut group: Vec<Pending>) {
        while !group.is_empty() {
            let deadline = group.iter().map(|pending| pending.deadline).min().unwrap_or_else(Instant::now);
            let proposed = self.offer(&group, deadline).await;
            let progressed = !proposed.is_empty();
            self.settle_group(&mut group, proposed);
            if !group.is_empty() && !progressed {
                tokio::time::sleep_until((Instant::now() + RETRY).min(deadline)).await;
            }
        }
    }

    /// What the leader answered; nothing when it was not the leader that was asked.
    async fn offer(&self, group: &[Pending], deadline: Instant) -> Vec<Proposed> {
        let at = self.ask.load(Ordering::Relaxed);
        let Some(&leader) = usize::try_from(at).ok().and_then(|at| self.members.get(at)) else { return Vec::new() };
        let request = Request::Leader(ToLeader::Propose(group.iter().map(|pending| pending.txn.clone()).collect()));
        let left = deadline.saturating_duration_since(Instant::now());
        let next = match self.peers.ask(leader, None, request, left).await {
            Ok(Response::Proposed(proposed)) => return proposed,
            Ok(Response::NotLeader(Some(known))) => self.members.iter().position(|&id| id == known),
            _ => None,
        };
        let next = next.unwrap_or_else(|| usize::try_from(at + 1).unwrap_or(0) % self.members.len());
        // Another group may have found the leader meanwhile: then that one is asked next.
        let _ = self.ask.compare_exchange(at, next as u64, Ordering::Relaxed, Ordering::Relaxed);
        Vec::new()
    }

    fn settle_group(&self, group: &mut Vec<Pending>, proposed: Vec<Proposed>) {
        let mut proposed = proposed.into_iter();
        let now = Instant::now();
        for pending in std::mem::take(group) {
            let outcome = match proposed.next() {
                Some(Proposed::Done { outcome, .. }) => Ok(outcome),
                Some(Proposed::Refused { reason }) => Err(ProposeError::Storage(reason)),
                _ if now >= pending.deadline => {
                    let why = "no device that was asked leads the fleet".into();
                    Err(ProposeError::Unavailable { waited: PROPOSE_TIMEOUT, why })
                }
                _ => {
                    group.push(pending);
                    continue;
                }
            };
            self.session.settle(pending.txn.sequence);
            let _ = pending.answer.send(outcome);
        }
    }
}
