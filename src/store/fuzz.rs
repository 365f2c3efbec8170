//! For fuzzers: transactions from a log. The same ones make the same state, whatever they hold.

use super::memory::Memory;
use super::{Txn, apply, codec};

pub(crate) fn transaction(bytes: &[u8]) {
    let Ok(txns) = codec::decode::<Vec<Txn>>(bytes) else { return };
    let (mut one, mut two) = (Memory::new(), Memory::new());
    let mut revision = 0;
    for txn in &txns {
        let first = apply(&mut one, txn);
        assert_eq!(first, apply(&mut two, txn));
        assert!(one.revision() >= revision, "the revision went back");
        revision = one.revision();
    }
    assert_eq!(one.hash(), two.hash());
    let again = codec::encode(&txns).unwrap_or_default();
    assert_eq!(codec::decode::<Vec<Txn>>(&again).ok(), Some(txns));
}
