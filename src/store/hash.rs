//! The fingerprint of a store at a revision. Replicas that print different ones for one revision
//! have diverged.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Document;

/// SHA-256 over the revision and every document in key order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StateHash {
    /// The revision at which it was taken.
    pub revision: u64,
    /// The digest.
    pub digest: [u8; 32],
}

impl fmt::Display for StateHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.digest))
    }
}

impl fmt::Debug for StateHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StateHash({} at {})", hex::encode(&self.digest[..4]), self.revision)
    }
}

/// Takes in documents in key order.
#[derive(Clone, Debug)]
pub struct StateHasher {
    revision: u64,
    digest: Sha256,
}

impl StateHasher {
    /// Starts with the revision of the documents to come.
    pub fn new(revision: u64) -> Self {
        let mut digest = Sha256::new();
        digest.update(revision.to_be_bytes());
        Self { revision, digest }
    }

    /// Takes in the next document.
    pub fn document(&mut self, document: &Document) {
        let key = &document.key;
        for part in [key.kind.as_bytes(), key.namespace.as_bytes(), key.name.as_bytes(), &document.body] {
            // The length in front keeps neighbouring parts from running into each other.
            self.digest.update((part.len() as u64).to_be_bytes());
            self.digest.update(part);
        }
        self.digest.update(document.created.to_be_bytes());
        self.digest.update(document.modified.to_be_bytes());
    }

    /// The fingerprint of what was taken in.
    pub fn finish(self) -> StateHash {
        StateHash { revision: self.revision, digest: self.digest.finalize().into() }
    }
}
