//! Delete one object or a collection. A pod that a device may run goes gracefully: it is marked,
//! and the device confirms. A namespace is closed, and goes when the planner has emptied it.
//! Everything else goes at once; what it owned is collected later.

use std::time::Duration;

use serde_json::{Value, json};

use super::Api;
use super::answer::{self, Answer};
use super::ask::Ask;
use super::failure::Failure;
use super::read::{Selection, key, object};
use super::route::Target;
use super::write::{ATTEMPTS, Proposed};
use crate::resource::kind::{self, Kind};
use crate::resource::{Timestamp, defaults, meta};
use crate::store::{Batch, Check, Document, Key, Precondition, Write};

/// How an object is to be deleted.
#[derive(Debug, Default)]
pub(super) struct Options {
    grace: Option<i64>,
    uid: String,
    revision: String,
    orphan: bool,
    foreground: bool,
    dry_run: bool,
}

impl Options {
    /// From the body and, where it says nothing, the query.
    fn of(ask: &Ask) -> Result<Self, Failure> {
        let body = if ask.body.is_empty() { Value::Null } else { ask.value()? };
        Self::new(&body, ask)
    }

    /// From these options and, where they say nothing, the query.
    pub(super) fn new(body: &Value, ask: &Ask) -> Result<Self, Failure> {
        let grace = match meta::integer_at(body, "gracePeriodSeconds") {
            Some(seconds) => Some(seconds),
            None => ask.query.number("gracePeriodSeconds")?,
        };
        let policy = match meta::text_at(body, "propagationPolicy") {
            "" => ask.query.get("propagationPolicy").to_owned(),
            policy => policy.to_owned(),
        };
        if !["", "Background", "Foreground", "Orphan"].contains(&policy.as_str()) {
            return Err(Failure::bad_request(format!(
                "propagationPolicy: Unsupported value: {policy:?}: supported values: \"Foreground\", \"Background\", \"Orphan\""
            )));
        }
        let orphan = policy == "Orphan" || body.get("orphanDependents") == Some(&Value::Bool(true));
        Ok(Self {
            grace: grace.map(|seconds| seconds.max(0)),
            uid: meta::text_at(body, "preconditions.uid").to_owned(),
            revision: meta::text_at(body, "preconditions.resourceVersion").to_owned(),
            orphan,
            foreground: policy == "Foreground",
            // Clients of Go say it here, and not in the query.
            dry_run: match meta::list_at(body, "dryRun") {
                [] => ask.dry_run()?,
                [all] if all == "All" => true,
                other => {
                    let message = format!("dryRun: Unsupported value: {}: supported values: \"All\"", json!(other));
                    return Err(Failure::bad_request(message));
                }
            },
        })
    }
}

/// What is done to a document.
enum Verdict {
    /// It goes.
    Remove,
    /// It stays, marked.
    Mark(Value),
    /// It is marked already.
    Leave,
}

impl Api {
    /// `DELETE` of one object.
    pub(super) async fn delete(
        &self,
        target: &Target,
        ask: &Ask,
        warnings: &mut Vec<String>,
    ) -> Result<Answer, Failure> {
        let shown = self.delete_by(target, &Options::of(ask)?, warnings).await?;
        Ok(answer::json(200, &shown))
    }

