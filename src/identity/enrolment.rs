//! What a device remembers of its fleet, so that it finds its peers again after a restart without
//! asking anybody. The replicated membership is the truth; this is the last that was seen of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::token::{Token, TokenRecord, TokenTerms};
use super::{Authority, Epoch, Identity, IdentityError, Member, Seal, files};

const FILE: &str = "fleet.json";
const VERSION: u32 = 1;
const REMEDY: &str = "restore it from a backup of this device, or remove it and join again with `kith join TOKEN`";

/// The member id of a fleet's first device.
pub const FIRST_MEMBER: u64 = 1;

/// The fleet that this device belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Enrolment {
    /// The fleet's id.
    pub fleet: String,
    /// This device's member id.
    pub member_id: u64,
    /// This device's name.
    pub name: String,
    /// Certificate of the fleet's authority for the HTTPS API, PEM.
    pub authority: String,
    /// Everyone as last seen, this device included.
    pub members: BTreeMap<u64, Member>,
    /// What the first device puts into the empty store when it starts for the first time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial: Option<Bootstrap>,
    /// The fleet's epoch, as this device last took part in it.
    #[serde(default = "first_epoch")]
    pub epoch: Epoch,
    /// This device's log can not be trusted: it takes no part before the fleet has let it in again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub outcast: bool,
    /// Log and state are to be exchanged before the next start: old or new, never a mixture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub switch: Option<Switch>,
    /// What this device tells its fleet as soon as it leads, after a recovery or a restore.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revival: Option<Revival>,
}

fn first_epoch() -> Epoch {
    Epoch::FIRST
}

/// An exchange of log and state that was decided on, and may have been begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Switch {
    /// Name of the folder, below `aside`, where the old ones go.
    pub aside: String,
    /// New ones lie ready; otherwise the device begins without any.
    pub staged: bool,
}

/// A fleet that goes on in a new epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revival {
    /// What happened, as a sentence for the event.
    pub what: String,
    /// Who belonged to the fleet before, this device excepted: they may come back as new members.
    pub former: BTreeMap<u64, Member>,
    /// The authority, where it had to be sealed again.
    pub seal: Option<Seal>,
}

/// The first documents of a new fleet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bootstrap {
    /// Join tokens by id.
    pub tokens: BTreeMap<String, TokenRecord>,
    /// The authority, sealed to the first device.
    pub seal: Seal,
}

#[derive(Serialize, Deserialize)]
struct Stored<T> {
    version: u32,
    enrolment: T,
}

impl Enrolment {
    /// Where it is kept inside a data folder.
    pub fn path(data_dir: &Path) -> PathBuf {
        files::dir(data_dir).join(FILE)
    }

    /// Founds a fleet of one device: its authority, and a first join token on these terms that
    /// points to the device's own addresses.
    pub fn found(identity: &Identity, member: Member, terms: TokenTerms) -> Result<(Self, Token), IdentityError> {
        let authority = Authority::generate()?;
        let seal = authority.seal([(FIRST_MEMBER, &member)])?;
        // A device that can not open its own fleet must not be left behind on disk.
        seal.open(FIRST_MEMBER, identity)?;
        let token = Token::issue(&authority.fleet(), member.addresses.clone())?;
        let tokens = BTreeMap::from([(token.id.clone(), token.record(terms))]);
        let enrolment = Self {
            fleet: authority.fleet(),
            member_id: FIRST_MEMBER,
            name: member.name.clone(),
            authority: authority.certificate().to_owned(),
            members: BTreeMap::from([(FIRST_MEMBER, member)]),
            initial: Some(Bootstrap { tokens, seal }),
            epoch: Epoch::FIRST,
            outcast: false,
            switch: None,
            revival: None,
        };
        Ok((enrolment, token))
    }

    /// Reads the enrolment; `None` when this device belongs to no fleet.
    pub fn load(data_dir: &Path) -> Result<Option<Self>, IdentityError> {
        let path = Self::path(data_dir);
        files::read(&path)?.map(|bytes| Self::parse(&path, &bytes)).transpose()
    }

