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
