//! The door for fuzzers: every decoder of bytes that come from outside, by name. It exists for
//! tests and for `fuzz/` only, and is no part of the library's interface.
//!
//! A target takes any bytes. It panics when a decoder breaks a promise: it panics itself, it loses
//! or changes something on the way through bytes and back, or it writes where it must not.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::planner::{self, Fleet, Liveness};
use crate::reconciler::container::Namespace;
use crate::reconciler::sandbox::{ObservedSandbox, ReadySandbox, SandboxState};
use crate::reconciler::{self, ImageState, NodeContext, Observed, TargetPod};
use crate::resource::kind::{self, Kind};
use crate::resource::{ImageConfig, Timestamp};
use crate::store::{Document, Key};
use crate::{agent, api, consensus, identity, images, resource, storage, store, transport, upgrade};

/// A decoder and what is promised of it.
pub struct Target {
    /// Names its folder in `fuzz/corpus`.
    pub name: &'static str,
    /// Takes any bytes.
    pub run: fn(&[u8]),
}

const fn target(name: &'static str, run: fn(&[u8])) -> Target {
    Target { name, run }
}

/// All of them.
pub const TARGETS: &[Target] = &[
    target("archive", images::fuzz::archive),
    target("certificate", certificate),
    target("config", config),
    target("entry", storage::fuzz::entry),
    target("files", identity::fuzz::files),
    target("frame", transport::fuzz::frame),
    target("layer", images::fuzz::layer),
    target("manifest", manifest),
    target("message", messages),
    target("registry", images::fuzz::registry),
    target("request", request),
    target("spdy", api::fuzz::spdy),
    target("snapshot", storage::fuzz::snapshot),
    target("token", identity::fuzz::token),
    target("transaction", store::fuzz::transaction),
    target("upgrade", upgrades),
    target("wal", storage::fuzz::wal),
    target("words", words),
    target("zstd", images::fuzz::zstd),
];

/// The target of a name.
pub fn find(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// What peers ask and answer, and what joiners do.
fn messages(bytes: &[u8]) {
    consensus::fuzz::message(bytes);
    transport::fuzz::join(bytes);
}

/// Programs from outside, what is written down of them, and what devices ask each other about them.
fn upgrades(bytes: &[u8]) {
    upgrade::fuzz::upgrade(bytes);
    agent::fuzz::question(bytes);
}

/// Certificates of devices and of users.
fn certificate(bytes: &[u8]) {
    transport::fuzz::certificate(bytes);
    let _ = identity::client_user(&bytes.into());
}

/// `agent.toml`: what it accepts it writes and accepts again.
fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let path = std::path::Path::new("agent.toml");
    if let Ok(config) = crate::config::Config::parse(path, text) {
        let written = toml::to_string(&config).unwrap_or_default();
        assert_eq!(crate::config::Config::parse(path, &written).ok(), Some(config), "{written}");
    }
}

/// YAML manifests, as the command line and the API read them.
fn manifest(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Err(error) = resource::manifest::parse(text, "fuzz") {
        // The message may quote the text, and must not fail at it.
        let _ = error.to_string();
    }
    let _ = resource::manifest::value(text, "fuzz");
}

/// Requests to the API. What is admitted is planned for by a leader and decided on by a device: an
/// object that passes the door breaks nothing behind it.
fn request(bytes: &[u8]) {
    let Some((kind, object)) = api::fuzz::admitted(bytes) else { return };
    planned(kind, &object);
    if kind.kind == "Pod" {
        decided(&object);
    }
}

const NOW: Timestamp = Timestamp(1_800_000_000_000);

/// A leader finds the object in its state, plans, and finds what it wrote.
fn planned(kind: &Kind, object: &Value) {
    let node = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "d1"},
        "status": {"capacity": {"cpu": "4", "memory": "1Gi", "pods": "110"},
                   "allocatable": {"cpu": "4", "memory": "1Gi", "pods": "110"}},
    });
    let mut fleet = Fleet { leader_for: Duration::from_hours(1), ..Fleet::default() };
    fleet.members.insert("d1".into());
    fleet.liveness.insert("d1".into(), Liveness { silent_for: Duration::ZERO, asked_for: None });
    let document = |kind: &Kind, object: &Value| {
        let text = |name: &str| object["metadata"][name].as_str().unwrap_or_default().to_owned();
        let key = Key::new(kind.store_kind(), text("namespace"), text("name"));
        Document { key, body: object.to_string().into_bytes(), created: 1, modified: 1 }
    };
    let _ = fleet.put(&document(&kind::NODE, &node));
    fleet.put(&document(kind, object)).unwrap_or_else(|why| panic!("an admitted object is unreadable: {why:?}"));
    let mut rehearsal = planner::Rehearsal::new(fleet);
    let _ = rehearsal.settle(NOW, true);
}

/// A device to which the pod is bound, with its image and without.
fn decided(object: &Value) {
    let Ok(pod) = serde_json::from_value::<Pod>(object.clone()) else { return };
    let _ = reconciler::configmaps_needed(&pod);
    let ready = ImageState::Ready { config: ImageConfig::default(), id: "sha256:0".into() };
    for state in [ready, ImageState::Absent] {
        let images = reconciler::images_needed(&pod).into_iter().map(|name| (name, state.clone())).collect();
        let target = reconciler::Target {
            node: NodeContext { name: "d1".into(), ip: "10.0.0.1".into(), memory: 1 << 30 },
            pods: vec![TargetPod { pod: pod.clone(), revision: 1 }],
            images,
            ..reconciler::Target::default()
        };
        let mut observed = Observed::default();
        let decision = reconciler::diff(&target, &observed, NOW);
        // The same once what its containers share is there.
        observed.sandboxes = decision.actions.into_iter().filter_map(sheltered).collect();
        let _ = reconciler::diff(&target, &observed, NOW);
    }
}

fn sheltered(action: reconciler::Action) -> Option<ObservedSandbox> {
    let reconciler::Action::MakeSandbox { spec, .. } = action else { return None };
    let ready = ReadySandbox {
        folder: "/run/kith/pods/x".into(),
        hostname: spec.hostname,
        address: None,
        network: Namespace::Host,
        ipc: Namespace::Own,
        uts: Namespace::Own,
        users: None,
    };
    Some(ObservedSandbox { pod: spec.pod, state: SandboxState::Ready(ready) })
}

/// Small texts with a grammar, one in each line.
fn words(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for word in text.split('\n') {
        resource::fuzz::word(word);
        images::fuzz::name(word);
    }
}

#[cfg(test)]
mod tests;
