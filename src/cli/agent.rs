//! `kith agent`: the daemon.

use clap::Args;

use super::Session;
use super::failure::Failure;

/// Everything about the agent stands in its settings.
#[derive(Debug, Args)]
pub(crate) struct AgentArgs {
    /// Check the settings and stop
    #[arg(long)]
    check: bool,
}

pub(crate) fn run(args: &AgentArgs, session: &Session) -> Result<(), Failure> {
    let config = session.config()?;
    if args.check {
        return super::output::say!("the settings are good");
    }
    serve(config)
}

/// Runs the agent until it is told to stop.
fn serve(_config: crate::config::Config) -> Result<(), Failure> {
    Err(Failure::failed("this build has no agent"))
}
