//! `kith leave`: this device, or one that is gone for good, is no longer of its fleet.

use clap::Args;

use super::Session;
use super::failure::{Code, Failure};
use super::output::{note, say};
use crate::api::fleet::{self, LeaveAsk, LeaveDone};
use crate::identity::Enrolment;

#[derive(Debug, Args)]
pub(crate) struct LeaveArgs {
    /// Leave although the fleet can not be told, or no agent runs here
    #[arg(long)]
    force: bool,
    /// Another device, which is gone for good: take it off the fleet's list and trust its key no more
    #[arg(long, value_name = "NAME")]
    device: Option<String>,
}

pub(crate) async fn run(args: &LeaveArgs, session: &Session) -> Result<(), Failure> {
    let ask = LeaveAsk { device: args.device.clone().unwrap_or_default(), force: args.force };
    let asked: Result<LeaveDone, _> = session.client()?.post(fleet::LEAVE, &ask).await;
    match asked {
        Ok(done) if args.device.is_some() => say!("{}", done.message),
        Err(failure) if args.device.is_some() => Err(failure),
        Ok(done) => say!("left fleet {}: {}", done.fleet, done.message),
        Err(failure) if args.force && failure.code == Code::Unreachable => forget(session),
        Err(failure) if failure.code == Code::Unreachable => {
            Err(failure.hint("kith leave --force leaves without telling the fleet, which goes on missing this device"))
        }
        Err(failure) => Err(failure),
    }
}

/// Without an agent: the device forgets its fleet, and the fleet does not know.
fn forget(session: &Session) -> Result<(), Failure> {
    let config = session.config()?;
    let Some(enrolment) = Enrolment::load(&config.data_dir)? else {
        return Err(Failure::new(Code::Refused, "this device is in no fleet"));
    };
    Enrolment::remove(&config.data_dir)?;
    say!("forgot fleet {}", enrolment.fleet)?;
    note!("The fleet was not told: it goes on missing {}. An agent that runs here must be restarted.", enrolment.name);
    Ok(())
}
