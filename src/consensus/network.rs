//! openraft's calls as messages to one peer. It decides how long to wait and which error makes
//! openraft retry; it never decides anything about the log.

use std::future::Future;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use openraft::OptionalSend;
use openraft::RPCTypes;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};

use super::message::{Piece, Request, Response};
use super::peers::Peers;
use crate::identity::Member;
use crate::storage::{SnapshotSource, State, TypeConfig, Vote};

/// Bytes of a snapshot that travel in one message.
const PIECE_BYTES: usize = 512 << 10;
/// How long the last piece may take: the peer checks and installs the snapshot before it answers.
const INSTALL_TIMEOUT: Duration = Duration::from_mins(2);
/// How long any other piece may take.
const PIECE_TIMEOUT: Duration = Duration::from_secs(20);

type Snapshot = openraft::alias::SnapshotOf<TypeConfig, SnapshotSource>;
type Result<T, E = RPCError<TypeConfig>> = std::result::Result<T, E>;

/// Makes the peers that openraft talks to.
pub(super) struct Network {
    pub(super) peers: Arc<Peers>,
    pub(super) state: State,
    /// How long entries may take to reach a peer's disk.
    pub(super) append_timeout: Duration,
}

/// One peer.
pub(super) struct Peer {
    peers: Arc<Peers>,
    state: State,
    append_timeout: Duration,
    target: u64,
    member: Member,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, member: &Member) -> Peer {
        Peer {
            peers: self.peers.clone(),
            state: self.state.clone(),
            append_timeout: self.append_timeout,
            target,
            member: member.clone(),
        }
    }
}

impl Peer {
    async fn ask(&self, kind: RPCTypes, request: Request, timeout: Duration) -> Result<Response> {
        let answer = self.peers.ask(self.target, Some(&self.member), request, timeout).await;
        answer.map_err(|error| {
            if error.timed_out() {
                RPCError::Timeout(Timeout { action: kind, id: self.peers.me, target: self.target, timeout })
            } else {
                // Also when the peer said no: it is starting, stopping, or out of disk. Asking at
                // once again would only keep it busy.
                RPCError::Unreachable(Unreachable::new(&error))
            }
        })
    }

    /// Sends a snapshot piece by piece. The peer says where to go on, so a lost answer costs one
    /// piece, and a peer that restarted gets it from the start.
    async fn send(&self, vote: Vote, snapshot: Snapshot) -> Result<SnapshotResponse<TypeConfig>> {
        let state = self.state.clone();
        let spooled = tokio::task::spawn_blocking(move || state.spool(snapshot.snapshot)).await;
        let mut file = spooled
            .map_err(|error| RPCError::Unreachable(Unreachable::new(&error)))?
            .map_err(|error| RPCError::Unreachable(Unreachable::new(&error)))?;
        let transfer = self.peers.next_transfer();
        let mut offset = 0;
        loop {
            let bytes = read_piece(file.as_file_mut(), offset)
                .map_err(|error| RPCError::Unreachable(Unreachable::new(&error)))?;
            let last = bytes.len() < PIECE_BYTES;
            let end = last.then(|| snapshot.meta.clone());
            let timeout = if last { INSTALL_TIMEOUT } else { PIECE_TIMEOUT };
            let piece = Piece { vote, transfer, offset, bytes, end };
            match self.ask(RPCTypes::InstallSnapshot, Request::Snapshot(piece), timeout).await? {
                Response::SnapshotNext(next) => offset = next,
                Response::SnapshotDone(response) => return Ok(response),
                other => return Err(unexpected(&other)),
            }
        }
    }
}

fn read_piece(file: &mut std::fs::File, offset: u64) -> std::io::Result<Vec<u8>> {
    use std::io::{Seek, SeekFrom};
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::with_capacity(PIECE_BYTES);
    file.take(PIECE_BYTES as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn unexpected(response: &Response) -> RPCError<TypeConfig> {
    RPCError::Network(NetworkError::from_string(format!("the answer does not fit the question: {response:?}")))
}

impl RaftNetworkV2<TypeConfig> for Peer {
    type SnapshotData = SnapshotSource;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>> {
        // openraft allows one heartbeat interval, which a slow flash card does not keep.
        let timeout = if rpc.entries.is_empty() { option.hard_ttl() } else { self.append_timeout };
        match self.ask(RPCTypes::AppendEntries, Request::Append(rpc), timeout).await? {
            Response::Append(response) => Ok(response),
            other => Err(unexpected(&other)),
        }
    }

    async fn vote(&mut self, rpc: VoteRequest<TypeConfig>, option: RPCOption) -> Result<VoteResponse<TypeConfig>> {
        match self.ask(RPCTypes::Vote, Request::Vote(rpc), option.soft_ttl()).await? {
            Response::Vote(response) => Ok(response),
            other => Err(unexpected(&other)),
        }
    }

    async fn pre_vote(&mut self, rpc: VoteRequest<TypeConfig>, option: RPCOption) -> Result<VoteResponse<TypeConfig>> {
        match self.ask(RPCTypes::Vote, Request::PreVote(rpc), option.soft_ttl()).await? {
            Response::Vote(response) => Ok(response),
            other => Err(unexpected(&other)),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        tokio::select! {
            sent = self.send(vote, snapshot) => Ok(sent?),
            // Dropping `send` drops the spooled file; the peer's half is replaced by the next transfer.
            closed = cancel => Err(StreamingError::Closed(closed)),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>> {
        match self.ask(RPCTypes::TransferLeader, Request::TransferLeader(request), option.soft_ttl()).await? {
            Response::TransferLeader(response) => Ok(response),
            other => Err(unexpected(&other)),
        }
    }
}
