//! The rooms that this one only starts.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::process::ExitCode;

use tracing_subscriber::EnvFilter;

use super::failure::{Code, Doing, Failure};
use crate::config::Config;
use crate::transport::join::JoinError;

/// What the agent logs unless `KITH_LOG` says otherwise.
const LOG: &str = "info,openraft=warn,quinn=warn,rustls=warn";

/// Becomes a container's shim.
pub(crate) fn shim(args: &[OsString]) -> ExitCode {
    crate::runtime::shim::main(args)
}

/// Runs the agent until it is told to stop.
pub(crate) fn agent(config: Config) -> Result<(), Failure> {
    let filter = EnvFilter::try_from_env("KITH_LOG").unwrap_or_else(|_| EnvFilter::new(LOG));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .with_target(false)
        .init();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.doing(|| "start a runtime".into())?;
    runtime.block_on(crate::agent::run(config)).map_err(|error| Failure::of(Code::Failed, &error))
}

/// Shows a token to the fleet that made it, and becomes a member.
pub(crate) async fn join(
    identity: &crate::identity::Identity,
    member: crate::identity::Member,
    token: &crate::identity::Token,
) -> Result<crate::transport::JoinGrant, Failure> {
    crate::transport::join::join(token, identity, member).await.map_err(|error| match error {
        JoinError::Refused(refusal) => super::join::refused(&refusal),
        error => {
            let hint = match &error {
                JoinError::Unreachable { .. } => "can this device reach one of these addresses over UDP?",
                JoinError::Impostor { .. } | JoinError::OtherFleet { .. } => {
                    "another fleet answers at the token's addresses: make a token on a device of the right one: kith token create"
                }
                _ => "run the same command again; it is safe to repeat",
            };
            Failure::of(Code::Unreachable, &error).hint(hint)
        }
    })
}
