//! Carrying batches to the leader. Callers that come while a group is on its way form the next
//! group. A transaction keeps its client and sequence through every retry, so that it applies at
//! most once whatever is lost on the way.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use openraft::errors::Fatal;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use super::engine::{Engine, WallClock};
use super::gate::WITNESS;
use super::message::{Proposed, Request, Response, ToLeader};
use super::replica::ProposeError;
use super::serve::pause_until;
use super::timing::{CATCH_UP_TIMEOUT, PROPOSE_TIMEOUT, RETRY};
use crate::metrics::counted;
use crate::storage::{Command, Reply};
use crate::store::{Batch, Outcome, Txn, Write};

/// The most bytes that one write may have: 1.5 MiB, as in etcd.
pub const MAX_WRITE_BYTES: usize = 3 << 19;
/// Proposals in one group.
const GROUP: usize = 128;
/// Bytes in one group, if it is more than one proposal.
const GROUP_BYTES: usize = 1 << 20;
/// Groups on their way at once.
pub(super) const GROUPS: usize = 4;

/// A batch on its way to the leader, and who waits for it.
pub(super) struct Proposal {
    batch: Batch,
    bytes: usize,
    deadline: Instant,
    answer: oneshot::Sender<Result<Outcome, ProposeError>>,
}

/// The client that this run of the engine is, to the store.
pub(super) struct Session {
    client: u64,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    next: u64,
    waiting: BTreeSet<u64>,
}

impl Session {
    pub(super) fn new(client: u64) -> Self {
        Self { client, open: Mutex::default() }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stamp(&self, batch: Batch, at: crate::resource::Timestamp) -> Txn {
        let mut open = self.open();
        let sequence = open.next;
        open.next += 1;
        open.waiting.insert(sequence);
        let settled = open.waiting.first().copied().unwrap_or(sequence);
        Txn { client: self.client, sequence, settled, at, batch }
    }

    #[cfg(feature = "seeded-bugs")]
    fn stamp_anew(&self, group: &mut [Pending]) {
        for pending in group {
            self.settle(pending.txn.sequence);
            pending.txn = self.stamp(pending.txn.batch.clone(), pending.txn.at);
        }
    }

    pub(super) fn settle(&self, sequence: u64) {
        self.open().waiting.remove(&sequence);
    }
}

/// A stamped transaction that still has no outcome.
pub(super) struct Pending {
    pub(super) txn: Txn,
    pub(super) deadline: Instant,
    pub(super) answer: oneshot::Sender<Result<Outcome, ProposeError>>,
}

/// Proposals as they come in, in groups: whatever came while there was no way to send it.
pub(super) struct Groups {
    proposed: mpsc::Receiver<Proposal>,
    waiting: Vec<Proposal>,
}

impl Groups {
    pub(super) fn new(proposed: mpsc::Receiver<Proposal>) -> Self {
        Self { proposed, waiting: Vec::new() }
    }

    /// The next group, stamped; `None` when nobody can propose any more.
    pub(super) async fn next(&mut self, session: &Session, wall: &WallClock) -> Option<Vec<Pending>> {
        if self.waiting.is_empty() && self.proposed.recv_many(&mut self.waiting, GROUP).await == 0 {
            return None;
        }
        let mut bytes = 0;
        let fits = self.waiting.iter().take_while(|proposal| {
            bytes += proposal.bytes;
            bytes <= GROUP_BYTES
        });
        let count = fits.count().max(1);
        let at = wall();
        let group = self.waiting.drain(..count).map(|proposal| Pending {
            txn: session.stamp(proposal.batch, at),
            deadline: proposal.deadline,
            answer: proposal.answer,
        });
        Some(group.collect())
    }
}

impl Proposal {
    /// A proposal and where its outcome will come; refused at once when it is too large.
    pub(super) fn new(batch: Batch) -> Result<(Self, oneshot::Receiver<Result<Outcome, ProposeError>>), ProposeError> {
        let bytes = weigh(&batch);
        if bytes > MAX_WRITE_BYTES {
            return Err(ProposeError::TooLarge { size: bytes, limit: MAX_WRITE_BYTES });
        }
        let (answer, outcome) = oneshot::channel();
        Ok((Self { batch, bytes, deadline: Instant::now() + PROPOSE_TIMEOUT, answer }, outcome))
    }
}

impl Engine {
    /// Carries a batch to the leader; see [`super::Replica::propose`].
    pub(super) async fn propose_batch(&self, batch: Batch) -> Result<Outcome, ProposeError> {
        let begun = Instant::now();
        let proposed = self.carried(batch).await;
        match &proposed {
            Ok(_) => counted::COMMITS.record(begun.elapsed()),
            Err(ProposeError::Unavailable { .. } | ProposeError::Storage(_)) => counted::FAILED_PROPOSALS.one(),
            Err(_) => {}
        }
        proposed
    }

