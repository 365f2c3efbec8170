//! A replica in memory, with the semantics of the store: checks hold or nothing is written, every
//! write gets one revision, events are kept up to a limit.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use kith::consensus::{Freshness, Listing, ProposeError, ReadError, Replica};
use kith::store::{Batch, Change, Conflict, Document, Event, Gone, Key, Outcome, Precondition, Write};
use tokio::sync::watch;

/// Events that are kept.
const RING: usize = 200;

#[derive(Default)]
struct State {
    revision: u64,
    documents: BTreeMap<(String, String, String), Document>,
    events: Vec<Event>,
    /// Resuming from an older revision is not possible.
    oldest: u64,
}

pub(crate) struct Memory {
    state: Mutex<State>,
    revision: watch::Sender<u64>,
    /// Whether a quorum is out of reach.
    pub(crate) cut_off: AtomicBool,
}

fn place(key: &Key) -> (String, String, String) {
    (key.kind.clone(), key.namespace.clone(), key.name.clone())
}

impl Memory {
    pub(crate) fn new() -> Self {
        Self { state: Mutex::default(), revision: watch::Sender::new(0), cut_off: AtomicBool::new(false) }
    }

    fn apply(&self, batch: Batch) -> Outcome {
        let mut state = self.state.lock().unwrap();
        let conflicts: Vec<Conflict> = batch
            .checks
            .into_iter()
            .filter_map(|check| {
                let found = state.documents.get(&place(&check.key)).map(|document| document.modified);
                let holds = match check.expect {
                    Precondition::Absent => found.is_none(),
                    Precondition::Present => found.is_some(),
                    Precondition::AtRevision(revision) => found == Some(revision),
                };
                (!holds).then_some(Conflict { key: check.key, expected: check.expect, found })
            })
            .collect();
        if !conflicts.is_empty() {
            return Outcome::Refused { conflicts };
        }
        let revision = state.revision + 1;
        for write in batch.writes {
            state.write(write, revision);
        }
        state.revision = revision;
        let surplus = state.events.len().saturating_sub(RING);
        if let Some(last) = state.events.drain(..surplus).last() {
            state.oldest = last.revision;
        }
        drop(state);
        self.revision.send_replace(revision);
        Outcome::Applied { revision }
    }
}

impl State {
    fn write(&mut self, write: Write, revision: u64) {
        let (key, body) = match write {
            Write::Put { key, body } => (key, Some(body)),
            Write::Delete { key } => (key, None),
        };
        let before = self.documents.remove(&place(&key));
        let previous: Option<std::sync::Arc<[u8]>> = before.as_ref().map(|document| document.body.clone().into());
        let created = before.map_or(revision, |document| document.created);
        let (change, shown) = match (&body, &previous) {
            (Some(body), None) => (Change::Created, body.clone().into()),
            (Some(body), Some(_)) => (Change::Updated, body.clone().into()),
            (None, Some(body)) => (Change::Deleted, body.clone()),
            (None, None) => return,
        };
        if let Some(body) = body {
            let document = Document { key: key.clone(), body, created, modified: revision };
            self.documents.insert(place(&key), document);
        }
        self.events.push(Event { revision, change, key, body: shown, previous, created });
    }
}

impl Replica for Memory {
    fn propose(&self, batch: Batch) -> BoxFuture<'_, Result<Outcome, ProposeError>> {
        Box::pin(async move {
            if self.cut_off.load(Ordering::SeqCst) {
                let why = "1 of 3 voters is reachable, 2 are needed".to_owned();
                return Err(ProposeError::Unavailable { waited: Duration::from_secs(2), why });
            }
            Ok(self.apply(batch))
        })
    }

    fn barrier(&self) -> BoxFuture<'_, Freshness> {
        Box::pin(async move {
            if self.cut_off.load(Ordering::SeqCst) {
                let why = "1 of 3 voters is reachable".to_owned();
                return Freshness::Stale { age: Duration::from_secs(192), why };
            }
            Freshness::Current
        })
    }

    fn get(&self, key: &Key) -> Result<Option<Document>, ReadError> {
        Ok(self.state.lock().unwrap().documents.get(&place(key)).cloned())
    }

    fn list(&self, kind: &str, namespace: Option<&str>) -> Result<Listing, ReadError> {
        let state = self.state.lock().unwrap();
        let meant = |document: &&Document| {
            document.key.kind == kind && namespace.is_none_or(|namespace| document.key.namespace == namespace)
        };
        Ok(Listing { revision: state.revision, documents: state.documents.values().filter(meant).cloned().collect() })
    }

    fn revision(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    fn events_since(&self, revision: u64, kind: Option<&str>) -> Result<Vec<Event>, Gone> {
        let state = self.state.lock().unwrap();
        if revision < state.oldest {
            return Err(Gone { asked: revision, oldest: state.oldest });
        }
        let meant = |event: &&Event| event.revision > revision && kind.is_none_or(|kind| event.key.kind == kind);
        Ok(state.events.iter().filter(meant).cloned().collect())
    }
}
