//! Clients: they read and write through whichever device has power, and write down what they were
//! answered. What is not answered, or answered by a device that lost its power, is unknown.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use kith::consensus::{Freshness, Replica};
use kith::store::{Batch, Check, Document, Key, Outcome, Precondition, Write};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tokio_util::sync::CancellationToken;

use super::linearizable::{Call, Expect, Op, Value};
use super::network::{Host, Net};
use super::trace::Trace;

/// Calls of a key after which it is checked and another one takes its place.
const CALLS: usize = 60;
/// As many calls without an answer end it too: each doubles the work of the check.
const UNKNOWNS: usize = 8;
/// Keys in use at once.
const KEYS: usize = 4;

/// What all clients wrote down. Clones share it.
#[derive(Clone, Default)]
pub struct Book {
    inner: Arc<Mutex<Pages>>,
}

#[derive(Default)]
struct Pages {
    moment: u64,
    open: BTreeMap<u64, History>,
    closed: Vec<(u64, Vec<Call>)>,
    next_key: u64,
    next_value: Value,
    acknowledged: Vec<(Value, u64)>,
    tally: Tally,
    violation: Option<String>,
}

#[derive(Default)]
struct History {
    calls: Vec<Call>,
    unknowns: usize,
    /// Calls under way.
    open: usize,
}

/// How many calls there were.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub reads: u64,
    pub stale: u64,
    pub written: u64,
    pub refused: u64,
    pub unknown: u64,
    pub histories: u64,
}

/// The key of a number.
pub fn key(number: u64) -> Key {
    Key::new("Test", "default", format!("key-{number}"))
}

/// The value that a document's body carries.
pub fn value(body: &[u8]) -> Option<Value> {
    std::str::from_utf8(body.get(..10)?).ok()?.parse().ok()
}

fn body(value: Value, padding: usize) -> Vec<u8> {
    let mut body = format!("{value:010}").into_bytes();
    body.resize(10 + padding, b'.');
    body
}

impl Book {
    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.inner.lock().unwrap()
    }

    /// A key that is in use, for one call.
    fn take_key(&self, chance: &mut StdRng) -> u64 {
        let mut pages = self.pages();
        while pages.open.len() < KEYS {
            let number = pages.next_key;
            pages.next_key += 1;
            pages.open.insert(number, History::default());
        }
        let usable = |history: &History| history.calls.len() + history.open < CALLS && history.unknowns < UNKNOWNS;
        let keys: Vec<u64> = pages.open.iter().filter(|(_, history)| usable(history)).map(|(&key, _)| key).collect();
        let key = keys.choose(chance).copied().unwrap_or_else(|| {
            let number = pages.next_key;
            pages.next_key += 1;
            number
        });
        pages.open.entry(key).or_default().open += 1;
        key
    }

    fn new_value(&self) -> Value {
        let mut pages = self.pages();
        pages.next_value += 1;
        pages.next_value
    }

    fn begin(&self) -> u64 {
        let mut pages = self.pages();
        pages.moment += 1;
        pages.moment
    }

    /// Writes down how a call ended; `None` for a read without an answer.
    fn end(&self, key: u64, client: u64, begin: u64, op: Option<Op>) {
        let mut pages = self.pages();
        pages.moment += 1;
        let moment = pages.moment;
        match op {
            None => pages.tally.stale += 1,
            Some(Op::Read(_)) => pages.tally.reads += 1,
            Some(Op::Written(..)) => pages.tally.written += 1,
            Some(Op::Refused(_)) => pages.tally.refused += 1,
            Some(Op::Unknown(..)) => pages.tally.unknown += 1,
        }
        let Some(history) = pages.open.get_mut(&key) else { return };
        history.open -= 1;
        if let Some(op) = op {
            let unknown = matches!(op, Op::Unknown(..));
            history.unknowns += usize::from(unknown);
            history.calls.push(Call { client, begin, end: if unknown { u64::MAX } else { moment }, op });
        }
        let full = history.calls.len() >= CALLS || history.unknowns >= UNKNOWNS;
        if full && history.open == 0 {
            let history = pages.open.remove(&key).unwrap_or_default();
            pages.closed.push((key, history.calls));
        }
    }

    fn acknowledge(&self, value: Value, revision: u64) {
        self.pages().acknowledged.push((value, revision));
    }

    /// Remembers the first thing that must not be.
    pub fn accuse(&self, what: String) {
        self.pages().violation.get_or_insert(what);
    }

    pub fn violation(&self) -> Option<String> {
        self.pages().violation.clone()
    }

    /// Takes the histories that are complete; all of them when no client runs any more.
    pub fn histories(&self, all: bool) -> Vec<(u64, Vec<Call>)> {
        let mut pages = self.pages();
        let mut closed = std::mem::take(&mut pages.closed);
        if all {
            closed.extend(std::mem::take(&mut pages.open).into_iter().map(|(key, history)| (key, history.calls)));
        }
        pages.tally.histories += closed.len() as u64;
        closed
    }

    /// Takes the writes that were acknowledged since: the value and its revision.
    pub fn acknowledged(&self) -> Vec<(Value, u64)> {
        std::mem::take(&mut self.pages().acknowledged)
    }

    pub fn tally(&self) -> Tally {
        self.pages().tally
    }
}

