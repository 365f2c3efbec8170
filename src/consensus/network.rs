//! openraft's calls as messages to one peer. It decides how long to wait and which error makes
//! openraft retry; it never decides anything about the log.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use openraft::OptionalSend;
use openraft::RPCTypes;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2, stream_append_sequential};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};

use super::coalesce::coalesced;
use super::message::{Piece, Request, Response};
use super::peers::{Peers, Word};
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

/// A heartbeat was left out: it would have brought nothing new.
#[derive(Debug, thiserror::Error)]
#[error("nothing new for a member that does not vote and was heard not long ago")]
struct Quiet;

/// Makes the peers that openraft talks to.
pub(super) struct Network {
    pub(super) peers: Arc<Peers>,
    pub(super) state: State,
    /// How long entries may take to reach a peer's disk.
    pub(super) append_timeout: Duration,
    /// How old an acknowledgement of one who does not vote may be for a heartbeat to be left out.
    pub(super) quiet: Option<Duration>,
    /// How long news of a commit may wait for entries to travel with.
    pub(super) patience: Duration,
}

/// One peer.
pub(super) struct Peer {
    peers: Arc<Peers>,
    state: State,
    append_timeout: Duration,
    /// For heartbeats only: see [`Network::quiet`].
    quiet: Option<Duration>,
    patience: Duration,
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
            quiet: None,
            patience: self.patience,
            target,
            member: member.clone(),
        }
    }

    async fn new_heartbeat_client(&mut self, target: u64, member: &Member) -> Peer {
        Peer { quiet: self.quiet, ..self.new_client(target, member).await }
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
        let spooled = self.state.spool(snapshot.snapshot).await;
        let file = spooled.map_err(|error| RPCError::Unreachable(Unreachable::new(&error)))?;
        let transfer = self.peers.next_transfer();
        let mut offset = 0;
        loop {
            let bytes = file
                .read_piece(offset, PIECE_BYTES)
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
        let word = Word { vote: rpc.vote, committed: rpc.leader_commit };
        if self.quiet.is_some_and(|quiet| self.peers.knows(self.target, word, quiet)) {
            // Not an acknowledgement: openraft goes on counting from the last one that came.
            return Err(RPCError::Unreachable(Unreachable::new(&Quiet)));
        }
        let answer = self.ask(RPCTypes::AppendEntries, Request::Append(rpc), timeout).await;
        #[cfg(feature = "seeded-bugs")]
        if answer.is_err() && crate::storage::seeded::has(crate::storage::seeded::Bug::CommitWithoutQuorum) {
            return Ok(AppendEntriesResponse::Success);
        }
        match answer? {
            Response::Append(response) => {
                if matches!(response, AppendEntriesResponse::Success) {
                    self.peers.acknowledged(self.target, word);
                }
                Ok(response)
            }
            other => Err(unexpected(&other)),
        }
    }

    fn stream_append<S>(
        &mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'_, Result<BoxStream<'_, Result<StreamAppendResult<TypeConfig>>>>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        let (peers, target, patience) = (self.peers.clone(), self.target, self.patience);
        // Whoever wrote through that peer waits there until its write is applied.
        let patience = move || (!peers.wrote_lately(target)).then_some(patience);
        stream_append_sequential(self, coalesced(input, patience), option)
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
            biased;
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
