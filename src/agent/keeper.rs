//! Keeps what this device and its fleet know of each other in step: the first documents of a new
//! fleet, whom the transport trusts, the enrolment on disk, this device's member record and node,
//! and to whom the authority is sealed. Every step is idempotent and driven by signal and timer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::authority::{Signer, seal_key};
use super::clock::Clock;
use super::hardware::{self, Hardware};
use super::node::{NodeFacts, node_object};
use super::tasks::Tasks;
use crate::config::Config;
use crate::consensus::{Engine, Replica};
use crate::identity::{Enrolment, Identity, Trust};
use crate::images::ImageStore;
use crate::store::{Batch, Check, Key, Outcome, Precondition, Write};

/// How often the device looks at itself though nothing was signalled.
const LOOK_AT_SELF: Duration = Duration::from_mins(1);

/// How long a device that left still reaches the others: the answer that it may go has to arrive.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Pause after something could not be written.
const PAUSE: Duration = Duration::from_millis(500);

/// What is kept in step, and with what.
#[derive(Clone)]
pub(crate) struct Keeper {
    pub(crate) engine: Engine,
    pub(crate) config: Arc<Config>,
    pub(crate) clock: Arc<Clock>,
    pub(crate) images: Arc<ImageStore>,
    pub(crate) enrolment: Enrolment,
    pub(crate) identity: Arc<Identity>,
    pub(crate) trust: Trust,
}

/// Where peers may reach this device.
pub(crate) fn addresses(config: &Config) -> Vec<SocketAddr> {
    if !config.advertise.is_empty() {
        return config.advertise.clone();
    }
    let port = config.peer_listen.port();
    let listen = config.peer_listen.ip();
    if !listen.is_unspecified() {
        return vec![SocketAddr::new(listen, port)];
    }
    let usable = |address: &std::net::IpAddr| listen.is_ipv6() || address.is_ipv4();
    hardware::addresses().into_iter().filter(usable).map(|address| SocketAddr::new(address, port)).collect()
}

impl Keeper {
    /// Starts the tasks.
    pub(crate) fn spawn(self, tasks: &Tasks, signer: Signer) {
        let (founding, membership, itself, sealing) = (self.clone(), self.clone(), self.clone(), self);
        tasks.spawn("found the fleet", founding.found());
        tasks.spawn("follow the membership", membership.follow_membership());
        tasks.spawn("register this device", itself.register());
        tasks.spawn("seal the authority", sealing.keep_sealed(signer));
    }

    /// On the first device: the membership of one, and the first documents.
    async fn found(self) {
        let Some(first) = self.enrolment.initial.clone() else { return };
        let id = self.enrolment.member_id;
        if let Some(member) = self.enrolment.members.get(&id).cloned() {
            match self.engine.bootstrap(id, member).await {
                Ok(()) | Err(crate::consensus::EngineError::AlreadyFormed) => {}
                Err(error) => {
                    tracing::error!(%error, "the fleet can not be founded");
                    return;
                }
            }
        }
        let mut batches = vec![crate::api::founding(self.clock.now())];
        let seal = (seal_key(), first.seal.to_object().to_string().into_bytes());
        let tokens = first.tokens.iter().map(|(id, record)| {
            (Key::new(super::admission::TOKEN, "", id), record.to_object(id).to_string().into_bytes())
        });
        for (key, body) in tokens.chain([seal]) {
            let checks = vec![Check { key: key.clone(), expect: Precondition::Absent }];
            batches.push(Batch { checks, writes: vec![Write::Put { key, body }] });
        }
        for batch in batches {
            self.insist(batch).await;
        }
        let stored = Enrolment::load(&self.config.data_dir).ok().flatten();
        let mut enrolment = stored.unwrap_or_else(|| self.enrolment.clone());
        enrolment.initial = None;
        match enrolment.store(&self.config.data_dir) {
            Ok(()) => tracing::info!(fleet = self.enrolment.fleet, "the fleet is founded"),
            Err(error) => tracing::error!(%error, "the enrolment can not be written"),
        }
    }