    /// Deletes one object by these options. Gives what is shown of it.
    pub(super) async fn delete_by(
        &self,
        target: &Target,
        options: &Options,
        warnings: &mut Vec<String>,
    ) -> Result<Value, Failure> {
        if target.kind.kind == "Namespace" {
            return self.close_namespace(target, options).await;
        }
        if options.foreground {
            warnings.push(
                "propagationPolicy Foreground is done as Background: the object goes first, what it owns after it"
                    .into(),
            );
        }
        let key = key(target);
        for _ in 0..ATTEMPTS {
            let document = self.current(&key).await?;
            let document = document.ok_or_else(|| Failure::not_found(target.kind, &target.name))?;
            let found = object(&document)?;
            check_preconditions(target.kind, &found, options)?;
            let verdict = self.verdict(target.kind, &found, options)?;
            let mut batch = Batch::default();
            batch.checks.push(Check { key: key.clone(), expect: Precondition::AtRevision(document.modified) });
            if options.orphan {
                self.orphan(target.kind, &found, &mut batch)?;
            }
            let shown = write_verdict(&key, verdict, &found, &mut batch);
            if batch.writes.is_empty() {
                return Ok(found);
            }
            match self.propose(batch, options.dry_run).await? {
                Proposed::At(revision) => {
                    return Ok(match shown {
                        Some(mut marked) => {
                            meta::set_revision(&mut marked, revision);
                            marked
                        }
                        None => success(target.kind, &found),
                    });
                }
                Proposed::Lost(_) => self.catch_up().await?,
            }
        }
        Err(Failure::modified(target.kind, &target.name))
    }

    /// `DELETE` of a collection.
    pub(super) async fn delete_collection(&self, target: &Target, ask: &Ask) -> Result<Answer, Failure> {
        let options = Options::of(ask)?;
        let selection = Selection::of(target, ask)?;
        for _ in 0..ATTEMPTS {
            self.catch_up().await?;
            let (revision, objects) = self.selected(target, &selection)?;
            let mut batch = Batch::default();
            for found in &objects {
                let key = Key::new(target.kind.store_kind(), meta::namespace(found), meta::name(found));
                let modified = meta::text(found, "resourceVersion").parse().unwrap_or(revision);
                let verdict = self.verdict(target.kind, found, &options)?;
                if options.orphan {
                    self.orphan(target.kind, found, &mut batch)?;
                }
                batch.checks.push(Check { key: key.clone(), expect: Precondition::AtRevision(modified) });
                write_verdict(&key, verdict, found, &mut batch);
            }
            let done =
                batch.writes.is_empty() || matches!(self.propose(batch, options.dry_run).await?, Proposed::At(_));
            if done {
                let list = json!({"kind": format!("{}List", target.kind.kind), "apiVersion": target.kind.api_version(),
                    "metadata": {"resourceVersion": revision.to_string()}, "items": objects});
                return Ok(answer::json(200, &list));
            }
        }
        Err(Failure::conflict(target.kind, "", "the objects change too fast; please try again"))
    }

    fn verdict(&self, kind: &Kind, found: &Value, options: &Options) -> Result<Verdict, Failure> {
        if kind.kind != "Pod" || !self.may_run(found)? {
            return Ok(Verdict::Remove);
        }
        let own = meta::integer_at(found, "spec.terminationGracePeriodSeconds");
        let grace = options.grace.or(own).unwrap_or(defaults::TERMINATION_GRACE_SECONDS);
        if grace == 0 {
            return Ok(Verdict::Remove);
        }
        let marked_before = meta::integer_at(found, "metadata.deletionGracePeriodSeconds");
        if meta::is_deleting(found) && marked_before.is_some_and(|before| before <= grace) {
            return Ok(Verdict::Leave);
        }
        let mut marked = found.clone();
        meta::remove(&mut marked, "resourceVersion");
        mark(&mut marked, self.now(), grace);
        Ok(Verdict::Mark(marked))
    }

    /// Whether a device may be running the pod: it is bound, not over, and its device is known.
    fn may_run(&self, pod: &Value) -> Result<bool, Failure> {
        let node = meta::text_at(pod, "spec.nodeName");
        let over = matches!(meta::text_at(pod, "status.phase"), "Succeeded" | "Failed");
        Ok(!node.is_empty() && !over && self.replica().get(&Key::new("Node", "", node))?.is_some())
    }

