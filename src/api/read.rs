//! Get and list.

use serde_json::{Value, json};

use super::answer::{self, Answer};
use super::ask::{Accept, Ask};
use super::failure::Failure;
use super::route::Target;
use super::secret::is_secret;
use super::{Api, ephemeral};
use crate::consensus::{Freshness, Listing};
use crate::resource::kind::Kind;
use crate::resource::selector::{FieldSelector, LabelSelector};
use crate::resource::table::{self, Include};
use crate::resource::{Timestamp, meta};
use crate::store::{Document, Key};

/// What a list or watch selects.
pub(super) struct Selection {
    pub(super) labels: LabelSelector,
    pub(super) fields: FieldSelector,
    pub(super) namespace: String,
}

impl Selection {
    pub(super) fn of(target: &Target, ask: &Ask) -> Result<Self, Failure> {
        let unreadable = |error: crate::resource::selector::SelectorError| Failure::bad_request(error.to_string());
        let labels = LabelSelector::parse(ask.query.get("labelSelector")).map_err(unreadable)?;
        let fields = FieldSelector::parse(target.kind, ask.query.get("fieldSelector")).map_err(unreadable)?;
        Ok(Self { labels, fields, namespace: target.namespace.clone() })
    }

    pub(super) fn selects(&self, object: &Value) -> bool {
        (self.namespace.is_empty() || meta::namespace(object) == self.namespace)
            && self.labels.matches_object(object)
            && self.fields.matches(object)
    }
}

/// The store key of a target with a name.
pub(super) fn key(target: &Target) -> Key {
    Key::new(target.kind.store_kind(), target.namespace.clone(), target.name.clone())
}

/// A document as clients see it.
pub(super) fn object(document: &Document) -> Result<Value, Failure> {
    decode(&document.key, &document.body, document.modified)
}

/// A body as clients see it at a revision.
pub(super) fn decode(key: &Key, body: &[u8], revision: u64) -> Result<Value, Failure> {
    let mut object: Value = serde_json::from_slice(body)
        .map_err(|error| Failure::internal(format!("{key} is stored in a form that can not be read: {error}")))?;
    meta::set_revision(&mut object, revision);
    Ok(object)
}

impl Api {
    /// Waits until the local replica is current; a warning says so when it is not.
    pub(super) async fn freshen(&self, ask: &Ask, warnings: &mut Vec<String>) {
        if ask.query.get("resourceVersion") == "0" {
            return;
        }
        if let Freshness::Stale { age, why } = self.replica().barrier().await {
            let device = &self.inner.config.node_name;
            let age = table::human(age);
            warnings.push(format!("this is what device {device} knew {age} ago: it can not reach a quorum ({why})"));
        }
    }

    /// `GET` of one object.
    pub(super) async fn get(&self, target: &Target, ask: &Ask, warnings: &mut Vec<String>) -> Result<Answer, Failure> {
        let form = ask.form()?;
        self.freshen(ask, warnings).await;
        let document = self.replica().get(&key(target))?;
        let document = document.ok_or_else(|| Failure::not_found(target.kind, &target.name))?;
        let mut found = object(&document)?;
        if shows_values(form, ask) {
            found = self.opened(target.kind, found).await?;
        }
        if target.subresource == "scale" {
            found = super::scale::of(&found);
        }
        if target.subresource == "ephemeralcontainers" && ephemeral::is_old(ask) {
            found = ephemeral::of(&found);
        }
        self.shown(200, target, ask, form, found)
    }

    /// An object in the form that the client wants.
    pub(super) fn shown(
        &self,
        code: u16,
        target: &Target,
        ask: &Ask,
        form: Accept,
        object: Value,
    ) -> Result<Answer, Failure> {
        let revision = meta::text(&object, "resourceVersion").to_owned();
        let value = match form {
            Accept::Table(version) if target.subresource != "scale" => {
                let include = include(ask)?;
                let mut table = table::render(target.kind, vec![object], include, version, self.now());
                table["metadata"] = json!({"resourceVersion": revision});
                table
            }
            Accept::Metadata(version) => table::partial(object, version),
            Accept::Json | Accept::Table(_) => object,
        };
        Ok(answer::json(code, &value))
    }

