//! Keeps what this device and its fleet know of each other in step: the first documents of a new
//! fleet, whom the transport trusts, the enrolment on disk, this device's member record and node,
//! and to whom the authority is sealed. Every step is idempotent and driven by signal and timer.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::authority::{Signer, seal_key};
use super::clock::Clock;
use super::hardware::{self, Hardware};
use super::keyring::Keyring;
use super::local::Local;
use super::node::{NodeFacts, node_object};
use super::roll;
use super::tasks::Tasks;
use crate::config::Config;
use crate::consensus::{Engine, EngineError, Replica};
use crate::identity::{Enrolment, Identity, Member, Trust};
use crate::images::ImageStore;
use crate::store::{Batch, Check, Key, Outcome, Precondition, Write};

/// How often the device looks at itself though nothing was signalled.
const LOOK_AT_SELF: Duration = Duration::from_mins(1);

/// How often it looks whether its addresses changed: one question to the kernel.
const LOOK_AT_ADDRESSES: Duration = Duration::from_secs(3);

/// How long a member that is gone may still take its last answers.
const FAREWELL: Duration = Duration::from_secs(1);

/// Pause after something could not be written.
const PAUSE: Duration = Duration::from_millis(500);

/// What is kept in step, and with what.
#[derive(Clone)]
pub(crate) struct Keeper {
    pub(crate) engine: Engine,
    pub(crate) config: Arc<Config>,
    pub(crate) clock: Arc<Clock>,
    /// `None` on a witness, which runs nothing and is no node.
    pub(crate) images: Option<Arc<ImageStore>>,
    /// What this device knows of itself; `None` on a witness.
    pub(crate) local: Option<watch::Receiver<Local>>,
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

/// This device as its settings have it, under the name and in the role in which it is `known`.
pub(crate) fn own_member(identity: &Identity, config: &Config, known: &Member) -> Member {
    let member = identity.member(&known.name, addresses(config), config.api_listen.port());
    Member { witness: known.witness, ..member.labelled(&config.labels) }
}

impl Keeper {
    /// Starts the tasks.
    pub(crate) fn spawn(self, tasks: &Tasks, signer: Signer, keyring: Keyring) {
        let (founding, membership, itself, sealing) = (self.clone(), self.clone(), self.clone(), self);
        tasks.spawn("found the fleet", founding.found());
        let roll = membership.clone();
        tasks.spawn("follow the roll", roll.follow_roll());
        tasks.spawn("follow the membership", membership.follow_membership());
        tasks.spawn("register this device", itself.register());
        tasks.spawn("seal the authority", sealing.keep_sealed(signer, keyring));
    }

