//! For fuzzers: what agents ask each other, and what they say of their programs.

use super::peers::PeerAsk;
#[cfg(test)]
use super::programs::Ask;
use super::programs::{Answer, Reply, State};
use crate::store::codec;

/// What decodes, encodes to bytes that decode to the same.
pub(crate) fn question(bytes: &[u8]) {
    if let Ok(ask) = codec::decode::<PeerAsk>(bytes) {
        let once = codec::encode(&ask).unwrap_or_default();
        let again = codec::decode::<PeerAsk>(&once).map(|ask| codec::encode(&ask).unwrap_or_default());
        assert_eq!(again.ok(), Some(once));
    }
    if let Ok(Ok(Reply::State(text))) = codec::decode::<Answer>(bytes) {
        let _ = serde_json::from_str::<State>(&text);
    }
    if let Ok(state) = serde_json::from_slice::<State>(bytes) {
        let written = serde_json::to_vec(&state).unwrap_or_default();
        assert_eq!(serde_json::from_slice::<State>(&written).ok(), Some(state));
    }
}

/// Questions and answers as devices send them.
#[cfg(test)]
pub(crate) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let state = State { version: "0.2.0".into(), arch: "arm".into(), on_trial: true, ..State::default() };
    let state = serde_json::to_string(&state).unwrap_or_default();
    let bytes = |ask: Ask| codec::encode(&PeerAsk::Program(ask)).unwrap_or_default();
    let answer = |reply: Answer| codec::encode(&reply).unwrap_or_default();
    vec![
        ("ask-state", bytes(Ask::State)),
        ("ask-piece", bytes(Ask::Piece { digest: "0".repeat(64), offset: 1 << 18 })),
        ("answer-state", answer(Ok(Reply::State(state.clone())))),
        ("answer-piece", answer(Ok(Reply::Piece(vec![1, 2, 3])))),
        ("state", state.into_bytes()),
    ]
}
