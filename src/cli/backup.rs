//! `kith backup` and `kith restore`: the fleet's whole state in one file, and a fleet from it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use super::Session;
use super::client::Ask;
use super::failure::{Code, Doing, Failure};
use super::init::{Place, addresses, device_name, refuse_enrolled};
use super::output::{count, note, say};
use crate::agent::backup::{self, Header};
use crate::agent::exchange::STAGED;
use crate::api::fleet;
use crate::identity::{Authority, Enrolment, Identity, Member, Revival, Seal, Switch};
use crate::storage::{self, Disk, RealDisk, Seat};
use crate::store::Key;

#[derive(Debug, Args)]
pub(crate) struct BackupArgs {
    /// Where to; an older backup of this name is replaced once the new one is whole
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// A file that kith backup wrote
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    place: Place,
}

pub(crate) async fn back_up(args: &BackupArgs, session: &Session) -> Result<(), Failure> {
    let path = &args.file;
    let step = || format!("write {}", path.display());
    let mut incoming = backup::Incoming::begin(path).doing(step)?;
    let mut stream = session.client()?.stream(Ask::get(fleet::BACKUP)).await?;
    while let Some(bytes) = stream.chunk().await? {
        incoming.push(&bytes).doing(step)?;
    }
    let (header, bytes) = incoming.finish(path).doing(step)?;
    say!("{}: fleet {} at revision {}, {bytes} bytes", path.display(), header.fleet, header.revision)?;
    tell(&header);
    note!(
        "Not in it: private keys of devices, images, volumes and logs. Its secrets and tokens are as the fleet keeps them: store it like one."
    );
    Ok(())
}

fn tell(header: &Header) {
    let members: Vec<&str> = header.meta.last_membership.nodes().map(|(_, member)| member.name.as_str()).collect();
    note!("Made {} by {} in epoch {}.", header.made, header.device, header.epoch);
    note!("It holds {}: {}.", count(members.len(), "member"), members.join(", "));
    let kinds: Vec<String> = header.documents.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    note!("Documents: {}.", kinds.join(", "));
    note!("Also the sessions of writers, the voters' record, and the fleet's authority, sealed to its voters.");
}

pub(crate) async fn restore(args: &RestoreArgs, session: &Session) -> Result<(), Failure> {
    let config = args.place.over(session.config()?);
    let name = device_name(&config)?;
    refuse_enrolled(&config)?;
    let step = || format!("restore {}", args.file.display());
    let mut file = std::fs::File::open(&args.file).doing(step)?;
    let (header, range) = backup::check(&mut file).doing(step)?;
    tell(&header);
    let identity = Identity::load_or_create(&config.data_dir)?;
    let member = identity.member(&name, addresses(&config).await?, config.api_listen.port());

    let staged = config.data_dir.join(STAGED);
    crate::agent::exchange::remove(&staged).doing(step)?;
    std::fs::create_dir_all(&staged).doing(step)?;
    let seat = Seat { id: None, member: member.clone() };
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let mut snapshot = backup::snapshot(&mut file, range).doing(step)?;
    let (id, state) = storage::seed(&disk, &mut snapshot, &header.meta, &staged, seat).await.doing(step)?;
    let key = Key::new(crate::agent::SEAL, "", Seal::NAME);
    let seal = state.get(&key).doing(step)?;
    drop(state);

    let (authority, kept) = authority(seal.map(|document| document.body), &header, &identity)?;
    let former: BTreeMap<u64, Member> = header.meta.last_membership.nodes().map(|(&id, m)| (id, m.clone())).collect();
    let former =
        if kept { former.into_iter().filter(|(_, other)| other.key != member.key).collect() } else { BTreeMap::new() };
    let epoch = header.epoch.next()?;
    let what = format!(
        "{name} restored the fleet from a backup of {} (revision {}), as epoch {epoch}; what was written after that is lost",
        header.made, header.revision
    );
    let enrolment = Enrolment {
        fleet: authority.fleet(),
        member_id: id,
        name: name.clone(),
        authority: authority.certificate().to_owned(),
        members: BTreeMap::from([(id, member.clone())]),
        initial: None,
        epoch,
        outcast: false,
        switch: Some(Switch { aside: format!("before-epoch-{epoch}"), staged: true }),
        revival: Some(Revival { what, former, seal: Some(authority.seal([(id, &member)])?) }),
    };
    enrolment.store(&config.data_dir)?;
    say!("{name} is fleet {} at revision {}, in epoch {epoch}", enrolment.fleet, header.revision)?;
    if kept {
        note!(
            "This device's keys are those of a member, so the other devices know it: those that run come back by themselves."
        );
    } else {
        note!(
            "The fleet's authority was sealed to devices that are gone, so it is a new one: make files for kubectl anew (kith kubeconfig)."
        );
        note!(
            "Each other device enters with a token: there kith leave --force, then kith join TOKEN (kith token create)."
        );
    }
    note!("{} Then: kith status", session.keeper().after_enrolment());
    Ok(())
}

/// The fleet's authority, where this device can open it; else a new one.
fn authority(seal: Option<Vec<u8>>, header: &Header, identity: &Identity) -> Result<(Authority, bool), Failure> {
    let object: Option<serde_json::Value> = seal.and_then(|body| serde_json::from_slice(&body).ok());
    let seal = object.and_then(|object| Seal::from_object(&object).ok());
    let mut known = header.meta.last_membership.nodes();
    let mine = known.find(|(_, member)| member.key == identity.key()).map(|(&id, _)| id);
    let opened = seal.zip(mine).and_then(|(seal, id)| seal.open(id, identity).ok());
    match opened {
        Some(authority) => Ok((authority, true)),
        None => Ok((Authority::generate()?, false)),
    }
}

impl From<backup::BackupError> for Failure {
    fn from(error: backup::BackupError) -> Self {
        Self::of(Code::Failed, &error)
    }
}
