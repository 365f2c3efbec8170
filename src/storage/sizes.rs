//! How large the parts of what a device stores are, on the disk and in memory. A test makes them
//! small, so that a short life has many of each.

use super::{recent, wal};
use crate::store;

/// redb's page cache, in bytes, as far as the state fills it. Pages outside of it are in the kernel's.
const CACHE_BYTES: usize = 4 << 20;

/// Of the changes that may gather, as much may stay in memory when nothing is applied any more.
const KEPT_PART: usize = 8;

/// Of the log and the state.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    pub(crate) wal: wal::Sizes,
    pub(crate) recent: recent::Sizes,
    /// Bytes of the state's pages in memory.
    pub(crate) cache: usize,
    /// Bytes of the latest events in memory.
    pub(crate) events: usize,
}

impl Default for Sizes {
    fn default() -> Self {
        let (wal, recent) = (wal::Sizes::default(), recent::Sizes::default());
        Self { wal, recent, cache: CACHE_BYTES, events: store::EVENT_BYTES }
    }
}

impl Sizes {
    /// Of a device whose memory is to be used so: bytes of pages, bytes and number of changes that
    /// gather before they are written at once, bytes of the latest events.
    #[must_use]
    pub fn of(cache: u64, gather: (u64, u64), events: u64) -> Self {
        let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let (bytes, entries) = (size(gather.0), size(gather.1));
        let recent = recent::Sizes { entries, bytes, kept: bytes / KEPT_PART };
        Self { recent, cache: size(cache), events: size(events), ..Self::default() }
    }
}
