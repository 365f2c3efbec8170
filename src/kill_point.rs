//! Named instants at which a test has this process killed, as by `kill -9`: to show that nothing hangs
//! on where an agent dies. Only builds with debug assertions have them.

/// The file in the run folder that names the point at which the agent dies next.
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
#[expect(clippy::disallowed_methods, reason = "the test's order is a file")]
pub fn reached(name: &str) {
    let Some(file) = ARMED.get() else { return };
    let Ok(wanted) = std::fs::read_to_string(file) else { return };
    let (wanted, again) = wanted.trim().strip_suffix('!').map_or((wanted.trim(), false), |wanted| (wanted, true));
    if wanted == name {
        if !again {
            let _ = std::fs::remove_file(file);
        }
        let _ = nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGKILL);
    }
}

/// Nothing in this build.
#[cfg(not(debug_assertions))]
#[inline]
pub fn reached(_: &str) {}
