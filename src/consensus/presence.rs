//! Taking part in the fleet, or not: what the engine does about the guard's verdict on this device,
//! looking for a fleet that is not heard any more, and being let in again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use openraft::ChangeMembers;
use tokio::sync::watch;
use tokio::time::Instant;

use super::engine::{AppHandler, Engine, EngineError};
use super::guard::{Roll, Verdict};
use super::membership::refuse;
use super::message::{Refusal, Request, Response, ToLeader};
use super::peers::Members;
use super::pilot;
use crate::identity::{Member, Run, Stamp};
use crate::resource::Timestamp;
use crate::storage::{self, Command, Reply, Seat};

/// Pause between two greetings of a device that hears no leader; it doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest of these pauses, in silences after which a peer counts as not answering.
const LONGEST_PAUSE: u32 = 16;
/// Members greeted in one round.
const GREETED: usize = 8;

impl Engine {
    /// Whether this device may take part, as it changes.
    pub fn verdict(&self) -> watch::Receiver<Verdict> {
        self.inner.peers.guard.verdict()
    }

    /// The agent has found out whether this device may take part.
    pub fn judge(&self, verdict: Verdict) {
        self.inner.peers.guard.judge(verdict);
    }

    /// What the fleet has recorded of its members' runs and fences, in place of what was known.
    pub fn set_roll(&self, roll: Roll) {
        self.inner.peers.guard.set_roll(self.inner.id, roll);
    }

    /// Notes a sign of life of a run of a member, whether it counts or not.
    pub fn note_run(&self, id: u64, run: Run) {
        self.inner.peers.guard.note(id, run);
    }

    /// Whether another run of this member lives: a sign of it came after a moment, or it is this
    /// very device. Signs that do not count are signs of life too.
    pub fn other_run_since(&self, id: u64, run: Run, since: Instant) -> Option<Run> {
        let own = self.inner.peers.guard.stamp().run;
        if id == self.inner.id && run != own {
            return Some(own);
        }
        self.inner.peers.guard.other_since(id, run, since)
    }

    /// Whether a device was heard that was recovered separately from the same epoch.
    pub fn has_rival(&self) -> bool {
        self.inner.peers.guard.has_rival()
    }

    /// Which epoch and which run this is.
    pub fn stamp(&self) -> Stamp {
        self.inner.peers.guard.stamp()
    }

    /// The latest run of a member that is known here, recorded or heard.
    pub fn latest_run(&self, id: u64) -> Option<Run> {
        self.inner.peers.guard.latest(id)
    }

    /// Everyone whom those vouch for who were greeted since this device hears no leader; empty otherwise.
    pub fn vouched(&self) -> watch::Receiver<Members> {
        self.inner.vouched.subscribe()
    }

    /// Whether no leader is heard, for longer than a change of leaders takes.
    pub fn is_lonely(&self) -> bool {
        // A mirror hears of the leader poll by poll.
        let polled = if self.is_mirror() && self.belongs() { self.patience() } else { std::time::Duration::ZERO };
        let patience = polled.max(self.inner.timing.alive_within() * 2);
        let heard = self.leadership().borrow().is_leader || self.inner.peers.leader_wait() < patience;
        !heard || !self.inner.peers.guard.is_clear()
    }

    /// Answers devices that ask to be let in again.
    pub fn set_enter_handler(&self, handler: AppHandler) {
        self.inner.enter.store(Some(Arc::new(handler)));
    }

    /// Asks a device to let this one in again. It need not be a member any more, nor this device.
    pub async fn ask_to_enter(
        &self,
        id: u64,
        member: &Member,
        ask: Vec<u8>,
        timeout: Duration,
    ) -> Result<Vec<u8>, EngineError> {
        let failed = |reason: String| EngineError::Peer { peer: member.name.clone(), reason };
        match self.inner.peers.ask(id, Some(member), Request::Enter(ask), timeout).await {
            Ok(Response::App(answer)) => Ok(answer),
            Ok(other) => Err(failed(format!("the answer does not fit the question: {other:?}"))),
            Err(error) => Err(failed(error.to_string())),
        }
    }

    /// Makes a device a member under a new id; its old id goes in the same change. For a device
    /// whose log can not be trusted any more.
    pub async fn readmit(&self, old: Option<u64>, member: Member) -> Result<u64, EngineError> {
        self.change_at_leader(ToLeader::Readmit(old, member)).await
    }

    /// Copies what this device has, every entry of its log included, to a folder where it is the
    /// only member. The engine must be shut down; nothing of its own is changed.
    pub async fn reseat(&self, folder: &std::path::Path, seat: Seat) -> Result<u64, EngineError> {
        Ok(storage::reseat(&self.inner.state, &self.inner.log, folder, seat).await?)
    }

    /// The whole state at one revision, as a file that is removed when dropped.
    pub async fn spool(&self) -> Result<storage::Spooled, EngineError> {
        Ok(storage::spool(&self.inner.state).await?)
    }

