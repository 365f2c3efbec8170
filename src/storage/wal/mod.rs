//! The write-ahead log: votes and entries in one queue, in segment files that only grow. It decides
//! when bytes are safe and who is told, and never what they mean. What it said was safe is there
//! after any power cut, or the log does not open; after a failed fsync nothing is ever said to be
//! safe again.

#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod fuzz;
mod open;
mod queue;
mod read;
mod record;
mod replay;
mod write;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::storage::IOFlushed;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::disk::{Disk, DiskFile};
use super::latency::SyncTimes;
use super::raft::{LogId, TypeConfig};
use record::{BATCH_HEADER_BYTES, Marks};

pub(super) use open::OpenError;

/// How large the parts of a log are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    /// Bytes of a segment, unless its last batch is larger than what was left.
    pub(crate) segment: u64,
    /// Bytes of zeros written ahead of small batches: a write into them changes no length, so that
    /// its fsync has no metadata to write.
    pub(crate) ahead: u64,
}

impl Default for Sizes {
    fn default() -> Self {
        Self { segment: 2 << 20, ahead: 128 << 10 }
    }
}

/// A batch of more bytes than this gets nothing written ahead: its metadata weighs little.
const SMALL_BATCH_BYTES: u64 = 32 << 10;
/// Payload bytes of the newest entries that stay in memory once they are on the disk.
const TAIL_BYTES: usize = 128 << 10;
/// Entries that stay in memory once they are on the disk.
const TAIL_ENTRIES: usize = 512;
/// Bytes waiting for the disk before an append has to wait.
const QUEUE_BYTES: usize = 8 << 20;
/// Bytes of a batch buffer that is kept for the next batch.
const KEPT_BUFFER_BYTES: usize = 64 << 10;

/// Who waits for bytes to be on the disk.
pub(super) enum Done {
    /// openraft, for entries.
    Entries { flushed: IOFlushed<TypeConfig>, since: Instant, times: SyncTimes },
    /// The caller of a vote, a truncation or a purge.
    Caller(oneshot::Sender<io::Result<()>>),
}

impl Done {
    fn tell(self, result: io::Result<()>) {
        match self {
            Self::Entries { flushed, since, times } => {
                times.record(since.elapsed());
                flushed.io_completed(result);
            }
            // Nobody listens when the caller was cancelled.
            Self::Caller(waiting) => drop(waiting.send(result)),
        }
    }
}

/// A log in a folder.
pub(super) struct Wal {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    sizes: Sizes,
    core: Mutex<Core>,
    /// Told when the queue is shorter.
    room: Notify,
}

/// Where an entry lies.
#[derive(Clone, Copy, Debug)]
struct Place {
    segment: u64,
    /// Of its record in the segment.
    offset: u32,
    /// Bytes of its payload.
    payload: u32,
}

#[derive(Debug)]
struct Segment {
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    bytes: u64,
    /// One more than the highest index of any entry in it.
    end: u64,
}

/// The segment that is written to.
#[derive(Clone, Debug)]
struct Active {
    segment: u64,
    file: Arc<dyn DiskFile>,
    salt: u64,
    /// Where the next batch goes.
    offset: u64,
    /// The file's length.
    allocated: u64,
    /// The next batch's number.
    next_batch: u64,
}

/// An entry in memory.
#[derive(Clone)]
struct Cached {
    id: LogId,
    payload: Arc<[u8]>,
}

struct Core {
    /// As everyone sees the log.
    marks: Marks,
    /// As the batches handed to the disk so far say.
    sent: Marks,
    /// Index of the first entry.
    first: u64,
    /// Of the entries from `first` on, up to those that no batch has taken yet.
    places: VecDeque<Place>,
    /// Of the entries after them: where they are in `batch`, and how long their payloads are.
    unplaced: VecDeque<(usize, u32)>,
    /// The newest entries; all that are not on the disk yet are among them.
    tail: VecDeque<Cached>,
    tail_bytes: usize,
    /// Entries below this index are on the disk.
    written_end: u64,
    /// Entries below this index are on the disk after the write that is under way.
    sent_end: u64,
    segments: BTreeMap<u64, Segment>,
    active: Active,
    /// The records for the next batch, after room for its header.
    batch: Vec<u8>,
    /// The commit mark has changed since the last batch.
    commit_moved: bool,
    waiting: Vec<Done>,
    /// Somebody waits for the batch, or it is large.
    wanted: bool,
    /// A write is under way.
    writing: bool,
    failed: Option<(io::ErrorKind, String)>,
}

impl Core {
    fn check(&self) -> io::Result<()> {
        match &self.failed {
            Some((kind, why)) => Err(io::Error::new(*kind, format!("the log takes no more after an error: {why}"))),
            None => Ok(()),
        }
    }

    fn has_records(&self) -> bool {
        self.batch.len() > BATCH_HEADER_BYTES || self.commit_moved
    }

    fn evict(&mut self) {
        while self.tail_bytes > TAIL_BYTES || self.tail.len() > TAIL_ENTRIES {
            match self.tail.front() {
                Some(oldest) if oldest.id.index < self.written_end => {
                    self.tail_bytes -= oldest.payload.len();
                    self.tail.pop_front();
                }
                _ => return,
            }
        }
    }
}

impl Wal {
    fn lock(&self) -> MutexGuard<'_, Core> {
        // Nothing panics between two changes that belong together.
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of the log on disk.
    pub(super) fn bytes(&self) -> u64 {
        self.lock().segments.values().map(|segment| segment.bytes).sum()
    }
}
