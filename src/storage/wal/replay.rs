//! Reading the log back when it is opened. It decides what a power cut left half written, which
//! nobody was told of and which is cut off, and what is damage, which is never cut off: a batch
//! that cannot be read although it was safe once.
//!
//! One batch at a time is not safe yet, and only it can be torn, with whole sectors of zeros where
//! its bytes did not arrive. So a bad batch is damage when another one follows it, and when all of
//! its bytes are there.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};

use super::super::disk::{Disk, DiskFile};
use super::super::raft::LogId;
use super::record::{self, BATCH_HEADER_BYTES, HEADER_BYTES, Header, Marks, Record};
use super::{Active, Place, Segment};

/// Bytes that a disk writes whole.
const SECTOR: usize = 512;

/// A log that was read back.
pub(super) struct Replayed {
    pub(super) marks: Marks,
    pub(super) places: VecDeque<Place>,
    /// Index of the first entry that has a place.
    pub(super) first: u64,
    pub(super) segments: BTreeMap<u64, Segment>,
    pub(super) active: Active,
}

/// Why a log does not open.
pub(super) enum Trouble {
    Io(PathBuf, io::Error),
    /// What is wrong with which file, and the last entry that can be read.
    Damage(PathBuf, String, Option<LogId>),
}

/// The file name of a segment.
pub(super) fn name(segment: u64) -> String {
    format!("{segment:010}.wal")
}

fn number(name: &str) -> Option<u64> {
    name.strip_suffix(".wal")?.parse().ok()
}

/// The segments in a folder, oldest first.
pub(super) fn segments(disk: &dyn Disk, dir: &Path) -> io::Result<Vec<u64>> {
    let mut found: Vec<u64> = disk.list(dir)?.iter().filter_map(|name| number(name)).collect();
    found.sort_unstable();
    Ok(found)
}

struct Replay<'a> {
    disk: &'a dyn Disk,
    dir: &'a Path,
    marks: Marks,
    places: VecDeque<Place>,
    first: u64,
    segments: BTreeMap<u64, Segment>,
    next_batch: u64,
}

/// Reads the given segments, of which there is at least one.
pub(super) fn replay(disk: &dyn Disk, dir: &Path, numbers: &[u64]) -> Result<Replayed, Trouble> {
    let mut replay = Replay {
        disk,
        dir,
        marks: Marks::default(),
        places: VecDeque::new(),
        first: 0,
        segments: BTreeMap::new(),
        next_batch: 0,
    };
    let mut active = None;
    for (at, &number) in numbers.iter().enumerate() {
        active = Some(replay.segment(number, at == 0, at + 1 == numbers.len())?);
    }
    let Some(active) = active else {
        return Err(Trouble::Damage(dir.to_owned(), "it has no segment".into(), None));
    };
    let start = replay.marks.purged.map_or(0, |id| id.index + 1);
    if replay.first > start && (replay.marks.purged.is_some() || numbers[0] != 1) {
        let why = format!("entries {start} to {} are missing", replay.first - 1);
        return Err(Trouble::Damage(dir.to_owned(), why, replay.marks.last));
    }
    let Replay { marks, places, first, segments, .. } = replay;
    Ok(Replayed { marks, places, first, segments, active })
}

