//! Bytes of messages as devices of the release before send and read them: a file of lines, a name and
//! hexadecimal each, that tests compare with what this release writes.
#![expect(clippy::disallowed_methods, reason = "a test reads and writes a file of the repository")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::codec;

/// A message: its name, its bytes, and what these are written as once they were read.
pub(crate) type Message = (String, Vec<u8>, Option<Vec<u8>>);

const CHANGE: &str = "devices of the release before this one (tests/previous) send and read the bytes in the file, and \
    work beside this one in one fleet. Make the change so that both are understood: a new kind at the end of its list, \
    sent only where it is read; a new field only in what is JSON. A line may go when OLDEST in src/upgrade/release.rs \
    has moved past all releases that write it";

/// A message with what becomes of it on the way.
pub(crate) fn message<T: Serialize + DeserializeOwned>(name: impl Into<String>, value: &T) -> Message {
    let bytes = codec::encode(value).unwrap();
    let again = codec::decode::<T>(&bytes).ok().map(|value| codec::encode(&value).unwrap());
    (name.into(), bytes, again)
}

/// Compares messages with a file of the repository. `KITH_GOLDEN=write` adds lines, and changes none.
pub(crate) fn compare(file: &str, messages: &[Message]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let mut text = fs::read_to_string(&path).unwrap_or_default();
    if std::env::var("KITH_GOLDEN").is_ok_and(|how| how == "write") {
        for (name, bytes, _) in messages {
            if !text.lines().any(|line| line.split(' ').next() == Some(name)) {
                writeln!(text, "{name} {}", hex::encode(bytes)).unwrap();
            }
        }
        fs::write(&path, &text).unwrap();
    }
    let known: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.split_once(' ')).collect();
    let mut seen = BTreeSet::new();
    for (name, bytes, again) in messages {
        assert!(seen.insert(name.as_str()), "{name} twice");
        let wanted = known.get(name.as_str()).unwrap_or_else(|| {
            panic!("{file} has no line for {name}: KITH_GOLDEN=write cargo nextest run --lib as_before adds it")
        });
        assert_eq!(hex::encode(bytes), **wanted, "{name} is written in another way than before: {CHANGE}");
        assert_eq!(again.as_ref(), Some(bytes), "{name} is not read as it is written");
    }
    let gone: Vec<&&str> = known.keys().filter(|name| !seen.contains(*name)).collect();
    assert!(gone.is_empty(), "{file} has messages that nobody makes: {gone:?}: {CHANGE}");
}

#[test]
#[should_panic(expected = "a is written in another way than before")]
fn another_form_is_noticed() {
    let file = "target/golden-trial.txt";
    fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join(file), "a 0101\n").unwrap();
    compare(file, &[message("a", &2_u8)]);
}
