//! Lets devices into the fleet: the answering side of `kith join`. A token is consumed by a store
//! transaction before its bearer becomes a member, so no race lets two devices in with one use.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::clock::Clock;
use super::roll;
use super::tasks::Tasks;
use crate::api::{Api, User};
use crate::consensus::{Engine, Freshness, Replica};
use crate::identity::{Admission, DeviceKey, JoinRefusal, Member, TokenRecord};
use crate::store::{Batch, Check, Document, Key, Outcome, Precondition, Write};
use crate::transport::{ByteStream, JoinAsk, JoinGrant, Service};

/// Kind of the documents that hold join tokens.
pub(crate) const TOKEN: &str = "kith.dev/Token";

/// Attempts against concurrent uses of one token.
const ATTEMPTS: usize = 8;

/// How long a device that is to be replaced may take to prove that it is there.
const ANSWER_WITHIN: std::time::Duration = std::time::Duration::from_secs(2);

/// What this device answers to peers and joiners.
pub(crate) struct PeerService {
    pub(crate) engine: Engine,
    pub(crate) api: Api,
    pub(crate) clock: Arc<Clock>,
    pub(crate) tasks: Tasks,
    pub(crate) fleet: String,
    pub(crate) authority: String,
}

impl Service for PeerService {
    fn call(&self, from: DeviceKey, request: Vec<u8>) -> BoxFuture<'_, Vec<u8>> {
        Box::pin(self.engine.handle(from, request))
    }

    fn stream(&self, from: DeviceKey, stream: Box<dyn ByteStream>) {
        let members = self.engine.members().borrow().clone();
        let Some(peer) = members.values().find(|member| member.key == from) else { return };
        let fenced = roll::everyone(&self.engine)
            .is_ok_and(|all| all.get(&from).is_some_and(|(known, _)| known.fenced.is_some()));
        if fenced {
            return;
        }
        let (api, user) = (self.api.clone(), User::device(&peer.name));
        self.tasks.spawn("serve a peer", async move { api.serve_connection(stream, user).await });
    }

    fn token_hash<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<[u8; 32], JoinRefusal>> {
        Box::pin(async move { Ok(self.token(token).await?.1.hash) })
    }

    fn join(&self, ask: JoinAsk) -> BoxFuture<'_, Result<JoinGrant, JoinRefusal>> {
        Box::pin(self.admit(ask))
    }
}

impl PeerService {
    async fn token(&self, id: &str) -> Result<(Document, TokenRecord), JoinRefusal> {
        if let Freshness::Stale { why, .. } = self.engine.barrier().await {
            return Err(JoinRefusal::Unavailable { reason: why });
        }
        let unreadable = |reason: String| JoinRefusal::Unavailable { reason };
        let document = self.engine.get(&Key::new(TOKEN, "", id)).map_err(|error| unreadable(error.to_string()))?;
        let document = document.ok_or(JoinRefusal::UnknownToken)?;
        let record = serde_json::from_slice(&document.body)
            .and_then(|object| TokenRecord::from_object(&object))
            .map_err(|error| unreadable(format!("the token's record: {error}")))?;
        Ok((document, record))
    }

    async fn admit(&self, ask: JoinAsk) -> Result<JoinGrant, JoinRefusal> {
        let unavailable = |reason: String| JoinRefusal::Unavailable { reason };
        let mut consumed = false;
        for _ in 0..ATTEMPTS {
            let (document, record) = self.token(&ask.token).await?;
            let members = self.engine.members().borrow().clone();
            let known = members.values().any(|member| member.key == ask.member.key);
            let holder = members.iter().find(|(_, member)| member.name == ask.member.name);
            if let Some((&id, holder)) = holder.filter(|(_, holder)| holder.key != ask.member.key) {
                if !ask.replace {
                    return Err(JoinRefusal::NameTaken { name: holder.name.clone() });
                }
                if self.answers(id, holder).await {
                    return Err(JoinRefusal::StillHere { name: holder.name.clone() });
                }
            }
            if !record.role.admits(&ask.member) {
                return Err(JoinRefusal::WitnessOnly);
            }
            match record.consume(ask.member.key, &ask.member.name, self.clock.now())? {
                Admission::Again if known => consumed = true,
                Admission::Again => return Err(JoinRefusal::Used),
                Admission::First(after) => {
                    let body = after.to_object(&ask.token).to_string().into_bytes();
                    let batch = Batch {
                        checks: vec![Check {
                            key: document.key.clone(),
                            expect: Precondition::AtRevision(document.modified),
                        }],
                        writes: vec![Write::Put { key: document.key, body }],
                    };
                    let outcome = self.engine.propose(batch).await.map_err(|error| unavailable(error.to_string()))?;
                    consumed = matches!(outcome, Outcome::Applied { .. });
                }
            }
            if consumed {
                break;
            }
        }
        if !consumed {
            return Err(unavailable("other devices use the same token at this moment".into()));
        }
        self.enter(ask.member, ask.replace).await.map_err(unavailable)
    }

    /// Whether a member that is to be replaced takes part in the fleet.
    async fn answers(&self, id: u64, member: &Member) -> bool {
        let fenced = roll::everyone(&self.engine).ok().and_then(|everyone| everyone.get(&member.key)?.0.fenced.clone());
        fenced.is_none() && self.engine.ask(id, Vec::new(), ANSWER_WITHIN).await.is_ok()
    }

    async fn enter(&self, member: Member, replace: bool) -> Result<JoinGrant, String> {
        let name = member.name.clone();
        let before = self.engine.members().borrow().clone();
        let old = before.iter().find(|(_, known)| known.name == name && known.key != member.key);
        let member_id = match old.filter(|_| replace) {
            Some((&id, known)) => {
                let entered = self.engine.readmit(Some(id), member.clone()).await.map_err(|error| error.to_string())?;
                let key = roll::place(&known.key);
                let forget = Batch { checks: Vec::new(), writes: vec![Write::Delete { key }] };
                self.engine.propose(forget).await.map_err(|error| error.to_string())?;
                entered
            }
            None => self.engine.add_member(member.clone()).await.map_err(|error| error.to_string())?,
        };
        tracing::info!(name, member_id, "a device joined the fleet");
        let mut members = (**self.engine.members().borrow()).clone();
        members.insert(member_id, member);
        Ok(JoinGrant {
            fleet: self.fleet.clone(),
            member_id,
            members,
            authority: self.authority.clone(),
            epoch: self.engine.stamp().epoch,
        })
    }
}
