//! The Raft log: votes and entries in one append-only WAL, fsynced in groups. An
//! entry is readable at once and reported only when it is on the disk. Entries are purged only
//! behind state that is durable, so that a power cut never needs what is gone.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::StorageError;
use super::disk::Disk;
use super::latency::SyncTimes;
use super::raft::{Entry, LogId, TypeConfig, Vote};
use super::state::State;
use super::wal::{Done, OpenError, Sizes, Wal};
use crate::store::codec;
use futures_util::{Stream, stream};
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use tokio::time::Instant;

/// Encoded payload bytes that one read for replication or apply returns, if more than one entry.
const READ_BYTES: usize = 1 << 20;

/// Below this much free space no entries are taken in, so that the state file, which can not be
/// used any more once a write to it failed, is never the one to find the disk full.
const RESERVED_BYTES: u64 = 4 << 20;

/// The Raft log of this device. Clones read and write the same log.
#[derive(Clone)]
pub struct Log {
    wal: Arc<Wal>,
    state: State,
    reserved_bytes: u64,
    sync_times: SyncTimes,
}

/// A log does not open.
pub(super) enum LogError {
    /// The disk.
    File(StorageError),
    /// It is not what was written once.
    Damaged { path: PathBuf, why: String, last_good: Option<LogId> },
}

impl Log {
    /// The last entry that can be read of the log in a folder.
    pub(super) fn last_in(disk: &Arc<dyn Disk>, dir: &Path, sizes: Sizes) -> Option<u64> {
        let last = match Wal::open(disk, dir, sizes) {
            Ok(wal) => wal.bounds().0,
            Err(OpenError::Damaged { last_good, .. }) => last_good,
            Err(OpenError::Io(..)) => None,
        };
        last.map(|id| id.index)
    }

    /// The last entry, and the last one that was purged.
    pub(super) fn bounds(&self) -> (Option<LogId>, Option<LogId>) {
        self.wal.bounds()
    }

    /// Opens the log in a folder, creating it if needed. A batch that a power cut left half written
    /// is cut off: nobody was told that it was safe.
    pub(super) fn open(dir: &Path, state: State, sizes: Sizes) -> Result<Self, LogError> {
        let failed = |action| move |source| LogError::File(StorageError::File { action, path: dir.to_owned(), source });
        let disk = state.disk().clone();
        disk.make_dir(dir).map_err(failed("create the log folder"))?;
        super::state::sync_parent(disk.as_ref(), dir).map_err(LogError::File)?;
        let wal = Wal::open(&disk, dir, sizes).map_err(|error| match error {
            OpenError::Io(path, source) => {
                LogError::File(StorageError::File { action: "open the log in", path, source })
            }
            OpenError::Damaged { path, why, last_good } => LogError::Damaged { path, why, last_good },
        })?;
        Ok(Self { wal, state, reserved_bytes: RESERVED_BYTES, sync_times: SyncTimes::default() })
    }

    /// Bytes of the log on disk.
    pub fn bytes(&self) -> u64 {
        self.wal.bytes()
    }

    /// How long appends took to be on the disk.
    pub fn sync_times(&self) -> &SyncTimes {
        &self.sync_times
    }

    /// Writes out what nobody waits for; for a stop that is not a crash.
    pub async fn settle(&self) -> io::Result<()> {
        self.wal.settle().await
    }

    /// Lets a test meet the end of the disk itself.
    #[cfg(test)]
    pub(super) fn without_reserve(mut self) -> Self {
        self.reserved_bytes = 0;
        self
    }

    fn read(&self, start: u64, end: u64, max_bytes: usize) -> io::Result<Vec<Entry>> {
        let found = self.wal.read(start, end, max_bytes)?;
        found.into_iter().map(|(log_id, payload)| decode(log_id, &payload)).collect()
    }
}

fn decode(log_id: LogId, payload: &[u8]) -> io::Result<Entry> {
    let payload = codec::decode(payload)
        .map_err(|source| StorageError::Damaged { what: "a log entry", source })
        .map_err(io::Error::from)?;
    Ok(Entry { log_id, payload })
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(&start) => start,
        Bound::Excluded(&start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(&end) => end.saturating_add(1),
        Bound::Excluded(&end) => end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end.max(start))
}

impl RaftLogReader<TypeConfig> for Log {
    async fn try_get_log_entries<R>(&mut self, range: R) -> Result<Vec<Entry>, io::Error>
    where
        R: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = bounds(&range);
        self.read(start, end, usize::MAX)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        self.read(start, end, READ_BYTES)
    }

    async fn entries_stream<R>(&mut self, range: R) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        R: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        // A long replay is read piece by piece: a device has less memory than its log has bytes.
        let (start, end) = bounds(&range);
        let first = (self.clone(), start, Vec::new().into_iter());
        stream::unfold(first, move |(log, mut next, mut piece)| async move {
            if piece.len() == 0 {
                if next >= end {
                    return None;
                }
                match log.read(next, end, READ_BYTES) {
                    Ok(entries) => piece = entries.into_iter(),
                    Err(error) => return Some((Err(error), (log, end, piece))),
                }
            }
            let entry = piece.next()?;
            next = entry.log_id.index + 1;
            Some((Ok(entry), (log, next, piece)))
        })
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.wal.vote())
    }
}

impl RaftLogStorage<TypeConfig> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let (last_log_id, last_purged_log_id) = self.wal.bounds();
        Ok(LogState { last_purged_log_id, last_log_id })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.wal.save_vote(*vote).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        if let Some(committed) = committed {
            self.wal.commit(committed);
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.wal.committed())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let since = Instant::now();
        let free = self.state.free_bytes()?;
        if free < self.reserved_bytes {
            let dir = self.state.dir().display();
            let reason = format!("the disk of {dir} has only {free} bytes left, and {RESERVED_BYTES} are kept free");
            return Err(io::Error::new(io::ErrorKind::StorageFull, reason));
        }
        let mut encoded = Vec::new();
        for entry in entries {
            let payload = codec::encode(&entry.payload)
                .map_err(|source| StorageError::Encode { what: "a log entry", source })
                .map_err(io::Error::from)?;
            encoded.push((entry.log_id, payload));
        }
        let done = Done::Entries { flushed: callback, since, times: self.sync_times.clone() };
        self.wal.wait_for_room().await;
        self.wal.append(encoded, done)
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        if self.wal.bounds().0.is_none_or(|known| known.index < last.map_or(0, |id| id.index + 1)) {
            return Ok(());
        }
        self.wal.truncate_after(last).await
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        if self.state.durable_index() < Some(upto.index) {
            self.state.make_durable().await?;
        }
        self.wal.purge(upto).await
    }
}
