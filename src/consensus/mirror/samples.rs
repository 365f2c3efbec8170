//! Messages of mirrors, for the test of the wire.

use std::time::Duration;

use super::heard::Sign;
use super::{Follow, Followed, Pull, Pulled};
use crate::consensus::message::{Request, Response};
use crate::storage::{Command, Entry, LogId, Vote};

pub(in crate::consensus) fn requests(at: LogId) -> [Request; 3] {
    let signs = || vec![Sign::sample(1, 2), Sign::sample(300, 0)];
    [
        Request::Follow(Follow { at: Some(at), wait: Duration::from_secs(2), signs: signs() }),
        Request::Pull(Pull { transfer: 5, offset: 300 }),
        Request::Heard(signs()),
    ]
}

pub(in crate::consensus) fn responses(vote: Vote, at: LogId) -> [Response; 2] {
    let entries = vec![Entry { log_id: at, payload: openraft::EntryPayload::Normal(Command::NextMemberId) }];
    [
        Response::Followed(Followed::Entries { vote, entries, age: Duration::from_millis(20) }),
        Response::Pulled(Pulled { vote, transfer: 5, offset: 300, bytes: vec![1, 2], end: None }),
    ]
}
