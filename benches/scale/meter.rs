//! What the leader costs: the bytes that its threads have allocated and not freed, whoever frees
//! them, and the processor time of its threads.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::Duration;

/// Name of the leader's threads.
pub const LEADER: &str = "leader";

thread_local! {
    static MINE: Cell<bool> = const { Cell::new(false) };
}

static BYTES: AtomicI64 = AtomicI64::new(0);
static PEAK: AtomicI64 = AtomicI64::new(0);

/// Makes this thread one of the leader's.
pub fn is_leaders() {
    MINE.set(true);
}

/// Bytes that the leader holds.
pub fn bytes() -> i64 {
    BYTES.load(Relaxed)
}

/// The most that it held since this was asked last.
pub fn peak() -> i64 {
    PEAK.swap(bytes(), Relaxed)
}

/// The system's allocator, with a byte in front of each piece that says whose it is.
pub struct Tagging;

fn padded(layout: Layout) -> (Layout, usize) {
    let front = layout.align().max(16);
    // Sizes near the limit of an address space do not occur.
    let whole = Layout::from_size_align(layout.size() + front, front).unwrap_or(layout);
    (whole, front)
}

fn count(size: usize, sign: i64) {
    let now = BYTES.fetch_add(sign * size as i64, Relaxed) + sign * size as i64;
    if sign > 0 {
        PEAK.fetch_max(now, Relaxed);
    }
}

// SAFETY: every piece is the system allocator's, `front` bytes longer than asked for; its pointer
// is `front` bytes in, which keeps the alignment, and the byte before it is ours.
#[expect(unsafe_code, reason = "an allocator that counts")]
unsafe impl GlobalAlloc for Tagging {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (whole, front) = padded(layout);
        let mine = MINE.try_with(Cell::get).unwrap_or(false);
        // SAFETY: `whole` has a size above zero; the tag is inside of it.
        unsafe {
            let base = System.alloc(whole);
            if base.is_null() {
                return base;
            }
            let piece = base.add(front);
            *piece.sub(1) = u8::from(mine);
            if mine {
                count(layout.size(), 1);
            }
            piece
        }
    }

    unsafe fn dealloc(&self, piece: *mut u8, layout: Layout) {
        let (whole, front) = padded(layout);
        // SAFETY: `piece` came from `alloc` with this layout.
        unsafe {
            if *piece.sub(1) == 1 {
                count(layout.size(), -1);
            }
            System.dealloc(piece.sub(front), whole);
        }
    }

    unsafe fn realloc(&self, piece: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let (whole, front) = padded(layout);
        // SAFETY: `piece` came from `alloc` with this layout, and its tag moves with it.
        unsafe {
            let base = System.realloc(piece.sub(front), whole, size + front);
            if base.is_null() {
                return base;
            }
            let moved = base.add(front);
            if *moved.sub(1) == 1 {
                count(layout.size(), -1);
                count(size, 1);
            }
            moved
        }
    }
}

fn tasks() -> Vec<(u32, String)> {
    let entries = std::fs::read_dir("/proc/self/task").expect("read the threads");
    let thread = |entry: std::io::Result<std::fs::DirEntry>| {
        let id = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let name = std::fs::read_to_string(format!("/proc/self/task/{id}/comm")).ok()?;
        Some((id, name.trim().to_owned()))
    };
    entries.filter_map(thread).collect()
}

/// The threads that run now.
pub fn threads() -> BTreeSet<u32> {
    tasks().into_iter().map(|(id, _)| id).collect()
}

/// Processor time of threads with the leader's name, and of these.
pub fn cpu(more: &BTreeSet<u32>) -> Duration {
    let of = |id: u32| {
        let stat = std::fs::read_to_string(format!("/proc/self/task/{id}/schedstat")).unwrap_or_default();
        stat.split_whitespace().next().and_then(|nanos| nanos.parse().ok()).map_or(Duration::ZERO, Duration::from_nanos)
    };
    tasks().into_iter().filter(|(id, name)| name == LEADER || more.contains(id)).map(|(id, _)| of(id)).sum()
}
