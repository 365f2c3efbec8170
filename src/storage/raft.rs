//! The types that openraft works with: what a log entry carries and what applying it answers.

use std::fmt;

use openraft::type_config::alias::{LogIdOf, SnapshotMetaOf, StoredMembershipOf, VoteOf};
use serde::{Deserialize, Serialize};

use super::runtime::Runtime;
use crate::identity::Member;
use crate::store::{Outcome, Txn};

/// What one log entry asks of every replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Apply a transaction to the documents.
    Txn(Txn),
    /// Hand out a member id that was never handed out before.
    NextMemberId,
    /// Make a device a mirror, or change what is known of one.
    SetMirror(u64, Member),
    /// Forget a mirror.
    RemoveMirror(u64),
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Txn(txn) => write!(f, "txn {:x}/{}", txn.client, txn.sequence),
            Self::NextMemberId => f.write_str("next member id"),
            Self::SetMirror(id, _) => write!(f, "set mirror {id}"),
            Self::RemoveMirror(id) => write!(f, "remove mirror {id}"),
        }
    }
}

/// What applying an entry answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// The entry carried no command.
    Nothing,
    /// To a transaction.
    Outcome(Outcome),
    /// To a request for a member id.
    MemberId(u64),
}

openraft::declare_raft_types!(
    /// Kith's choice of openraft's types.
    pub TypeConfig:
        D = Command,
        R = Reply,
        NodeId = u64,
        Node = Member,
        AsyncRuntime = Runtime,
);

/// A log entry.
pub type Entry = <TypeConfig as openraft::RaftTypeConfig>::Entry;
/// The position of a log entry.
pub type LogId = LogIdOf<TypeConfig>;
/// A vote.
pub type Vote = VoteOf<TypeConfig>;
/// The membership and where in the log it was set.
pub type StoredMembership = StoredMembershipOf<TypeConfig>;
/// What a snapshot covers.
pub type SnapshotMeta = SnapshotMetaOf<TypeConfig>;
