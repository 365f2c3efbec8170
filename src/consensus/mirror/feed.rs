//! Serving mirrors: what comes after an entry, from this device's own log, as far as it has applied
//! it. It decides what a mirror may be given; it never waits longer than it was asked to.

use std::time::Duration;

use openraft::RaftLogReader as _;
use openraft::async_runtime::WatchReceiver as _;
use openraft::storage::RaftLogStorage as _;
use tokio::time::Instant;

use super::super::engine::Engine;
use super::super::message::{Request, Response};
use super::heard::{pack, unpack};
use super::{Follow, Followed, Signs, lock};
use crate::storage::{Entry, LogId};

/// The longest that an answer waits for news.
const LONGEST_WAIT: Duration = Duration::from_mins(1);

/// What the log has after an entry.
enum After {
    Entries(Vec<Entry>),
    Purged,
    Diverged,
}

impl Engine {
    /// Answers a mirror's poll.
    pub(in crate::consensus) async fn feed(&self, member: u64, follow: Follow) -> Response {
        let mut applied = self.inner.state.applied();
        let next = follow.at.map_or(0, |at| at.index + 1);
        self.note_signs(&follow.signs);
        self.note_sign(member, (*applied.borrow_and_update()).saturating_sub(next));
        let wait = follow.wait.min(LONGEST_WAIT);
        // Ends early on news, or when this engine stops; nothing is lost then.
        let _ = tokio::time::timeout(wait, applied.wait_for(|&applied| applied > next)).await;
        match self.after(follow.at).await {
            Ok(followed) => Response::Followed(followed),
            Err(error) => {
                tracing::warn!(%error, "a mirror can not be served from the log");
                Response::Failed(error.to_string())
            }
        }
    }

    async fn after(&self, at: Option<LogId>) -> std::io::Result<Followed> {
        let vote = self.inner.raft.metrics().borrow_watched().vote;
        let age = self.leader_age();
        let applied = self.inner.state.last_applied();
        // A candidate's vote is no leader's; soon there is one.
        let Some(age) = age.filter(|_| vote.committed && at <= applied) else { return Ok(Followed::Behind) };
        if at == applied {
            return Ok(Followed::Entries { vote, entries: Vec::new(), age });
        }
        let Some(applied) = applied else { return Ok(Followed::Behind) };
        Ok(match self.read_after(at, applied).await? {
            After::Entries(entries) => Followed::Entries { vote, entries, age },
            After::Purged => Followed::TooOld,
            After::Diverged => Followed::Diverged,
        })
    }

    async fn read_after(&self, at: Option<LogId>, applied: LogId) -> std::io::Result<After> {
        let mut log = self.inner.log.clone();
        let purged = log.get_log_state().await?.last_purged_log_id;
        let first_kept = purged.map_or(0, |purged| purged.index + 1);
        let next = at.map_or(0, |at| at.index + 1);
        if next < first_kept {
            return Ok(After::Purged);
        }
        if let Some(at) = at {
            let known = if at.index < first_kept {
                purged
            } else {
                log.try_get_log_entries(at.index..next).await?.first().map(|entry| entry.log_id)
            };
            if known != Some(at) {
                return Ok(After::Diverged);
            }
        }
        let mut entries = log.limited_get_log_entries(next, applied.index + 1).await?;
        // Purged meanwhile.
        if entries.first().is_none_or(|first| first.log_id.index != next) {
            return Ok(After::Purged);
        }
        entries.retain(|entry| entry.log_id.index <= applied.index);
        Ok(After::Entries(entries))
    }

    /// How long the leader has not been heard, here or by those above.
    pub(in crate::consensus) fn leader_age(&self) -> Option<Duration> {
        if self.leadership().borrow().is_leader {
            return self.quorum_silence().or(Some(Duration::ZERO));
        }
        self.inner.peers.leader_silence()
    }

    /// Notes who was heard below. The leader's view of who is silent comes from here.
    pub(in crate::consensus) fn note_signs(&self, signs: &Signs) {
        for (id, behind) in unpack(signs) {
            self.note_sign(id, behind);
        }
    }

    fn note_sign(&self, id: u64, behind: u64) {
        if self.inner.peers.member(id).is_none() {
            return;
        }
        if self.leadership().borrow().is_leader {
            self.inner.peers.heard_from(id);
            lock(&self.inner.mirroring.behind).insert(id, behind);
        } else {
            self.inner.mirroring.heard.note(Instant::now(), [(id, behind)]);
        }
    }

    /// As a follower: tells the leader by and by who was heard below. A mirror's polls do that.
    pub(in crate::consensus) async fn pass_on(self) {
        let mirroring = &self.inner.mirroring;
        loop {
            tokio::time::sleep(mirroring.poll).await;
            mirroring.spool.sweep().await;
            let known = *self.leadership().borrow();
            if known.is_leader {
                let members = self.members().borrow().clone();
                lock(&mirroring.behind).retain(|id, _| members.contains_key(id));
            } else if !self.is_mirror() {
                self.tell_leader(known.leader).await;
            }
        }
    }

    async fn tell_leader(&self, leader: Option<u64>) {
        let mirroring = &self.inner.mirroring;
        let taken = mirroring.heard.take(Instant::now(), mirroring.poll * 2);
        let Some(leader) = leader.filter(|_| !taken.is_empty()) else { return };
        let deadline = Instant::now() + mirroring.poll;
        let timeout = mirroring.poll.min(Duration::from_secs(5));
        let told = self.inner.peers.ask(leader, None, Request::Heard(pack(&taken)), timeout).await;
        if let Err(error) = told
            && Instant::now() < deadline
        {
            tracing::debug!(%error, "the leader was not told who was heard");
            mirroring.heard.put_back(taken);
        }
    }
}
