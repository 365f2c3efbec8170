//! Signals by the names that images and users write.

use std::io;

use nix::sys::signal::Signal;

use super::pidfd::{self, Identity};

/// Sends a named signal to a container's first process.
pub(super) fn ask(init: Identity, signal: &str) -> io::Result<()> {
    let number = signal_number(signal)?;
    match init.open() {
        Some(fd) => pidfd::send(&fd, number),
        // It is gone, which is what was asked for.
        None => Ok(()),
    }
}

/// `SIGTERM`, `TERM` or `15`; empty means `SIGTERM`.
fn signal_number(name: &str) -> io::Result<i32> {
    if name.is_empty() {
        return Ok(Signal::SIGTERM as i32);
    }
    if let Ok(number @ 1..=64) = name.parse::<i32>() {
        return Ok(number);
    }
    let full = if name.starts_with("SIG") { name.to_owned() } else { format!("SIG{name}") };
    if let Some(offset) = full.strip_prefix("SIGRTMIN+").and_then(|offset| offset.parse::<i32>().ok()) {
        return Ok(nix::libc::SIGRTMIN() + offset.clamp(0, 30));
    }
    full.parse::<Signal>().map(|signal| signal as i32).map_err(|_| io::Error::other(format!("{name} is not a signal")))
}
