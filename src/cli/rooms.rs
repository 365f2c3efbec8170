//! The seams to rooms that this one only starts.

use std::ffi::OsString;
use std::process::ExitCode;

use super::failure::Failure;
use crate::config::Config;

/// Becomes a container's shim.
pub(crate) fn shim(_args: &[OsString]) -> ExitCode {
    ExitCode::FAILURE
}

/// Runs the agent until it is told to stop.
pub(crate) fn agent(_config: Config) -> Result<(), Failure> {
    Err(Failure::failed("this build has no agent"))
}

/// Shows a token to the fleet that made it, and becomes a member.
pub(crate) async fn join(
    _identity: &crate::identity::Identity,
    _member: crate::identity::Member,
    _token: &crate::identity::Token,
) -> Result<crate::transport::JoinGrant, Failure> {
    Err(super::join::refused(&crate::transport::JoinRefusal::Unavailable { reason: "this build can not join".into() }))
}
