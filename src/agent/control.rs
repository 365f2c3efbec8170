//! What the agent answers beside Kubernetes' own paths (`/kith/v1/...`): status, join tokens,
//! client certificates, leaving, and the planner's rehearsal. Shapes are in `api::fleet`.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::End;
use super::admission::TOKEN;
use super::authority::{Ask, Signer};
use super::clock::Clock;
use super::status::{Silence, fleet_status};
use super::{rehearse, roll};
use crate::api::fleet::{
    KubeconfigAsk, KubeconfigParts, LeaveAsk, LeaveDone, PlanAnswer, TokenAsk, TokenList, TokenMade, TokenRole,
    TokenSummary,
};
use crate::config::{Config, Setting};
use crate::consensus::{Engine, Freshness, ProposeError, Replica};
use crate::identity::{Role, Token, TokenRecord, TokenTerms};
use crate::planner::{Fleet, Settings};
use crate::store::{Batch, Check, Key, Outcome, Precondition, Write};

/// The longest life of a join token: 30 days.
const TTL_LIMIT: u64 = 30 * 24 * 3600;

/// The most devices that one token may admit.
const USES_LIMIT: u32 = 1000;

/// How long a leaving device waits for its pods to stop.
const DRAIN_WITHIN: Duration = Duration::from_secs(10);

/// Why a control request is refused: an HTTP status and a sentence.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    pub(crate) message: String,
}

impl Refusal {
    fn new(status: u16, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }
}

/// Answers control requests.
pub(crate) struct Control {
    pub(crate) engine: Engine,
    pub(crate) signer: Signer,
    pub(crate) clock: Arc<Clock>,
    pub(crate) config: Arc<Config>,
    pub(crate) settings: Settings,
    /// What agent.toml, the environment and flags came to, and where each came from.
    pub(crate) listed: Vec<Setting>,
    pub(crate) fleet: String,
    pub(crate) name: String,
    pub(crate) authority: String,
    /// Tells the agent that it is to end, and why.
    pub(crate) ending: mpsc::Sender<End>,
}

impl Control {
    pub(crate) async fn status(&self) -> Result<crate::api::fleet::FleetStatus, Refusal> {
        let quorum = self.engine.barrier().await == Freshness::Current;
        let silence =
            Silence { sign_of_life: self.config.profile.sign_of_life(), lost_after: self.settings.lost_after };
        fleet_status(&self.engine, &self.fleet, &self.name, quorum, silence)
            .await
            .map_err(|error| Refusal::new(500, error))
    }

    pub(crate) async fn create_token(&self, ask: &TokenAsk, user: &str) -> Result<TokenMade, Refusal> {
        if ask.ttl_seconds == 0 || ask.ttl_seconds > TTL_LIMIT {
            return Err(Refusal::new(422, format!("a token lives from 1 second to {TTL_LIMIT} (30 days)")));
        }
        if ask.uses == 0 || ask.uses > USES_LIMIT {
            return Err(Refusal::new(422, format!("a token admits from 1 to {USES_LIMIT} devices")));
        }
        let now = self.clock.now();
        let token =
            Token::issue(&self.fleet, self.ask_addresses()).map_err(|error| Refusal::new(500, error.to_string()))?;
        let record = token.record(TokenTerms {
            role: if ask.role == TokenRole::Witness { Role::Witness } else { Role::Device },
            uses: ask.uses,
            expires: now.plus(Duration::from_secs(ask.ttl_seconds)),
            created: now,
            created_by: user.into(),
        });
        let key = Key::new(TOKEN, "", &token.id);
        let body = record.to_object(&token.id).to_string().into_bytes();
        let batch = Batch {
            checks: vec![Check { key: key.clone(), expect: Precondition::Absent }],
            writes: vec![Write::Put { key, body }],
        };
        self.propose(batch).await?;
        let token = token.to_string();
        let flag = if ask.role == TokenRole::Witness { "--witness " } else { "" };
        Ok(TokenMade { join_command: format!("kith join {flag}{token}"), token })
    }