impl Replay<'_> {
    fn damage<T>(&self, path: &Path, why: impl Into<String>) -> Result<T, Trouble> {
        Err(Trouble::Damage(path.to_owned(), why.into(), self.marks.last))
    }

    fn segment(&mut self, number: u64, first: bool, last: bool) -> Result<Active, Trouble> {
        let path = self.dir.join(name(number));
        let failed = |error| Trouble::Io(path.clone(), error);
        let file = self.disk.open(&path).map_err(failed)?;
        let length = file.len().map_err(failed)?;
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX).min(HEADER_BYTES)];
        file.read_at(0, &mut bytes).map_err(failed)?;
        let header = match Header::decode(&bytes) {
            Ok(header) if header.segment == number => header,
            Ok(header) => return self.damage(&path, format!("it is segment {} by its header", header.segment)),
            Err(why) => return self.damage(&path, why),
        };
        if first {
            self.marks = header.marks.clone();
            self.first = self.marks.next_index();
            self.next_batch = header.first_batch;
        } else if header.first_batch != self.next_batch || header.marks != self.marks {
            return self.damage(&path, "the segments before it have lost their end");
        }
        self.segments.insert(number, Segment { path: path.clone(), file: file.clone(), bytes: length, end: 0 });
        let end = self.batches(&path, file.as_ref(), length, &header)?;
        if let Torn::At(offset) = end.torn {
            if !last {
                return self.damage(&path, format!("its batch at byte {offset} can not be read"));
            }
            tracing::info!(segment = %path.display(), offset, "what a power cut left half written in the log is cut off");
            file.set_len(offset).and_then(|()| file.sync()).map_err(failed)?;
        } else if last && end.last_batch > 0 {
            // It may be in the kernel's memory only, after an fsync that failed: write it again.
            let mut again = vec![0; usize::try_from(end.offset - end.last_batch).unwrap_or(0)];
            file.read_at(end.last_batch, &mut again).map_err(failed)?;
            file.write_at(end.last_batch, &again).and_then(|()| file.sync()).map_err(failed)?;
        }
        if let Some(segment) = self.segments.get_mut(&number) {
            segment.bytes = file.len().map_err(failed)?;
            segment.end = end.next;
        }
        let allocated = file.len().map_err(failed)?;
        Ok(Active {
            segment: number,
            file,
            salt: header.salt,
            offset: end.offset,
            allocated,
            next_batch: self.next_batch,
        })
    }

    /// Reads all batches of a segment.
    fn batches(&mut self, path: &Path, file: &dyn DiskFile, length: u64, header: &Header) -> Result<End, Trouble> {
        let failed = |error| Trouble::Io(path.to_owned(), error);
        let mut end = End { offset: HEADER_BYTES as u64, last_batch: 0, next: 0, torn: Torn::No };
        loop {
            let mut start = vec![0; clamp(length - end.offset, BATCH_HEADER_BYTES)];
            file.read_at(end.offset, &mut start).map_err(failed)?;
            let found = record::batch_header(&start, header.salt).filter(|batch| batch.number == self.next_batch);
            let Some(batch) = found else { break };
            let body_at = end.offset + BATCH_HEADER_BYTES as u64;
            if batch.length as u64 > length - body_at {
                break;
            }
            let mut body = vec![0; batch.length];
            file.read_at(body_at, &mut body).map_err(failed)?;
            if !batch.covers(&body, header.salt) {
                break;
            }
            if let Err(why) = self.records(&body, body_at, header.segment, &mut end.next) {
                return self.damage(path, why);
            }
            end.last_batch = end.offset;
            end.offset = body_at + batch.length as u64;
            self.next_batch += 1;
        }
        if let Some(rest) = Self::rest(file, end.offset, length).map_err(failed)? {
            match judge(&rest, usize::try_from(end.offset).unwrap_or(0), header.salt, self.next_batch) {
                Ok(()) => end.torn = Torn::At(end.offset),
                Err(why) => return self.damage(path, format!("{why} at byte {}", end.offset)),
            }
        }
        Ok(end)
    }

    /// What follows the last whole batch; `None` when it is nothing but room.
    fn rest(file: &dyn DiskFile, offset: u64, length: u64) -> io::Result<Option<Vec<u8>>> {
        let mut rest = vec![0; usize::try_from(length - offset).unwrap_or(usize::MAX)];
        file.read_at(offset, &mut rest)?;
        Ok(rest.iter().any(|&byte| byte != 0).then_some(rest))
    }

    fn records(&mut self, body: &[u8], body_at: u64, segment: u64, entries_end: &mut u64) -> Result<(), String> {
        let mut at = 0;
        while at < body.len() {
            let Some((record, length)) = record::record(&body[at..]) else {
                return Err(format!("its record at byte {} does not decode", body_at + at as u64));
            };
            match record {
                Record::Entry(id, payload) => {
                    if self.marks.last.is_some() && id.index != self.marks.next_index() {
                        return Err(format!("entry {} follows entry {}", id.index, self.marks.next_index()));
                    }
                    if self.places.is_empty() {
                        self.first = id.index;
                    }
                    let offset = u32::try_from(body_at + at as u64).map_err(|_| "it is larger than 4 GiB")?;
                    let payload = u32::try_from(payload.len()).map_err(|_| "an entry is larger than 4 GiB")?;
                    self.places.push_back(Place { segment, offset, payload });
                    *entries_end = (*entries_end).max(id.index + 1);
                }
                Record::Truncate(Some(last)) if last.index >= self.marks.next_index() => {
                    return Err(format!("it keeps entry {} of a log that ends before", last.index));
                }
                Record::Truncate(last) => {
                    let end = last.map_or(0, |id| id.index + 1);
                    let keep = usize::try_from(end.saturating_sub(self.first)).unwrap_or(usize::MAX);
                    self.places.truncate(keep);
                    self.first = self.first.min(end);
                }
                Record::Purge(upto) => {
                    let gone = usize::try_from((upto.index + 1).saturating_sub(self.first)).unwrap_or(usize::MAX);
                    self.places.drain(..gone.min(self.places.len()));
                    self.first = self.first.max(upto.index + 1);
                }
                Record::Vote(_) | Record::Commit(_) => {}
            }
            self.marks.take_in(&record);
            at += length;
        }
        Ok(())
    }
}

struct End {
    /// Where the next batch goes.
    offset: u64,
    /// Where the last one is; zero for none.
    last_batch: u64,
    /// One more than the highest index of any entry.
    next: u64,
    torn: Torn,
}

enum Torn {
    No,
    At(u64),
}

fn clamp(left: u64, most: usize) -> usize {
    usize::try_from(left).unwrap_or(usize::MAX).min(most)
}

/// Whether what follows the last whole batch is a torn write, which is fine. `at` is its offset.
fn judge(rest: &[u8], at: usize, salt: u64, number: u64) -> Result<(), &'static str> {
    for start in 1..rest.len().saturating_sub(BATCH_HEADER_BYTES) {
        if let Some(later) = record::batch_header(&rest[start..], salt)
            && later.number > number
        {
            return Err("a batch can not be read, and others follow it");
        }
    }
    let header = record::batch_header(rest, salt).filter(|batch| batch.number == number);
    let length = header.map_or(BATCH_HEADER_BYTES, |batch| BATCH_HEADER_BYTES + batch.length);
    if header.is_some() && rest.get(length..).is_some_and(|after| after.iter().any(|&byte| byte != 0)) {
        return Err("a batch can not be read, and something follows it");
    }
    if length > rest.len() || sectors(&rest[..length], at).any(|piece| piece.iter().all(|&byte| byte == 0)) {
        return Ok(());
    }
    Err(if header.is_some() { "the last batch is changed" } else { "the start of the last batch is changed" })
}

/// The parts of a write that share a sector.
fn sectors(bytes: &[u8], at: usize) -> impl Iterator<Item = &[u8]> {
    let (front, rest) = bytes.split_at((at.next_multiple_of(SECTOR) - at).min(bytes.len()));
    std::iter::once(front).filter(|front| !front.is_empty()).chain(rest.chunks(SECTOR))
}
