//! How votes, log ids and payloads look in the WAL. `raft-log` frames them and adds a checksum.

use std::cmp::Ordering;
use std::io::{self, Read, Write};
use std::sync::Arc;

use openraft::storage::IOFlushed;
use openraft::vote::RaftLeaderId;
use raft_log::codeq::{Decode, Encode};
use tokio::sync::oneshot;

use super::raft::{LogId, TypeConfig, Vote};

type LeaderId = <TypeConfig as openraft::RaftTypeConfig>::LeaderId;

/// Types of the WAL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct WalTypes;

impl raft_log::Types for WalTypes {
    type LogId = WalLogId;
    type LogPayload = Payload;
    type Vote = WalVote;
    type Callback = Done;
    type UserData = ();

    fn log_index(log_id: &WalLogId) -> u64 {
        log_id.0.index
    }

    fn payload_size(payload: &Payload) -> u64 {
        payload.0.len() as u64
    }
}

/// A log id in the WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct WalLogId(pub(super) LogId);

impl Encode for WalLogId {
    fn encode<W: Write>(&self, mut to: W) -> io::Result<usize> {
        let leader = self.0.committed_leader_id();
        encode_words(&mut to, [leader.term, leader.node_id, self.0.index])
    }
}

impl Decode for WalLogId {
    fn decode<R: Read>(mut from: R) -> io::Result<Self> {
        let [term, node, index] = decode_words(&mut from)?;
        Ok(Self(LogId::new(LeaderId::new(term, node), index)))
    }
}

/// A vote in the WAL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WalVote(pub(super) Vote);

impl PartialOrd for WalVote {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.0.partial_cmp(&other.0)
    }
}

impl Encode for WalVote {
    fn encode<W: Write>(&self, mut to: W) -> io::Result<usize> {
        let leader = &self.0.leader_id;
        encode_words(&mut to, [leader.term, leader.node_id, u64::from(self.0.committed)])
    }
}

impl Decode for WalVote {
    fn decode<R: Read>(mut from: R) -> io::Result<Self> {
        let [term, node, committed] = decode_words(&mut from)?;
        Ok(Self(Vote { leader_id: LeaderId::new(term, node), committed: committed != 0 }))
    }
}

/// An entry's payload, encoded; shared between the WAL's cache and its readers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Payload(pub(super) Arc<[u8]>);

impl Encode for Payload {
    fn encode<W: Write>(&self, mut to: W) -> io::Result<usize> {
        let length = u32::try_from(self.0.len())
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a log entry has more than 4 GiB"))?;
        to.write_all(&length.to_be_bytes())?;
        to.write_all(&self.0)?;
        Ok(4 + self.0.len())
    }
}

impl Decode for Payload {
    fn decode<R: Read>(from: R) -> io::Result<Self> {
        // Reads no more than there is, whatever a damaged length says.
        Ok(Self(Vec::<u8>::decode(from)?.into()))
    }
}

/// Who waits for bytes to be on the disk.
pub(super) enum Done {
    /// openraft, for entries.
    Entries(IOFlushed<TypeConfig>),
    /// The caller of a vote or a purge.
    Caller(oneshot::Sender<io::Result<()>>),
}

impl raft_log::Callback for Done {
    fn send(self, result: io::Result<()>) {
        match self {
            Self::Entries(flushed) => flushed.io_completed(result),
            // Nobody listens when the caller was cancelled.
            Self::Caller(waiting) => drop(waiting.send(result)),
        }
    }
}

fn encode_words(to: &mut impl Write, words: [u64; 3]) -> io::Result<usize> {
    for word in words {
        to.write_all(&word.to_be_bytes())?;
    }
    Ok(24)
}

fn decode_words(from: &mut impl Read) -> io::Result<[u64; 3]> {
    let mut words = [0; 3];
    for word in &mut words {
        let mut bytes = [0; 8];
        from.read_exact(&mut bytes)?;
        *word = u64::from_be_bytes(bytes);
    }
    Ok(words)
}
