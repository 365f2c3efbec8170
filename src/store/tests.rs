use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use proptest::prelude::*;

use super::apply::{MAX_CLIENTS, MAX_PENDING};
use super::memory::Memory;
use super::*;
use crate::resource::Timestamp;

fn key(name: u8) -> Key {
    Key::new(if name < 3 { "Pod" } else { "apps/Deployment" }, "default", format!("n{name}"))
}

fn put(name: u8, body: u8) -> Write {
    Write::Put { key: key(name), body: vec![body] }
}

fn txn(client: u64, sequence: u64, checks: Vec<Check>, writes: Vec<Write>) -> Txn {
    Txn { client, sequence, settled: 0, at: Timestamp(sequence), batch: Batch { checks, writes } }
}

fn run(table: &mut Memory, txn: &Txn) -> (Outcome, Vec<Event>) {
    let Ok(done) = apply(table, txn);
    done
}

#[test]
fn checks_hold_all_or_nothing_is_written() {
    let mut table = Memory::new();
    run(&mut table, &txn(1, 1, vec![], vec![put(1, 1)]));
    let check = |name, expect| Check { key: key(name), expect };
    let refused = txn(
        1,
        2,
        vec![check(1, Precondition::Absent), check(2, Precondition::Absent), check(2, Precondition::Present)],
        vec![put(2, 2)],
    );
    let conflict = |name, expected, found| Conflict { key: key(name), expected, found };
    let conflicts = vec![conflict(1, Precondition::Absent, Some(1)), conflict(2, Precondition::Present, None)];
    assert_eq!(run(&mut table, &refused), (Outcome::Refused { conflicts }, vec![]));
    assert_eq!(table.get(&key(2)), None);
    let holds = txn(1, 3, vec![check(1, Precondition::AtRevision(1))], vec![put(1, 9)]);
    assert_eq!(run(&mut table, &holds).0, Outcome::Applied { revision: 2 });
}

#[test]
fn an_identical_body_changes_nothing() {
    let mut table = Memory::new();
    run(&mut table, &txn(1, 1, vec![], vec![put(1, 1)]));
    let (outcome, events) = run(&mut table, &txn(1, 2, vec![], vec![put(1, 1), Write::Delete { key: key(2) }]));
    assert_eq!((outcome, events.len()), (Outcome::Applied { revision: 1 }, 0));
    assert_eq!(table.get(&key(1)).unwrap().modified, 1);
}

#[test]
fn several_writes_to_a_document_are_one_event() {
    let mut table = Memory::new();
    run(&mut table, &txn(1, 1, vec![], vec![put(1, 1)]));
    let delete = Write::Delete { key: key(1) };
    let (_, events) = run(&mut table, &txn(1, 2, vec![], vec![delete.clone(), put(2, 5), put(1, 2), put(1, 3)]));
    let seen: Vec<_> = events.iter().map(|event| (event.change, &event.key, event.body[0], event.created)).collect();
    assert_eq!(seen, [(Change::Updated, &key(1), 3, 2), (Change::Created, &key(2), 5, 2)]);
    let (_, events) = run(&mut table, &txn(1, 3, vec![], vec![put(1, 7), delete]));
    let seen: Vec<_> = events.iter().map(|event| (event.change, event.body[0], event.created)).collect();
    assert_eq!(seen, [(Change::Deleted, 3, 2)]);
}

#[test]
fn a_repeat_gets_its_first_outcome_until_it_is_settled() {
    let mut table = Memory::new();
    let first = txn(1, 5, vec![Check { key: key(1), expect: Precondition::Absent }], vec![put(1, 1)]);
    assert_eq!(run(&mut table, &first).0, Outcome::Applied { revision: 1 });
    assert_eq!(run(&mut table, &first), (Outcome::Applied { revision: 1 }, vec![]));
    let later = Txn { settled: 6, ..txn(1, 6, vec![], vec![put(2, 1)]) };
    run(&mut table, &later);
    assert_eq!(run(&mut table, &first), (Outcome::Refused { conflicts: vec![] }, vec![]), "forgotten is not applied");
    assert_eq!(run(&mut table, &later), (Outcome::Applied { revision: 2 }, vec![]));
}

