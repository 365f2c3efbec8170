//! Messages between members as the wire has them. `tests/golden/wire-1.txt` has one line for each kind,
//! in hexadecimal.

use std::collections::{BTreeMap, BTreeSet};

use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, VoteRequest, VoteResponse,
};

use super::super::guard::Objection;
use super::super::handover::Willing;
use super::super::message::{Answer, Envelope, Piece, Proposed, Refusal, Request, Response, ToLeader};
use super::super::mirror;
use super::super::status::EngineStatus;
use super::*;
use crate::identity::{DeviceKey, Epoch, Run, Stamp};
use crate::resource::Timestamp;
use crate::storage::{Command, Entry, LogId, SnapshotMeta, StoredMembership, Vote};
use crate::store::{Batch, Key, Outcome, Txn, Write, golden};

fn device() -> Member {
    let addresses = vec!["192.0.2.1:7443".parse().unwrap()];
    Member { name: "lamp-1".into(), key: DeviceKey([7; 32]), addresses, api_port: 6443, ..Member::default() }
}

fn stamp() -> Stamp {
    Stamp { epoch: Epoch(1 << 32), run: Run { starts: 3, nonce: 5 } }
}

fn log_id(index: u64) -> LogId {
    LogId::new(openraft::vote::RaftLeaderId::new(2, 1), index)
}

fn txn() -> Txn {
    let put = Write::Put { key: Key::new("ConfigMap", "default", "a"), body: b"{}".to_vec() };
    Txn { client: 7, sequence: 2, settled: 1, at: Timestamp(5), batch: Batch { checks: vec![], writes: vec![put] } }
}

/// Every kind of request has a name; a new one does not compile without.
fn request_name(request: &Request) -> &'static str {
    match request {
        Request::Append(_) => "append",
        Request::Vote(_) => "vote",
        Request::PreVote(_) => "pre-vote",
        Request::Snapshot(_) => "snapshot",
        Request::TransferLeader(_) => "transfer-leader",
        Request::Leader(ask) => match ask {
            ToLeader::Propose(_) => "leader/propose",
            ToLeader::ReadIndex => "leader/read-index",
            ToLeader::AddMember(_) => "leader/add-member",
            ToLeader::RemoveMember(_) => "leader/remove-member",
            ToLeader::UpdateMember(..) => "leader/update-member",
            ToLeader::Readmit(..) => "leader/readmit",
            ToLeader::TransferTo(_) => "leader/transfer-to",
            ToLeader::Observe => "leader/observe",
            ToLeader::App(_) => "leader/app",
        },
        Request::WouldLead => "would-lead",
        Request::Follow(_) => "follow",
        Request::Pull(_) => "pull",
        Request::Heard(_) => "heard",
        Request::Relay(_) => "relay",
        Request::App(_) => "app",
        Request::Hello => "hello",
        Request::Enter(_) => "enter",
    }
}

fn response_name(response: &Response) -> &'static str {
    match response {
        Response::Append(_) => "append",
        Response::Vote(_) => "vote",
        Response::SnapshotNext(_) => "snapshot-next",
        Response::SnapshotDone(_) => "snapshot-done",
        Response::TransferLeader(_) => "transfer-leader",
        Response::Proposed(_) => "proposed",
        Response::ReadIndex(_) => "read-index",
        Response::Member(_) => "member",
        Response::Refused(refusal) => match refusal {
            Refusal::NameTaken { .. } => "refused/name-taken",
            Refusal::Unknown { .. } => "refused/unknown",
            Refusal::LastMember => "refused/last-member",
            Refusal::NoVoter { .. } => "refused/no-voter",
            Refusal::NotAllowed { .. } => "refused/not-allowed",
            Refusal::NoSuccessor => "refused/no-successor",
        },
        Response::Willing(_) => "willing",
        Response::Observed(_) => "observed",
        Response::Followed(_) => "followed",
        Response::Pulled(_) => "pulled",
        Response::Busy(_) => "busy",
        Response::Noted => "noted",
        Response::App(_) => "app",
        Response::Members(_) => "members",
        Response::Objected(objection) => match objection {
            Objection::Epoch { .. } => "objected/epoch",
            Objection::Run { .. } => "objected/run",
            Objection::Fenced { .. } => "objected/fenced",
        },
        Response::NotLeader(_) => "not-leader",
        Response::Failed(_) => "failed",
    }
}