    /// The wall clock of the latest applied write's proposer.
    pub fn last_change(&self) -> Timestamp {
        self.inner.state.last_change()
    }

    /// One more than the index of the last applied entry, as it moves; zero for none.
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.inner.state.applied()
    }

    /// Whether the state holds the change that made this device a member: before that, it says
    /// nothing about what should run here.
    pub fn belongs(&self) -> bool {
        self.inner.state.lists(self.inner.id).unwrap_or(false)
    }

    /// A device that takes no part does not stand for election.
    pub(super) async fn obey(self) {
        let mut verdict = self.verdict();
        loop {
            let now = verdict.borrow_and_update().clone();
            self.inner.raft.runtime_config().elect(now == Verdict::Clear);
            if now != Verdict::Clear {
                tracing::error!(why = now.why(), "this device takes no part in its fleet");
            }
            if verdict.changed().await.is_err() {
                return;
            }
        }
    }

    /// As the leader: see [`Engine::readmit`].
    pub(super) async fn readmit_as_leader(&self, old: Option<u64>, member: Member) -> Response {
        let _one_at_a_time = self.inner.membership.lock().await;
        let members = self.inner.peers.members().borrow().clone();
        // What a device was admitted as stays, whatever it says.
        let witness = members.values().find(|known| known.key == member.key).map(|known| known.witness);
        let member = Member { witness: witness.unwrap_or(member.witness), ..member };
        let replaced = |id: &u64, known: &Member| Some(*id) == old || known.key == member.key;
        if let Some((_, other)) = members.iter().find(|(id, known)| known.name == member.name && !replaced(id, known)) {
            return Response::Refused(Refusal::NameTaken { name: other.name.clone() });
        }
        let going: Vec<u64> = members.iter().filter(|(id, known)| replaced(id, known)).map(|(&id, _)| id).collect();
        if going.contains(&self.inner.id) {
            return Response::Failed("the leader can not be replaced while it leads".into());
        }
        for &id in &going {
            if self.inner.state.mirrors().borrow().contains_key(&id)
                && let Err(response) = self.remove_mirror(id).await
            {
                return response;
            }
            let Some(view) = self.view() else { return Response::NotLeader(None) };
            if view.members.get(&id).is_some_and(|standing| standing.voter) {
                let Some(voters) = pilot::without(&view, id) else {
                    return Response::Refused(Refusal::NoSuccessor);
                };
                if let Err(response) = self.change(ChangeMembers::ReplaceAllVoters(voters), true).await {
                    return response;
                }
            }
        }
        let id = match self.inner.raft.client_write(Command::NextMemberId).await {
            Ok(written) => match written.data {
                Reply::MemberId(id) => id,
                other => return Response::Failed(format!("the log answered {other:?} instead of a member id")),
            },
            Err(error) => return refuse(&error),
        };
        let add = ChangeMembers::AddNodes(BTreeMap::from([(id, member)]));
        let remove = ChangeMembers::RemoveNodes(going.into_iter().filter(|&id| self.votes_or_learns(id)).collect());
        let change = ChangeMembers::Batch(vec![add, remove]);
        self.change(change, true).await.map_or_else(|response| response, |()| Response::Member(id))
    }

    /// Greets members while no leader is heard, so that a device whose address changed is found by
    /// its own packets, and one that slept for long learns who belongs to the fleet now.
    pub(super) async fn say_hello(self) {
        let patience = self.inner.timing.alive_within() * 2;
        let longest = (self.inner.timing.alive_within() * LONGEST_PAUSE).max(FIRST_PAUSE);
        let mut pause = FIRST_PAUSE;
        let mut first = 0;
        loop {
            if !self.is_lonely() {
                self.inner.vouched.send_if_modified(|known| !std::mem::take(known).is_empty());
                pause = FIRST_PAUSE;
                tokio::time::sleep(patience).await;
                continue;
            }
            let members = self.inner.peers.members().borrow().clone();
            let others: Vec<u64> = members.keys().copied().filter(|&id| id != self.inner.id).collect();
            let round = others.iter().cycle().skip(first).take(GREETED.min(others.len())).copied();
            let round: Vec<u64> = round.collect();
            first = (first + GREETED).checked_rem(others.len()).unwrap_or(0);
            let greetings = round.into_iter().map(|id| self.greet(id, pause));
            futures_util::future::join_all(greetings).await;
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(longest);
        }
    }

    async fn greet(&self, id: u64, within: Duration) {
        // No answer is what a lonely device expects.
        if let Ok(Response::Members(members)) = self.inner.peers.ask(id, None, Request::Hello, within).await {
            self.inner.vouched.send_if_modified(|known| {
                let news = members.iter().any(|(id, member)| known.get(id) != Some(member));
                if news {
                    let mut more = (**known).clone();
                    more.extend(members);
                    *known = Arc::new(more);
                }
                news
            });
        }
    }
}