#[test]
fn memory_of_clients_and_outcomes_is_bounded() {
    let mut table = Memory::new();
    for client in 0..MAX_CLIENTS + 10 {
        run(&mut table, &txn(client, 0, vec![], vec![put(1, 1)]));
        // A client that keeps coming is kept, whatever its clock says.
        run(&mut table, &Txn { at: Timestamp(0), ..txn(0, client + 1, vec![], vec![]) });
    }
    let Ok(count) = table.client_count();
    assert_eq!(count, MAX_CLIENTS);
    assert!(table.client(0).unwrap().is_some() && table.client(1).unwrap().is_none());
    assert!(table.outcome(1, 0).unwrap().is_none());

    let mut table = Memory::new();
    for sequence in 0..MAX_PENDING + 10 {
        run(&mut table, &txn(1, sequence, vec![], vec![]));
    }
    assert!(table.outcome(1, 9).unwrap().is_none() && table.outcome(1, 10).unwrap().is_some());
}

fn arbitrary_txn() -> impl Strategy<Value = Txn> {
    let write = (0..6u8, prop::option::of(0..3u8)).prop_map(|(name, body)| match body {
        Some(body) => put(name, body),
        None => Write::Delete { key: key(name) },
    });
    let expect = prop_oneof![
        Just(Precondition::Absent),
        Just(Precondition::Present),
        (0..30u64).prop_map(Precondition::AtRevision)
    ];
    let check = (0..6u8, expect).prop_map(|(name, expect)| Check { key: key(name), expect });
    let batch = (prop::collection::vec(check, 0..2), prop::collection::vec(write, 0..4));
    (0..3u64, 0..12u64, 0..12u64, batch).prop_map(|(client, sequence, settled, (checks, writes))| Txn {
        settled,
        ..txn(client, sequence, checks, writes)
    })
}

/// The store as one would explain it: a map, and a note of what was seen.
#[derive(Default)]
struct Naive {
    revision: u64,
    documents: BTreeMap<Key, (Vec<u8>, u64)>,
    outcomes: BTreeMap<(u64, u64), Outcome>,
    settled: BTreeMap<u64, u64>,
}

impl Naive {
    fn apply(&mut self, txn: &Txn) -> Outcome {
        let settled = self.settled.entry(txn.client).or_default();
        if txn.sequence < *settled {
            return Outcome::Refused { conflicts: vec![] };
        }
        if let Some(first) = self.outcomes.get(&(txn.client, txn.sequence)) {
            return first.clone();
        }
        *settled = (*settled).max(txn.settled.min(txn.sequence));
        let found = |check: &Check| self.documents.get(&check.key).map(|(_, modified)| *modified);
        let failed = |check: &&Check| match (check.expect, found(check)) {
            (Precondition::Absent, found) => found.is_some(),
            (Precondition::Present, found) => found.is_none(),
            (Precondition::AtRevision(wanted), found) => found != Some(wanted),
        };
        let conflict = |check: &Check| Conflict { key: check.key.clone(), expected: check.expect, found: found(check) };
        let conflicts: Vec<_> = txn.batch.checks.iter().filter(failed).map(conflict).collect();
        let outcome = if conflicts.is_empty() {
            let mut after: BTreeMap<Key, Vec<u8>> =
                self.documents.iter().map(|(key, (body, _))| (key.clone(), body.clone())).collect();
            for write in &txn.batch.writes {
                match write {
                    Write::Put { key, body } => drop(after.insert(key.clone(), body.clone())),
                    Write::Delete { key } => drop(after.remove(key)),
                }
            }
            let same = after.len() == self.documents.len()
                && after.iter().all(|(key, body)| self.documents.get(key).is_some_and(|(known, _)| known == body));
            self.revision += u64::from(!same);
            let revision = self.revision;
            let known = std::mem::take(&mut self.documents);
            let modified = |key: &Key, body: &Vec<u8>| match known.get(key) {
                Some((before, modified)) if before == body => *modified,
                _ => revision,
            };
            self.documents =
                after.into_iter().map(|(key, body)| (key.clone(), (body.clone(), modified(&key, &body)))).collect();
            Outcome::Applied { revision }
        } else {
            Outcome::Refused { conflicts }
        };
        self.outcomes.insert((txn.client, txn.sequence), outcome.clone());
        outcome
    }
}

