//! `kith agent`: the daemon.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tracing_subscriber::filter::{ParseError, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::failure::{Code, Failure};
use super::{Session, wait};
use crate::agent::journal::Journal;
use crate::config::{Config, Settled};
use crate::kill_point;
use crate::upgrade::{launch, trial};

/// What the agent logs unless `KITH_LOG` says otherwise.
const LOG: &str = "info,openraft=error,quinn=warn,rustls=warn";

const LOG_VARIABLE: &str = "KITH_LOG";

/// What to do when the agent does not start or go on.
const HINT: &str = "kith doctor looks at this device for the cause; the lines above say what the agent did last";

/// Everything about the agent stands in its settings.
#[derive(Debug, Args)]
pub(crate) struct AgentArgs {
    /// Check the settings and stop
    #[arg(long)]
    check: bool,
    /// A setting that counts before the file and the environment; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Remove what Kith made on this device outside of its data and logs: containers, cgroups,
    /// namespaces, mounts, the pods' network. No agent may run
    #[arg(long, conflicts_with = "check")]
    cleanup: bool,
}

pub(crate) fn run(args: &AgentArgs, session: &Session) -> Result<(), Failure> {
    let named = session.common.config_file();
    let settled = Config::settle(named.as_deref(), &args.set);
    // Settings that an old installed program does not understand are no reason not to start a newer one.
    let dir = settled.as_ref().map_or_else(|_| launch::folder(named.as_deref()), |known| known.config.upgrade_dir());
    let told = if args.check || args.cleanup { Vec::new() } else { launch::launch(&dir) };
    let settled = settled?;
    if args.check {
        filter(std::env::var(LOG_VARIABLE).ok().as_deref())?;
        return super::output::say!("ok");
    }
    if args.cleanup {
        return clean_up(&settled.config);
    }
    serve(settled, named, args.set.clone(), &told)
}

fn clean_up(config: &Config) -> Result<(), Failure> {
    let removed = wait(async {
        let cleaned = crate::agent::cleanup::clean_up(config).await;
        cleaned
            .map_err(|error| Failure::of(Code::Failed, &error).hint("what is left is tried again by the same command"))
    })?;
    for what in &removed {
        super::output::say!("removed {what}")?;
    }
    if removed.is_empty() {
        super::output::say!("there was nothing to remove")?;
    }
    for (what, folder) in [("data", &config.data_dir), ("logs", &config.log_dir)] {
        if folder.exists() {
            super::output::say!("left the {what} in {}", folder.display())?;
        }
    }
    Ok(())
}

/// Runs the agent until it is told to stop. A new start reads the settings as this one did.
fn serve(settled: Settled, named: Option<PathBuf>, flags: Vec<String>, told: &[String]) -> Result<(), Failure> {
    log();
    for why in told {
        tracing::error!(why, "another program can not be started");
    }
    stand_trial(&settled.config);
    let read = move || Config::settle(named.as_deref(), &flags);
    wait(async { crate::agent::run(settled, read).await.map_err(|error| Failure::of(Code::Failed, &error).hint(HINT)) })
}

/// If this release is new here, the one before waits until it is well.
fn stand_trial(config: &Config) {
    kill_point::arm(&config.run_dir);
    let within = Duration::from_secs(config.upgrade.well_within_seconds);
    if let Some(on_trial) = trial::guard(config.upgrade_dir(), within) {
        tracing::warn!(from = on_trial.from_version, attempt = on_trial.attempts, "this release is on trial");
        kill_point::reached("upgrade:trial");
    }
}

/// What is logged.
fn filter(wanted: Option<&str>) -> Result<Targets, Failure> {
    let filter = wanted.unwrap_or(LOG).parse();
    filter.map_err(|error: ParseError| {
        let hint = "write a level, or levels by module: debug, or info,quinn=debug";
        Failure::usage(format!("{LOG_VARIABLE} is not understood: {error}")).hint(hint)
    })
}

/// To the journal with fields, where standard error is the journal; else as text. A filter that makes
/// no sense keeps no device from its work.
fn log() {
    let (filter, wrong) = match filter(std::env::var(LOG_VARIABLE).ok().as_deref()) {
        Ok(filter) => (filter, None),
        Err(failure) => (LOG.parse().unwrap_or_default(), Some(failure)),
    };
    let registry = tracing_subscriber::registry().with(filter);
    if let Some(journal) = Journal::of_stderr() {
        registry.with(journal).init();
    } else {
        let text = tracing_subscriber::fmt::layer()
            .with_ansi(std::io::stderr().is_terminal())
            .with_writer(std::io::stderr)
            .with_target(false);
        registry.with(text).init();
    }
    if let Some(failure) = wrong {
        tracing::warn!("{}; the usual filter counts", failure.chain.join(": "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_makes_no_sense_is_named() {
        assert_eq!(filter(None).unwrap().to_string().matches('=').count(), 3);
        assert!(filter(Some("debug,quinn=trace")).is_ok());
        let failure = filter(Some("kith=loud")).unwrap_err();
        assert!(failure.text().contains("KITH_LOG is not understood"), "{}", failure.text());
        assert!(failure.hint.is_some());
    }
}
