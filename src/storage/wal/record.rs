//! How the log looks in bytes: segment headers, batches and the records in them. It decides what
//! is whole and what is not; it never reads or writes a file.
//!
//! A batch is what was made safe by one fsync. Its checksum covers all of it, so a batch counts
//! whole or not at all. Every number is little-endian. The salt of its segment is part of each
//! checksum, so bytes of another segment, or of a document, never look like a batch of this one.

use openraft::vote::RaftLeaderId;

use super::super::raft::{LogId, TypeConfig, Vote};

type LeaderId = <TypeConfig as openraft::RaftTypeConfig>::LeaderId;

/// Bytes of a segment's header: one sector, written once and never changed.
pub(super) const HEADER_BYTES: usize = 512;
/// Bytes of a batch's header.
pub(super) const BATCH_HEADER_BYTES: usize = 24;
/// Bytes of an entry's record before its payload.
pub(super) const ENTRY_HEADER_BYTES: usize = 33;
/// The most bytes that one batch may have; more is damage.
pub(super) const MAX_BATCH_BYTES: usize = 256 << 20;

const SEGMENT_MAGIC: [u8; 8] = *b"kithwal\n";
const FORMAT: u32 = 1;
const BATCH_MAGIC: u32 = 0x4b42_4154;

const VOTE: u8 = 1;
const ENTRY: u8 = 2;
const TRUNCATE: u8 = 3;
const PURGE: u8 = 4;
const COMMIT: u8 = 5;

/// What the log says besides its entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Marks {
    pub(super) vote: Option<Vote>,
    pub(super) committed: Option<LogId>,
    pub(super) purged: Option<LogId>,
    /// The last entry, or what was purged when there is none after it.
    pub(super) last: Option<LogId>,
}

impl Marks {
    pub(super) fn next_index(&self) -> u64 {
        self.last.map_or(0, |id| id.index + 1)
    }

    pub(super) fn take_in(&mut self, record: &Record<'_>) {
        match *record {
            Record::Vote(vote) => self.vote = Some(vote),
            Record::Entry(id, _) => self.last = Some(id),
            Record::Truncate(last) => self.last = last,
            Record::Purge(upto) => {
                self.purged = Some(upto);
                if self.last.is_none_or(|last| last.index <= upto.index) {
                    self.last = Some(upto);
                }
            }
            Record::Commit(id) => self.committed = Some(id),
        }
    }
}

/// One change of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Record<'a> {
    Vote(Vote),
    Entry(LogId, &'a [u8]),
    /// Entries after this one are gone.
    Truncate(Option<LogId>),
    /// Entries up to this one are gone.
    Purge(LogId),
    Commit(LogId),
}

/// The start of a segment: enough to read it without those before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Counts segments, from 1.
    pub(super) segment: u64,
    /// Part of each checksum in the segment.
    pub(super) salt: u64,
    /// The number of its first batch; numbers go on from segment to segment.
    pub(super) first_batch: u64,
    /// What the segments before it say.
    pub(super) marks: Marks,
}

/// The start of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BatchHeader {
    pub(super) number: u64,
    /// Bytes of its records.
    pub(super) length: usize,
    body_sum: u32,
}

fn put_id(out: &mut Vec<u8>, id: LogId) {
    let leader = id.committed_leader_id();
    for word in [leader.term, leader.node_id, id.index] {
        out.extend_from_slice(&word.to_le_bytes());
    }
}

fn put_id_or_none(out: &mut Vec<u8>, id: Option<LogId>) {
    out.push(u8::from(id.is_some()));
    put_id(out, id.unwrap_or_else(|| LogId::new(LeaderId::new(0, 0), 0)));
}

fn put_vote(out: &mut Vec<u8>, vote: Vote) {
    out.extend_from_slice(&vote.leader_id.term.to_le_bytes());
    out.extend_from_slice(&vote.leader_id.node_id.to_le_bytes());
    out.push(u8::from(vote.committed));
}

/// Takes values off the front of some bytes.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (front, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(front)
    }

    fn byte(&mut self) -> Option<u8> {
        self.bytes(1).map(|bytes| bytes[0])
    }

    fn flag(&mut self) -> Option<bool> {
        match self.byte()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    fn small(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(*self.bytes(4)?.first_chunk()?))
    }

    fn word(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(*self.bytes(8)?.first_chunk()?))
    }

    fn id(&mut self) -> Option<LogId> {
        let (leader, index) = (LeaderId::new(self.word()?, self.word()?), self.word()?);
        // No log gets there; who counts on finds a number after it.
        (index < u64::MAX).then(|| LogId::new(leader, index))
    }

    #[expect(clippy::option_option, reason = "the outer one is for bytes that are none of it")]
    fn id_or_none(&mut self) -> Option<Option<LogId>> {
        let known = self.flag()?;
        let id = self.id()?;
        Some(known.then_some(id))
    }

    fn vote(&mut self) -> Option<Vote> {
        Some(Vote { leader_id: LeaderId::new(self.word()?, self.word()?), committed: self.flag()? })
    }
}

fn checksum(salt: u64, bytes: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(&salt.to_le_bytes());
    sum.update(bytes);
    sum.finalize()
}

