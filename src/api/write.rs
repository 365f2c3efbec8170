//! Create, update, patch: read, admit, propose with a precondition, and again when someone else
//! was faster.

use serde_json::Value;

use super::admit::{self, Strictness};
use super::answer::Answer;
use super::ask::{Ask, PROTOBUF};
use super::failure::Failure;
use super::read::{key, object};
use super::route::Target;
use super::secret::is_secret;
use super::{Api, ephemeral, new_uid, scale};
use crate::consensus::Freshness;
use crate::resource::patch::{self, PatchError, PatchKind};
use crate::resource::{kind, meta, validate};
use crate::store::{Batch, Check, Document, Key, Outcome, Precondition, Write};

/// How often a write is tried again when another writer was faster.
pub(super) const ATTEMPTS: usize = 6;

/// What a proposed batch came to.
pub(super) enum Proposed {
    /// Applied at this revision.
    At(u64),
    /// Another writer was faster, on these keys.
    Lost(Vec<Key>),
}

impl Api {
    /// Proposes a batch; on a dry run nothing is written.
    pub(super) async fn propose(&self, batch: Batch, dry_run: bool) -> Result<Proposed, Failure> {
        if dry_run {
            let revision = *self.replica().revision().borrow();
            return Ok(Proposed::At(revision));
        }
        match self.replica().propose(batch).await? {
            Outcome::Applied { revision } => Ok(Proposed::At(revision)),
            Outcome::Refused { conflicts } => {
                Ok(Proposed::Lost(conflicts.into_iter().map(|conflict| conflict.key).collect()))
            }
        }
    }

    /// A document, from the local replica when it has it, else after asking whether it is current.
    pub(super) async fn current(&self, key: &Key) -> Result<Option<Document>, Failure> {
        if let Some(document) = self.replica().get(key)? {
            return Ok(Some(document));
        }
        self.catch_up().await?;
        Ok(self.replica().get(key)?)
    }

    /// Waits until the local replica is current. A writer can not go on without.
    pub(super) async fn catch_up(&self) -> Result<(), Failure> {
        match self.replica().barrier().await {
            Freshness::Current => Ok(()),
            Freshness::Stale { why, .. } => {
                Err(Failure::unavailable(format!("the write was not accepted: no quorum can be asked: {why}")))
            }
        }
    }

    /// `POST` to a collection.
    pub(super) async fn create(
        &self,
        target: &Target,
        ask: &Ask,
        warnings: &mut Vec<String>,
    ) -> Result<Answer, Failure> {
        let (form, dry_run) = (ask.form()?, ask.dry_run()?);
        if target.kind.namespaced && target.namespace.is_empty() {
            return Err(Failure::wrong_method());
        }
        let sent = ask.value()?;
        let made = self.make(target, ask, sent, dry_run, warnings).await?;
        self.shown(201, target, ask, form, made)
    }

    /// Creates an object.
    async fn make(
        &self,
        target: &Target,
        ask: &Ask,
        sent: Value,
        dry_run: bool,
        warnings: &mut Vec<String>,
    ) -> Result<Value, Failure> {
        let strictness = Strictness::parse(ask.query.get("fieldValidation"))?;
        for attempt in 1..=ATTEMPTS {
            let identity = (self.now(), new_uid(), rand::random());
            let mut told = Vec::new();
            let mut made = admit::create(target, sent.clone(), strictness, identity, &mut told)?;
            self.prioritise(target, &mut made)?;
            let name = meta::name(&made).to_owned();
            let generated = meta::name(&sent).is_empty() && target.name.is_empty();
            let key = Key::new(target.kind.store_kind(), target.namespace.clone(), name.clone());
            let mut batch = Batch::default();
            batch.checks.push(Check { key: key.clone(), expect: Precondition::Absent });
            if target.kind.namespaced {
                batch.checks.push(self.live_namespace(target, &name).await?);
            }
            if dry_run && self.current(&key).await?.is_some() {
                return Err(Failure::already_exists(target.kind, &name));
            }
            let stored = if is_secret(target.kind) { self.locked(made.clone(), None)? } else { made.clone() };
            let body = stored.to_string().into_bytes();
            batch.writes.push(Write::Put { key: key.clone(), body });
            match self.propose(batch, dry_run).await? {
                Proposed::At(revision) => {
                    warnings.append(&mut told);
                    return Ok(at(made, revision));
                }
                Proposed::Lost(keys) if keys.contains(&key) && (!generated || attempt == ATTEMPTS) => {
                    return Err(Failure::already_exists(target.kind, &name));
                }
                Proposed::Lost(_) => self.catch_up().await?,
            }
        }
        Err(Failure::unavailable(format!("namespace {} changes too fast to write into it", target.namespace)))
    }

    /// The check that a namespace is there to stay.
    async fn live_namespace(&self, target: &Target, name: &str) -> Result<Check, Failure> {
        let key = Key::new("Namespace", "", target.namespace.clone());
        let Some(document) = self.current(&key).await? else {
            return Err(Failure::not_found(&kind::NAMESPACE, &target.namespace));
        };
        let namespace = object(&document)?;
        if meta::is_deleting(&namespace) {
            let why = format!(
                "unable to create new content in namespace {} because it is being terminated",
                target.namespace
            );
            return Err(Failure::forbidden(target.kind, name, &why));
        }
        Ok(Check { key, expect: Precondition::AtRevision(document.modified) })
    }

