//! Opens secrets. The fleet's key for them is sealed to the voters; whoever can open it does, and
//! everyone else asks a voter: for the secrets of its own pods, which the voter looks up in the
//! replicated state, or for an administrator who asked this device.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures_util::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::authority::SEAL;
use super::peers::PeerAsk;
use crate::api::{LockedValue, Secrecy};
use crate::consensus::{Engine, Replica};
use crate::identity::{DeviceKey, Identity, Member, Vault, VaultSeal, vault};
use crate::reconciler::secrets_needed;
use crate::store::{Batch, Check, Key, Precondition, Write, codec};

/// How long one voter may take to open something.
const OPEN_WITHIN: Duration = Duration::from_secs(2);

/// The most bytes that are sent to a voter at once; one message carries 4 MiB.
const ASK_BYTES: usize = 1 << 20;

/// What devices ask of a voter.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Ask {
    /// The values of a secret that a pod of the asking device refers to.
    ForPod {
        /// The secret's namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// Values that an administrator wants to see on the asking device.
    ForUser {
        /// Places and what is locked there.
        values: Vec<LockedValue>,
    },
}

/// The values of a secret as they were at a revision.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Opened {
    pub(crate) revision: u64,
    pub(crate) values: BTreeMap<String, Vec<u8>>,
}

type Answer<T> = Result<T, String>;

/// The key, and the revision of the seal that it was opened from.
type OpenVault = (u64, Arc<Vault>);

/// The way to what is locked.
#[derive(Clone)]
pub(crate) struct Keyring {
    pub(crate) engine: Engine,
    pub(crate) identity: Arc<Identity>,
    pub(crate) member_id: u64,
    /// The key, once it was opened.
    opened: Arc<Mutex<Option<OpenVault>>>,
}

impl Keyring {
    pub(crate) fn new(engine: Engine, identity: Arc<Identity>, member_id: u64) -> Self {
        Self { engine, identity, member_id, opened: Arc::default() }
    }

    /// Answers a peer's request.
    pub(crate) fn answer(&self, from: DeviceKey, ask: &Ask) -> Vec<u8> {
        let members = self.engine.members().borrow().clone();
        let asker = members.values().find(|member| member.key == from).ok_or_else(|| "only members may ask".to_owned());
        let answer = match ask {
            Ask::ForPod { namespace, name } => {
                let opened = asker.and_then(|asker| self.open_for(asker, namespace, name));
                codec::encode::<Answer<Opened>>(&opened)
            }
            Ask::ForUser { values } => {
                let opened = asker.and_then(|asker| {
                    if asker.witness {
                        return Err(format!("{} is a witness, and serves nobody", asker.name));
                    }
                    tracing::info!(device = asker.name, values = values.len(), "secrets are opened for a user");
                    self.unlock_here(values)
                });
                codec::encode::<Answer<Vec<Vec<u8>>>>(&opened)
            }
        };
        answer.unwrap_or_default()
    }

    /// A secret for a pod of this device: opened here, or by a voter.
    pub(crate) async fn for_pod(&self, namespace: &str, name: &str) -> Answer<Opened> {
        if self.vault().is_ok() {
            return self.open_secret(namespace, name);
        }
        let ask = Ask::ForPod { namespace: namespace.to_owned(), name: name.to_owned() };
        self.ask(ask).await
    }

    /// Opens a secret if a pod of that device refers to it.
    fn open_for(&self, device: &Member, namespace: &str, name: &str) -> Answer<Opened> {
        let listing = self.engine.list("Pod", Some(namespace)).map_err(|error| error.to_string())?;
        let wanted = (namespace.to_owned(), name.to_owned());
        let refers = listing.documents.iter().any(|document| {
            serde_json::from_slice::<Pod>(&document.body).is_ok_and(|pod| {
                let bound = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
                bound == Some(&device.name) && secrets_needed(&pod).contains(&wanted)
            })
        });
        if !refers {
            return Err(format!(
                "no pod on {} refers to secret {namespace}/{name}, as far as is known here",
                device.name
            ));
        }
        self.open_secret(namespace, name)
    }

    fn open_secret(&self, namespace: &str, name: &str) -> Answer<Opened> {
        let key = Key::new("Secret", namespace, name);
        let document = self.engine.get(&key).map_err(|error| error.to_string())?;
        let document = document.ok_or_else(|| format!("secret {namespace}/{name} is not here yet"))?;
        let object: serde_json::Value = serde_json::from_slice(&document.body).map_err(|error| error.to_string())?;
        let locked: Vec<(String, LockedValue)> = object["data"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(key, value)| {
                let bytes = BASE64.decode(value.as_str().unwrap_or_default()).map_err(|error| error.to_string())?;
                Ok((key.clone(), LockedValue { place: crate::api::place_of(namespace, name, key), bytes }))
            })
            .collect::<Answer<_>>()?;
        let (keys, locked): (Vec<String>, Vec<LockedValue>) = locked.into_iter().unzip();
        let values = keys.into_iter().zip(self.unlock_here(&locked)?).collect();
        Ok(Opened { revision: document.modified, values })
    }

    fn unlock_here(&self, values: &[LockedValue]) -> Answer<Vec<Vec<u8>>> {
        let vault = self.vault()?;
        values
            .iter()
            .map(|value| match vault.unlock(&value.place, &value.bytes) {
                Ok(opened) => Ok(opened.to_vec()),
                Err(why) => Err(format!("the value {} can not be opened: {why}", value.place)),
            })
            .collect()
    }

