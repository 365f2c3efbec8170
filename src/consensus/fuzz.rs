//! For fuzzers: what members ask each other and answer.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::message::{Answer, Envelope};
use crate::store::codec;

pub(crate) fn message(bytes: &[u8]) {
    there_and_back::<Envelope>(bytes);
    there_and_back::<Answer>(bytes);
}

/// What decodes, encodes to bytes that decode to the same.
fn there_and_back<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
    let Ok(value) = codec::decode::<T>(bytes) else { return };
    let once = codec::encode(&value).unwrap_or_default();
    let again = codec::decode::<T>(&once).map(|value| codec::encode(&value).unwrap_or_default());
    assert_eq!(again.ok(), Some(once));
}

/// Messages as members send them.
#[cfg(test)]
pub(crate) fn seeds(member: &crate::identity::Member) -> Vec<(&'static str, Vec<u8>)> {
    use super::message::{Piece, Proposed, Refusal, Request, Response, ToLeader};
    use crate::store::{Batch, Key, Outcome, Txn, Write};

    let vote = crate::storage::Vote::new(3, 1);
    let put = Write::Put { key: Key::new("ConfigMap", "default", "a"), body: b"{}".to_vec() };
    let batch = Batch { checks: vec![], writes: vec![put] };
    let txn = Txn { client: 7, sequence: 1, settled: 1, at: crate::resource::Timestamp(5), batch };
    let requests = [
        ("vote", Request::Vote(openraft::raft::VoteRequest::new(vote, None))),
        ("piece", Request::Snapshot(Piece { vote, transfer: 1, offset: 0, bytes: vec![1, 2], end: None })),
        ("propose", Request::Leader(ToLeader::Propose(vec![txn]))),
        ("add", Request::Leader(ToLeader::AddMember(member.clone()))),
        ("app", Request::App(vec![1, 2, 3])),
    ];
    let mut seeds = Vec::new();
    for (name, request) in requests {
        seeds.push((
            name,
            codec::encode(&Envelope {
                from: 1,
                to: 2,
                stamp: crate::identity::Stamp::default(),
                knows: crate::identity::Run::default(),
                request,
            })
            .unwrap_or_default(),
        ));
    }
    let done = Proposed::Done { outcome: Outcome::Applied { revision: 4 }, next_index: 9 };
    let responses = [
        ("proposed", Response::Proposed(vec![done, Proposed::Again])),
        ("refused", Response::Refused(Refusal::LastMember)),
        ("read", Response::ReadIndex(12)),
    ];
    for (name, response) in responses {
        seeds.push((
            name,
            codec::encode(&Answer { stamp: crate::identity::Stamp::default(), response }).unwrap_or_default(),
        ));
    }
    seeds
}