    /// Takes the owner's mark off everything that it owns, in the same batch.
    fn orphan(&self, kind: &Kind, owner: &Value, batch: &mut Batch) -> Result<(), Failure> {
        let dependents = match kind.kind {
            "Deployment" => &kind::REPLICA_SET,
            "ReplicaSet" => &kind::POD,
            _ => return Ok(()),
        };
        let uid = meta::uid(owner);
        for document in self.replica().list(&dependents.store_kind(), Some(meta::namespace(owner)))?.documents {
            let mut dependent = object(&document)?;
            let owners = meta::list_at(&dependent, "metadata.ownerReferences");
            if !owners.iter().any(|reference| reference["uid"] == uid) {
                continue;
            }
            let kept: Vec<Value> = owners.iter().filter(|reference| reference["uid"] != uid).cloned().collect();
            meta::set(&mut dependent, "ownerReferences", kept.into());
            meta::remove(&mut dependent, "resourceVersion");
            let Document { key, modified, .. } = document;
            batch.checks.push(Check { key: key.clone(), expect: Precondition::AtRevision(modified) });
            batch.writes.push(Write::Put { key, body: dependent.to_string().into_bytes() });
        }
        Ok(())
    }

    /// A namespace is closed, so that nothing new gets in: every create checks it at its revision.
    /// The planner then ends what is in it, and removes it when it is empty.
    async fn close_namespace(&self, target: &Target, options: &Options) -> Result<Value, Failure> {
        if super::FIRST_NAMESPACES.contains(&target.name.as_str()) {
            return Err(Failure::forbidden(target.kind, &target.name, "this namespace may not be deleted"));
        }
        let key = key(target);
        for _ in 0..ATTEMPTS {
            let document = self.current(&key).await?;
            let document = document.ok_or_else(|| Failure::not_found(target.kind, &target.name))?;
            let mut namespace = object(&document)?;
            check_preconditions(target.kind, &namespace, options)?;
            if meta::is_deleting(&namespace) {
                return Ok(namespace);
            }
            meta::remove(&mut namespace, "resourceVersion");
            meta::set(&mut namespace, "deletionTimestamp", self.now().to_string().into());
            namespace["status"] = json!({"phase": "Terminating"});
            let body = namespace.to_string().into_bytes();
            let batch = Batch {
                checks: vec![Check { key: key.clone(), expect: Precondition::AtRevision(document.modified) }],
                writes: vec![Write::Put { key: key.clone(), body }],
            };
            match self.propose(batch, options.dry_run).await? {
                Proposed::At(revision) => {
                    meta::set_revision(&mut namespace, revision);
                    return Ok(namespace);
                }
                Proposed::Lost(_) => self.catch_up().await?,
            }
        }
        Err(Failure::modified(target.kind, &target.name))
    }
}

/// Adds what a verdict writes; gives the marked object.
fn write_verdict(key: &Key, verdict: Verdict, found: &Value, batch: &mut Batch) -> Option<Value> {
    match verdict {
        Verdict::Remove => {
            batch.writes.push(Write::Delete { key: key.clone() });
            None
        }
        Verdict::Mark(marked) => {
            batch.writes.push(Write::Put { key: key.clone(), body: marked.to_string().into_bytes() });
            Some(marked)
        }
        Verdict::Leave => Some(found.clone()),
    }
}

fn mark(object: &mut Value, now: Timestamp, grace: i64) {
    let end = now.plus(Duration::from_secs(grace.unsigned_abs()));
    meta::set(object, "deletionTimestamp", end.to_string().into());
    meta::set(object, "deletionGracePeriodSeconds", grace.into());
}

fn check_preconditions(kind: &Kind, found: &Value, options: &Options) -> Result<(), Failure> {
    for (what, wanted, actual) in [
        ("UID", &options.uid, meta::uid(found)),
        ("ResourceVersion", &options.revision, meta::text(found, "resourceVersion")),
    ] {
        if !wanted.is_empty() && wanted != actual {
            let why = format!("Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {actual}");
            return Err(Failure::conflict(kind, meta::name(found), &why));
        }
    }
    Ok(())
}

fn success(kind: &Kind, object: &Value) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details":
        {"name": meta::name(object), "group": kind.group, "kind": kind.plural, "uid": meta::uid(object)}})
}