    /// On the first device: the membership of one, and the first documents.
    async fn found(self) {
        let Some(first) = self.enrolment.initial.clone() else { return };
        let id = self.enrolment.member_id;
        if let Some(member) = self.enrolment.members.get(&id).cloned() {
            loop {
                match self.engine.bootstrap(id, member.clone()).await {
                    Ok(()) | Err(EngineError::AlreadyFormed) => break,
                    Err(error) => tracing::error!(%error, "the fleet can not be founded; it is tried again"),
                }
                tokio::time::sleep(PAUSE).await;
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
        let mut belonged = false;
        let mut known = Arc::new(self.enrolment.members.clone());
        loop {
            let now = members.borrow_and_update().clone();
            // A replica that catches up passes through memberships from before this device joined.
            // Until it comes to one that lists it, it trusts those who admitted it: the leader may
            // be younger than what is replayed.
            if now.contains_key(&self.enrolment.member_id) {
                belonged = true;
                if known.keys().any(|id| !now.contains_key(id)) {
                    // Who leaves of its own accord is waiting for the answer that it is out.
                    self.trust.replace_members(known.values().chain(now.values()));
                    self.trust_more();
                    tokio::time::sleep(FAREWELL).await;
                }
                self.trust.replace_members(now.values());
                self.trust_more();
                // The devices of a large fleet come and go all the time. Those who can lead it back
                // are few, and a start in the dark needs no more than them.
                let anchors = self.engine.anchors();
                if self.enrolment.members != anchors {
                    self.remember(&anchors);
                }
                known = now;
            } else if belonged {
                tracing::error!("this device was removed from its fleet; kith leave --force forgets the fleet here");
            }
            if members.changed().await.is_err() {
                return;
            }
        }
    }

    /// Those who may speak though they are no members: devices of the time before a recovery, which
    /// may ask to be let in, and those whom members vouch for to a device that was away for long.
    fn trust_more(&self) {
        let mut keys = BTreeMap::new();
        for (key, (known, _)) in roll::everyone(&self.engine).unwrap_or_default() {
            if known.former {
                keys.insert(key, known.name);
            }
        }
        if let Some(revival) = Enrolment::load(&self.config.data_dir).ok().flatten().and_then(|stored| stored.revival) {
            keys.extend(revival.former.into_values().map(|member| (member.key, member.name)));
        }
        let vouched = self.engine.vouched().borrow().clone();
        keys.extend(vouched.values().map(|member| (member.key, member.name.clone())));
        self.trust.extend(keys);
    }

    /// The engine knows what the fleet has recorded of its members' runs.
    async fn follow_roll(self) {
        let mut revisions = self.engine.revision();
        let mut members = self.engine.members();
        let mut vouched = self.engine.vouched();
        let mut seen = None;
        loop {
            let now = *revisions.borrow_and_update();
            self.clock.raise(self.engine.last_change());
            let changed = seen.is_none_or(|seen| {
                self.engine.events_since(seen, Some(roll::DEVICE)).map_or(true, |events| !events.is_empty())
            });
            seen = Some(now);
            let others = members.has_changed().unwrap_or(false) || vouched.has_changed().unwrap_or(false);
            let listed = members.borrow_and_update().clone();
            vouched.borrow_and_update();
            if changed || others {
                match roll::everyone(&self.engine) {
                    Ok(everyone) => self.engine.set_roll(roll::by_member(&everyone, &listed)),
                    Err(why) => tracing::error!(why, "what the fleet knows of its devices can not be read"),
                }
                self.trust_more();
            }
            // Cancel-safe: three watches.
            tokio::select! {
                biased;
                changed = revisions.changed() => if changed.is_err() { return },
                changed = members.changed() => if changed.is_err() { return },
                changed = vouched.changed() => if changed.is_err() { return },
            }
        }
    }

    fn remember(&mut self, members: &std::collections::BTreeMap<u64, crate::identity::Member>) {
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
    async fn register(mut self) {
        let hardware = Hardware::read(&self.config.data_dir);
        loop {
            let done = self.register_once(&hardware).await;
            if let Err(why) = &done {
                tracing::debug!(why, "this device is not registered yet");
            }
            if done.is_ok() { self.until_moved().await } else { tokio::time::sleep(PAUSE).await }
        }
    }

    /// Until this device has other addresses, or for some time.
    async fn until_moved(&mut self) {
        let known = addresses(&self.config);
        let until = tokio::time::Instant::now() + LOOK_AT_SELF;
        while tokio::time::Instant::now() < until && addresses(&self.config) == known {
            let Some(local) = &mut self.local else {
                tokio::time::sleep(LOOK_AT_ADDRESSES).await;
                continue;
            };
            // Cancel-safe: a watch and a timer.
            tokio::select! {
                Ok(()) = local.changed() => return,
                () = tokio::time::sleep(LOOK_AT_ADDRESSES) => {}
            }
        }
    }

    async fn register_once(&mut self, hardware: &Hardware) -> Result<(), String> {
        let local = self.local.as_mut().map(|local| local.borrow_and_update().clone()).unwrap_or_default();
        let id = self.enrolment.member_id;
        let addresses = addresses(&self.config);
        let members = self.engine.members().borrow().clone();
        let known = members.get(&id).ok_or("this device is not in the membership")?;
        let member = own_member(&self.identity, &self.config, known);
        if *known != member {
            self.engine.update_member(id, member).await.map_err(|error| error.to_string())?;
        }
        let Some(images) = &self.images else { return Ok(()) };
        let images = images.list().map_err(|error| error.to_string())?;
        let facts = NodeFacts {
            name: self.enrolment.name.clone(),
            hardware: hardware.clone(),
            addresses: addresses.iter().map(SocketAddr::ip).collect(),
            images: images.into_iter().map(|image| (image.name.to_string(), image.size)).collect(),
            devices: crate::reconciler::devices::capacity(&local.devices),
            pressure: [local.memory_pressure, local.disk_pressure],
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

    /// On the leader: the voters, and nobody else, can open the authority and the secrets.
    async fn keep_sealed(self, signer: Signer, keyring: Keyring) {
        let mut leadership = self.engine.leadership();
        let mut members = self.engine.members();
        loop {
            if leadership.borrow_and_update().is_leader {
                if let Err(why) = signer.reseal().await {
                    tracing::debug!(why, "the authority is not resealed");
                }
                if let Err(why) = keyring.reseal().await {
                    tracing::debug!(why, "the key for secrets is not resealed");
                }
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
