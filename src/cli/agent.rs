//! `kith agent`: the daemon.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tracing_subscriber::EnvFilter;

use super::failure::{Code, Failure};
use super::{Session, wait};
use crate::config::Config;
use crate::kill_point;
use crate::upgrade::{launch, trial};

/// What the agent logs unless `KITH_LOG` says otherwise.
const LOG: &str = "info,openraft=error,quinn=warn,rustls=warn";

/// Everything about the agent stands in its settings.
#[derive(Debug, Args)]
pub(crate) struct AgentArgs {
    /// Check the settings and stop
    #[arg(long)]
    check: bool,
    /// Remove what Kith made on this device outside of its data and logs: containers, cgroups,
    /// namespaces, mounts, the pods' network. No agent may run
    #[arg(long, conflicts_with = "check")]
    cleanup: bool,
}

pub(crate) fn run(args: &AgentArgs, session: &Session) -> Result<(), Failure> {
    let named = session.common.config.clone();
    // Before the settings are understood: an installed program may be older than they are.
    let told = if args.check || args.cleanup { Vec::new() } else { launch::launch(&launch::folder(named.as_deref())) };
    let config = session.config()?;
    if args.check {
        return super::output::say!("the settings are good");
    }
    if args.cleanup {
        return clean_up(&config);
    }
    serve(config, named, &told)
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

/// Runs the agent until it is told to stop.
fn serve(config: Config, named: Option<PathBuf>, told: &[String]) -> Result<(), Failure> {
    let filter = EnvFilter::try_from_env("KITH_LOG").unwrap_or_else(|_| EnvFilter::new(LOG));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .with_target(false)
        .init();
    for why in told {
        tracing::error!(why, "another program can not be started");
    }
    kill_point::arm(&config.run_dir);
    let within = Duration::from_secs(config.upgrade.well_within_seconds);
    if let Some(on_trial) = trial::guard(config.upgrade_dir(), within) {
        tracing::warn!(from = on_trial.from_version, attempt = on_trial.attempts, "this release is on trial");
        kill_point::reached("upgrade:trial");
    }
    let hint = "the lines above say what the agent did last; kith agent --check checks the settings";
    let read = move || Config::load(named.as_deref());
    wait(async { crate::agent::run(config, read).await.map_err(|error| Failure::of(Code::Failed, &error).hint(hint)) })
}
