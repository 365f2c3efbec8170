//! The typed view that a plan is computed from, fed document by document. It decides what a
//! document is; a document that can not be read is reported and never stops the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::Metadata;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Event, Namespace, Node, PersistentVolumeClaim, Pod};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::others::{Other, Others};
use crate::resource::kind;
use crate::store::{Document, Key};

/// Store kind of nodes.
pub const NODE: &str = "Node";
/// Store kind of namespaces.
pub const NAMESPACE: &str = "Namespace";
/// Store kind of pods.
pub const POD: &str = "Pod";
/// Store kind of events.
pub const EVENT: &str = "Event";
/// Store kind of claims.
pub const CLAIM: &str = "PersistentVolumeClaim";
/// Store kind of priority classes.
pub const PRIORITY_CLASS: &str = "scheduling.k8s.io/PriorityClass";
/// Store kind of deployments.
pub const DEPLOYMENT: &str = "apps/Deployment";
/// Store kind of replica sets.
pub const REPLICA_SET: &str = "apps/ReplicaSet";

/// An object and the revision that last changed it.
#[derive(Clone, Debug, PartialEq)]
pub struct Versioned<T> {
    /// The object as it is stored.
    pub object: T,
    /// Its `resourceVersion`.
    pub revision: u64,
}

/// What the leader knows of a device by its connections; it is in no document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Liveness {
    /// Time since something was last heard from it.
    pub silent_for: Duration,
    /// Time since it last asked this leader how far to read: a device with pods that must not outlive a
    /// partition counts from before its question. `None` when it never did.
    pub asked_for: Option<Duration>,
}

/// Fleet-wide settings of the planner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Silence after which a device counts as lost.
    pub lost_after: Duration,
    /// A device that is well is heard this often; no workload can ask for less patience.
    pub sign_of_life: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { lost_after: Duration::from_secs(10), sign_of_life: Duration::from_millis(100) }
    }
}

/// A document that was left out of the view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Which.
    pub key: Key,
    /// What is wrong with it.
    pub why: String,
}

/// Everything that a plan depends on but the time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fleet {
    /// Devices by name.
    pub nodes: BTreeMap<String, Versioned<Node>>,
    /// Namespaces by name.
    pub namespaces: BTreeMap<String, Versioned<Namespace>>,
    /// Deployments.
    pub deployments: BTreeMap<Key, Versioned<Deployment>>,
    /// Replica sets.
    pub replica_sets: BTreeMap<Key, Versioned<ReplicaSet>>,
    /// Pods.
    pub pods: BTreeMap<Key, Versioned<Pod>>,
    /// Claims: their volumes are on one device. They are among the others too.
    pub claims: BTreeMap<Key, Versioned<PersistentVolumeClaim>>,
    /// Priority classes by name.
    pub priority_classes: BTreeMap<String, Versioned<PriorityClass>>,
    /// Events.
    pub events: BTreeMap<Key, Versioned<Event>>,
    /// Objects of every other served kind: they have owners and a namespace.
    pub others: Others,
    /// Documents that exist but can not be read.
    pub unreadable: BTreeSet<Key>,
    /// Names of the fleet's members. While it is empty, no device counts as removed.
    pub members: BTreeSet<String>,
    /// By device name; a missing one was never heard of since this leader began.
    pub liveness: BTreeMap<String, Liveness>,
    /// Time since this leader began to lead.
    pub leader_for: Duration,
    /// Settings.
    pub settings: Settings,
}

#[derive(Deserialize)]
struct MetadataOnly {
    metadata: ObjectMeta,
}

