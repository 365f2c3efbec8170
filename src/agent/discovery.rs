//! Looks for the fleet on the local networks while no leader is heard, and answers those who look.
//! It only hands hints to the transport.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::keeper;
use crate::config::Config;
use crate::consensus::Engine;
use crate::identity::DeviceKey;
use crate::transport::Transport;
use crate::transport::multicast::{Heard, Multicast, here, question};

/// Pause between two questions; it doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest of these pauses.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// How often a device that hears its leader looks whether it still does.
const LOOK: Duration = Duration::from_secs(5);
/// Between two answers.
const ANSWER_PAUSE: Duration = Duration::from_millis(250);

/// What is looked for, and with what.
pub(crate) struct Discovery {
    pub(crate) engine: Engine,
    pub(crate) transport: Transport,
    pub(crate) config: Arc<Config>,
    pub(crate) fleet: String,
    pub(crate) key: DeviceKey,
}

impl Discovery {
    /// Looks and answers, for ever. Being dropped at any await is safe.
    pub(crate) async fn run(self) {
        let mut multicast = match Multicast::open() {
            Ok(multicast) => multicast,
            Err(error) => return tracing::warn!(%error, "devices on this network can not be found by multicast"),
        };
        let mut pause = FIRST_PAUSE;
        let mut addresses = Vec::new();
        let mut answered = tokio::time::Instant::now();
        loop {
            let now: Vec<_> = crate::agent::hardware::addresses();
            let moved = std::mem::replace(&mut addresses, now) != addresses;
            multicast.join(&addresses);
            let lonely = self.engine.is_lonely();
            if lonely {
                multicast.say(&question());
            }
            if lonely || moved {
                multicast.say(&self.here());
            }
            let wait = if lonely { pause } else { LOOK };
            pause = if lonely { (pause * 2).min(LONGEST_PAUSE) } else { FIRST_PAUSE };
            let until = tokio::time::Instant::now() + wait;
            // Cancel-safe: a datagram that is not taken stays in the socket.
            while let Ok(heard) = tokio::time::timeout_at(until, multicast.hear()).await {
                match heard {
                    Ok(Heard::Question) if answered.elapsed() >= ANSWER_PAUSE => {
                        multicast.say(&self.here());
                        answered = tokio::time::Instant::now();
                    }
                    Ok(Heard::Question) => {}
                    Ok(Heard::Here { fleet, key, at }) => self.consider(&fleet, key, at),
                    Err(error) => {
                        tracing::debug!(%error, "multicast can not be heard");
                        tokio::time::sleep_until(until).await;
                    }
                }
            }
        }
    }

    fn here(&self) -> Vec<u8> {
        let advertised = keeper::addresses(&self.config);
        let port = advertised.first().map_or(self.config.peer_listen.port(), SocketAddr::port);
        here(&self.fleet, &self.key, port)
    }

    fn consider(&self, fleet: &str, key: DeviceKey, at: SocketAddr) {
        let members = self.engine.members().borrow().clone();
        let known = members.values().find(|member| member.key == key);
        if let Some(member) = known.filter(|_| fleet == self.fleet && key != self.key) {
            tracing::debug!(name = member.name, %at, "a device of this fleet is near");
            self.transport.hint(key, at);
        }
    }
}