    /// Asks one voter after the other.
    async fn ask<T: DeserializeOwned>(&self, ask: Ask) -> Answer<T> {
        let request = codec::encode(&PeerAsk::Open(ask)).map_err(|error| error.to_string())?;
        let members = self.engine.members().borrow().clone();
        let mut refusals = Vec::new();
        for voter in self.holders().into_keys().filter(|voter| *voter != self.member_id) {
            let name = members.get(&voter).map_or_else(|| voter.to_string(), |member| member.name.clone());
            let answer = self.engine.ask(voter, request.clone(), OPEN_WITHIN).await.map_err(|error| error.to_string());
            match answer.and_then(|bytes| codec::decode::<Answer<T>>(&bytes).map_err(|error| error.to_string())?) {
                Ok(opened) => return Ok(opened),
                Err(error) => refusals.push(format!("{name}: {error}")),
            }
        }
        Err(format!("no device that holds the fleet's key for secrets opened it ({})", refusals.join("; ")))
    }

    /// The opened key, if it is sealed to this device.
    fn vault(&self) -> Answer<Arc<Vault>> {
        let (seal, revision) = self.seal()?;
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, vault)) = opened.as_ref()
            && *known == revision
        {
            return Ok(vault.clone());
        }
        *opened = None;
        if !self.holders().contains_key(&self.member_id) {
            return Err("this device does not hold the fleet's key for secrets".into());
        }
        let vault = Arc::new(seal.open(self.member_id, &self.identity).map_err(|error| error.to_string())?);
        *opened = Some((revision, vault.clone()));
        Ok(vault)
    }

    fn seal(&self) -> Answer<(VaultSeal, u64)> {
        let document = self.engine.get(&seal_key()).map_err(|error| error.to_string())?;
        let document = document.ok_or("the fleet's key for secrets is not made yet; it comes with the next leader")?;
        let object: serde_json::Value = serde_json::from_slice(&document.body).map_err(|error| error.to_string())?;
        Ok((VaultSeal::from_object(&object).map_err(|error| error.to_string())?, document.modified))
    }

    /// Who holds the key: the voters, without those that are only witnesses.
    fn holders(&self) -> BTreeMap<u64, Member> {
        self.engine.status().voters.into_iter().filter(|(_, member)| !member.witness).collect()
    }

    /// Makes the key if the fleet has none, and keeps it sealed to all voters but witnesses, and to
    /// nobody else. Runs on the leader; a leader that can not open it leaves it as it is, unless nobody
    /// is left who could.
    pub(crate) async fn reseal(&self) -> Answer<()> {
        let holders = self.holders();
        if !holders.contains_key(&self.member_id) {
            return Ok(());
        }
        let key = seal_key();
        let stored = self.engine.get(&key).map_err(|error| error.to_string())?;
        let (vault, expect) = match stored {
            None => (Vault::generate().map_err(|error| error.to_string())?, Precondition::Absent),
            Some(document) => {
                let (seal, revision) = self.seal()?;
                let expect = Precondition::AtRevision(document.modified.max(revision));
                let members = self.engine.members().borrow().clone();
                match seal.open(self.member_id, &self.identity) {
                    Ok(_) if seal.sealed.keys().eq(holders.keys()) => return Ok(()),
                    Ok(vault) => (vault, expect),
                    Err(why) if seal.sealed.keys().any(|id| members.contains_key(id)) => return Err(why.to_string()),
                    Err(_) => {
                        tracing::error!(
                            "nobody is left who holds the fleet's key for secrets: a new one is made, and secrets of before must be deleted and created again"
                        );
                        (Vault::generate().map_err(|error| error.to_string())?, expect)
                    }
                }
            }
        };
        let fresh = vault.seal(holders.iter().map(|(id, member)| (*id, member))).map_err(|error| error.to_string())?;
        let body = fresh.to_object().to_string().into_bytes();
        let batch = Batch { checks: vec![Check { key: key.clone(), expect }], writes: vec![Write::Put { key, body }] };
        self.engine.propose(batch).await.map(drop).map_err(|error| error.to_string())
    }
}

impl Secrecy for Keyring {
    fn lock(&self, place: &str, value: &[u8]) -> Result<Vec<u8>, String> {
        let public_key = self.seal()?.0.public_key().map_err(|error| error.to_string())?;
        vault::lock(&public_key, place, value).map_err(|error| error.to_string())
    }

    fn unlock(&self, values: Vec<LockedValue>) -> BoxFuture<'_, Result<Vec<Vec<u8>>, String>> {
        Box::pin(async move {
            if self.vault().is_ok() {
                return self.unlock_here(&values);
            }
            let mut opened = Vec::new();
            let mut rest = values.into_iter().peekable();
            while rest.peek().is_some() {
                let (mut part, mut bytes) = (Vec::new(), 0);
                while let Some(value) = rest.next_if(|next| part.is_empty() || bytes + next.bytes.len() <= ASK_BYTES) {
                    bytes += value.bytes.len();
                    part.push(value);
                }
                opened.extend(self.ask::<Vec<Vec<u8>>>(Ask::ForUser { values: part }).await?);
            }
            Ok(opened)
        })
    }
}

/// Where the sealed key stands.
fn seal_key() -> Key {
    Key::new(SEAL, "", VaultSeal::NAME)
}
