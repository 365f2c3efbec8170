//! `kith leave`: this device, or one that is gone for good, is no longer of its fleet.

use std::time::{Duration, Instant};

use clap::Args;

use super::Session;
use super::failure::{Code, Doing, Failure};
use super::output::{note, say};
use crate::api::fleet::{self, LeaveAsk, LeaveDone};
use crate::config::Config;
use crate::identity::{Enrolment, Identity};

/// How long the agent may take to end its containers and forget the fleet.
const FORGET_WITHIN: Duration = Duration::from_secs(30);

/// Pause between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

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
        Ok(done) => {
            wait_until_forgotten(&session.config()?).await?;
            say!("left fleet {}: {}", done.fleet, done.message)
        }
        Err(failure) if args.force && failure.code == Code::Unreachable => forget(session),
        Err(failure) if failure.code == Code::Unreachable => {
            Err(failure.hint("kith leave --force leaves without telling the fleet, which goes on missing this device"))
        }
        Err(failure) => Err(failure),
    }
}

/// The agent answers before it ends its containers and forgets the fleet; only then is this device
/// free for another one.
async fn wait_until_forgotten(config: &Config) -> Result<(), Failure> {
    let asked = Instant::now();
    while Enrolment::load(&config.data_dir)?.is_some() {
        if asked.elapsed() > FORGET_WITHIN {
            let failure =
                Failure::failed("the fleet let this device go, but its agent has not forgotten the fleet yet");
            return Err(
                failure.hint("the agent's log says what holds it; kith leave --force forgets the fleet without it")
            );
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Ok(())
}

/// The old fleet may go on trusting these keys, and a copy of them may run elsewhere: the next fleet
/// gets new ones.
fn forget_keys(path: &std::path::Path) -> Result<(), Failure> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).doing(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Without an agent: the device forgets its fleet, and the fleet does not know.
fn forget(session: &Session) -> Result<(), Failure> {
    let config = session.config()?;
    let Some(enrolment) = Enrolment::load(&config.data_dir)? else {
        return Err(Failure::new(Code::Refused, "this device is in no fleet"));
    };
    Enrolment::remove(&config.data_dir)?;
    forget_keys(&Identity::path(&config.data_dir))?;
    say!("forgot fleet {}", enrolment.fleet)?;
    note!("The fleet was not told: it goes on missing {}. An agent that runs here must be restarted.", enrolment.name);
    Ok(())
}
