//! For fuzzers: tokens, and the files of an identity.

use std::path::Path;

use super::{Enrolment, Identity, Token};

pub(crate) fn token(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(token) = text.parse::<Token>() {
        assert_eq!(token.to_string().parse::<Token>().ok(), Some(token));
    }
}

/// An enrolment and a key file with these bytes.
pub(crate) fn files(bytes: &[u8]) {
    let path = Path::new("fuzz");
    if let Ok(enrolment) = Enrolment::parse(path, bytes) {
        assert!(enrolment.members.contains_key(&enrolment.member_id));
    }
    let _ = Identity::parse(path, bytes);
}
