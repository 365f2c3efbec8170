//! What members of the fleet ask each other, and what they answer. Encoded by the store's codec
//! and carried by the transport, which sees bytes.

use std::collections::BTreeMap;
use std::time::Duration;

use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use serde::{Deserialize, Serialize};

use super::guard::Objection;
use super::handover::Willing;
use super::mirror::{Follow, Followed, Pull, Pulled, Signs};
use super::status::EngineStatus;
use crate::identity::{Member, Run, Stamp};
use crate::storage::{SnapshotMeta, TypeConfig, Vote};
use crate::store::{Outcome, Txn, octets};

/// The most bytes that a request or an answer may have on the wire, framing aside.
pub const MAX_MESSAGE_BYTES: usize = 4 << 20;

/// A request between two members.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Envelope {
    /// Member id of the sender.
    pub(super) from: u64,
    /// Member id that the sender means: a device that joined anew must not answer for its old id.
    pub(super) to: u64,
    /// Which epoch and which run the sender is.
    pub(super) stamp: Stamp,
    /// The latest run of the receiver that the sender knows: an older one is not to act on this.
    pub(super) knows: Run,
    pub(super) request: Request,
}

/// An answer to a request.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Answer {
    /// Which epoch and which run answers.
    pub(super) stamp: Stamp,
    pub(super) response: Response,
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
    /// Whether the peer would lead.
    WouldLead,
    /// A mirror asks what comes after its last entry.
    Follow(Follow),
    /// A mirror asks for a piece of the state.
    Pull(Pull),
    /// A follower tells the leader who was heard below it.
    Heard(Signs),
    /// A mirror asks its upstream to take this to the leader.
    Relay(ToLeader),
    App(#[serde(with = "octets")] Vec<u8>),
    /// From a device that hears no leader: is somebody there, and who belongs to the fleet now?
    Hello,
    /// From a device that asks to be let in again, whatever speaks against it.
    Enter(Vec<u8>),
}

/// What only the leader can answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum ToLeader {
    Propose(Vec<Txn>),
    ReadIndex,
    AddMember(Member),
    RemoveMember(u64),
    UpdateMember(u64, Member),
    /// The device as a new member, and its old member id out, in one change.
    Readmit(Option<u64>, Member),
    TransferTo(u64),
    /// What the leader knows of everyone.
    Observe,
    App(#[serde(with = "octets")] Vec<u8>),
}

/// A piece of a snapshot.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Piece {
    pub(super) vote: Vote,
    /// Tells one transfer from the next.
    pub(super) transfer: u64,
    pub(super) offset: u64,
    #[serde(with = "octets")]
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
    Willing(Willing),
    Observed(Box<EngineStatus>),
    Followed(Followed),
    Pulled(Pulled),
    /// Too many ask for this now; come back after this.
    Busy(Duration),
    /// Taken note of.
    Noted,
    App(#[serde(with = "octets")] Vec<u8>),
    /// Everyone in the membership as the answering device knows it.
    Members(BTreeMap<u64, Member>),
    /// The sender is not heard.
    Objected(Objection),
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
    /// It is not for this member to ask.
    #[error("{name} may not {what}")]
    NotAllowed {
        /// Who asks.
        name: String,
        /// For what, and why not.
        what: String,
    },
    /// The only voter can not go before another one is able to take its place.
    #[error("no other device is connected and up to date, so the last voter can not leave yet")]
    NoSuccessor,
}
