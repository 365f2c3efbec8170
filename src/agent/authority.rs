//! Certificates of the HTTPS API. The fleet's authority is sealed to the voters; whoever can open
//! it signs, and everyone else asks a voter.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::peers::PeerAsk;
use crate::consensus::{Engine, Replica};
use crate::identity::{Authority, DeviceKey, Identity, Member, Seal};
use crate::store::{Batch, Check, Key, Precondition, Write, codec};

/// Kind of the document that holds the sealed authority.
pub(crate) const SEAL: &str = "kith.dev/Seal";

/// How long one voter may take to sign.
const SIGN_WITHIN: Duration = Duration::from_secs(2);

/// What devices ask of a voter.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Ask {
    /// A certificate under which this device serves the HTTPS API.
    SignServing { public_key: Vec<u8>, addresses: Vec<IpAddr> },
    /// A certificate by which a user is recognised.
    SignClient { public_key: Vec<u8>, user: String, groups: Vec<String> },
}

/// A PEM certificate, or why there is none.
type Signed = Result<String, String>;

/// Signs, or finds somebody who can.
#[derive(Clone)]
pub(crate) struct Signer {
    pub(crate) engine: Engine,
    pub(crate) identity: Arc<Identity>,
    pub(crate) member_id: u64,
}

impl Signer {
    /// Answers a peer's request.
    pub(crate) fn answer(&self, from: DeviceKey, ask: &Ask) -> Vec<u8> {
        let members = self.engine.members().borrow().clone();
        let signed: Signed = match members.iter().find(|(_, member)| member.key == from) {
            Some((id, _)) if matches!(ask, Ask::SignClient { .. }) && !self.holders().contains_key(id) => {
                Err(self.who_makes_users())
            }
            Some((_, member)) => self.sign(ask, &member.name),
            None => Err("only members may ask".into()),
        };
        codec::encode(&signed).unwrap_or_default()
    }

    /// Answers what is no question.
    pub(crate) fn misunderstood(error: &dyn std::fmt::Display) -> Vec<u8> {
        codec::encode(&Signed::Err(error.to_string())).unwrap_or_default()
    }

    /// Has something signed for this device: here if possible, else by the first voter that can.
    pub(crate) async fn ask(&self, ask: Ask) -> Signed {
        let members = self.engine.members().borrow().clone();
        let me = members.get(&self.member_id).ok_or("this device is not a member of its fleet any more")?;
        let mut refusals = match self.sign(&ask, &me.name) {
            Ok(certificate) => return Ok(certificate),
            Err(error) => vec![format!("{}: {error}", me.name)],
        };
        if matches!(ask, Ask::SignClient { .. }) && !self.holders().contains_key(&self.member_id) {
            return Err(self.who_makes_users());
        }
        let request = codec::encode(&PeerAsk::Sign(ask)).map_err(|error| error.to_string())?;
        for voter in self.holders().into_keys().filter(|voter| *voter != self.member_id) {
            let name = members.get(&voter).map_or_else(|| voter.to_string(), |member| member.name.clone());
            let answer = self.engine.ask(voter, request.clone(), SIGN_WITHIN).await.map_err(|error| error.to_string());
            let signed = answer.and_then(|bytes| codec::decode::<Signed>(&bytes).map_err(|error| error.to_string())?);
            match signed {
                Ok(certificate) => return Ok(certificate),
                Err(error) => refusals.push(format!("{name}: {error}")),
            }
        }
        Err(format!("no voter could sign ({})", refusals.join("; ")))
    }

    fn sign(&self, ask: &Ask, device: &str) -> Signed {
        let authority = self.open()?.0;
        match ask {
            Ask::SignServing { public_key, addresses } => {
                let names = [device.to_owned(), "localhost".into(), "kubernetes".into(), "kith".into()];
                authority.sign_serving(public_key, device, &names, addresses)
            }
            Ask::SignClient { public_key, user, groups } => authority.sign_client(public_key, user, groups),
        }
        .map_err(|error| error.to_string())
    }

    fn open(&self) -> Result<(Authority, Seal, u64), String> {
        let document = self.engine.get(&seal_key()).map_err(|error| error.to_string())?;
        let document = document.ok_or("the fleet's authority is not here yet")?;
        let seal: Seal = serde_json::from_slice(&document.body)
            .and_then(|object| Seal::from_object(&object))
            .map_err(|error| error.to_string())?;
        let authority = seal.open(self.member_id, &self.identity).map_err(|error| error.to_string())?;
        Ok((authority, seal, document.modified))
    }

    /// Who holds the authority: the voters, without those that are only witnesses.
    fn holders(&self) -> BTreeMap<u64, Member> {
        self.engine.status().voters.into_iter().filter(|(_, member)| !member.witness).collect()
    }

    /// A client certificate outlives the membership of the device that asked for it, so only those
    /// may ask that could sign it anyway.
    fn who_makes_users(&self) -> String {
        let names: Vec<String> = self.holders().into_values().map(|member| member.name).collect();
        format!("only a device that holds the fleet's authority makes users: type it on {}", names.join(" or "))
    }

    /// Keeps the authority sealed to all voters but witnesses, and to nobody else. Runs on the leader; a leader
    /// that can not open it leaves it as it is.
    pub(crate) async fn reseal(&self) -> Result<(), String> {
        let voters = self.holders();
        let (authority, seal, revision) = self.open()?;
        if !voters.contains_key(&self.member_id) || seal.sealed.keys().eq(voters.keys()) {
            return Ok(());
        }
        let fresh =
            authority.seal(voters.iter().map(|(id, member)| (*id, member))).map_err(|error| error.to_string())?;
        let batch = Batch {
            checks: vec![Check { key: seal_key(), expect: Precondition::AtRevision(revision) }],
            writes: vec![Write::Put { key: seal_key(), body: fresh.to_object().to_string().into_bytes() }],
        };
        self.engine.propose(batch).await.map(drop).map_err(|error| error.to_string())
    }
}

/// Where the sealed authority stands.
pub(crate) fn seal_key() -> Key {
    Key::new(SEAL, "", Seal::NAME)
}