    /// Where a joiner may ask: this device first, then the others.
    fn ask_addresses(&self) -> Vec<std::net::SocketAddr> {
        let members = self.engine.members().borrow().clone();
        let (own, others): (Vec<_>, Vec<_>) = members.values().partition(|member| member.name == self.name);
        let first = own.iter().flat_map(|member| member.addresses.iter().copied());
        first.chain(others.iter().filter_map(|member| member.addresses.first().copied())).collect()
    }

    pub(crate) async fn tokens(&self) -> Result<TokenList, Refusal> {
        self.fresh().await?;
        let listing = self.engine.list(TOKEN, None).map_err(|error| Refusal::new(500, error.to_string()))?;
        let now = self.clock.now();
        let items = listing.documents.iter().filter_map(|document| {
            let object = serde_json::from_slice(&document.body).ok()?;
            let record = TokenRecord::from_object(&object).ok()?;
            Some(TokenSummary {
                id: document.key.name.clone(),
                role: if record.role == Role::Witness { TokenRole::Witness } else { TokenRole::Device },
                expires: record.expires.to_string(),
                uses_left: if now >= record.expires { 0 } else { record.uses_left },
                used_by: record.used_by.into_iter().map(|used| used.name).collect(),
            })
        });
        Ok(TokenList { items: items.collect() })
    }

    pub(crate) async fn revoke_token(&self, id: &str) -> Result<(), Refusal> {
        let key = Key::new(TOKEN, "", id);
        let batch = Batch {
            checks: vec![Check { key: key.clone(), expect: Precondition::Present }],
            writes: vec![Write::Delete { key }],
        };
        match self.propose(batch).await? {
            Outcome::Applied { .. } => Ok(()),
            Outcome::Refused { .. } => {
                Err(Refusal::new(404, format!("this fleet has no token {id}; see: kith token list")))
            }
        }
    }

    pub(crate) async fn kubeconfig(&self, ask: KubeconfigAsk) -> Result<KubeconfigParts, Refusal> {
        let failed = |error: rcgen::Error| Refusal::new(500, format!("make a key: {error}"));
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let public_key = rcgen::PublicKeyData::subject_public_key_info(&key);
        let request = Ask::SignClient { public_key, user: ask.user.clone(), groups: ask.groups };
        let certificate = self.signer.ask(request).await.map_err(|error| Refusal::new(503, error))?;
        let server = if ask.server.is_empty() { self.own_url() } else { ask.server };
        Ok(KubeconfigParts {
            fleet: format!("kith-{}", self.fleet.chars().take(8).collect::<String>()),
            user: ask.user,
            server,
            authority: self.authority.clone(),
            certificate,
            key: key.serialize_pem(),
        })
    }

    fn own_url(&self) -> String {
        let port = self.config.api_listen.port();
        let members = self.engine.members().borrow().clone();
        let own = members.values().find(|member| member.name == self.name);
        let host = own.and_then(|member| member.addresses.first()).map_or_else(
            || "127.0.0.1".to_owned(),
            |address| if address.is_ipv6() { format!("[{}]", address.ip()) } else { address.ip().to_string() },
        );
        format!("https://{host}:{port}")
    }

    pub(crate) async fn leave(&self, ask: &LeaveAsk) -> Result<LeaveDone, Refusal> {
        let members = self.engine.members().borrow().clone();
        if !ask.device.is_empty() && ask.device != self.name {
            return self.remove(&ask.device, ask.force).await;
        }
        if members.len() == 1 && !ask.force {
            let what = "this is the only device of the fleet: leaving ends the fleet and loses its state";
            return Err(Refusal::new(409, format!("{what}; to do it anyway: kith leave --force")));
        }
        let removed = if members.len() == 1 { Ok(()) } else { self.take_off(self.signer.member_id, &self.name).await };
        if let Err(why) = &removed
            && !ask.force
        {
            return Err(Refusal::new(
                503,
                format!("the fleet could not be told: {why}; to leave without it: kith leave --force"),
            ));
        }
        self.ending.try_send(End::Left).map_err(|_| Refusal::new(409, "this device is leaving already"))?;
        let message = match removed {
            Ok(()) if members.len() == 1 => "the fleet ended with it",
            Ok(()) => "its pods move to other devices",
            Err(_) => "the others were not told, and go on missing it",
        };
        Ok(LeaveDone { fleet: self.fleet.clone(), message: message.into() })
    }