    async fn carried(&self, batch: Batch) -> Result<Outcome, ProposeError> {
        let (proposal, outcome) = Proposal::new(batch)?;
        if let Some(reason) = self.failure().or_else(|| self.apart()) {
            return Err(ProposeError::Storage(reason));
        }
        if !self.carries_writes() && !self.inner.leadership.borrow().is_leader {
            return Err(ProposeError::Forbidden(WITNESS.into()));
        }
        match self.inner.proposals.send_timeout(proposal, PROPOSE_TIMEOUT).await {
            Ok(()) => {}
            Err(mpsc::error::SendTimeoutError::Timeout(_)) => return Err(self.gave_up()),
            Err(mpsc::error::SendTimeoutError::Closed(_)) => return Err(ProposeError::Stopping),
        }
        // The carrier answers by the deadline; a dropped answer means that it was stopped.
        outcome.await.unwrap_or(Err(ProposeError::Stopping))
    }

    fn gave_up(&self) -> ProposeError {
        match self.failure() {
            Some(reason) => ProposeError::Storage(reason),
            None => ProposeError::Unavailable { waited: PROPOSE_TIMEOUT, why: self.why() },
        }
    }

    /// Groups proposals and sends each group on its way.
    pub(super) async fn carry_proposals(self, proposed: mpsc::Receiver<Proposal>) {
        let slots = Arc::new(Semaphore::new(GROUPS));
        let mut groups = Groups::new(proposed);
        loop {
            let Ok(slot) = slots.clone().acquire_owned().await else { return };
            let Some(group) = groups.next(&self.inner.session, &self.inner.wall).await else { return };
            let engine = self.clone();
            self.spawn("carry a group", async move {
                engine.carry(group).await;
                drop(slot);
            });
        }
    }

    async fn carry(&self, mut group: Vec<Pending>) {
        let mut leadership = self.leadership();
        while !group.is_empty() {
            let known = *leadership.borrow_and_update();
            let deadline = group.iter().map(|pending| pending.deadline).min().unwrap_or_else(Instant::now);
            let txns = group.iter().map(|pending| pending.txn.clone()).collect();
            let proposed = tokio::select! {
                biased;
                proposed = self.offer(known.leader, txns, deadline) => proposed,
                // Another leader: whatever the old one would answer comes too late.
                _ = leadership.wait_for(|now| *now != known) => Vec::new(),
            };
            let progressed = proposed.iter().any(|one| matches!(one, Proposed::Done { .. }));
            self.settle_group(&mut group, proposed).await;
            #[cfg(feature = "seeded-bugs")]
            if crate::storage::seeded::has(crate::storage::seeded::Bug::RetryAnew) {
                self.inner.session.stamp_anew(&mut group);
            }
            if !group.is_empty() && !progressed {
                let pause = (Instant::now() + RETRY).min(deadline);
                pause_until(&mut leadership, known, pause).await;
            }
        }
    }

