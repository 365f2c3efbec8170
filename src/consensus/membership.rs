//! Who belongs to the fleet, and carrying out what the pilot decides. All changes go through the
//! leader, one at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use openraft::async_runtime::WatchReceiver as _;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::{ChangeMembers, Instant as _};
use tokio::time::Instant;

use super::engine::{Engine, EngineError};
use super::lag::LagClock;
use super::message::{Refusal, Response, ToLeader};
use super::pilot::{self, Decision, Standing, Steadiness, View};
use super::timing::{MAX_LOG_BYTES, MEMBERSHIP_TIMEOUT, RETRY};
use crate::identity::Member;
use crate::storage::{Command, Reply, TypeConfig};

/// Entries that a member may be behind and still count as up to date.
const CAUGHT_UP: u64 = 64;

/// What the pilot of a leader remembers between two looks. Losing it costs a little time.
#[derive(Default)]
pub(super) struct Memory {
    /// What keeps the voters from being as they should, or the last step taken.
    pub(super) note: String,
    /// Why each member that does not vote does not.
    pub(super) bench: BTreeMap<u64, String>,
    pub(super) lag: LagClock,
    steadiness: Steadiness,
    term: u64,
    epoch: Option<Instant>,
}

impl Memory {
    /// Time on the pilot's clock.
    fn now(&mut self) -> Duration {
        self.epoch.get_or_insert_with(Instant::now).elapsed()
    }
}

type WriteError = RaftError<TypeConfig, ClientWriteError<TypeConfig>>;

impl Engine {
    /// Makes a device a member, and returns its id: a new one, or the one that its key has already.
    pub async fn add_member(&self, member: Member) -> Result<u64, EngineError> {
        self.change_at_leader(ToLeader::AddMember(member)).await
    }

    /// Removes a member; removing one that is not there does nothing.
    pub async fn remove_member(&self, id: u64) -> Result<(), EngineError> {
        self.change_at_leader(ToLeader::RemoveMember(id)).await.map(drop)
    }

    /// Replaces what the membership says of a member, such as its addresses.
    pub async fn update_member(&self, id: u64, member: Member) -> Result<(), EngineError> {
        self.change_at_leader(ToLeader::UpdateMember(id, member)).await.map(drop)
    }

