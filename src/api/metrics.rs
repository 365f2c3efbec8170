//! `metrics.k8s.io/v1beta1`: what devices and pods use now. Nothing is gathered in between: each
//! question is answered by the devices that it concerns, which look twice. One that does not answer
//! is left out, as Kubernetes leaves out what it has no figures of.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::StreamExt;
use http_body_util::{BodyExt, Limited};
use serde_json::{Value, json};

use super::Api;
use super::answer::{self, Answer};
use super::ask::Ask;
use super::failure::Failure;
use super::read::object;
use crate::reconciler::container::{ContainerRef, PodRef};
use crate::resource::selector::LabelSelector;
use crate::resource::{kind, meta};
use crate::runtime::{Amount, Usage};
use crate::store::Key;

/// The group and its version.
pub(super) const GROUP: &str = "metrics.k8s.io";
pub(super) const VERSION: &str = "v1beta1";

/// Time between the two looks.
const WINDOW: Duration = Duration::from_secs(1);
/// How long another device may take, and how many are asked at once.
const DEVICE_TIMEOUT: Duration = Duration::from_secs(5);
const AT_ONCE: usize = 16;
/// The most bytes of one device's answer.
const ANSWER_LIMIT: usize = 4 << 20;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Metrics {
    /// `nodes`, `nodes/NAME`
    Nodes { name: String },
    /// `pods`, `namespaces/NAMESPACE/pods`, `namespaces/NAMESPACE/pods/NAME`
    Pods { namespace: String, name: String },
}

impl Metrics {
    /// What a path below the group's version means.
    pub(super) fn parse(rest: &[&str]) -> Option<Self> {
        let text = |text: &str| text.to_owned();
        match rest {
            ["nodes"] => Some(Self::Nodes { name: String::new() }),
            ["nodes", name] => Some(Self::Nodes { name: text(name) }),
            ["pods"] => Some(Self::Pods { namespace: String::new(), name: String::new() }),
            ["namespaces", namespace, "pods"] => Some(Self::Pods { namespace: text(namespace), name: String::new() }),
            ["namespaces", namespace, "pods", name] => {
                Some(Self::Pods { namespace: text(namespace), name: text(name) })
            }
            _ => None,
        }
    }
}

/// The group's resources, for discovery.
pub(super) fn resources() -> Value {
    let entry = |name: &str, kind: &str, namespaced: bool| {
        json!({"name": name, "singularName": "",
        "namespaced": namespaced, "kind": kind, "verbs": ["get", "list"]})
    };
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": format!("{GROUP}/{VERSION}"),
        "resources": [entry("nodes", "NodeMetrics", false), entry("pods", "PodMetrics", true)]})
}