    /// Proposes until a quorum took it, or refused it because it is there already.
    async fn insist(&self, batch: Batch) -> Outcome {
        loop {
            match self.engine.propose(batch.clone()).await {
                Ok(outcome) => return outcome,
                Err(error) => tracing::debug!(%error, "the fleet can not write yet"),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// The transport trusts the members and nobody else; the enrolment remembers them.
    async fn follow_membership(mut self) {
        let mut members = self.engine.members();
        let mut trusted = self.enrolment.members.clone();
        loop {
            let now = members.borrow_and_update().clone();
            let leaving: Vec<_> =
                trusted.iter().filter(|(id, _)| !now.contains_key(id)).map(|(_, m)| m.clone()).collect();
            if !now.is_empty() {
                self.trust.replace_members(leaving.iter().chain(now.values()));
                if self.enrolment.members != *now {
                    self.remember(&now);
                }
            }
            let quiet = if now.is_empty() || leaving.is_empty() { None } else { Some(LAST_WORDS) };
            // Cancel-safe: a watch and a timer.
            tokio::select! {
                changed = members.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(quiet.unwrap_or_default()), if quiet.is_some() => {
                    self.trust.replace_members(now.values());
                    trusted.clone_from(&now);
                    continue;
                }
            }
            trusted.extend(now.iter().map(|(id, member)| (*id, member.clone())));
        }
    }

    fn remember(&mut self, members: &std::collections::BTreeMap<u64, crate::identity::Member>) {
        if !members.contains_key(&self.enrolment.member_id) {
            tracing::error!("this device was removed from its fleet; kith leave --force forgets the fleet here");
            return;
        }
        // What another task wrote meanwhile (the end of the founding) is kept.
        let stored = Enrolment::load(&self.config.data_dir).ok().flatten();
        let mut enrolment = stored.unwrap_or_else(|| self.enrolment.clone());
        enrolment.members.clone_from(members);
        self.enrolment.members.clone_from(members);
        if let Err(error) = enrolment.store(&self.config.data_dir) {
            tracing::error!(%error, "the enrolment can not be written");
        }
    }

    /// This device's member record and node say what is true.
    async fn register(self) {
        let hardware = Hardware::read(&self.config.data_dir);
        loop {
            let done = self.register_once(&hardware).await;
            if let Err(why) = &done {
                tracing::debug!(why, "this device is not registered yet");
            }
            tokio::time::sleep(if done.is_ok() { LOOK_AT_SELF } else { PAUSE }).await;
        }
    }

    async fn register_once(&self, hardware: &Hardware) -> Result<(), String> {
        let id = self.enrolment.member_id;
        let addresses = addresses(&self.config);
        let member = self.identity.member(&self.enrolment.name, addresses.clone(), self.config.api_listen.port());
        let members = self.engine.members().borrow().clone();
        match members.get(&id) {
            None => return Err("this device is not in the membership".into()),
            Some(known) if *known != member => {
                self.engine.update_member(id, member).await.map_err(|error| error.to_string())?;
            }
            Some(_) => {}
        }
        let images = self.images.list().map_err(|error| error.to_string())?;
        let facts = NodeFacts {
            name: self.enrolment.name.clone(),
            hardware: hardware.clone(),
            addresses: addresses.iter().map(SocketAddr::ip).collect(),
            images: images.into_iter().map(|image| (image.name.to_string(), image.size)).collect(),
        };
        let key = Key::new("Node", "", &self.enrolment.name);
        let stored = self.engine.get(&key).map_err(|error| error.to_string())?;
        let expect = stored.as_ref().map_or(Precondition::Absent, |found| Precondition::AtRevision(found.modified));
        let current = stored.as_ref().and_then(|found| serde_json::from_slice(&found.body).ok());
        let uid = crate::api::new_uid();
        let node = node_object(current.as_ref(), &facts, &self.config, &uid, self.clock.now());
        if current.as_ref() == Some(&node) {
            return Ok(());
        }
        let batch = Batch {
            checks: vec![Check { key: key.clone(), expect }],
            writes: vec![Write::Put { key, body: node.to_string().into_bytes() }],
        };
        match self.engine.propose(batch).await.map_err(|error| error.to_string())? {
            Outcome::Applied { .. } => Ok(()),
            Outcome::Refused { .. } => Err("the node changed meanwhile".into()),
        }
    }

    /// On the leader: the voters, and nobody else, can open the authority.
    async fn keep_sealed(self, signer: Signer) {
        let mut leadership = self.engine.leadership();
        let mut members = self.engine.members();
        loop {
            if leadership.borrow_and_update().is_leader
                && let Err(why) = signer.reseal().await
            {
                tracing::debug!(why, "the authority is not resealed");
            }
            members.borrow_and_update();
            // Cancel-safe: watches and a timer.
            tokio::select! {
                changed = leadership.changed() => if changed.is_err() { return },
                changed = members.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(LOOK_AT_SELF) => {}
            }
        }
    }
}
