//! `kith join`: this device enters the fleet that made the token. An agent that runs already sees
//! the enrolment and takes part by itself.

use clap::Args;

use super::failure::{Code, Failure};
use super::init::{Place, addresses, device_name, refuse_enrolled};
use super::output::{note, say};
use super::{Session, rooms};
use crate::identity::{Enrolment, Identity, JoinRefusal, Token, TokenError};
use crate::transport::JoinGrant;

#[derive(Debug, Args)]
pub(crate) struct JoinArgs {
    /// The token that `kith init` or `kith token create` printed
    #[arg(value_name = "TOKEN")]
    token: String,
    #[command(flatten)]
    place: Place,
}

pub(crate) async fn run(args: &JoinArgs, session: &Session) -> Result<(), Failure> {
    let token: Token = args.token.parse().map_err(|e: TokenError| Failure::of(Code::Usage, &e))?;
    let config = args.place.over(session.config()?);
    let name = device_name(&config)?;
    refuse_enrolled(&config)?;
    let identity = Identity::load_or_create(&config.data_dir)?;
    let member = identity.member(&name, addresses(&config).await?, config.api_listen.port());
    let grant = rooms::join(&identity, member, &token).await?;
    let others = grant.members.values().filter(|m| m.name != name).map(|m| m.name.clone()).collect::<Vec<_>>();
    let fleet = grant.fleet.clone();
    enrol(grant, name.clone()).store(&config.data_dir)?;
    say!("{name} is now of fleet {fleet}, with {}", others.join(", "))?;
    note!("If its agent does not run yet: systemctl enable --now kith (or kith agent). Then: kith status");
    Ok(())
}

fn enrol(grant: JoinGrant, name: String) -> Enrolment {
    Enrolment {
        fleet: grant.fleet,
        member_id: grant.member_id,
        name,
        authority: grant.authority,
        members: grant.members,
        initial: None,
    }
}

/// A refusal with what the user can do about it.
pub(crate) fn refused(refusal: &JoinRefusal) -> Failure {
    let code = if matches!(refusal, JoinRefusal::Unavailable { .. }) { Code::Unreachable } else { Code::Refused };
    let another = "make another on a device of the fleet: kith token create";
    Failure::of(code, refusal).hint(match refusal {
        JoinRefusal::UnknownToken | JoinRefusal::Expired { .. } | JoinRefusal::Used => another,
        JoinRefusal::WrongSecret => "copy the whole token again, or make another: kith token create",
        JoinRefusal::NameTaken { .. } => "choose another name: kith join TOKEN --name NAME",
        JoinRefusal::Unavailable { .. } => "kith status on a device of the fleet says what is wrong; then try again",
    })
}