    /// Answers those who have an outcome or no time left; the others stay in the group.
    async fn settle_group(&self, group: &mut Vec<Pending>, proposed: Vec<Proposed>) {
        let mut proposed = proposed.into_iter();
        let now = Instant::now();
        let mut next_index = 0;
        let mut done = Vec::new();
        for pending in std::mem::take(group) {
            match proposed.next() {
                Some(Proposed::Done { outcome, next_index: needed }) => {
                    next_index = next_index.max(needed);
                    done.push((pending, outcome));
                }
                Some(Proposed::Refused { reason }) => {
                    self.inner.session.settle(pending.txn.sequence);
                    let _ = pending.answer.send(Err(ProposeError::Storage(reason)));
                }
                _ if now >= pending.deadline => {
                    self.inner.session.settle(pending.txn.sequence);
                    let _ = pending.answer.send(Err(self.gave_up()));
                }
                _ => group.push(pending),
            }
        }
        if !done.is_empty() {
            // Whoever wrote on this device reads its own write here.
            let mut applied = self.inner.state.applied();
            let _ = tokio::time::timeout(CATCH_UP_TIMEOUT, applied.wait_for(|&next| next >= next_index)).await;
        }
        for (pending, outcome) in done {
            self.inner.session.settle(pending.txn.sequence);
            let _ = pending.answer.send(Ok(outcome));
        }
    }

    async fn offer(&self, leader: Option<u64>, txns: Vec<Txn>, deadline: Instant) -> Vec<Proposed> {
        let left = deadline.saturating_duration_since(Instant::now());
        match leader {
            Some(leader) if leader == self.inner.id => self.apply_as_leader(txns, left).await,
            Some(_) if let Some(proposed) = self.offer_above(leader, &txns, left).await => proposed,
            Some(leader) => {
                let request = Request::Leader(ToLeader::Propose(txns));
                match self.inner.peers.ask(leader, None, request, left).await {
                    Ok(Response::Proposed(proposed)) => proposed,
                    Ok(_) => Vec::new(),
                    Err(error) => {
                        tracing::debug!(%error, "a group did not reach the leader");
                        Vec::new()
                    }
                }
            }
            None => Vec::new(),
        }
    }

    /// Writes transactions to the log as its leader, and waits for their outcomes.
    pub(super) async fn apply_as_leader(&self, txns: Vec<Txn>, within: Duration) -> Vec<Proposed> {
        let count = txns.len();
        if let Some(trouble) = self.disk_trouble() {
            let reason = format!("the leader takes no writes: {trouble}");
            return vec![Proposed::Refused { reason }; count];
        }
        let mut proposed = Vec::with_capacity(count);
        let write = async {
            let mut answers = self.inner.raft.client_write_many(txns.into_iter().map(Command::Txn)).await?;
            while let Some(answer) = answers.next().await {
                proposed.push(match answer? {
                    Ok(written) => match written.response {
                        Reply::Outcome(outcome) => Proposed::Done { outcome, next_index: written.log_id.index + 1 },
                        Reply::Nothing | Reply::MemberId(_) => Proposed::Again,
                    },
                    Err(_) => Proposed::Again,
                });
            }
            Ok::<(), Fatal<crate::storage::TypeConfig>>(())
        };
        if let Ok(Err(error)) = tokio::time::timeout(within, write).await {
            tracing::warn!(%error, "the log takes no writes");
        }
        proposed.resize(count, Proposed::Again);
        proposed
    }
}

/// About how many bytes a batch has in the log.
fn weigh(batch: &Batch) -> usize {
    let key = |key: &crate::store::Key| key.kind.len() + key.namespace.len() + key.name.len() + 8;
    let checks: usize = batch.checks.iter().map(|check| key(&check.key) + 10).sum();
    let writes = batch.writes.iter().map(|write| match write {
        Write::Put { key: at, body } => key(at) + body.len() + 8,
        Write::Delete { key: at } => key(at),
    });
    checks + writes.sum::<usize>()
}
