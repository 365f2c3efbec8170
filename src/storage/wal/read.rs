//! Reading entries: the newest from memory, the others from their segments, where each has a
//! checksum of its own.

use std::io;
use std::sync::Arc;

use super::super::disk::DiskFile;
use super::super::raft::{LogId, Vote};
use super::queue::record_bytes;
use super::record::{self, Record};
use super::{Cached, Core, Wal};

/// Where an entry is.
enum Source {
    Memory(Cached),
    Disk { index: u64, file: Arc<dyn DiskFile>, offset: u64, payload: u32 },
}

impl Core {
    fn end(&self) -> u64 {
        self.first + (self.places.len() + self.unplaced.len()) as u64
    }

    fn source(&self, index: u64) -> Option<Source> {
        let newest = self.tail.back()?.id.index;
        let from_back = usize::try_from(newest.checked_sub(index)?).ok()?;
        let at = self.tail.len().checked_sub(from_back + 1)?;
        self.tail.get(at).cloned().map(Source::Memory)
    }

    fn on_disk(&self, index: u64) -> Option<Source> {
        let place = self.places.get(usize::try_from(index.checked_sub(self.first)?).ok()?)?;
        let file = self.segments.get(&place.segment)?.file.clone();
        Some(Source::Disk { index, file, offset: u64::from(place.offset), payload: place.payload })
    }
}

impl Source {
    fn read(self) -> io::Result<(LogId, Arc<[u8]>)> {
        match self {
            Self::Memory(cached) => Ok((cached.id, cached.payload)),
            Self::Disk { index, file, offset, payload } => {
                let mut bytes = vec![0; record_bytes(payload)];
                file.read_at(offset, &mut bytes)?;
                match record::record(&bytes) {
                    Some((Record::Entry(id, found), _)) if id.index == index => Ok((id, found.into())),
                    _ => {
                        let reason = format!("entry {index} of the log is damaged on the disk");
                        Err(io::Error::new(io::ErrorKind::InvalidData, reason))
                    }
                }
            }
        }
    }
}

impl Wal {
    /// The entries from `start` up to `end` that there are, until their payloads have `max_bytes`;
    /// at least one.
    pub(in super::super) fn read(&self, start: u64, end: u64, max_bytes: usize) -> io::Result<Vec<(LogId, Arc<[u8]>)>> {
        let sources = {
            let core = self.lock();
            let mut sources = Vec::new();
            let mut bytes = 0;
            for index in start.max(core.first)..end.min(core.end()) {
                let found = core.source(index).or_else(|| core.on_disk(index));
                let Some(source) = found else {
                    return Err(io::Error::other(format!("entry {index} of the log has no place")));
                };
                bytes += match &source {
                    Source::Memory(cached) => cached.payload.len(),
                    Source::Disk { payload, .. } => *payload as usize,
                };
                sources.push(source);
                if bytes >= max_bytes {
                    break;
                }
            }
            sources
        };
        sources.into_iter().map(Source::read).collect()
    }

    /// The last entry, and the last one that was purged.
    pub(in super::super) fn bounds(&self) -> (Option<LogId>, Option<LogId>) {
        let core = self.lock();
        (core.marks.last, core.marks.purged)
    }

    /// The vote, as of the latest save.
    pub(in super::super) fn vote(&self) -> Option<Vote> {
        self.lock().marks.vote
    }

    /// The commit mark.
    pub(in super::super) fn committed(&self) -> Option<LogId> {
        self.lock().marks.committed
    }
}