impl Api {
    /// Answers from the devices that are concerned.
    pub(super) async fn metrics(&self, wanted: &Metrics, ask: &Ask) -> Result<Answer, Failure> {
        let own = &self.inner.config.node_name;
        let labels = LabelSelector::parse(ask.query.get("labelSelector"))
            .map_err(|error| Failure::bad_request(format!("labelSelector: {error}")))?;
        // A device that asks wants this device's part alone.
        let devices = if ask.forwarded_by.is_some() { vec![own.clone()] } else { self.concerned(wanted)? };
        let parts: Vec<Vec<Value>> = futures_util::stream::iter(devices)
            .map(|device| async move {
                if device == *own { self.measure(wanted).await } else { self.ask_device(&device, ask).await }
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        let mut items: Vec<Value> = parts.into_iter().flatten().filter(|item| labels.matches_object(item)).collect();
        let place = |item: &Value| (meta::namespace(item).to_owned(), meta::name(item).to_owned());
        items.sort_by_key(place);
        let (list, name, kind) = match wanted {
            Metrics::Nodes { name } => ("NodeMetricsList", name, &kind::NODE),
            Metrics::Pods { name, .. } => ("PodMetricsList", name, &kind::POD),
        };
        if name.is_empty() || ask.forwarded_by.is_some() {
            let whole =
                json!({"kind": list, "apiVersion": format!("{GROUP}/{VERSION}"), "metadata": {}, "items": items});
            return Ok(answer::json(200, &whole));
        }
        let one = items.into_iter().next().ok_or_else(|| Failure::not_found(kind, name))?;
        Ok(answer::json(200, &one))
    }

    /// The devices that have a part of the answer.
    fn concerned(&self, wanted: &Metrics) -> Result<Vec<String>, Failure> {
        if let Metrics::Pods { namespace, name } = wanted
            && !name.is_empty()
        {
            let document = self.replica().get(&Key::new("Pod", namespace, name))?;
            let pod = object(&document.ok_or_else(|| Failure::not_found(&kind::POD, name))?)?;
            let node = meta::text_at(&pod, "spec.nodeName").to_owned();
            return Ok(Some(node).filter(|node| !node.is_empty()).into_iter().collect());
        }
        let only = match wanted {
            Metrics::Nodes { name } => name.as_str(),
            Metrics::Pods { .. } => "",
        };
        let listing = self.replica().list("Node", None)?;
        let names = listing.documents.into_iter().map(|document| document.key.name);
        Ok(names.filter(|name| only.is_empty() || name == only).collect())
    }

    async fn ask_device(&self, device: &str, ask: &Ask) -> Vec<Value> {
        let asked = async {
            let answer = self.forward(device, ask).await.ok()?;
            let body = Limited::new(answer.into_body(), ANSWER_LIMIT).collect().await.ok()?.to_bytes();
            let mut list: Value = serde_json::from_slice(&body).ok()?;
            match list["items"].take() {
                Value::Array(items) => Some(items),
                _ => None,
            }
        };
        let items = tokio::time::timeout(DEVICE_TIMEOUT, asked).await.ok().flatten();
        if items.is_none() {
            tracing::debug!(device, "a device told no metrics");
        }
        items.unwrap_or_default()
    }

    /// What this device and its pods use.
    async fn measure(&self, wanted: &Metrics) -> Vec<Value> {
        let Some(runtime) = &self.inner.config.runtime else { return Vec::new() };
        let Ok(before) = runtime.usage().await else { return Vec::new() };
        tokio::time::sleep(WINDOW).await;
        let Ok(after) = runtime.usage().await else { return Vec::new() };
        let stamp = json!(self.now().to_kubernetes());
        match wanted {
            Metrics::Nodes { .. } => {
                let mut item = draft("NodeMetrics", &stamp);
                item["metadata"]["name"] = json!(self.inner.config.node_name);
                item["usage"] = usage(before.device, after.device);
                vec![item]
            }
            Metrics::Pods { namespace, name } => {
                let fits = |pod: &PodRef| {
                    (namespace.is_empty() || pod.namespace == *namespace) && (name.is_empty() || pod.name == *name)
                };
                let pods = by_pod(&before, &after).into_iter().filter(|(pod, _)| fits(pod));
                pods.map(|(pod, containers)| {
                    let mut item = draft("PodMetrics", &stamp);
                    let key = Key::new("Pod", &pod.namespace, &pod.name);
                    let labels = self.replica().get(&key).ok().flatten().and_then(|found| object(&found).ok());
                    item["metadata"]["name"] = json!(pod.name);
                    item["metadata"]["namespace"] = json!(pod.namespace);
                    item["metadata"]["labels"] = labels.map_or(json!({}), |mut pod| pod["metadata"]["labels"].take());
                    item["containers"] = Value::Array(containers);
                    item
                })
                .collect()
            }
        }
    }
}

fn draft(kind: &str, stamp: &Value) -> Value {
    json!({"kind": kind, "apiVersion": format!("{GROUP}/{VERSION}"), "metadata": {"creationTimestamp": stamp},
        "timestamp": stamp, "window": format!("{}s", WINDOW.as_secs())})
}

/// The containers that were there both times, with what they used meanwhile.
fn by_pod(before: &Usage, after: &Usage) -> BTreeMap<PodRef, Vec<Value>> {
    let earlier: BTreeMap<&ContainerRef, Amount> = before.containers.iter().map(|(one, used)| (one, *used)).collect();
    let mut pods: BTreeMap<PodRef, Vec<Value>> = BTreeMap::new();
    for (container, now) in &after.containers {
        let Some(then) = earlier.get(container) else { continue };
        let entry = json!({"name": container.container, "usage": usage(*then, *now)});
        pods.entry(container.pod.clone()).or_default().push(entry);
    }
    pods
}

fn usage(then: Amount, now: Amount) -> Value {
    let rate = u128::from(now.cpu.saturating_sub(then.cpu)) * 1000 / WINDOW.as_millis().max(1);
    json!({"cpu": format!("{rate}n"), "memory": format!("{}Ki", now.memory / 1024)})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_rates() {
        assert_eq!(Metrics::parse(&["nodes", "d1"]), Some(Metrics::Nodes { name: "d1".into() }));
        let pods = Metrics::Pods { namespace: "a".into(), name: String::new() };
        assert_eq!(Metrics::parse(&["namespaces", "a", "pods"]), Some(pods));
        assert_eq!(Metrics::parse(&["namespaces", "a", "nodes"]), None);
        let (then, now) = (Amount { cpu: 5, memory: 0 }, Amount { cpu: 250_000_005, memory: 3 << 20 });
        assert_eq!(usage(then, now), json!({"cpu": "250000000n", "memory": "3072Ki"}));
        assert_eq!(usage(now, then)["cpu"], "0n");
    }
}
