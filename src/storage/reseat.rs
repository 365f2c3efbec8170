//! Copies of a state under another membership: for a survivor that goes on alone, and for a fleet
//! that begins again from a backup. A copy is made in a folder of its own and is whole before
//! anybody looks at it; nothing of the original is changed.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use openraft::RaftLogReader as _;
use openraft::storage::RaftLogStorage as _;
use openraft::vote::RaftLeaderId as _;
use redb::{Durability, ReadableTable};

use super::disk::Disk;
use super::log::Log;
use super::raft::{LogId, SnapshotMeta, StoredMembership, Vote};
use super::scratch::Scratch;
use super::snapshot::SnapshotSource;
use super::state::{State, View};
use super::table::{DOCUMENTS, Fault};
use super::{StorageError, keys, open};
use crate::identity::Member;
use crate::store::codec::CodecError;

/// Entries of a log that are applied at once.
const BATCH_ENTRIES: u64 = 256;

/// Who is left in a copy.
#[derive(Clone, Debug)]
pub struct Seat {
    /// Its member id; `None` takes the next one that was never handed out.
    pub id: Option<u64>,
    /// It.
    pub member: Member,
}

/// A whole state in a file, and what it covers.
#[derive(Debug)]
pub struct Spooled {
    /// The file; removed when dropped.
    pub file: Scratch,
    /// What it covers.
    pub meta: SnapshotMeta,
    /// Its revision.
    pub revision: u64,
    /// Documents by kind.
    pub documents: BTreeMap<String, u64>,
}

/// Writes the whole state at one revision to a file.
pub async fn spool(state: &State) -> Result<Spooled, StorageError> {
    // What is only in memory goes to the file first.
    let view = state.snapshot().await?;
    let (meta, revision) = (view.meta.clone(), view.progress.counters.revision);
    let documents = view.count_documents().map_err(|error| super::state::fault("read", state.dir(), error))?;
    let file = state.spool(SnapshotSource::from(view)).await?;
    Ok(Spooled { file, meta, revision, documents })
}

impl View {
    /// Documents by kind.
    fn count_documents(&self) -> Result<BTreeMap<String, u64>, Fault> {
        let mut count = BTreeMap::new();
        for entry in self.txn.open_table(DOCUMENTS)?.iter()? {
            let (key, _) = entry?;
            let key = keys::decode(key.value()).ok_or(Fault::Damaged("a key", CodecError::Empty))?;
            *count.entry(key.kind).or_default() += 1;
        }
        Ok(count)
    }
}

/// Copies a state and everything in its log, committed or not, to an empty folder, with one member
/// that votes alone. An entry that no quorum was known to have may have been acknowledged: the
/// survivor keeps it. Returns the member's id.
pub async fn reseat(state: &State, log: &Log, folder: &Path, seat: Seat) -> Result<u64, StorageError> {
    let spooled = spool(state).await?;
    let (mut copied_log, copy) = open(state.disk(), folder)?;
    let copy = copy.state().clone();
    SnapshotSource::File(spooled.file).install(&copy, &spooled.meta)?;
    let mut reader = log.clone();
    let mut next = spooled.meta.last_log_id.map_or(0, |id| id.index + 1);
    loop {
        let entries =
            reader.try_get_log_entries(next..next + BATCH_ENTRIES).await.map_err(at("read the log", folder))?;
        let Some(last) = entries.last().map(|entry| entry.log_id.index) else { break };
        copy.apply(&entries).await?;
        next = last + 1;
    }
    let term = reader.read_vote().await.map_err(at("read the vote", folder))?.map_or(0, |vote| vote.leader_id.term);
    take_seat(&copy, &mut copied_log, folder, seat, term).await
}

/// Makes a state and a log in an empty folder from the bytes of a snapshot, with one member that
/// votes alone.
pub async fn seed(
    disk: &Arc<dyn Disk>,
    snapshot: &mut impl Read,
    meta: &SnapshotMeta,
    folder: &Path,
    seat: Seat,
) -> Result<(u64, State), StorageError> {
    let (mut log, machine) = open(disk, folder)?;
    let state = machine.state().clone();
    let mut file = state.scratch()?;
    std::io::copy(snapshot, &mut file).map_err(at("copy the snapshot to", folder))?;
    SnapshotSource::File(file).install(&state, meta)?;
    let id = take_seat(&state, &mut log, folder, seat, 0).await?;
    Ok((id, state))
}

async fn take_seat(state: &State, log: &mut Log, folder: &Path, seat: Seat, term: u64) -> Result<u64, StorageError> {
    let (id, applied) = state.writing(Durability::Immediate, |table| {
        let id = seat.id.unwrap_or_else(|| table.progress.hand_out_member());
        let applied = table.progress.applied;
        let nodes = BTreeMap::from([(id, seat.member.clone())]);
        let membership = openraft::Membership::from(nodes);
        table.set_membership(&StoredMembership::new(applied, membership))?;
        table.clear_mirrors()?;
        table.set_snapshot(applied)?;
        Ok((id, applied))
    })?;
    let reached = applied.map_or(0, |id: LogId| id.committed_leader_id().term).max(term);
    let leader = openraft::impls::leader_id_adv::LeaderId::new(reached + 1, id);
    let vote = Vote { leader_id: leader, committed: false };
    log.save_vote(&vote).await.map_err(at("save the vote", folder))?;
    Ok(id)
}

fn at(action: &'static str, folder: &Path) -> impl FnOnce(std::io::Error) -> StorageError {
    let path = folder.to_owned();
    move |source| StorageError::File { action, path, source }
}
