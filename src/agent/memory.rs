//! Memory that a busy time needed goes back to the device when it is over. It decides when, never
//! what: everything that is still in use stays.

use std::time::Duration;

use crate::consensus::Engine;

/// How long a busy time must be over.
const QUIET: Duration = Duration::from_secs(30);
/// Entries applied in that time that make it a busy one.
const BUSY_ENTRIES: u64 = 1000;

/// Keeps the memory of all threads in one place, so that what one frees another can use. For the
/// start, before there are threads.
pub(super) fn prepare() {
    platform::one_arena();
}

/// Gives memory back after each busy time, for ever. An idle device has no timer for it.
pub(super) async fn give_back(engine: Engine) {
    let mut applied = engine.applied();
    let (mut reached, mut busy) = (*applied.borrow(), false);
    loop {
        if !busy && applied.changed().await.is_err() {
            return;
        }
        tokio::time::sleep(QUIET).await;
        let now = *applied.borrow_and_update();
        if now.saturating_sub(reached) >= BUSY_ENTRIES {
            busy = true;
        } else if std::mem::take(&mut busy) {
            platform::trim();
        }
        reached = now;
    }
}

/// glibc keeps what was freed until it is asked for it.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "the allocator's settings are functions of C")]
mod platform {
    use nix::libc;

    pub(super) fn one_arena() {
        // SAFETY: it takes two numbers and touches nothing but the allocator's own settings.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
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
