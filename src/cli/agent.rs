//! `kith agent`: the daemon.

use std::io::IsTerminal;
use std::path::PathBuf;

use clap::Args;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::failure::{Code, Failure};
use super::{Session, wait};
use crate::agent::journal::Journal;
use crate::config::{Config, Settled};

/// What the agent logs unless `KITH_LOG` says otherwise.
const LOG: &str = "info,openraft=error,quinn=warn,rustls=warn";

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
    let settled = Config::settle(named.as_deref(), &args.set)?;
    if args.check {
        return super::output::say!("ok");
    }
    if args.cleanup {
        return clean_up(&settled.config);
    }
    serve(settled, named, args.set.clone())
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
fn serve(settled: Settled, named: Option<PathBuf>, flags: Vec<String>) -> Result<(), Failure> {
    log();
    let read = move || Config::settle(named.as_deref(), &flags);
    wait(async { crate::agent::run(settled, read).await.map_err(|error| Failure::of(Code::Failed, &error).hint(HINT)) })
}

/// To the journal with fields, where standard error is the journal; else as text.
fn log() {
    let filter = EnvFilter::try_from_env("KITH_LOG").unwrap_or_else(|_| EnvFilter::new(LOG));
    if let Some(journal) = Journal::of_stderr() {
        tracing_subscriber::registry().with(filter).with(journal).init();
        return;
    }
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .with_target(false)
        .init();
}