    /// `PUT` of an object or of a subresource.
    pub(super) async fn update(
        &self,
        target: &Target,
        ask: &Ask,
        warnings: &mut Vec<String>,
    ) -> Result<Answer, Failure> {
        let (form, dry_run) = (ask.form()?, ask.dry_run()?);
        if target.subresource == "status" && ask.content_type.starts_with(PROTOBUF) {
            return Err(Failure::new(415, "UnsupportedMediaType", "a status is not read as protobuf: send it as JSON"));
        }
        let sent = ask.value()?;
        let stored = self.change(target, ask, dry_run, warnings, |_| Ok(sent.clone())).await?;
        self.shown(200, target, ask, form, stored)
    }

    /// `PATCH` of an object or of a subresource.
    pub(super) async fn patch(
        &self,
        target: &Target,
        ask: &Ask,
        warnings: &mut Vec<String>,
    ) -> Result<Answer, Failure> {
        let (form, dry_run) = (ask.form()?, ask.dry_run()?);
        let Some(patch_kind) = PatchKind::of(&ask.content_type) else {
            let message = "the body of the request was in an unknown format - accepted media types include: \
                           application/json-patch+json, application/merge-patch+json, \
                           application/strategic-merge-patch+json, application/apply-patch+yaml";
            return Err(Failure::new(415, "UnsupportedMediaType", message));
        };
        let sent = ask.value()?;
        let applies = patch_kind == PatchKind::Apply;
        if applies && ask.query.get("fieldManager").is_empty() {
            return Err(Failure::bad_request("fieldManager: Required value: is required for apply patch"));
        }
        if applies && target.subresource.is_empty() && self.current(&key(target)).await?.is_none() {
            match self.make(target, ask, sent.clone(), dry_run, warnings).await {
                Ok(made) => return self.shown(201, target, ask, form, made),
                // Someone else made it in between: then it is merged.
                Err(failure) if failure.reason == "AlreadyExists" => {}
                Err(failure) => return Err(failure),
            }
        }
        let patched =
            |current: &Value| patch::apply(patch_kind, current, sent.clone()).map_err(|error| refused(&error));
        let stored = self.change(target, ask, dry_run, warnings, patched).await?;
        self.shown(200, target, ask, form, stored)
    }

    /// Changes an object: `wanted` turns what clients see now into what the client wants to see.
    async fn change(
        &self,
        target: &Target,
        ask: &Ask,
        dry_run: bool,
        warnings: &mut Vec<String>,
        wanted: impl Fn(&Value) -> Result<Value, Failure>,
    ) -> Result<Value, Failure> {
        let key = key(target);
        let strictness = Strictness::parse(ask.query.get("fieldValidation"))?;
        for attempt in 1..=ATTEMPTS {
            let document = self.current(&key).await?;
            let document = document.ok_or_else(|| Failure::not_found(target.kind, &target.name))?;
            let kept = object(&document)?;
            let old = self.opened(target.kind, kept.clone()).await?;
            let scaled = target.subresource == "scale";
            let mut told = Vec::new();
            let seen = if scaled { scale::of(&old) } else { old.clone() };
            let new = wanted(&seen)?;
            let old_form = ephemeral::is_own(&new);
            let fixed = meta::text(&new, "resourceVersion").to_owned();
            if !fixed.is_empty() && fixed != document.modified.to_string() {
                // The client may have read a newer state from another device.
                if attempt == 1 {
                    self.catch_up().await?;
                    continue;
                }
                return Err(Failure::modified(target.kind, &target.name));
            }
            let mut stored_before = old;
            meta::remove(&mut stored_before, "resourceVersion");
            let stored = match target.subresource.as_str() {
                "status" => admit::update_status(target, &stored_before, new)?,
                "scale" => {
                    let mut object = scale::into_object(target.kind, &stored_before, &new)?;
                    admit::count_generation(target.kind, &stored_before, &mut object);
                    object
                }
                "ephemeralcontainers" => {
                    let pod = ephemeral::into_pod(target.kind, &stored_before, &new)?;
                    admit::update(target, &stored_before, pod, strictness, &mut told, validate::extended)?
                }
                _ => admit::update(target, &stored_before, new, strictness, &mut told, validate::update)?,
            };
            let mut stored = stored;
            meta::remove(&mut stored, "resourceVersion");
            let show = |stored: Value, revision| {
                let object = at(stored, revision);
                Ok(if scaled {
                    scale::of(&object)
                } else if old_form {
                    ephemeral::of(&object)
                } else {
                    object
                })
            };
            if stored == stored_before {
                warnings.append(&mut told);
                return show(stored, document.modified);
            }
            let body = if is_secret(target.kind) {
                self.locked(stored.clone(), Some((&stored_before, &kept)))?.to_string().into_bytes()
            } else {
                stored.to_string().into_bytes()
            };
            let expect = Precondition::AtRevision(document.modified);
            let batch = Batch {
                checks: vec![Check { key: key.clone(), expect }],
                writes: vec![Write::Put { key: key.clone(), body }],
            };
            match self.propose(batch, dry_run).await? {
                Proposed::At(revision) => {
                    warnings.append(&mut told);
                    return show(stored, revision);
                }
                Proposed::Lost(_) => self.catch_up().await?,
            }
        }
        Err(Failure::modified(target.kind, &target.name))
    }
}

/// A stored object as clients see it at a revision.
fn at(mut stored: Value, revision: u64) -> Value {
    meta::set_revision(&mut stored, revision);
    stored
}

fn refused(error: &PatchError) -> Failure {
    match error {
        PatchError::Malformed(_) => Failure::bad_request(error.to_string()),
        PatchError::Misfit(_) => Failure::new(422, "Invalid", error.to_string()),
    }
}