impl Record<'_> {
    /// Appends it to the records of a batch. A payload of more than 4 GiB does not exist: the
    /// largest write is far below.
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        match *self {
            Self::Vote(vote) => {
                out.push(VOTE);
                put_vote(out, vote);
            }
            Self::Entry(id, payload) => {
                out.push(ENTRY);
                put_id(out, id);
                let start = out.len();
                out.extend_from_slice(&u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes());
                let mut sum = crc32fast::Hasher::new();
                sum.update(&out[start - 24..]);
                sum.update(payload);
                out.extend_from_slice(&sum.finalize().to_le_bytes());
                out.extend_from_slice(payload);
            }
            Self::Truncate(last) => {
                out.push(TRUNCATE);
                put_id_or_none(out, last);
            }
            Self::Purge(upto) => {
                out.push(PURGE);
                put_id(out, upto);
            }
            Self::Commit(id) => {
                out.push(COMMIT);
                put_id(out, id);
            }
        }
    }
}

/// The next record and how many bytes it takes; `None` when there is no whole one.
pub(super) fn record(bytes: &[u8]) -> Option<(Record<'_>, usize)> {
    let mut from = Cursor(bytes);
    let record = match from.byte()? {
        VOTE => Record::Vote(from.vote()?),
        ENTRY => {
            let covered = bytes.get(1..ENTRY_HEADER_BYTES - 4)?;
            let id = from.id()?;
            let length = usize::try_from(from.small()?).ok()?;
            let expected = from.small()?;
            let payload = from.bytes(length)?;
            let mut sum = crc32fast::Hasher::new();
            sum.update(covered);
            sum.update(payload);
            if sum.finalize() != expected {
                return None;
            }
            Record::Entry(id, payload)
        }
        TRUNCATE => Record::Truncate(from.id_or_none()?),
        PURGE => Record::Purge(from.id()?),
        COMMIT => Record::Commit(from.id()?),
        _ => return None,
    };
    Some((record, bytes.len() - from.0.len()))
}

/// Writes the header of a batch into the room left for it in front of its records.
pub(super) fn seal_batch(batch: &mut [u8], salt: u64, number: u64) {
    let (header, body) = batch.split_at_mut(BATCH_HEADER_BYTES);
    header[0..4].copy_from_slice(&BATCH_MAGIC.to_le_bytes());
    header[4..8].copy_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
    header[8..16].copy_from_slice(&number.to_le_bytes());
    header[16..20].copy_from_slice(&checksum(salt, body).to_le_bytes());
    let sum = checksum(salt, &header[..20]);
    header[20..24].copy_from_slice(&sum.to_le_bytes());
}

/// The header of a batch, if that is what the bytes are.
pub(super) fn batch_header(bytes: &[u8], salt: u64) -> Option<BatchHeader> {
    let mut from = Cursor(bytes);
    if from.small()? != BATCH_MAGIC {
        return None;
    }
    let length = usize::try_from(from.small()?).ok().filter(|&length| length <= MAX_BATCH_BYTES)?;
    let number = from.word()?;
    let body_sum = from.small()?;
    let sum = from.small()?;
    (checksum(salt, &bytes[..20]) == sum).then_some(BatchHeader { number, length, body_sum })
}

impl BatchHeader {
    /// Whether these are the records that the header was written for.
    pub(super) fn covers(&self, body: &[u8], salt: u64) -> bool {
        body.len() == self.length && checksum(salt, body) == self.body_sum
    }
}

impl Header {
    /// As bytes, with room up to the first batch.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_BYTES);
        out.extend_from_slice(&SEGMENT_MAGIC);
        out.extend_from_slice(&FORMAT.to_le_bytes());
        for word in [self.segment, self.salt, self.first_batch] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.push(u8::from(self.marks.vote.is_some()));
        put_vote(&mut out, self.marks.vote.unwrap_or(Vote { leader_id: LeaderId::new(0, 0), committed: false }));
        put_id_or_none(&mut out, self.marks.committed);
        put_id_or_none(&mut out, self.marks.purged);
        put_id_or_none(&mut out, self.marks.last);
        out.resize(HEADER_BYTES - 4, 0);
        let sum = crc32fast::hash(&out);
        out.extend_from_slice(&sum.to_le_bytes());
        out
    }

    /// Reads it, or says what is wrong.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let mut from = Cursor(bytes);
        if from.bytes(8) != Some(&SEGMENT_MAGIC) {
            return Err("it is no segment of a log".into());
        }
        let format = from.small().ok_or("its header is cut short")?;
        if format != FORMAT {
            return Err(format!("it is of format {format}, and this release reads {FORMAT}: upgrade kith"));
        }
        let (covered, sum) = bytes.split_at_checked(HEADER_BYTES - 4).ok_or("its header is cut short")?;
        if sum != crc32fast::hash(covered).to_le_bytes() {
            return Err("the checksum of its header does not match".into());
        }
        let read = |mut from: Cursor<'_>| {
            let (segment, salt, first_batch) = (from.word()?, from.word()?, from.word()?);
            let voted = from.flag()?;
            let vote = from.vote()?;
            let marks = Marks {
                vote: voted.then_some(vote),
                committed: from.id_or_none()?,
                purged: from.id_or_none()?,
                last: from.id_or_none()?,
            };
            Some(Self { segment, salt, first_batch, marks })
        };
        read(from).ok_or_else(|| "its header does not decode".into())
    }
}
