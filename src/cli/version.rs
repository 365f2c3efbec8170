//! `kith version`: of this program, and of the agent when one answers.

use clap::Args;

use super::Session;
use super::failure::Failure;
use super::output::{self, say};
use crate::api::fleet::{self, FleetStatus};
use crate::upgrade::incoming::Said;
use crate::upgrade::release;

#[derive(Debug, Args)]
pub(crate) struct VersionArgs {
    /// What this program is, and nothing of the agent, as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: &VersionArgs, session: &Session) -> Result<(), Failure> {
    if args.json {
        return output::json(&Said::own());
    }
    say!("kith {}", release::version())?;
    let Ok(client) = session.client() else { return Ok(()) };
    match client.get::<FleetStatus>(fleet::STATUS).await {
        Ok(status) => say!("agent {} on {}", status.version, status.device),
        Err(_) => Ok(()),
    }
}
