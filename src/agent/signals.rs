//! The signals that tell the agent what to do.

use tokio::signal::unix::{SignalKind, signal};

use super::{End, systemd};
use crate::config::{Config, ConfigError, Settled};

/// The signals that end the agent.
pub(super) struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
    /// The settings that this agent runs with.
    config: Config,
    /// The settings as they are now.
    read: Box<dyn Fn() -> Result<Settled, ConfigError> + Send>,
}

/// For the moment in which this process becomes a new run of the agent: a `SIGHUP` would end it before
/// it listens, and it reads the settings anyway.
#[expect(unsafe_code, reason = "a signal's disposition has no safe setter")]
pub(super) fn ignore_reloads() {
    use nix::sys::signal::{SigHandler, Signal, signal};
    // SAFETY: ignoring runs no code, and what listened until now has ended.
    let _as_before = unsafe { signal(Signal::SIGHUP, SigHandler::SigIgn) };
}

impl Signals {
    pub(super) fn new(
        config: Config,
        read: Box<dyn Fn() -> Result<Settled, ConfigError> + Send>,
    ) -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            config,
            read,
        })
    }

    /// How the agent is to end: stopped, or begun again because `SIGHUP` found other settings that are good.
    pub(super) async fn any(&mut self) -> End {
        loop {
            // Cancel-safe: a signal that is not taken stays.
            tokio::select! {
                _ = self.terminate.recv() => return End::Stopped,
                _ = self.interrupt.recv() => return End::Stopped,
                _ = self.hangup.recv() => {}
            }
            match (self.read)() {
                Ok(settled) if settled.config == self.config => tracing::info!("the settings are as they were"),
                Ok(_) => {
                    tracing::info!("the settings changed: the agent begins again with them");
                    systemd::reloading();
                    return End::Again;
                }
                Err(error) => {
                    let error = crate::resource::chain(&error);
                    tracing::error!(error, "the new settings can not be used, and the agent goes on with the old ones");
                }
            }
        }
    }
}
