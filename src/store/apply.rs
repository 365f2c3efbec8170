//! Applies one transaction: all checks, then all writes, at one revision. Deterministic: the same
//! table and the same transaction give the same outcome on every replica. It never looks at a
//! clock, and a repeated transaction changes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::table::{Client, Table};
use super::{Batch, Change, Conflict, Document, Event, Key, Outcome, Precondition, Txn, Write};

/// Clients whose retries are remembered; the one that was silent longest goes first.
pub(super) const MAX_CLIENTS: u64 = 1024;

/// Outcomes remembered for one client, whatever it says is settled.
pub(super) const MAX_PENDING: u64 = 4096;

/// Applies a transaction, and tells what became of it and what changed.
///
/// A transaction that was applied before gets its first outcome and changes nothing. One whose
/// outcome is forgotten (its client waits for no answer) is refused without conflicts.
pub fn apply<T: Table>(table: &mut T, txn: &Txn) -> Result<(Outcome, Vec<Event>), T::Error> {
    let known = table.client(txn.client)?;
    if txn.sequence < known.map_or(0, |client| client.settled) {
        return Ok((Outcome::Refused { conflicts: Vec::new() }, Vec::new()));
    }
    if let Some(first) = table.outcome(txn.client, txn.sequence)? {
        return Ok((first, Vec::new()));
    }

    let mut counters = table.counters()?;
    counters.turn += 1;
    counters.at = txn.at;
    let conflicts = conflicts(table, &txn.batch)?;
    let (outcome, events) = if conflicts.is_empty() {
        let events = write(table, &txn.batch, counters.revision + 1)?;
        counters.revision += u64::from(!events.is_empty());
        (Outcome::Applied { revision: counters.revision }, events)
    } else {
        (Outcome::Refused { conflicts }, Vec::new())
    };
    table.set_counters(counters)?;
    remember(table, txn, known, counters.turn, &outcome)?;
    Ok((outcome, events))
}

fn conflicts<T: Table>(table: &T, batch: &Batch) -> Result<Vec<Conflict>, T::Error> {
    let mut conflicts = Vec::new();
    for check in &batch.checks {
        let found = table.document(&check.key)?.map(|document| document.modified);
        let holds = match check.expect {
            Precondition::Absent => found.is_none(),
            Precondition::Present => found.is_some(),
            Precondition::AtRevision(revision) => found == Some(revision),
        };
        if !holds {
            conflicts.push(Conflict { key: check.key.clone(), expected: check.expect, found });
        }
    }
    Ok(conflicts)
}

/// A document that a batch touches: as it was, and as the writes so far leave it.
struct Touched {
    before: Option<Document>,
    after: Option<Vec<u8>>,
    recreated: bool,
}

/// Several writes to one key count as the last of them, so that a watcher sees one event for each
/// document at a revision.
fn write<T: Table>(table: &mut T, batch: &Batch, revision: u64) -> Result<Vec<Event>, T::Error> {
    let mut touched: BTreeMap<&Key, Touched> = BTreeMap::new();
    let mut order: Vec<&Key> = Vec::new();
    for write in &batch.writes {
        let (Write::Put { key, .. } | Write::Delete { key }) = write;
        if !touched.contains_key(key) {
            let before = table.document(key)?;
            let after = before.as_ref().map(|document| document.body.clone());
            touched.insert(key, Touched { before, after, recreated: false });
            order.push(key);
        }
        if let Some(entry) = touched.get_mut(key) {
            match write {
                Write::Put { body, .. } => entry.after = Some(body.clone()),
                Write::Delete { .. } => {
                    entry.after = None;
                    entry.recreated = true;
                }
            }
        }
    }
    let mut events = Vec::new();
    for key in order {
        let Some(Touched { before, after, recreated }) = touched.remove(key) else { continue };
        if before.as_ref().map(|document| &document.body) == after.as_ref() {
            continue;
        }
        events.push(settle(table, key, before, after, recreated, revision)?);
    }
    Ok(events)
}

fn settle<T: Table>(
    table: &mut T,
    key: &Key,
    before: Option<Document>,
    after: Option<Vec<u8>>,
    recreated: bool,
    revision: u64,
) -> Result<Event, T::Error> {
    let change = match (&before, &after) {
        (None, _) => Change::Created,
        (Some(_), Some(_)) => Change::Updated,
        (Some(_), None) => Change::Deleted,
    };
    let created = match &before {
        Some(document) if change == Change::Deleted || !recreated => document.created,
        _ => revision,
    };
    let previous: Option<Arc<[u8]>> = before.map(|document| document.body.into());
    let body = if let Some(body) = after {
        let shared: Arc<[u8]> = body.as_slice().into();
        table.put_document(&Document { key: key.clone(), body, created, modified: revision })?;
        shared
    } else {
        table.remove_document(key)?;
        previous.clone().unwrap_or_default()
    };
    Ok(Event { revision, change, key: key.clone(), body, previous, created })
}

fn remember<T: Table>(
    table: &mut T,
    txn: &Txn,
    known: Option<Client>,
    turn: u64,
    outcome: &Outcome,
) -> Result<(), T::Error> {
    let before = known.map_or(0, |client| client.settled);
    // A client can not settle what it is just asking, and can not make the table remember without end.
    let settled =
        before.max(txn.settled.min(txn.sequence)).max(txn.sequence.saturating_add(1).saturating_sub(MAX_PENDING));
    if settled > before {
        table.forget_outcomes(txn.client, settled)?;
    }
    table.put_outcome(txn.client, txn.sequence, outcome)?;
    table.put_client(txn.client, Client { settled, turn })?;
    if known.is_none() && table.client_count()? > MAX_CLIENTS {
        if let Some(oldest) = table.oldest_client()? {
            table.forget_outcomes(oldest, u64::MAX)?;
            table.remove_client(oldest)?;
        }
    }
    Ok(())
}