impl Fleet {
    /// The view of these documents. Members, liveness and settings are set on the result.
    pub fn from_documents<'a>(documents: impl IntoIterator<Item = &'a Document>) -> (Self, Vec<Skipped>) {
        let mut fleet = Self::default();
        let skipped = documents.into_iter().filter_map(|document| fleet.put(document).err()).collect();
        (fleet, skipped)
    }

    /// Takes in a new or changed document.
    pub fn put(&mut self, document: &Document) -> Result<(), Skipped> {
        let taken = self.take_in(document);
        if let Err(why) = taken {
            self.remove(&document.key);
            self.unreadable.insert(document.key.clone());
            return Err(Skipped { key: document.key.clone(), why });
        }
        self.unreadable.remove(&document.key);
        Ok(())
    }

    /// Forgets a removed document.
    pub fn remove(&mut self, key: &Key) {
        match key.kind.as_str() {
            NODE => drop(self.nodes.remove(&key.name)),
            NAMESPACE => drop(self.namespaces.remove(&key.name)),
            DEPLOYMENT => drop(self.deployments.remove(key)),
            REPLICA_SET => drop(self.replica_sets.remove(key)),
            POD => drop(self.pods.remove(key)),
            EVENT => drop(self.events.remove(key)),
            PRIORITY_CLASS => drop(self.priority_classes.remove(&key.name)),
            CLAIM => {
                self.claims.remove(key);
                self.others.remove(key);
            }
            _ => self.others.remove(key),
        }
        self.unreadable.remove(key);
    }

    /// Whether a change of this document can give a plan something to do. Most documents are only
    /// known in case their namespace or an owner goes.
    pub fn is_planned(&self, key: &Key) -> bool {
        match key.kind.as_str() {
            NODE | NAMESPACE | DEPLOYMENT | REPLICA_SET | POD | EVENT | CLAIM | PRIORITY_CLASS => true,
            _ => {
                let ending = |found: &Versioned<Namespace>| found.object.metadata.deletion_timestamp.is_some();
                let owned = self.others.get(key).is_some_and(|other| !other.owners.is_empty());
                owned || self.namespaces.get(&key.namespace).is_some_and(ending)
            }
        }
    }

    /// Store kinds whose documents a view wants.
    pub fn kinds() -> Vec<String> {
        kind::all().iter().map(|kind| kind.store_kind()).collect()
    }

    fn take_in(&mut self, document: &Document) -> Result<(), String> {
        let key = &document.key;
        match key.kind.as_str() {
            NODE => drop(self.nodes.insert(key.name.clone(), object(document)?)),
            NAMESPACE => drop(self.namespaces.insert(key.name.clone(), object(document)?)),
            DEPLOYMENT => drop(self.deployments.insert(key.clone(), object(document)?)),
            REPLICA_SET => drop(self.replica_sets.insert(key.clone(), object(document)?)),
            POD => drop(self.pods.insert(key.clone(), object(document)?)),
            EVENT => drop(self.events.insert(key.clone(), object(document)?)),
            PRIORITY_CLASS => drop(self.priority_classes.insert(key.name.clone(), object(document)?)),
            CLAIM => {
                let claim: Versioned<PersistentVolumeClaim> = object(document)?;
                self.others.insert(key, Other::new(claim.object.metadata.clone(), document.modified));
                self.claims.insert(key.clone(), claim);
            }
            served if kind::stored(served).is_some() => {
                let read: MetadataOnly =
                    serde_json::from_slice(&document.body).map_err(|error| format!("not an object: {error}"))?;
                named(key, &read.metadata)?;
                self.others.insert(key, Other::new(read.metadata, document.modified));
            }
            _ => {}
        }
        Ok(())
    }
}

fn object<T: DeserializeOwned + Metadata<Ty = ObjectMeta>>(document: &Document) -> Result<Versioned<T>, String> {
    let read: T = serde_json::from_slice(&document.body).map_err(|error| format!("not a {}: {error}", T::KIND))?;
    named(&document.key, read.metadata())?;
    Ok(Versioned { object: read, revision: document.modified })
}

fn named(key: &Key, meta: &ObjectMeta) -> Result<(), String> {
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    if meta.name.as_deref() != Some(&key.name) || namespace != key.namespace {
        let name = meta.name.as_deref().unwrap_or_default();
        return Err(format!("calls itself {namespace}/{name}, but is stored as {}/{}", key.namespace, key.name));
    }
    Ok(())
}