    /// `GET` of a collection.
    pub(super) async fn list(&self, target: &Target, ask: &Ask, warnings: &mut Vec<String>) -> Result<Answer, Failure> {
        let form = ask.form()?;
        let selection = Selection::of(target, ask)?;
        if !ask.query.get("continue").is_empty() {
            return Err(Failure::gone(
                "the continue token is not one of this fleet's: lists are given whole, start again",
            ));
        }
        let shape = Shape { kind: target.kind, form, include: include(ask)?, now: self.now() };
        self.freshen(ask, warnings).await;
        if is_secret(target.kind) && shows_values(form, ask) {
            let (revision, mut objects) = self.selected(target, &selection)?;
            self.open_secrets(&mut objects).await?;
            return Ok(shape.listing(revision, objects));
        }
        let listing = self.documents(target)?;
        let bytes: usize = listing.documents.iter().map(|document| document.body.len()).sum();
        let made = move || Ok(shape.listing(listing.revision, select(&listing, &selection)?));
        if bytes < LARGE {
            return made();
        }
        // The thread that serves everyone is not kept from it.
        let made = tokio::task::spawn_blocking(made).await;
        made.map_err(|error| Failure::internal(format!("make the list: {error}"))).flatten()
    }

    fn documents(&self, target: &Target) -> Result<Listing, Failure> {
        let namespace = (!target.namespace.is_empty()).then_some(target.namespace.as_str());
        Ok(self.replica().list(&target.kind.store_kind(), namespace)?)
    }

    /// Every selected object, and the revision at which they were read.
    pub(super) fn selected(&self, target: &Target, selection: &Selection) -> Result<(u64, Vec<Value>), Failure> {
        let listing = self.documents(target)?;
        Ok((listing.revision, select(&listing, selection)?))
    }
}

/// Bytes of documents from which on a list is made on a thread of its own: a few milliseconds' work.
const LARGE: usize = 256 << 10;

fn select(listing: &Listing, selection: &Selection) -> Result<Vec<Value>, Failure> {
    let mut objects = Vec::new();
    for document in &listing.documents {
        let found = object(document)?;
        if selection.selects(&found) {
            objects.push(found);
        }
    }
    Ok(objects)
}

/// Whether an answer shows what is in an object: a table names it only.
pub(super) fn shows_values(form: Accept, ask: &Ask) -> bool {
    !matches!(form, Accept::Table(_)) || ask.query.get("includeObject") == "Object"
}

/// The value of `includeObject`.
pub(super) fn include(ask: &Ask) -> Result<Include, Failure> {
    Include::parse(ask.query.get("includeObject"))
        .ok_or_else(|| Failure::bad_request("includeObject: supported values: \"None\", \"Metadata\", \"Object\""))
}

/// The form of a list that the client wants.
#[derive(Clone, Copy)]
struct Shape {
    kind: &'static Kind,
    form: Accept,
    include: Include,
    now: Timestamp,
}

impl Shape {
    fn listing(self, revision: u64, objects: Vec<Value>) -> Answer {
        let metadata = json!({"resourceVersion": revision.to_string()});
        let value = match self.form {
            Accept::Table(version) => {
                let mut table = table::render(self.kind, objects, self.include, version, self.now);
                table["metadata"] = metadata;
                table
            }
            Accept::Metadata(version) => {
                let items: Vec<Value> = objects.into_iter().map(|object| table::partial(object, version)).collect();
                json!({"kind": "PartialObjectMetadataList", "apiVersion": format!("meta.k8s.io/{version}"),
                    "metadata": metadata, "items": items})
            }
            Accept::Json => json!({"kind": format!("{}List", self.kind.kind),
                "apiVersion": self.kind.api_version(), "metadata": metadata, "items": objects}),
        };
        answer::json(200, &value)
    }
}
