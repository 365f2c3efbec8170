//! `kith join`: this device enters the fleet that made the token. An agent that runs already sees
//! the enrolment and takes part by itself.

use clap::Args;

use super::Session;
use super::failure::{Code, Failure};
use super::init::{Place, addresses, device_name, refuse_enrolled};
use super::output::{note, say};
use crate::identity::{Enrolment, Identity, JoinRefusal, Member, Token, TokenError};
use crate::transport::JoinGrant;
use crate::transport::join::{JoinError, join};

#[derive(Debug, Args)]
pub(crate) struct JoinArgs {
    /// The token that `kith init` or `kith token create` printed
    #[arg(value_name = "TOKEN")]
    token: String,
    /// Only vote: this device runs nothing, and makes three votes of two devices
    #[arg(long)]
    witness: bool,
    /// Take the place of the device that has this name now, and is gone or was wiped
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    place: Place,
}

pub(crate) async fn run(args: &JoinArgs, session: &Session) -> Result<(), Failure> {
    let token: Token = args.token.parse().map_err(|e: TokenError| not_a_token(&e))?;
    let config = args.place.over(session.config()?);
    let name = device_name(&config)?;
    refuse_enrolled(&config)?;
    let identity = Identity::load_or_create(&config.data_dir)?;
    let member = identity.member(&name, addresses(&config).await?, config.api_listen.port()).labelled(&config.labels);
    let member = Member { witness: args.witness, ..member };
    let grant = join(&token, &identity, member, args.replace).await.map_err(|error| failed(&error))?;
    let others = grant.members.values().filter(|m| m.name != name).map(|m| m.name.clone()).collect::<Vec<_>>();
    let fleet = grant.fleet.clone();
    enrol(grant, name.clone()).store(&config.data_dir)?;
    say!("{name} is now of fleet {fleet}, with {}", others.join(", "))?;
    note!("{} Then: kith status", session.keeper().after_enrolment());
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
        epoch: grant.epoch,
        outcast: false,
        switch: None,
        revival: None,
    }
}

fn not_a_token(error: &TokenError) -> Failure {
    Failure::of(Code::Usage, error).hint(match error {
        TokenError::Format => "the same release of kith belongs on all devices: kith version",
        _ => "kith token create, on a device of the fleet, prints the whole command to type here",
    })
}

/// A failure with what the user can do about it.
fn failed(error: &JoinError) -> Failure {
    let another = "make another token on a device of the fleet: kith token create";
    let (code, hint) = match error {
        JoinError::Unreachable { .. } => (
            Code::Unreachable,
            "is a device of the fleet on, and can its UDP port be reached from here? A token made now has its present \
             addresses: kith token create",
        ),
        JoinError::Interrupted { .. } => (Code::Unreachable, "run the same command again: it is safe to repeat"),
        JoinError::Impostor { .. } | JoinError::OtherFleet { .. } => (Code::Refused, another),
        JoinError::Socket(_) | JoinError::Tls(_) => (Code::Failed, "kith join needs this device's network and keys"),
        JoinError::Refused(refusal) => match refusal {
            JoinRefusal::UnknownToken | JoinRefusal::Expired { .. } | JoinRefusal::Used => (Code::Refused, another),
            JoinRefusal::WrongSecret => {
                (Code::Refused, "copy the whole token again, or make another: kith token create")
            }
            JoinRefusal::WitnessOnly => (
                Code::Refused,
                "kith join --witness TOKEN enters as a witness; for a full device: kith token create, without --witness",
            ),
            JoinRefusal::NameTaken { .. } => (
                Code::Refused,
                "if this is that device, wiped or exchanged: kith join TOKEN --replace; else choose another name: kith \
                 join TOKEN --name NAME",
            ),
            JoinRefusal::StillHere { .. } => {
                (Code::Refused, "switch the other one off first, or choose another name: kith join TOKEN --name NAME")
            }
            JoinRefusal::Unavailable { .. } => {
                (Code::Unreachable, "kith status on a device of the fleet says what is wrong; then try again")
            }
        },
    };
    Failure::of(code, error).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_to_do_and_is_not_said_twice() {
        let failure = failed(&JoinError::Refused(JoinRefusal::Used));
        assert_eq!(failure.code, Code::Refused);
        assert_eq!(
            failure.text(),
            "error: the fleet refused: the token was already used\n\
             hint: make another token on a device of the fleet: kith token create\n"
        );
    }
}
