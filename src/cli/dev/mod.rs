//! dev
use super::{Session, failure::Failure};
use clap::Args;
#[derive(Debug, Args)]
pub(crate) struct DevArgs {}
pub(crate) fn run(_: DevArgs, _: &Session) -> Result<(), Failure> {
    Ok(())
}
