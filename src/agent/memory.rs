//! Memory that a busy time needed goes back to the device when it is over. It decides when, never
//! what: everything that is still in use stays.

use std::time::Duration;

use crate::consensus::Engine;
use crate::runtime::forget_program;

/// How long a busy time must be over.
const QUIET: Duration = Duration::from_secs(30);
/// Entries applied in that time that make it a busy one.
const BUSY_ENTRIES: u64 = 1000;

/// Keeps the memory of all threads in one place, so that what one frees another can use. For the
/// start, before there are threads.
pub(super) fn prepare() {
    platform::one_arena();
}

/// Gives memory back after each busy time, for ever. The start is one. An idle device has no timer for it.
pub(super) async fn give_back(engine: Engine) {
    let mut applied = engine.applied();
    let mut watch = Watch { reached: *applied.borrow(), busy: true };
    loop {
        tokio::time::sleep(QUIET).await;
        let next = watch.look(*applied.borrow_and_update());
        if next.trims {
            platform::trim();
        }
        if next.quiet {
            // What the busy time needed of the program and idling does not: most of it. The kernel still
            // has these pages for as long as nobody else needs the memory.
            forget_program();
            if applied.changed().await.is_err() {
                return;
            }
        }
    }
}

/// What was seen of the device.
struct Watch {
    /// Entries applied at the last look.
    reached: u64,
    /// Whether a busy time is still to be made good.
    busy: bool,
}

/// What follows from a look.
#[derive(Debug, PartialEq, Eq)]
struct Next {
    /// A busy time is over.
    trims: bool,
    /// Nothing happens any more.
    quiet: bool,
}

impl Watch {
    /// Compares what is applied now with the last look, [`QUIET`] ago.
    fn look(&mut self, applied: u64) -> Next {
        let entries = applied.saturating_sub(self.reached);
        self.reached = applied;
        let trims = entries < BUSY_ENTRIES && std::mem::take(&mut self.busy);
        self.busy |= entries >= BUSY_ENTRIES;
        Next { trims, quiet: entries == 0 }
    }
}

/// glibc keeps what was freed until it is asked for it.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "the allocator's settings are functions of C")]
mod platform {
    use nix::libc;

    /// Left alone, these two grow with the largest thing that was ever freed, and with them what is kept.
    const TRIM_BYTES: libc::c_int = 8 << 20;
    const MMAP_BYTES: libc::c_int = 1 << 20;

    pub(super) fn one_arena() {
        let settings =
            [(libc::M_ARENA_MAX, 1), (libc::M_TRIM_THRESHOLD, TRIM_BYTES), (libc::M_MMAP_THRESHOLD, MMAP_BYTES)];
        for (setting, value) in settings {
            // SAFETY: it takes two numbers and touches nothing but the allocator's own settings.
            unsafe { libc::mallopt(setting, value) };
        }
    }

    pub(super) fn trim() {
        // SAFETY: it takes the allocator's lock and gives back pages that hold nothing.
        unsafe { libc::malloc_trim(0) };
    }
}

/// Other allocators give it back by themselves.
#[cfg(not(target_env = "gnu"))]
mod platform {
    pub(super) fn one_arena() {}

    pub(super) fn trim() {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_given_back_once_after_each_busy_time_and_the_program_when_nothing_happens() {
        let mut watch = Watch { reached: 10, busy: true };
        let mut look = |applied| {
            let next = watch.look(applied);
            (next.trims, next.quiet)
        };
        assert_eq!(look(40), (true, false), "the start is over, though not everything");
        assert_eq!(look(40), (false, true), "nothing was applied");
        assert_eq!(look(41), (false, false), "one entry is not busy");
        assert_eq!(look(41), (false, true));
        assert_eq!(look(2000), (false, false), "a busy time");
        assert_eq!(look(4000), (false, false), "it goes on");
        assert_eq!(look(4010), (true, false), "it is over");
        assert_eq!(look(4010), (false, true));
    }
}
