//! Named instants at which a test has this process killed, as by `kill -9`: to show that nothing hangs
//! on where an agent dies; and some at which a task stands still for ever, to show that this is noticed.
//! Only builds with debug assertions have them.

/// The file in the run folder that names the point at which the agent dies, or hangs, next.
pub const FILE: &str = "kill-at";

#[cfg(debug_assertions)]
static ARMED: std::sync::OnceLock<std::path::PathBuf> = std::sync::OnceLock::new();

/// From now on this process dies at the point that the file in this folder names.
#[cfg(debug_assertions)]
pub fn arm(run_dir: &std::path::Path) {
    let _ = ARMED.set(run_dir.join(FILE));
}

/// Nothing in this build.
#[cfg(not(debug_assertions))]
pub fn arm(_: &std::path::Path) {}

/// Dies here if this is the point; the file is removed first, so that the next agent lives, unless the
/// name ends in `!`.
#[cfg(debug_assertions)]
pub fn reached(name: &str) {
    if ordered(name) {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGKILL);
    }
}

/// Nothing in this build.
#[cfg(not(debug_assertions))]
#[inline]
pub fn reached(_: &str) {}

/// Goes no further if this is the point, while all other tasks go on; the file is removed as above.
#[cfg(debug_assertions)]
pub async fn hangs(name: &str) {
    if ordered(name) {
        std::future::pending::<()>().await;
    }
}

/// Nothing in this build.
#[cfg(not(debug_assertions))]
#[inline]
pub fn hangs(_: &str) -> std::future::Ready<()> {
    std::future::ready(())
}

/// Whether the test's order is this point.
#[cfg(debug_assertions)]
#[expect(clippy::disallowed_methods, reason = "the test's order is a file")]
fn ordered(name: &str) -> bool {
    let Some(file) = ARMED.get() else { return false };
    let Ok(wanted) = std::fs::read_to_string(file) else { return false };
    let (wanted, again) = wanted.trim().strip_suffix('!').map_or((wanted.trim(), false), |wanted| (wanted, true));
    if wanted == name && !again {
        let _ = std::fs::remove_file(file);
    }
    wanted == name
}
