//! What happened in a run, as one number: the same seed must give the same number. Every delivered
//! message, every operation of a disk and every event of a client goes in, each with its time.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex};

use tokio::time::Instant;

/// Hashes events in the order in which they happen. Clones share it.
#[derive(Clone, Debug)]
pub struct Trace {
    inner: Arc<Mutex<Inner>>,
    start: Instant,
}

#[derive(Debug)]
struct Inner {
    hash: DefaultHasher,
    events: u64,
    /// Prints every event, to find where two runs part.
    loud: bool,
}

impl Trace {
    /// An empty trace that begins now.
    pub fn new() -> Self {
        let loud = std::env::var_os("KITH_TRACE").is_some();
        let inner = Inner { hash: DefaultHasher::new(), events: 0, loud };
        Self { inner: Arc::new(Mutex::new(inner)), start: Instant::now() }
    }

    /// Simulated milliseconds since the beginning.
    pub fn millis(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap()
    }

    /// Takes in an event.
    pub fn note(&self, what: &'static str, details: impl Hash + std::fmt::Debug) {
        let at = self.millis();
        let mut inner = self.inner.lock().unwrap();
        inner.events += 1;
        (at, what).hash(&mut inner.hash);
        details.hash(&mut inner.hash);
        if inner.loud {
            println!("{at} {what} {details:?} {:x}", inner.hash.finish());
        }
    }

    /// The number, and how many events are in it.
    pub fn finish(&self) -> (u64, u64) {
        let inner = self.inner.lock().unwrap();
        (inner.hash.finish(), inner.events)
    }
}

/// A short fingerprint of bytes.
pub fn digest(bytes: &[u8]) -> u64 {
    let mut hash = DefaultHasher::new();
    bytes.hash(&mut hash);
    hash.finish()
}
