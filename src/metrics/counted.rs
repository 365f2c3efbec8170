//! What is counted while the agent works: one agent is one process, so these belong to all rooms.
//! Counting is an addition in memory; nothing is kept on the disk.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::count::{Counter, Gauge, Histogram};

/// What was written to files of one sort.
#[derive(Debug)]
pub struct Written {
    /// The sort, as the label `file` has it.
    pub file: &'static str,
    /// Bytes handed to the kernel.
    pub bytes: Counter,
    /// How long it took to make them safe.
    pub syncs: Histogram,
}

impl Written {
    const fn new(file: &'static str) -> Self {
        Self { file, bytes: Counter::new(), syncs: Histogram::new() }
    }
}

/// The Raft log.
pub static LOG: Written = Written::new("log");
/// The replicated state.
pub static STATE: Written = Written::new("state");
/// Snapshots, and whatever else the log and the state need for a while.
pub static OTHER: Written = Written::new("other");

/// From a proposal on this device to its outcome.
pub static COMMITS: Histogram = Histogram::new();
/// Proposals of this device that had no outcome.
pub static FAILED_PROPOSALS: Counter = Counter::new();
/// Times that another leader was seen.
pub static LEADER_CHANGES: Counter = Counter::new();
/// Times that this device became the leader.
pub static ELECTIONS_WON: Counter = Counter::new();

/// Containers started.
pub static STARTS: Counter = Counter::new();
/// Those of them that had run before.
pub static RESTARTS: Counter = Counter::new();
/// Rounds of the device's loop.
pub static ROUNDS: Histogram = Histogram::new();
/// What the rounds decided to do.
pub static ACTIONS: Counter = Counter::new();
/// Failed probes.
pub static PROBE_FAILURES: [(&str, Counter); 3] =
    [("startup", Counter::new()), ("readiness", Counter::new()), ("liveness", Counter::new())];

/// Plans made while this device led.
pub static PLANS: Histogram = Histogram::new();
/// Batches that the plans had.
pub static PLANNED: Counter = Counter::new();

/// Pulls that ended well.
pub static PULLS: Counter = Counter::new();
/// Pulls that did not.
pub static FAILED_PULLS: Counter = Counter::new();
/// Bytes that pulls brought.
pub static PULLED_BYTES: Counter = Counter::new();

/// Clients that watch.
pub static WATCHES: Gauge = Gauge::new();
/// Open connections of the API.
pub static CONNECTIONS: Gauge = Gauge::new();
/// Requests to the API.
pub static REQUESTS: Requests = Requests::new();

/// Counts a failed probe of a kind.
pub fn probe_failed(kind: &str) {
    if let Some((_, counter)) = PROBE_FAILURES.iter().find(|(known, _)| *known == kind) {
        counter.one();
    }
}

/// What can be asked of the API. Those that last (`watch`, `connect`) have no time.
pub const VERBS: [&str; 9] =
    ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", "connect"];

/// The most sorts of requests that are told apart. All words come from the program, so there are fewer.
const SORTS: usize = 1024;

/// Requests by what was asked and what came of it.
#[derive(Debug)]
pub struct Requests {
    counts: Mutex<BTreeMap<(&'static str, &'static str, u16), u64>>,
    times: [Histogram; VERBS.len()],
}

impl Requests {
    const fn new() -> Self {
        Self { counts: Mutex::new(BTreeMap::new()), times: [const { Histogram::new() }; VERBS.len()] }
    }

    /// Takes in one request: its verb, what it was about, the code of its answer, and its time.
    pub fn record(&self, verb: &'static str, resource: &'static str, code: u16, took: Duration) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let sort = (verb, resource, code);
        if counts.len() < SORTS || counts.contains_key(&sort) {
            *counts.entry(sort).or_default() += 1;
        }
        drop(counts);
        let lasting = ["watch", "connect"].contains(&verb);
        if let Some(at) = VERBS.iter().position(|known| *known == verb).filter(|_| !lasting) {
            self.times[at].record(took);
        }
    }

    /// Verb, resource, code and count of each sort.
    pub fn counts(&self) -> Vec<(&'static str, &'static str, u16, u64)> {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.iter().map(|(&(verb, resource, code), &count)| (verb, resource, code, count)).collect()
    }

    /// How long the requests of each verb took that do not last.
    pub fn times(&self) -> impl Iterator<Item = (&'static str, &Histogram)> {
        let times = VERBS.into_iter().zip(&self.times);
        times.filter(|(verb, _)| !["watch", "connect"].contains(verb))
    }
}
