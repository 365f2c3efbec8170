//! The Raft log: votes and entries in one append-only WAL, fsynced in groups by one thread. An
//! entry is readable at once and reported only when it is on the disk. Entries are purged only
//! behind state that is durable, so that a power cut never needs what is gone.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::{Stream, stream};
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use raft_log::RaftLog;
use raft_log::api::raft_log_writer::RaftLogWriter;
use tokio::sync::oneshot;

use super::StorageError;
use super::raft::{Entry, LogId, TypeConfig, Vote};
use super::state::State;
use super::wal::{Done, Payload, WalLogId, WalTypes, WalVote};
use crate::store::codec;

/// Bytes of one WAL file. What is in the newest one is also in memory.
const CHUNK_BYTES: usize = 512 << 10;
/// Records of one WAL file; each costs eight bytes of memory.
const CHUNK_RECORDS: usize = 8192;
/// Payload bytes of closed WAL files kept in memory.
const CACHE_BYTES: usize = 256 << 10;
/// Payloads kept in memory.
const CACHE_ENTRIES: usize = 1024;
/// Bytes read ahead when a WAL file is replayed.
const READ_AHEAD_BYTES: usize = 64 << 10;
/// Bytes waiting for the disk before an append has to wait.
const QUEUE_BYTES: usize = 8 << 20;
/// Encoded payload bytes that one read for replication or apply returns, if more than one entry.
const READ_BYTES: usize = 1 << 20;

/// Below this much free space no entries are taken in, so that the state file, which can not be
/// used any more once a write to it failed, is never the one to find the disk full.
const RESERVED_BYTES: u64 = 4 << 20;

type Wal = RaftLog<WalTypes>;

/// The Raft log of this device. Clones read and write the same log.
#[derive(Clone)]
pub struct Log {
    wal: Arc<Mutex<Wal>>,
    state: State,
    reserved_bytes: u64,
}

impl Log {
    /// Opens the log in a folder, creating it if needed. A record that a power cut left half
    /// written is cut off: nobody was told that it was safe.
    pub(super) fn open(dir: &Path, state: State) -> Result<Self, StorageError> {
        let failed = |action| move |source| StorageError::File { action, path: dir.to_owned(), source };
        std::fs::create_dir_all(dir).map_err(failed("create the log folder"))?;
        super::state::sync_parent(dir)?;
        let mut config = raft_log::Config::new(dir.display());
        config.log_cache_max_items = Some(CACHE_ENTRIES);
        config.log_cache_capacity = Some(CACHE_BYTES);
        config.wal.read_buffer_size = Some(READ_AHEAD_BYTES);
        config.wal.chunk_max_records = Some(CHUNK_RECORDS);
        config.wal.chunk_max_size = Some(CHUNK_BYTES);
        config.wal.flush_queue_max_bytes = Some(QUEUE_BYTES);
        // Groups form by themselves while the disk is busy with the group before.
        config.wal.flush_batch_wait = Some(Duration::ZERO);
        let wal = Wal::open(Arc::new(config)).map_err(failed("open the log in"))?;
        Ok(Self { wal: Arc::new(Mutex::new(wal)), state, reserved_bytes: RESERVED_BYTES })
    }

    /// Bytes of the log on disk.
    pub fn bytes(&self) -> u64 {
        self.lock().on_disk_size()
    }

    /// Lets a test meet the end of the disk itself.
    #[cfg(test)]
    pub(super) fn without_reserve(mut self) -> Self {
        self.reserved_bytes = 0;
        self
    }

    /// Waits until the files of a purge are removed.
    #[cfg(test)]
    pub(super) fn idle(&self) -> io::Result<()> {
        self.lock().wait_worker_idle()
    }

    fn lock(&self) -> MutexGuard<'_, Wal> {
        // The WAL checks each record before it changes anything, so a panic elsewhere under the
        // lock leaves it whole.
        self.wal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, start: u64, end: u64, max_bytes: usize) -> io::Result<Vec<Entry>> {
        let mut found = Vec::new();
        let mut bytes = 0;
        for record in self.lock().read(start, end) {
            let (log_id, payload) = record?;
            bytes += payload.0.len();
            found.push((log_id, payload));
            if bytes >= max_bytes {
                break;
            }
        }
        found.into_iter().map(|(log_id, payload)| decode(&log_id, &payload)).collect()
    }

    /// Waits until everything written so far is on the disk.
    async fn flush(&self) -> io::Result<()> {
        let (done, waiting) = oneshot::channel();
        self.lock().flush(true, Some(Done::Caller(done)))?;
        waiting.await.map_err(|_| io::Error::other("the log's writer has stopped after an earlier error"))?
    }
}

fn decode(log_id: &WalLogId, payload: &Payload) -> io::Result<Entry> {
    let payload = codec::decode(&payload.0)
        .map_err(|source| StorageError::Damaged { what: "a log entry", source })
        .map_err(io::Error::from)?;
    Ok(Entry { log_id: log_id.0, payload })
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
        Ok(self.lock().log_state().vote().map(|vote| vote.0))
    }
}

impl RaftLogStorage<TypeConfig> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let wal = self.lock();
        let state = wal.log_state();
        Ok(LogState { last_purged_log_id: state.purged().map(|id| id.0), last_log_id: state.last().map(|id| id.0) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.lock().save_vote(WalVote(*vote))?;
        self.flush().await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        let mut wal = self.lock();
        let state = wal.log_state();
        let known = state.committed().map(|id| id.0);
        let last = state.last().map(|id| id.0);
        if let Some(committed) = committed.filter(|_| committed > known && committed <= last) {
            wal.commit(WalLogId(committed))?;
            // Not fsynced: a lost commit mark costs a wait for the leader, nothing else.
            wal.flush(false, None)?;
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.lock().log_state().committed().map(|id| id.0))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let free = self.state.free_bytes()?;
        if free < self.reserved_bytes {
            let dir = self.state.dir().display();
            let reason = format!("the disk of {dir} has only {free} bytes left, and {RESERVED_BYTES} are kept free");
            return Err(io::Error::new(io::ErrorKind::StorageFull, reason));
        }
        let mut wal = self.lock();
        let mut unsent = 0;
        for entry in entries {
            let payload = codec::encode(&entry.payload)
                .map_err(|source| StorageError::Encode { what: "a log entry", source })
                .map_err(io::Error::from)?;
            unsent += payload.len();
            wal.append([(WalLogId(entry.log_id), Payload(payload.into()))])?;
            if unsent >= READ_BYTES {
                wal.flush(false, None)?;
                unsent = 0;
            }
        }
        wal.flush(true, Some(Done::Entries(callback)))
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        {
            let mut wal = self.lock();
            let end = last.map_or(0, |id| id.index + 1);
            if wal.log_state().last().is_none_or(|id| id.0.index < end) {
                return Ok(());
            }
            wal.truncate(end)?;
        }
        self.flush().await
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        if self.state.durable_index() < Some(upto.index) {
            self.state.make_durable().await?;
        }
        self.lock().purge(WalLogId(upto))?;
        self.flush().await
    }
}
