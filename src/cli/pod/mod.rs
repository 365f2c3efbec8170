//! What the commands that go into a pod share: which pod is meant, and streams to it.

pub(crate) mod life;
pub(crate) mod streams;
pub(crate) mod terminal;

use serde_json::Value;

use super::client::{Client, escape};
use super::failure::{Code, Failure};
use super::target::{self, Target, items, name_of, title};
use crate::resource::kind;

/// The pod that a command names: POD, pod/NAME, or one of a Deployment's that runs.
pub(crate) async fn find(object: &str, namespace: &str, client: &Client) -> Result<Value, Failure> {
    let words = if object.contains('/') { vec![object.to_owned()] } else { vec!["pod".to_owned(), object.to_owned()] };
    let targets = target::parse(&words)?;
    let [target] = &targets[..] else { return Err(Failure::usage("say one pod")) };
    let found: Value = client.get(&target.path(Some(namespace))).await?;
    if target.kind == &kind::POD {
        return Ok(found);
    }
    let title = title(target.kind, name_of(&found));
    let Some(labels) = found["spec"]["selector"]["matchLabels"].as_object() else {
        return Err(Failure::usage(format!("{title} has no pods")));
    };
    let pairs: Vec<_> = labels.iter().map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or(""))).collect();
    let pods = Target { kind: &kind::POD, name: None };
    let path = pods.collection(Some(namespace), vec![("labelSelector", pairs.join(","))]);
    let mut list: Value = client.get(&path).await?;
    let running = items(&mut list).into_iter().find(|pod| pod["status"]["phase"] == "Running");
    running.ok_or_else(|| {
        Failure::new(Code::Refused, format!("no pod of {title} is running"))
            .hint(format!("kith get pods -n {namespace} shows what they wait for"))
    })
}

/// The path of a pod's subresource.
pub(crate) fn path(pod: &Value, subresource: &str) -> String {
    let text = |name: &str| escape(pod["metadata"][name].as_str().unwrap_or_default());
    format!("/api/v1/namespaces/{}/pods/{}/{subresource}", text("namespace"), text("name"))
}

/// The container that is meant: the named one, or the pod's first, which is said when there are more.
pub(crate) fn container(pod: &Value, named: Option<&str>) -> String {
    let names: Vec<&str> =
        pod["spec"]["containers"].as_array().into_iter().flatten().filter_map(|c| c["name"].as_str()).collect();
    if let Some(named) = named {
        return named.to_owned();
    }
    if names.len() > 1 {
        super::output::note!("{}: in {} of {} (-c)", name_of(pod), names[0], names.join(", "));
    }
    names.first().copied().unwrap_or_default().to_owned()
}
