//! What systemd hears from the agent, where it listens: that it is ready, that it lives, that it
//! takes new settings. Elsewhere nothing is said.

use std::os::unix::net::UnixDatagram;

use nix::time::{ClockId, clock_gettime};

/// The agent serves, or waits to be enrolled.
pub(crate) fn ready(status: &str) {
    say(&format!("READY=1\nSTATUS={status}\n"));
}

/// A loop that the device depends on came round: the watchdog of the unit starts over. A loop that
/// hangs says nothing, and systemd starts the agent again.
pub(crate) fn alive() {
    if std::env::var_os("WATCHDOG_USEC").is_some() {
        say("WATCHDOG=1\n");
    }
}

/// The agent begins again with other settings, as the same process.
pub(crate) fn reloading() {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |now| now.tv_sec() * 1_000_000 + now.tv_nsec() / 1000);
    say(&format!("RELOADING=1\nMONOTONIC_USEC={now}\nSTATUS=taking new settings\n"));
}

fn say(message: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let sent = UnixDatagram::unbound().and_then(|socket| match path.as_encoded_bytes().strip_prefix(b"@") {
        Some(name) => {
            use std::os::linux::net::SocketAddrExt;
            socket.send_to_addr(message.as_bytes(), &std::os::unix::net::SocketAddr::from_abstract_name(name)?)
        }
        None => socket.send_to(message.as_bytes(), &path),
    });
    if let Err(error) = sent {
        tracing::warn!(%error, "systemd can not be told how the agent is");
    }
}