    /// Takes another device off the fleet's list: its key is trusted no more, its pods start elsewhere.
    async fn remove(&self, device: &str, force: bool) -> Result<LeaveDone, Refusal> {
        let members = self.engine.members().borrow().clone();
        let id = members.iter().find(|(_, member)| member.name == device).map(|(id, _)| *id);
        let id = id.ok_or_else(|| Refusal::new(404, format!("this fleet has no device {device}; see: kith status")))?;
        let seen = self.status().await?.devices.into_iter().find(|found| found.name == device);
        if seen.is_some_and(|found| found.ready) && !force {
            let what = format!("{device} is ready: it is not gone. On it: kith leave");
            return Err(Refusal::new(
                409,
                format!("{what}; to remove it all the same: kith leave --device {device} --force"),
            ));
        }
        self.take_off(id, device).await.map_err(|why| Refusal::new(503, why))?;
        let message = format!("{device} is no member any more, and its key is not trusted; its pods start elsewhere");
        Ok(LeaveDone { fleet: self.fleet.clone(), message })
    }

    /// A device out of the vote, out of the membership, and its node out of the store.
    async fn take_off(&self, id: u64, name: &str) -> Result<(), String> {
        let known = self.engine.members().borrow().get(&id).cloned();
        // A witness is no node; and one that leaves could not write.
        if known.as_ref().is_none_or(|member| !member.witness) {
            let key = Key::new("Node", "", name);
            let batch = Batch { checks: Vec::new(), writes: vec![Write::Delete { key }] };
            self.engine.propose(batch).await.map_err(|error| error.to_string())?;
        }
        tokio::time::timeout(DRAIN_WITHIN, self.engine.remove_member(id))
            .await
            .map_err(|_| format!("the membership did not change within {DRAIN_WITHIN:?}"))?
            .map_err(|error| error.to_string())?;
        // Only now: without its record, a fenced device that is still a member would be let in again.
        let forget = known.map(|member| Write::Delete { key: roll::place(&member.key) });
        let batch = Batch { checks: Vec::new(), writes: forget.into_iter().collect() };
        if id == self.signer.member_id {
            // This device is out, and can not write any more: a record without a member is harmless.
            return Ok(());
        }
        self.engine.propose(batch).await.map(drop).map_err(|error| error.to_string())
    }

    pub(crate) fn plan(&self, manifest: &str) -> Result<PlanAnswer, Refusal> {
        let objects = crate::resource::manifest::parse(manifest, "manifest")
            .map_err(|error| Refusal::new(400, error.to_string()))?;
        let mut documents = Vec::new();
        for kind in Fleet::kinds() {
            let listing = self.engine.list(&kind, None).map_err(|error| Refusal::new(500, error.to_string()))?;
            documents.extend(listing.documents);
        }
        let (mut fleet, _) = Fleet::from_documents(&documents);
        let members = self.engine.members().borrow().clone();
        fleet.members = members.values().map(|member| member.name.clone()).collect();
        fleet.settings = self.settings;
        let now = self.clock.now();
        let planned = rehearse::documents(&self.engine, objects, now).map_err(|error| Refusal::new(422, error))?;
        let forecast = crate::planner::plan_manifest(fleet, &planned, now);
        Ok(rehearse::answer(*self.engine.revision().borrow(), &forecast))
    }

    async fn fresh(&self) -> Result<(), Refusal> {
        match self.engine.barrier().await {
            Freshness::Current => Ok(()),
            Freshness::Stale { why, .. } => Err(Refusal::new(503, why)),
        }
    }

    async fn propose(&self, batch: Batch) -> Result<Outcome, Refusal> {
        self.engine.propose(batch).await.map_err(|error| {
            let status = if matches!(error, ProposeError::Forbidden(_)) { 403 } else { 503 };
            Refusal::new(status, error.to_string())
        })
    }
}