/// One client.
pub struct Client {
    pub number: u64,
    pub net: Net,
    pub book: Book,
    pub trace: Trace,
    /// Shortest and longest pause between two calls, in milliseconds.
    pub pause: (u64, u64),
    pub stop: CancellationToken,
}

impl Client {
    /// Calls until told to stop; a call that was begun is ended.
    pub async fn run(self, seed: u64) {
        let mut chance = StdRng::seed_from_u64(seed);
        let mut seen: BTreeMap<u64, Document> = BTreeMap::new();
        while !self.stop.is_cancelled() {
            if let Some(host) = self.net.hosts().choose(&mut chance) {
                let key = self.book.take_key(&mut chance);
                seen.retain(|&number, _| number + 16 > key);
                if chance.random_bool(0.45) {
                    self.read(host, key, &mut seen).await;
                } else {
                    self.write(host, key, &seen, &mut chance).await;
                }
            }
            let pause = Duration::from_millis(chance.random_range(self.pause.0..=self.pause.1));
            self.stop.run_until_cancelled(tokio::time::sleep(pause)).await;
        }
    }

    async fn read(&self, host: &Host, number: u64, seen: &mut BTreeMap<u64, Document>) {
        let begin = self.book.begin();
        let reading = async {
            match host.engine.barrier().await {
                Freshness::Current => host.engine.get(&key(number)).ok(),
                Freshness::Stale { .. } => None,
            }
        };
        let found = host.dead.run_until_cancelled(reading).await.flatten();
        let op = found.map(|document| {
            let read = document.as_ref().and_then(|document| value(&document.body));
            match document {
                Some(document) => seen.insert(number, document),
                None => seen.remove(&number),
            };
            Op::Read(read)
        });
        self.trace.note("read", (self.number, host.number, number, format!("{op:?}")));
        self.book.end(number, self.number, begin, op);
    }

    async fn write(&self, host: &Host, number: u64, seen: &BTreeMap<u64, Document>, chance: &mut StdRng) {
        let known = seen.get(&number).and_then(|found| Some((value(&found.body)?, found.modified)));
        let (expect, check) = match (chance.random_range(0..10), known) {
            (0..5, _) => (Expect::Anything, None),
            (5..9, Some((value, modified))) => (Expect::Is(value), Some(Precondition::AtRevision(modified))),
            _ => (Expect::Absent, Some(Precondition::Absent)),
        };
        let new = chance.random_bool(0.9).then(|| self.book.new_value());
        let padding = if chance.random_bool(0.1) { chance.random_range(0..3000) } else { 20 };
        let write = match new {
            Some(value) => Write::Put { key: key(number), body: body(value, padding) },
            None => Write::Delete { key: key(number) },
        };
        let checks = check.map(|expect| Check { key: key(number), expect }).into_iter().collect();
        let begin = self.book.begin();
        let proposing = host.engine.propose(Batch { checks, writes: vec![write] });
        let answer = host.dead.run_until_cancelled(proposing).await;
        let op = match answer {
            Some(Ok(Outcome::Applied { revision })) => {
                if let Some(value) = new {
                    self.book.acknowledge(value, revision);
                }
                Op::Written(new, expect)
            }
            Some(Ok(Outcome::Refused { conflicts })) => {
                if conflicts.is_empty() {
                    self.book.accuse(format!("a write of key {number} was refused without a reason"));
                }
                Op::Refused(expect)
            }
            Some(Err(_)) | None => Op::Unknown(new, expect),
        };
        self.trace.note("write", (self.number, host.number, number, format!("{op:?}")));
        self.book.end(number, self.number, begin, Some(op));
    }
}