    /// The enrolment in the bytes of a file.
    pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Self, IdentityError> {
        let corrupt = |reason: String| IdentityError::Corrupt { path: path.to_owned(), reason, remedy: REMEDY };
        let value: serde_json::Value = serde_json::from_slice(bytes).map_err(|error| corrupt(error.to_string()))?;
        let version = value.get("version").and_then(serde_json::Value::as_u64);
        if version != Some(u64::from(VERSION)) {
            return Err(corrupt(format!("version {version:?}, and this release reads {VERSION}")));
        }
        let stored: Stored<Self> = serde_json::from_slice(bytes).map_err(|error| corrupt(error.to_string()))?;
        let enrolment = stored.enrolment;
        if !enrolment.members.contains_key(&enrolment.member_id) {
            return Err(corrupt(format!("it does not list this device, member {}", enrolment.member_id)));
        }
        Ok(enrolment)
    }

    /// Writes the enrolment, replacing an earlier one.
    pub fn store(&self, data_dir: &Path) -> Result<(), IdentityError> {
        let stored = Stored { version: VERSION, enrolment: self };
        let text =
            serde_json::to_vec_pretty(&stored).map_err(|error| IdentityError::crypto("write the enrolment", error))?;
        files::write(&Self::path(data_dir), &text, true)
    }

    /// Writes down that this device's log can not be trusted any more (it was damaged, and is set
    /// aside): from the next start on it takes no part before the fleet has let it in again, as a
    /// new member. False when there is nobody to ask: it is the only member, or of no fleet.
    pub fn cast_out(data_dir: &Path) -> Result<bool, IdentityError> {
        match Self::load(data_dir)? {
            Some(enrolment) if enrolment.members.len() > 1 => {
                Self { outcast: true, ..enrolment }.store(data_dir)?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Forgets the fleet: this device belongs to none afterwards. Its keys stay.
    #[expect(clippy::disallowed_methods, reason = "the enrolment is a file")]
    pub fn remove(data_dir: &Path) -> Result<(), IdentityError> {
        let path = Self::path(data_dir);
        let gone = match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => std::fs::File::open(files::dir(data_dir)).and_then(|folder| folder.sync_all()),
        };
        gone.map_err(|source| IdentityError::Disk { action: "remove", path, source })
    }
}

#[cfg(test)]
mod tests {
    use super::super::Role;
    use super::*;
    use crate::resource::Timestamp;

    #[test]
    fn a_founded_fleet_is_read_back_whole() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Enrolment::load(dir.path()).unwrap(), None);
        let identity = Identity::create(dir.path()).unwrap();
        let member = identity.member("alpha", vec!["192.0.2.1:7443".parse().unwrap()], 6443);
        let (created, expires) = (Timestamp(1), Timestamp(3_600_000));
        let terms = TokenTerms { role: Role::Device, uses: 1, expires, created, created_by: "kith init".into() };
        let (enrolment, token) = Enrolment::found(&identity, member.clone(), terms).unwrap();
        assert_eq!(token.fleet, enrolment.fleet);
        assert_eq!(token.addresses, member.addresses);
        enrolment.store(dir.path()).unwrap();
        let read = Enrolment::load(dir.path()).unwrap().unwrap();
        assert_eq!(read, enrolment);
        let first = read.initial.unwrap();
        assert_eq!(first.tokens[&token.id].hash, token.hash());
        assert_eq!(first.seal.open(FIRST_MEMBER, &identity).unwrap().fleet(), enrolment.fleet);
        let text = String::from_utf8(files::read(&Enrolment::path(dir.path())).unwrap().unwrap()).unwrap();
        assert!(!text.contains(&hex::encode(token.secret)) && !text.contains(&token.to_string()));
        Enrolment::remove(dir.path()).unwrap();
        Enrolment::remove(dir.path()).unwrap();
        assert_eq!(Enrolment::load(dir.path()).unwrap(), None);
    }

    #[test]
    fn damage_is_reported_with_the_file_and_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["", "{}", "{\"version\": 2}", "{\"version\": 1, \"fleet\": 3}"] {
            files::write(&Enrolment::path(dir.path()), text.as_bytes(), true).unwrap();
            let error = Enrolment::load(dir.path()).unwrap_err().to_string();
            assert!(error.contains("fleet.json") && error.contains("kith join"), "{error}");
        }
    }
}
