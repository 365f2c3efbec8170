//! For fuzzers: what comes with a program from outside, and what is written down of it.

use std::time::Duration;

use super::record::Record;
use super::rollout::{Rollout, Seen, decide};
use super::{release, signature};
use crate::resource::Timestamp;

/// A public key whose other half nobody has here.
const KEY: &str = "RWSmKaOrT6m3TGwjwBovgOmlhSbyBUw3hyhnSOYruHXbJa36xHr8rq2M";

/// The stamp in a program, its signature, the record of this device, and the document of a rollout: what
/// is read of them breaks nothing, and no signature that was made up counts.
pub(crate) fn upgrade(bytes: &[u8]) {
    let stamped = release::scan(bytes, "fuzz", |_| Ok(()));
    if let Ok(found) = &stamped {
        let _ = release::follows(release::own(), found, true);
    }
    let _ = release::machine(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        let signed = signature::check_bytes(|| Ok(bytes), "fuzz", text, &[KEY.to_owned()]);
        assert!(signed.is_err(), "nobody signed this");
    }
    if let Ok(record) = serde_json::from_slice::<Record>(bytes) {
        let written = serde_json::to_vec(&record).unwrap_or_default();
        assert_eq!(serde_json::from_slice::<Record>(&written).ok(), Some(record));
    }
    if let Ok(mut rollout) = serde_json::from_slice::<Rollout>(bytes) {
        let device = |name: &str, votes| Seen {
            name: name.into(),
            votes,
            leads: name == "d1",
            ready: true,
            runs_new: Some(false),
            flying_for: Duration::from_hours(1),
            ..Seen::default()
        };
        let fleet = [device("d1", true), device("d2", true), device("d3", true), device("d4", false)];
        let (changes, _) = decide(&rollout, &fleet);
        for change in changes {
            rollout.apply(&change, Timestamp(5));
        }
        let _ = decide(&rollout, &[]);
    }
}

/// What is real: a signature, a record, a rollout, a stamp.
#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the stamp is that of this very program")]
pub(crate) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let mut program = std::fs::read("/proc/self/exe").unwrap_or_default();
    let stamp = b"HTIK-ESAELER-PMATS:".len();
    let words: Vec<u8> = b":PMATS-ESAELER-HTIK".iter().rev().copied().collect();
    let at = program.windows(stamp).position(|found| found == words).unwrap_or_default();
    let cut = program.split_off(at).into_iter().take(128);
    let head: Vec<u8> = program.into_iter().take(20).chain(cut).collect();
    let rollout = Rollout {
        id: "a".into(),
        version: "0.2.0".into(),
        canary: 1,
        percent: 25,
        devices: [("d4".to_owned(), super::rollout::Step::default())].into(),
        ..Rollout::default()
    };
    vec![
        ("stamp", head),
        ("signature", signature::tests::SIGNATURE.as_bytes().to_vec()),
        ("record", include_bytes!("../../tests/golden/upgrade-record-1.json").to_vec()),
        ("rollout", serde_json::to_vec(&rollout).unwrap_or_default()),
    ]
}
