//! Opening a log, or making the first segment of a new one.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use openraft::AsyncRuntime;
use rand_core::Rng;
use tokio::sync::Notify;

use super::super::disk::Disk;
use super::super::raft::LogId;
use super::super::runtime::Runtime;
use super::record::{BATCH_HEADER_BYTES, HEADER_BYTES, Header, Marks};
use super::replay::{self, Replayed, Trouble};
use super::write::{put_in_place, start_segment};
use super::{Active, Core, Segment, Sizes, Wal};

/// A log does not open.
#[derive(Debug)]
pub(in super::super) enum OpenError {
    /// The disk.
    Io(PathBuf, io::Error),
    /// What is written there is not what was written once.
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
        /// The last entry that can be read.
        last_good: Option<LogId>,
    },
}

impl Wal {
    /// Whether there is a log in a folder.
    pub(in super::super) fn exists(disk: &dyn Disk, dir: &Path) -> io::Result<bool> {
        Ok(disk.exists(dir)? && !replay::segments(disk, dir)?.is_empty())
    }

    /// Opens the log in a folder, which exists, or makes a new one there. What a power cut left half
    /// written is cut off: nobody was told that it was safe.
    pub(in super::super) fn open(disk: &Arc<dyn Disk>, dir: &Path, sizes: Sizes) -> Result<Arc<Self>, OpenError> {
        let failed = |error| OpenError::Io(dir.to_owned(), error);
        let numbers = replay::segments(disk.as_ref(), dir).map_err(failed)?;
        let replayed = if numbers.is_empty() {
            create(disk.as_ref(), dir).map_err(failed)?
        } else {
            if let Some(gap) = numbers.windows(2).find(|pair| pair[1] != pair[0] + 1) {
                let path = dir.join(replay::name(gap[0] + 1));
                return Err(OpenError::Damaged { path, why: "it is missing".into(), last_good: None });
            }
            replay::replay(disk.as_ref(), dir, &numbers).map_err(|trouble| match trouble {
                Trouble::Io(path, error) => OpenError::Io(path, error),
                Trouble::Damage(path, why, last_good) => OpenError::Damaged { path, why, last_good },
            })?
        };
        let Replayed { marks, places, first, segments, active } = replayed;
        let end = marks.next_index();
        let core = Core {
            sent: marks.clone(),
            marks,
            first,
            places,
            unplaced: VecDeque::new(),
            tail: VecDeque::new(),
            tail_bytes: 0,
            written_end: end,
            sent_end: end,
            segments,
            active,
            batch: vec![0; BATCH_HEADER_BYTES],
            commit_moved: false,
            waiting: Vec::new(),
            wanted: false,
            writing: false,
            failed: None,
        };
        Ok(Arc::new(Self {
            disk: disk.clone(),
            dir: dir.to_owned(),
            sizes,
            core: Mutex::new(core),
            room: Notify::new(),
        }))
    }
}

fn create(disk: &dyn Disk, dir: &Path) -> io::Result<Replayed> {
    let salt = Runtime::thread_rng().next_u64();
    let header = Header { segment: 1, salt, first_batch: 1, marks: Marks::default() };
    let path = dir.join(replay::name(1));
    let file = start_segment(disk, dir, &header)?;
    put_in_place(disk, dir, file.as_ref(), &path)?;
    let bytes = HEADER_BYTES as u64;
    Ok(Replayed {
        marks: header.marks,
        places: VecDeque::new(),
        first: 0,
        segments: BTreeMap::from([(1, Segment { path, file: file.clone(), bytes, end: 0 })]),
        active: Active { segment: 1, file, salt, offset: bytes, allocated: bytes, next_batch: 1 },
    })
}
