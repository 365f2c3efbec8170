//! When raft looks at its timers. By itself it would look five times in each heartbeat, which is
//! most of what an idle device does. A leader has one timer for its heartbeats; who hears its leader
//! looks once in a while whether it still does, and raft looks at its own timers only from then on.
//! It decides nothing: whether an election begins is raft's.

use std::time::Duration;

use openraft::async_runtime::WatchReceiver as _;
use tokio::time::Instant;

use super::engine::Engine;

/// What raft's timers are good for at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pulse {
    /// For nothing, until something changes.
    Still,
    /// Heartbeats, and nothing else.
    Beats,
    /// For nothing as long as the leader is heard: look again after this.
    Listens(Duration),
    /// The leader may be gone: raft decides when it has waited long enough.
    Ticks,
}

/// How this device stands in its fleet.
#[derive(Clone, Copy, Debug)]
struct Standing {
    leads: bool,
    votes: bool,
    /// Whether there is anyone else.
    others: bool,
    /// How long no leader was heard.
    silence: Option<Duration>,
}

/// `patience` is the silence before which raft begins no election.
fn pulse(standing: Standing, patience: Duration) -> Pulse {
    match standing {
        Standing { leads: true, others, .. } => {
            if others {
                Pulse::Beats
            } else {
                Pulse::Still
            }
        }
        Standing { votes: false, .. } => Pulse::Still,
        Standing { silence: Some(silence), .. } if silence < patience => {
            Pulse::Listens(patience.saturating_sub(silence))
        }
        _ => Pulse::Ticks,
    }
}

impl Engine {
    fn standing(&self) -> Standing {
        let metrics = self.inner.raft.server_metrics();
        let server = metrics.borrow_watched();
        let membership = &server.membership_config;
        Standing {
            leads: server.state == openraft::ServerState::Leader,
            votes: membership.voter_ids().any(|id| id == self.inner.id),
            others: membership.nodes().count() > 1,
            silence: self.inner.peers.leader_silence(),
        }
    }

    /// Beats and looks, for ever.
    pub(super) async fn keep_pulse(self) {
        let raft = &self.inner.raft;
        let mut server = raft.server_metrics();
        let (heartbeat, patience) = (self.inner.timing.heartbeat(), self.inner.timing.lease());
        let mut beat = Instant::now();
        loop {
            let now = pulse(self.standing(), patience);
            raft.runtime_config().tick(now == Pulse::Ticks);
            let wait = match now {
                Pulse::Still => None,
                Pulse::Beats => {
                    let moment = Instant::now();
                    if moment >= beat {
                        let next = beat + heartbeat;
                        beat = if next > moment { next } else { moment + heartbeat };
                        if raft.trigger().heartbeat().await.is_err() {
                            return;
                        }
                    }
                    Some(beat)
                }
                Pulse::Listens(rest) => Some(Instant::now() + rest),
                Pulse::Ticks => Some(Instant::now() + heartbeat),
            };
            // Cancel-safe: a watch and a timer.
            tokio::select! {
                biased;
                changed = server.changed() => if changed.is_err() { return },
                () = sleep_until(wait) => {}
            }
        }
    }
}

async fn sleep_until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raft_looks_at_its_timers_only_when_they_may_be_needed() {
        let lease = Duration::from_millis(400);
        let heard = |millis| Some(Duration::from_millis(millis));
        let follower = Standing { leads: false, votes: true, others: true, silence: heard(100) };
        assert_eq!(pulse(follower, lease), Pulse::Listens(Duration::from_millis(300)));
        assert_eq!(pulse(Standing { silence: heard(400), ..follower }, lease), Pulse::Ticks);
        assert_eq!(pulse(Standing { silence: None, ..follower }, lease), Pulse::Ticks);
        // One that votes alone elects itself at raft's next look.
        assert_eq!(pulse(Standing { others: false, silence: None, ..follower }, lease), Pulse::Ticks);
        assert_eq!(pulse(Standing { leads: true, ..follower }, lease), Pulse::Beats);
        assert_eq!(pulse(Standing { leads: true, others: false, ..follower }, lease), Pulse::Still);
        assert_eq!(pulse(Standing { votes: false, silence: None, ..follower }, lease), Pulse::Still);
    }
}
