mod claims;
mod controllers;
mod devices;
mod placing;
mod properties;

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::fleet::{DEPLOYMENT, EVENT, NAMESPACE, NODE, POD, REPLICA_SET};
use super::*;
use crate::store::{Document, Outcome, Write};

const NOW: Timestamp = Timestamp(1_800_000_000_000);

/// Small fleets to plan for.
struct Stage {
    rehearsal: Rehearsal,
    now: Timestamp,
}

impl Stage {
    fn with_nodes(names: &[&str]) -> Self {
        let mut stage = Self { rehearsal: Rehearsal::new(Fleet::default()), now: NOW };
        stage.rehearsal.fleet.leader_for = Duration::from_hours(1);
        for name in names {
            stage.rehearsal.fleet.members.insert((*name).to_owned());
            stage.hear(name);
            stage.put(&node(name, "1", "512Mi"));
        }
        stage
    }

    fn put(&mut self, object: &Value) -> Key {
        let key = key_of(object);
        let write = Write::Put { key: key.clone(), body: serde_json::to_vec(object).unwrap() };
        let outcome = self.rehearsal.apply(&Batch { checks: vec![], writes: vec![write] });
        assert!(matches!(outcome, Outcome::Applied { .. }));
        assert!(!self.rehearsal.fleet.unreadable.contains(&key), "{key} can not be read");
        key
    }

    fn edit(&mut self, key: &Key, change: impl FnOnce(&mut Value)) {
        let mut object = match key.kind.as_str() {
            DEPLOYMENT => serde_json::to_value(&self.rehearsal.fleet.deployments[key].object),
            POD => serde_json::to_value(&self.rehearsal.fleet.pods[key].object),
            NODE => serde_json::to_value(&self.rehearsal.fleet.nodes[&key.name].object),
            NAMESPACE => serde_json::to_value(&self.rehearsal.fleet.namespaces[&key.name].object),
            other => unreachable!("{other}"),
        }
        .unwrap();
        change(&mut object);
        self.put(&object);
    }

    fn delete(&mut self, key: &Key) {
        self.rehearsal.apply(&Batch { checks: vec![], writes: vec![Write::Delete { key: key.clone() }] });
    }

    fn hear(&mut self, name: &str) {
        let heard = Liveness { silent_for: Duration::from_millis(100), asked_for: None };
        self.rehearsal.fleet.liveness.insert(name.to_owned(), heard);
    }

    fn silence(&mut self, name: &str, seconds: u64) {
        let silent = Liveness { silent_for: Duration::from_secs(seconds), asked_for: None };
        self.rehearsal.fleet.liveness.insert(name.to_owned(), silent);
    }

    /// Plans and applies to the end; a second look must find nothing to do.
    fn settle(&mut self) -> Plan {
        let (last, steps, settled) = self.rehearsal.settle(self.now, true);
        assert!(settled, "no end after {steps:#?}");
        assert_eq!(last.batches, [], "an end with batches left, after {steps:#?}");
        last
    }

    fn plan(&self) -> Plan {
        plan(&self.rehearsal.fleet, self.now)
    }

    fn pods(&self) -> Vec<(&Key, &Pod)> {
        self.rehearsal.fleet.pods.iter().map(|(key, pod)| (key, &pod.object)).collect()
    }

    /// Active pods on each node, in the order of names; unbound ones under `-`.
    fn spread(&self) -> String {
        let mut counts: std::collections::BTreeMap<&str, usize> = std::collections::BTreeMap::new();
        for (_, pod) in self.pods().into_iter().filter(|(_, pod)| pods::is_active(pod)) {
            *counts.entry(pods::node_of(pod).unwrap_or("-")).or_default() += 1;
        }
        counts.iter().map(|(node, count)| format!("{node}:{count}")).collect::<Vec<_>>().join(" ")
    }

    fn events(&self, reason: &str) -> usize {
        let all = self.rehearsal.fleet.events.values();
        all.filter(|event| event.object.reason.as_deref() == Some(reason)).count()
    }
}

fn key_of(object: &Value) -> Key {
    let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
    let kind = text("/kind");
    let group = text("/apiVersion").split_once('/').map(|(group, _)| format!("{group}/")).unwrap_or_default();
    Key::new(format!("{group}{kind}"), text("/metadata/namespace"), text("/metadata/name"))
}

fn node(name: &str, cpu: &str, memory: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "uid": format!("node-{name}"), "labels": {"kubernetes.io/hostname": name}},
        "status": {"allocatable": {"cpu": cpu, "memory": memory, "pods": "20"}}})
}

fn template(image: &str) -> Value {
    json!({"metadata": {"labels": {"app": "web"}},
        "spec": {"restartPolicy": "Always", "hostNetwork": true, "terminationGracePeriodSeconds": 30,
            "containers": [{"name": "web", "image": image, "resources": {"requests": {"cpu": "50m", "memory": "16Mi"}}}]}})
}

fn deployment(replicas: u32, template: &Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "default", "uid": "deployment-web", "generation": 1},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": template}})
}

fn bare_pod(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "uid": format!("pod-{name}")}, "spec": spec})
}
