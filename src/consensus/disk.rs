//! Whether this device's disk has room for what others want written to it. It keeps entries away
//! from a log that can not take them: a log that failed once is not used again before a new start.

use std::sync::atomic::{AtomicBool, Ordering};

use openraft::async_runtime::WatchReceiver as _;

use super::engine::Engine;
use super::message::Request;
use super::timing::{MIN_FREE_BYTES, MIN_FREE_BYTES_TO_FOLLOW, MIN_FREE_BYTES_TO_VOTE};

/// Remembers what was said, so that a full disk is one line in the log and not thousands.
#[derive(Debug, Default)]
pub(super) struct DiskNote {
    full: AtomicBool,
}

impl DiskNote {
    /// True when this is news.
    fn turns(&self, full: bool) -> bool {
        self.full.swap(full, Ordering::Relaxed) != full
    }
}

impl Engine {
    /// Why this device can not take writes as the leader, if it can not.
    pub fn disk_trouble(&self) -> Option<String> {
        self.short_of(MIN_FREE_BYTES)
    }

    /// Why a peer's request can not be taken in, if it can not. What writes nothing always can.
    pub(super) fn no_room_for(&self, request: &Request) -> Option<String> {
        let known = || self.inner.raft.metrics().borrow_watched().vote;
        let needed = match request {
            Request::Append(append) if !append.entries.is_empty() => MIN_FREE_BYTES_TO_FOLLOW,
            Request::Snapshot(_) => MIN_FREE_BYTES_TO_FOLLOW,
            Request::Append(append) if append.vote == known() => return None,
            Request::Append(_) | Request::Vote(_) | Request::TransferLeader(_) => MIN_FREE_BYTES_TO_VOTE,
            Request::PreVote(_)
            | Request::Leader(_)
            | Request::WouldLead
            | Request::App(_)
            | Request::Hello
            | Request::Enter(_)
            | Request::Follow(_)
            | Request::Pull(_)
            | Request::Heard(_)
            | Request::Relay(_) => return None,
        };
        let trouble = self.short_of(needed);
        if needed == MIN_FREE_BYTES_TO_FOLLOW && self.inner.disk_note.turns(trouble.is_some()) {
            if let Some(why) = &trouble {
                tracing::error!(why, "this device falls behind its fleet");
            } else {
                tracing::info!("the disk has room again: this device follows its fleet");
            }
        }
        trouble
    }

    /// Why this device can not take in what the fleet has, if it can not.
    pub(super) fn no_room_to_follow(&self) -> Option<String> {
        self.short_of(MIN_FREE_BYTES_TO_FOLLOW)
    }

    fn short_of(&self, needed: u64) -> Option<String> {
        match self.inner.state.free_bytes() {
            Ok(free) if free >= needed => None,
            Ok(free) => Some(format!(
                "the disk of {} is full: {} KiB are free and {} KiB are needed; free some space there",
                self.inner.peers.name(self.inner.id),
                free >> 10,
                needed >> 10
            )),
            Err(error) => Some(error.to_string()),
        }
    }
}
