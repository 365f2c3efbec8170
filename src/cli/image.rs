//! `kith image`: the images of this device, straight on the folder where the agent keeps them.

use clap::Subcommand;

use super::Session;
use super::failure::Failure;

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// List the images
    Ls,
}

pub(crate) fn run(command: ImageCommand, _session: &Session) -> Result<(), Failure> {
    match command {
        ImageCommand::Ls => Err(Failure::failed("this build has no image store")),
    }
}