    /// Hands the lead to a voter, and waits until it has it.
    pub async fn transfer_leader(&self, to: u64) -> Result<(), EngineError> {
        self.change_at_leader(ToLeader::TransferTo(to)).await?;
        let mut leadership = self.leadership();
        let within = self.inner.timing.transfer();
        let led = leadership.wait_for(|known| known.leader == Some(to));
        match tokio::time::timeout(within, led).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(self.unavailable(within)),
        }
    }

    /// As the leader: adds a member.
    pub(super) async fn admit(&self, member: Member) -> Response {
        let _one_at_a_time = self.inner.membership.lock().await;
        let members = self.inner.peers.members().borrow().clone();
        if let Some((&id, known)) = members.iter().find(|(_, known)| known.key == member.key) {
            return if *known == member { Response::Member(id) } else { self.set_member(id, member).await };
        }
        if members.values().any(|known| known.name == member.name) {
            return Response::Refused(Refusal::NameTaken { name: member.name });
        }
        let id = match self.inner.raft.client_write(Command::NextMemberId).await {
            Ok(written) => match written.data {
                Reply::MemberId(id) => id,
                other => return Response::Failed(format!("the log answered {other:?} instead of a member id")),
            },
            Err(error) => return refuse(&error),
        };
        if self.seats_taken() {
            return self.set_mirror(id, member).await.map_or_else(|response| response, |()| Response::Member(id));
        }
        let change = ChangeMembers::AddNodes(BTreeMap::from([(id, member)]));
        self.change(change, true).await.map_or_else(|response| response, |()| Response::Member(id))
    }

    /// As the leader: changes what is known of a member.
    pub(super) async fn revise(&self, id: u64, member: Member) -> Response {
        let _one_at_a_time = self.inner.membership.lock().await;
        match self.inner.peers.member(id) {
            None => Response::Refused(Refusal::Unknown { id }),
            Some(known) if known == member => Response::Member(id),
            Some(_) => self.set_member(id, member).await,
        }
    }

    async fn set_member(&self, id: u64, member: Member) -> Response {
        let members = self.inner.peers.members().borrow().clone();
        if members.iter().any(|(&other, known)| other != id && known.name == member.name) {
            return Response::Refused(Refusal::NameTaken { name: member.name });
        }
        if self.mirrors(id) {
            return self.set_mirror(id, member).await.map_or_else(|response| response, |()| Response::Member(id));
        }
        let change = ChangeMembers::SetNodes(BTreeMap::from([(id, member)]));
        self.change(change, true).await.map_or_else(|response| response, |()| Response::Member(id))
    }

    /// As the leader: removes a member. A leader that removes itself stops voting first, and
    /// leaves the rest to its successor.
    pub(super) async fn expel(&self, id: u64) -> Response {
        let _one_at_a_time = self.inner.membership.lock().await;
        if self.inner.state.mirrors().borrow().contains_key(&id)
            && let Err(response) = self.remove_mirror(id).await
        {
            return response;
        }
        let Some(view) = self.view() else { return Response::NotLeader(None) };
        let Some(votes) = view.members.get(&id).map(|member| member.voter) else { return Response::Member(id) };
        if view.members.len() == 1 {
            return Response::Refused(Refusal::LastMember);
        }
        if votes {
            let Some(voters) = pilot::without(&view, id) else {
                return Response::Refused(Refusal::NoSuccessor);
            };
            if let Err(response) = self.change(ChangeMembers::ReplaceAllVoters(voters), true).await {
                return response;
            }
        }
        if id == self.inner.id {
            self.lead_no_more().await;
            return Response::NotLeader(None);
        }
        let change = ChangeMembers::RemoveNodes(BTreeSet::from([id]));
        self.change(change, true).await.map_or_else(|response| response, |()| Response::Member(id))
    }

    /// As a leader without a vote: asks a voter to take over. openraft lets a leader lead on that is
    /// still a member, with a vote or without.
    async fn lead_no_more(&self) {
        let Some(view) = self.view() else { return };
        let others = view.members.iter().filter(|&(&id, member)| member.voter && id != view.me);
        let Some((&to, _)) = others.min_by_key(|(_, member)| (!member.caught_up, member.silence)) else { return };
        if let Err(error) = self.inner.raft.trigger().transfer_leader(to).await {
            tracing::warn!(%error, "the lead can not be handed over");
        }
    }

    /// As the leader: asks a voter to take over.
    pub(super) async fn hand_over(&self, to: u64) -> Response {
        let known_voter = self.view().and_then(|view| view.members.get(&to).map(|member| member.voter));
        match known_voter {
            None => Response::Refused(Refusal::Unknown { id: to }),
            Some(false) => Response::Refused(Refusal::NoVoter { id: to }),
            Some(true) if to == self.inner.id => Response::Member(to),
            Some(true) => match self.inner.raft.trigger().transfer_leader(to).await {
                Ok(()) => Response::Member(to),
                Err(error) => Response::Failed(error.to_string()),
            },
        }
    }

    /// Changes the membership, waiting for a change before it to end.
    pub(super) async fn change(&self, change: ChangeMembers<u64, Member>, retain: bool) -> Result<(), Response> {
        let deadline = Instant::now() + MEMBERSHIP_TIMEOUT;
        loop {
            let changing = self.inner.raft.change_membership(change.clone(), retain);
            let error = match tokio::time::timeout_at(deadline, changing).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(error)) => error,
                Err(_) => return Err(Response::Failed("the change was not confirmed by a quorum in time".into())),
            };
            if !busy(&error) || Instant::now() >= deadline {
                return Err(refuse(&error));
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// The fleet as this leader sees it; `None` when it does not lead.
    pub(super) fn view(&self) -> Option<View> {
        let known = *self.inner.leadership.borrow();
        let metrics = self.inner.raft.metrics().borrow_watched().clone();
        let (true, Some(replication), Some(heartbeat)) = (known.is_leader, &metrics.replication, &metrics.heartbeat)
        else {
            return None;
        };
        let since = self.led_for();
        let last = metrics.last_log_index.unwrap_or(0);
        let voters: BTreeSet<u64> = metrics.membership_config.voter_ids().collect();
        let mut memory = self.memory();
        let (now, steady_after) = (memory.now(), self.inner.timing.steady_after());
        let standing = |id: u64, member: &Member| {
            let silence = heartbeat.get(&id).copied().flatten().map_or(since, |at| at.elapsed());
            let matched = replication.get(&id).copied().flatten();
            let here = id == self.inner.id;
            Standing {
                voter: voters.contains(&id),
                silence: if here { Duration::ZERO } else { silence },
                caught_up: here || matched.is_some_and(|matched| matched.index + CAUGHT_UP >= last),
                steady: memory.steadiness.of(id, now, steady_after),
                preference: member.voter,
                zone: member.zone.clone(),
                witness: member.witness,
            }
        };
        let configs = metrics.membership_config.membership().get_joint_config();
        Some(View {
            me: self.inner.id,
            members: metrics.membership_config.nodes().map(|(&id, member)| (id, standing(id, member))).collect(),
            changing: metrics.membership_config != metrics.committed_membership_config,
            joint: configs.last().filter(|_| configs.len() > 1).cloned(),
            alive_within: self.inner.timing.alive_within(),
            lost_after: self.inner.timing.lost_after(),
        })
    }

    /// The pilot's loop: looks at the fleet by and by while this device leads, and takes one step
    /// at a time. Everything is read again each time, so a step that was lost is taken again.
    pub(super) async fn fly(self) {
        let mut leadership = self.leadership();
        loop {
            let leads = leadership.borrow_and_update().is_leader;
            self.bound_log().await;
            if leads {
                self.look_around();
                self.take_step().await;
                self.consider_handover().await;
            }
            let pause = if leads { self.inner.timing.pilot() } else { self.inner.timing.pilot() * 20 };
            // Ends early when the lead changes; nothing is lost then.
            if let Ok(Err(_)) = tokio::time::timeout(pause, leadership.changed()).await {
                return;
            }
        }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.inner.pilot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in who is there and how long the log is.
    fn look_around(&self) {
        let Some(view) = self.view() else { return };
        let entries = self.inner.raft.metrics().borrow_watched().last_log_index.map_or(0, |last| last + 1);
        let term = self.inner.leadership.borrow().term;
        let mut memory = self.memory();
        if memory.term != term {
            memory.term = term;
            memory.steadiness.clear();
            memory.lag.clear();
        }
        memory.lag.observe(entries, Instant::now());
        let now = memory.now();
        let heard = view.members.iter().map(|(&id, member)| (id, member.silence <= view.alive_within));
        memory.steadiness.observe(now, heard, self.inner.timing.steady_after());
        memory.bench = view.members.keys().filter_map(|&id| Some((id, pilot::bench(&view, id)?))).collect();
    }

    async fn take_step(&self) {
        let _one_at_a_time = self.inner.membership.lock().await;
        let Some(view) = self.view() else { return };
        if !view.changing && view.members.get(&view.me).is_some_and(|me| !me.voter) {
            self.lead_no_more().await;
        }
        let note = match pilot::decide(&view) {
            Decision::Settled => self.tend_standbys().await,
            Decision::Wait { why } => why,
            Decision::Change { voters, why } => {
                tracing::info!(?voters, why, "changing the voters");
                match self.change(ChangeMembers::ReplaceAllVoters(voters), true).await {
                    Ok(()) => why,
                    Err(response) => format!("the voters could not be changed: {response:?}"),
                }
            }
        };
        self.memory().note = note;
    }

    /// A few large entries can outgrow the disk long before there are enough of them for a snapshot.
    async fn bound_log(&self) {
        if self.inner.log.bytes() <= MAX_LOG_BYTES {
            return;
        }
        let (applied, snapshot) = {
            let metrics = self.inner.raft.metrics();
            let metrics = metrics.borrow_watched();
            (metrics.last_applied, metrics.snapshot)
        };
        let trigger = self.inner.raft.trigger();
        let done = match snapshot {
            Some(snapshot) if Some(snapshot) == applied => trigger.purge_log(snapshot.index).await,
            _ => trigger.snapshot().await,
        };
        if let Err(error) = done {
            tracing::warn!(%error, "the log can not be shortened");
        }
    }
}

fn busy(error: &WriteError) -> bool {
    let RaftError::APIError(ClientWriteError::ChangeMembershipError(error)) = error else { return false };
    matches!(error, ChangeMembershipError::InProgress(_) | ChangeMembershipError::UncommittedLeaderLog(_))
}

pub(super) fn refuse(error: &WriteError) -> Response {
    match error {
        RaftError::APIError(
            ClientWriteError::ForwardToLeader(forward) | ClientWriteError::LogEntryDiscarded(forward),
        ) => Response::NotLeader(forward.leader_id),
        error => Response::Failed(error.to_string()),
    }
}
