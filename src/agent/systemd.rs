//! What systemd hears from the agent, where it listens: that it is ready, that it lives, that it
//! takes new settings. Elsewhere nothing is said.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Microseconds within which systemd wants to hear that the agent lives.
const WATCHDOG: &str = "WATCHDOG_USEC";

/// The agent serves, or waits to be enrolled.
pub(crate) fn ready(status: &str) {
    say(&format!("READY=1\nSTATUS={status}\n"));
}

/// A loop that the device depends on came round: the watchdog of the unit starts over. A loop that
/// hangs says nothing, and systemd starts the agent again.
pub(crate) fn alive() {
    if std::env::var_os(WATCHDOG).is_some() {
        say("WATCHDOG=1\n");
    }
}

/// How long a loop that says [`alive`] may rest, which would rest for `longest`: half of what the watchdog
/// waits, where that is shorter.
pub(crate) fn rest(longest: Duration) -> Duration {
    longest.min(half(std::env::var(WATCHDOG).ok().as_deref()))
}

/// Half of so many microseconds; without limit where there is no watchdog.
fn half(watchdog: Option<&str>) -> Duration {
    let limit = watchdog.and_then(|text| text.parse().ok()).filter(|limit| *limit > 0);
    limit.map_or(Duration::MAX, |limit| Duration::from_micros(limit) / 2)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_rests_for_half_of_what_the_watchdog_waits() {
        assert_eq!(half(Some("10000000")), Duration::from_secs(5));
        for none in [None, Some(""), Some("0"), Some("soon")] {
            assert_eq!(half(none), Duration::MAX, "{none:?}");
        }
    }
}