proptest! {
    #[test]
    fn apply_is_what_the_naive_store_does(txns in prop::collection::vec(arbitrary_txn(), 0..60)) {
        let mut table = Memory::new();
        let mut naive = Naive::default();
        // What a watcher that saw every event believes to be there.
        let mut watched: BTreeMap<Key, Arc<[u8]>> = BTreeMap::new();
        for txn in &txns {
            let before = table.clone();
            let (outcome, events) = run(&mut table, txn);
            prop_assert_eq!(&outcome, &naive.apply(txn));
            prop_assert_eq!(table.revision(), naive.revision);
            let changed = table.revision() > before.revision();
            prop_assert_eq!(changed, !events.is_empty());
            let keys: HashSet<_> = events.iter().map(|event| event.key.clone()).collect();
            prop_assert_eq!(keys.len(), events.len(), "one event for each document");
            for event in events {
                prop_assert_eq!(event.revision, table.revision());
                prop_assert_eq!(event.previous.as_ref(), watched.get(&event.key));
                match event.change {
                    Change::Deleted => drop(watched.remove(&event.key)),
                    Change::Created | Change::Updated => drop(watched.insert(event.key, event.body)),
                }
            }
            let stored: Vec<_> = table.documents().map(|document| (&document.key, document.body.as_slice(), document.modified)).collect();
            let expected: Vec<_> = naive.documents.iter().map(|(key, (body, at))| (key, body.as_slice(), *at)).collect();
            prop_assert_eq!(stored, expected);
            let seen: Vec<_> = watched.iter().map(|(key, body)| (key, &body[..])).collect();
            let there: Vec<_> = table.documents().map(|document| (&document.key, document.body.as_slice())).collect();
            prop_assert_eq!(seen, there);
            let repeated = run(&mut table.clone(), txn);
            prop_assert_eq!(repeated, (outcome, vec![]), "the same transaction again");
        }
    }

    #[test]
    fn the_ring_gives_all_since_or_says_that_it_can_not(
        bodies in prop::collection::vec(0..60_000usize, 1..120),
        asked in 0..130u64,
    ) {
        let mut ring = Ring::new(3);
        let event = |at: usize, size: usize| Event {
            revision: 4 + at as u64,
            change: Change::Created,
            key: key(u8::try_from(at % 6).unwrap()),
            body: vec![0; size].into(),
            previous: None,
            created: 4 + at as u64,
        };
        for (at, &size) in bodies.iter().enumerate() {
            ring.push([event(at, size)]);
        }
        let latest = 3 + bodies.len() as u64;
        match ring.since(asked, None) {
            Ok(events) => {
                let revisions: Vec<u64> = events.iter().map(|event| event.revision).collect();
                prop_assert_eq!(revisions, (asked + 1..=latest).collect::<Vec<_>>());
                let pods = ring.since(asked, Some("Pod")).unwrap();
                prop_assert_eq!(pods.len(), events.iter().filter(|event| event.key.kind == "Pod").count());
            }
            Err(gone) => {
                prop_assert_eq!(gone.asked, asked);
                prop_assert!(asked < gone.oldest && gone.oldest <= latest);
                prop_assert!(ring.since(gone.oldest, None).is_ok());
                let missing: usize = bodies.iter().skip(usize::try_from(asked.max(3) - 3).unwrap()).map(|size| size + 300).sum();
                prop_assert!(asked < 3 || missing > ring::MAX_BYTES, "only the limit makes events go");
            }
        }
    }
}

#[test]
fn the_ring_is_bounded_by_count_and_one_huge_event_empties_it() {
    let event = |revision, size| Event {
        revision,
        change: Change::Updated,
        key: key(1),
        body: vec![0; size].into(),
        previous: None,
        created: 1,
    };
    let mut ring = Ring::new(0);
    ring.push((1..=ring::MAX_EVENTS as u64 + 5).map(|revision| event(revision, 0)));
    assert_eq!(ring.since(4, None), Err(Gone { asked: 4, oldest: 5 }));
    assert_eq!(ring.since(5, None).unwrap().len(), ring::MAX_EVENTS);
    ring.push([event(9000, ring::MAX_BYTES + 1)]);
    assert_eq!(ring.since(8999, None), Err(Gone { asked: 8999, oldest: 9000 }));
    assert_eq!(ring.since(9000, None), Ok(vec![]));
}

#[test]
fn the_hash_sees_every_part_of_a_document() {
    let hash = |document: &Document| {
        let mut hasher = StateHasher::new(7);
        hasher.document(document);
        hasher.finish()
    };
    let base = Document { key: Key::new("a", "b", "c"), body: b"d".to_vec(), created: 1, modified: 2 };
    let others = [
        Document { key: Key::new("ab", "", "c"), ..base.clone() },
        Document { key: Key::new("a", "bc", ""), ..base.clone() },
        Document { body: b"e".to_vec(), ..base.clone() },
        Document { created: 2, ..base.clone() },
        Document { modified: 3, ..base.clone() },
    ];
    let hashes: HashSet<_> = others.iter().chain([&base]).map(|document| hash(document).digest).collect();
    assert_eq!(hashes.len(), 6);
}