fn requests() -> Vec<Request> {
    let vote = Vote::new_committed(2, 1);
    let entries = vec![Entry { log_id: log_id(4), payload: openraft::EntryPayload::Normal(Command::Txn(txn())) }];
    let append = AppendEntriesRequest { vote, prev_log_id: Some(log_id(3)), entries, leader_commit: Some(log_id(2)) };
    let end = SnapshotMeta { last_log_id: Some(log_id(9)), last_membership: StoredMembership::default() };
    let [follow, pull, heard] = mirror::samples::requests(log_id(4));
    let leader = [
        ToLeader::Propose(vec![txn()]),
        ToLeader::ReadIndex,
        ToLeader::AddMember(device()),
        ToLeader::RemoveMember(300),
        ToLeader::UpdateMember(3, device()),
        ToLeader::Readmit(Some(3), device()),
        ToLeader::TransferTo(2),
        ToLeader::Observe,
        ToLeader::App(vec![1, 2, 3]),
    ];
    let others = [
        Request::Append(append),
        Request::Vote(VoteRequest::new(vote, Some(log_id(3)))),
        Request::PreVote(VoteRequest::new(vote, None)),
        Request::Snapshot(Piece { vote, transfer: 5, offset: 300, bytes: vec![1, 2], end: Some(end) }),
        Request::TransferLeader(TransferLeaderRequest::new(vote, 2, Some(log_id(3)))),
        Request::WouldLead,
        follow,
        pull,
        heard,
        Request::Relay(ToLeader::ReadIndex),
        Request::App(vec![1, 2, 3]),
        Request::Hello,
        Request::Enter(vec![4, 5]),
    ];
    leader.map(Request::Leader).into_iter().chain(others).collect()
}

fn responses() -> Vec<Response> {
    let vote = Vote::new(2, 1);
    let status = EngineStatus {
        member_id: 2,
        leader: Some(1),
        term: 3,
        voters: BTreeMap::from([(1, device())]),
        lag_age: BTreeMap::from([(2, Duration::from_millis(1500))]),
        pilot: "p".into(),
        ..EngineStatus::default()
    };
    let [followed, pulled] = mirror::samples::responses(vote, log_id(4));
    let done = Proposed::Done { outcome: Outcome::Applied { revision: 4 }, next_index: 9 };
    let refused = [
        Refusal::NameTaken { name: "a".into() },
        Refusal::Unknown { id: 4 },
        Refusal::LastMember,
        Refusal::NoVoter { id: 4 },
        Refusal::NotAllowed { name: "a".into(), what: "b".into() },
        Refusal::NoSuccessor,
    ];
    let objected = [
        Objection::Epoch { receiver: Epoch(2 << 32) },
        Objection::Run { recorded: Run { starts: 1, nonce: 2 } },
        Objection::Fenced { reason: "c".into() },
    ];
    let others = [
        Response::Append(AppendEntriesResponse::PartialSuccess(Some(log_id(4)))),
        Response::Vote(VoteResponse::new(vote, Some(log_id(3)), true)),
        Response::SnapshotNext(300),
        Response::SnapshotDone(SnapshotResponse::new(vote)),
        Response::TransferLeader(Ok(())),
        Response::Proposed(vec![done, Proposed::Refused { reason: "d".into() }, Proposed::Again]),
        Response::ReadIndex(12),
        Response::Member(3),
        Response::Willing(Willing { reluctant: Some("e".into()), disk: Some(Duration::from_millis(2)) }),
        Response::Observed(Box::new(status)),
        followed,
        pulled,
        Response::Busy(Duration::from_secs(1)),
        Response::Noted,
        Response::App(vec![1, 2]),
        Response::Members(BTreeMap::from([(3, device())])),
        Response::NotLeader(Some(2)),
        Response::Failed("f".into()),
    ];
    let refused = refused.map(Response::Refused).into_iter();
    refused.chain(objected.map(Response::Objected)).chain(others).collect()
}

#[test]
fn messages_are_read_and_written_as_before() {
    let mut messages = Vec::new();
    for request in requests() {
        let name = format!("request/{}", request_name(&request));
        let knows = Run { starts: 9, nonce: 1 };
        messages.push(golden::message(name, &Envelope { from: 1, to: 300, stamp: stamp(), knows, request }));
    }
    for response in responses() {
        let name = format!("response/{}", response_name(&response));
        messages.push(golden::message(name, &Answer { stamp: stamp(), response }));
    }
    golden::compare("tests/golden/wire-1.txt", &messages);
}

#[test]
fn every_kind_has_a_message() {
    // The number of names above: a kind that has a name and no message would be missed.
    let (requests, responses) = (requests(), responses());
    let names: BTreeSet<&str> = requests.iter().map(request_name).collect();
    assert_eq!((names.len(), requests.len()), (22, 22));
    let names: BTreeSet<&str> = responses.iter().map(response_name).collect();
    assert_eq!((names.len(), responses.len()), (27, 27));
}
