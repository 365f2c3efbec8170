//! As the leader: who becomes a standby and who a mirror, and the steps between the two.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::async_runtime::WatchReceiver as _;

use super::super::engine::Engine;
use super::super::membership::refuse;
use super::super::message::Response;
use super::standby::{self, Step, View};
use crate::identity::Member;
use crate::storage::Command;

impl Engine {
    /// Whether openraft's membership has all the standbys that it should have.
    pub(in crate::consensus) fn seats_taken(&self) -> bool {
        let server = self.inner.raft.server_metrics().borrow_watched().clone();
        let voters = server.membership_config.voter_ids().count();
        server.membership_config.nodes().count() >= standby::seats(voters, self.inner.mirroring.standbys)
    }

    /// Whether a member stands in the replicated state only.
    pub(in crate::consensus) fn mirrors(&self, id: u64) -> bool {
        !self.votes_or_learns(id) && self.inner.state.mirrors().borrow().contains_key(&id)
    }

    /// Whether a member stands in openraft's membership.
    pub(in crate::consensus) fn votes_or_learns(&self, id: u64) -> bool {
        let server = self.inner.raft.server_metrics();
        server.borrow_watched().membership_config.nodes().any(|(&node, _)| node == id)
    }

    /// Makes a member a mirror, or changes what is known of one.
    pub(in crate::consensus) async fn set_mirror(&self, id: u64, member: Member) -> Result<(), Response> {
        self.command(Command::SetMirror(id, member)).await
    }

    /// Forgets a mirror.
    pub(in crate::consensus) async fn remove_mirror(&self, id: u64) -> Result<(), Response> {
        self.command(Command::RemoveMirror(id)).await
    }

    async fn command(&self, command: Command) -> Result<(), Response> {
        let written = self.inner.raft.client_write(command).await;
        // Who asks next sees it.
        self.publish_members();
        written.map(drop).map_err(|error| refuse(&error))
    }

    /// Takes one step towards the right standbys; what was done, for people.
    pub(in crate::consensus) async fn tend_standbys(&self) -> String {
        let Some(view) = self.standby_view() else { return String::new() };
        let (id, done, what) = match standby::decide(&view) {
            Step::Settled => return String::new(),
            Step::Promote(id) => (id, self.promote(id).await, "is a standby now"),
            Step::Demote(id) => (id, self.demote(id).await, "is a mirror now"),
        };
        let name = self.inner.peers.name(id);
        match done {
            Ok(()) => {
                tracing::info!(name, id, what, "a change of the standbys");
                format!("{name} {what}")
            }
            Err(response) => format!("{name} could not be moved between standbys and mirrors: {response:?}"),
        }
    }

    fn standby_view(&self) -> Option<View> {
        let status = self.status();
        let silence = |id: u64| status.last_heard.get(&id).copied().unwrap_or(Duration::ZERO);
        self.leadership().borrow().is_leader.then(|| View {
            voters: status.voters.keys().copied().collect(),
            learners: status.learners.keys().map(|&id| (id, silence(id))).collect(),
            mirrors: {
                // Nobody is made a standby on trust: it must have been heard by this leader.
                let heard = |id: u64| self.inner.peers.silence(id).unwrap_or(Duration::MAX);
                self.inner.state.mirrors().borrow().keys().map(|&id| (id, heard(id))).collect()
            },
            standbys: self.inner.mirroring.standbys,
            alive_within: self.inner.mirroring.given_up_after(),
            lost_after: self.inner.timing.lost_after().max(self.inner.mirroring.given_up_after()),
        })
    }

    /// As the leader: how long a mirror was not heard, by anyone; what was before this device led
    /// does not count against it.
    pub(in crate::consensus) fn mirror_silence(&self, id: u64) -> Duration {
        let led = self.led_for();
        self.inner.peers.silence(id).map_or(led, |silence| silence.min(led))
    }

    async fn promote(&self, id: u64) -> Result<(), Response> {
        let Some(member) = self.inner.state.mirrors().borrow().get(&id).cloned() else { return Ok(()) };
        // Applying this takes it off the mirrors, on every replica at the same entry.
        let done = self.change(ChangeMembers::AddNodes(BTreeMap::from([(id, member)])), true).await;
        self.publish_members();
        done
    }

    /// First into the state, then out of the membership: at no point is it no member at all.
    async fn demote(&self, id: u64) -> Result<(), Response> {
        let Some(member) = self.inner.peers.member(id) else { return Ok(()) };
        self.set_mirror(id, member).await?;
        self.change(ChangeMembers::RemoveNodes(BTreeSet::from([id])), true).await
    }
}
