//! `kith image`: the images of this device, straight on the folder where the agent keeps them.

use std::path::PathBuf;

use clap::Subcommand;

use super::Session;
use super::failure::Failure;
use crate::config::Config;

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// List the images
    Ls,
    /// Load an archive
    Load {
        /// An OCI layout or a docker archive, as a tar file
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

impl ImageCommand {
    /// `load FILE`.
    pub(crate) fn load(file: PathBuf) -> Self {
        Self::Load { file }
    }
}

pub(crate) fn run(command: ImageCommand, session: &Session) -> Result<(), Failure> {
    run_on_all(&command, &[("this device".into(), session.config()?)])
}

/// Runs a command on the images of several devices of this machine.
pub(crate) fn run_on_all(command: &ImageCommand, devices: &[(String, Config)]) -> Result<(), Failure> {
    Err(Failure::failed("this build has no image store"))
}
