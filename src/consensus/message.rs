//! What members of the fleet ask each other, and what they answer. Encoded by the store's codec
//! and carried by the transport, which sees bytes.

use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use serde::{Deserialize, Serialize};

use crate::identity::Member;
use crate::storage::{SnapshotMeta, TypeConfig, Vote};
use crate::store::{Outcome, Txn};

/// The most bytes that a request or an answer may have on the wire, framing aside.
pub const MAX_MESSAGE_BYTES: usize = 4 << 20;

/// A request between two members.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Envelope {
    /// Member id of the sender.
    pub(super) from: u64,
    /// Member id that the sender means: a device that joined anew must not answer for its old id.
    pub(super) to: u64,
    pub(super) request: Request,
}

/// What is asked.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    Append(AppendEntriesRequest<TypeConfig>),
    Vote(VoteRequest<TypeConfig>),
    PreVote(VoteRequest<TypeConfig>),
    Snapshot(Piece),
    TransferLeader(TransferLeaderRequest<TypeConfig>),
    Leader(ToLeader),
    App(Vec<u8>),
}

/// What only the leader can answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum ToLeader {
    Propose(Vec<Txn>),
    ReadIndex,
    AddMember(Member),
    RemoveMember(u64),
    UpdateMember(u64, Member),
    TransferTo(u64),
    App(Vec<u8>),
}

/// A piece of a snapshot.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Piece {
    pub(super) vote: Vote,
    /// Tells one transfer from the next.
    pub(super) transfer: u64,
    pub(super) offset: u64,
    pub(super) bytes: Vec<u8>,
    /// Comes with the last piece.
    pub(super) end: Option<SnapshotMeta>,
}

/// What is answered.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Response {
    Append(AppendEntriesResponse<TypeConfig>),
    Vote(VoteResponse<TypeConfig>),
    /// The next piece should start at this offset.
    SnapshotNext(u64),
    SnapshotDone(SnapshotResponse<TypeConfig>),
    TransferLeader(TransferLeaderResponse<TypeConfig>),
    /// One for each transaction.
    Proposed(Vec<Proposed>),
    /// Entries below this index must be applied before a read.
    ReadIndex(u64),
    /// The id of the member that was added or changed.
    Member(u64),
    /// The membership change was refused; trying again does not help.
    Refused(Refusal),
    App(Vec<u8>),
    /// Ask this one.
    NotLeader(Option<u64>),
    /// It did not work; it may later.
    Failed(String),
}

/// What became of one forwarded transaction.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Proposed {
    /// Applied by the leader; entries below `next_index` include it.
    Done { outcome: Outcome, next_index: u64 },
    /// Not taken in; trying again does not help until someone acts.
    Refused { reason: String },
    /// Not known; the same transaction may be sent again.
    Again,
}

/// Why a change of the membership can not be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// The name belongs to another key.
    #[error("a device named {name} is already a member of this fleet")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// There is no such member.
    #[error("this fleet has no member with id {id}")]
    Unknown {
        /// The id.
        id: u64,
    },
    /// A fleet needs at least one member.
    #[error("this is the last member of the fleet")]
    LastMember,
    /// The leader can only be handed to a voter.
    #[error("member {id} is no voter, so it can not lead")]
    NoVoter {
        /// The id.
        id: u64,
    },
    /// The only voter can not go before another one is able to take its place.
    #[error("no other device is connected and up to date, so the last voter can not leave yet")]
    NoSuccessor,
}
