//! `kith version`: of this program, and of the agent when one answers.

use super::Session;
use super::failure::Failure;
use super::output::say;
use crate::api::fleet::{self, FleetStatus};

pub(crate) async fn run(session: &Session) -> Result<(), Failure> {
    say!("kith {}", env!("CARGO_PKG_VERSION"))?;
    let Ok(client) = session.client() else { return Ok(()) };
    match client.get::<FleetStatus>(fleet::STATUS).await {
        Ok(status) => say!("agent {} on {}", status.version, status.device),
        Err(_) => Ok(()),
    }
}
