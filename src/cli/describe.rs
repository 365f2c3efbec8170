//! `kith describe`: an object in words, what happened to it, and why it is not as it should be.

mod kinds;
mod storage;

use std::fmt::Write as _;

use clap::Args;
use serde_json::Value;

use super::client::Client;
use super::failure::Failure;
use super::output::{raw, span};
use super::target::{self, Namespace, Selectors, Target, items, name_of, namespace_of};
use crate::resource::{Kind, Timestamp, kind};

/// The most events that are shown of an object.
const EVENT_LIMIT: usize = 20;

#[derive(Debug, Args)]
pub(crate) struct DescribeArgs {
    /// TYPE, TYPE NAME, or TYPE/NAME
    #[arg(required = true, value_name = "OBJECT")]
    objects: Vec<String>,
    #[command(flatten)]
    namespace: Namespace,
    /// In all namespaces
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    all_namespaces: bool,
    #[command(flatten)]
    selectors: Selectors,
}

pub(crate) async fn run(args: &DescribeArgs, client: &Client) -> Result<(), Failure> {
    let mut first = true;
    for target in target::parse(&args.objects)? {
        let scope = (!args.all_namespaces).then(|| args.namespace.name());
        for object in read(&target, scope, args, client).await? {
            let related = related(target.kind, &object, client).await?;
            let text = describe(target.kind, &object, &related, now());
            raw(format!("{}{text}", if first { "" } else { "\n\n" }).as_bytes())?;
            first = false;
        }
    }
    Ok(())
}

async fn read(
    target: &Target,
    scope: Option<&str>,
    args: &DescribeArgs,
    client: &Client,
) -> Result<Vec<Value>, Failure> {
    if target.name.is_some() {
        return Ok(vec![client.get(&target.path(scope)).await?]);
    }
    let mut list: Value = client.get(&target.collection(scope, args.selectors.pairs())).await?;
    Ok(items(&mut list))
}

/// What a description needs beside the object itself.
#[derive(Debug, Default)]
struct Related {
    events: Vec<Value>,
    pods: Vec<Value>,
}

async fn related(of: &Kind, object: &Value, client: &Client) -> Result<Related, Failure> {
    let namespace = Some(namespace_of(object)).filter(|name| !name.is_empty());
    let events = Target { kind: &kind::EVENT, name: None };
    let selector = format!("involvedObject.name={},involvedObject.kind={}", name_of(object), of.kind);
    let path = events.collection(namespace, vec![("fieldSelector", selector)]);
    // Events explain; without them the object is still worth showing.
    let mut list: Value = client.get(&path).await.unwrap_or_default();
    let mut related = Related { events: items(&mut list), ..Related::default() };
    related.events.retain(|event| {
        let about = &event["involvedObject"];
        about["name"] == name_of(object) && about["kind"] == of.kind
    });
    related.events.sort_by(|a, b| last_seen(a).cmp(last_seen(b)));
    let pods = Target { kind: &kind::POD, name: None };
    let path = match of.kind {
        "PersistentVolumeClaim" => pods.collection(namespace, Vec::new()),
        "Node" => pods.collection(None, vec![("fieldSelector", format!("spec.nodeName={}", name_of(object)))]),
        "Deployment" | "ReplicaSet" => {
            let labels = object["spec"]["selector"]["matchLabels"].as_object();
            let labels: Vec<_> =
                labels.into_iter().flatten().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or(""))).collect();
            pods.collection(namespace, vec![("labelSelector", labels.join(","))])
        }
        _ => return Ok(related),
    };
    let mut list: Value = client.get(&path).await?;
    related.pods = items(&mut list);
    related.pods.sort_by(|a, b| (namespace_of(a), name_of(a)).cmp(&(namespace_of(b), name_of(b))));
    Ok(related)
}

/// The wall clock.
pub(crate) fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// When an event was last seen, as it says.
pub(super) fn last_seen(event: &Value) -> &str {
    ["lastTimestamp", "eventTime", "firstTimestamp"].iter().find_map(|name| event[*name].as_str()).unwrap_or_default()
}

/// How long ago an event was last seen, and how often it was.
pub(super) fn age(event: &Value, now: Timestamp) -> String {
    let seen = last_seen(event).parse::<jiff::Timestamp>().ok();
    let seen = seen.map(|at| Timestamp(u64::try_from(at.as_millisecond()).unwrap_or(0)));
    let mut age = seen.map_or_else(|| "?".to_owned(), |at| span(now.since(at).as_secs()));
    if let Some(count @ 2..) = event["count"].as_u64() {
        _ = write!(age, " (x{count})");
    }
    age
}

/// The whole description.
fn describe(of: &Kind, object: &Value, related: &Related, now: Timestamp) -> String {
    let mut page = Page::default();
    page.line("Name", name_of(object));
    if of.namespaced {
        page.line("Namespace", namespace_of(object));
    }
    page.map("Labels", &object["metadata"]["labels"]);
    page.map("Annotations", &storage::annotations(object));
    page.line("Created", text(&object["metadata"]["creationTimestamp"]));
    if let Some(owner) = object["metadata"]["ownerReferences"].get(0) {
        page.line("Controlled by", format!("{}/{}", text(&owner["kind"]), text(&owner["name"])));
    }
    match of.kind {
        "Pod" => kinds::pod(&mut page, object),
        "Node" => kinds::node(&mut page, object, &related.pods),
        "Deployment" => kinds::deployment(&mut page, object, &related.pods),
        "ReplicaSet" => kinds::replica_set(&mut page, object, &related.pods),
        "Secret" => storage::secret(&mut page, object),
        "PersistentVolumeClaim" => storage::claim(&mut page, object, &related.pods),
        _ => kinds::generic(&mut page, object),
    }
    page.events(&related.events, now);
    page.text
}

/// A value as a cell: nothing is `<none>`.
fn text(value: &Value) -> String {
    match value {
        Value::Null => "<none>".to_owned(),
        Value::String(text) if text.is_empty() => "<none>".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A page that grows line by line; what it holds is indented by depth.
#[derive(Debug, Default)]
struct Page {
    text: String,
    depth: usize,
}

impl Page {
    /// `Name:   value`, its further lines under its first.
    fn line(&mut self, name: &str, value: impl AsRef<str>) {
        let indent = "  ".repeat(self.depth);
        let width = 18_usize.saturating_sub(indent.len());
        let mut lines = value.as_ref().lines();
        let first = lines.next().unwrap_or_default();
        let head = format!("{name}:");
        _ = writeln!(self.text, "{}", format!("{indent}{head:<width$}{first}").trim_end());
        for line in lines {
            _ = writeln!(self.text, "{:18}{line}", "");
        }
    }

    /// A heading with lines under it.
    fn section(&mut self, name: &str, fill: impl FnOnce(&mut Self)) {
        _ = writeln!(self.text, "{}{name}:", "  ".repeat(self.depth));
        self.depth += 1;
        fill(self);
        self.depth -= 1;
    }

    /// A map as `name=value`, one a line.
    fn map(&mut self, name: &str, value: &Value) {
        let pairs: Vec<_> = value.as_object().into_iter().flatten().map(|(k, v)| format!("{k}={}", text(v))).collect();
        self.line(name, if pairs.is_empty() { "<none>".to_owned() } else { pairs.join("\n") });
    }

    /// A table under a heading.
    fn table(&mut self, name: &str, mut table: super::output::Table) {
        _ = writeln!(self.text, "{name}:");
        for line in table.render().lines() {
            _ = writeln!(self.text, "  {line}");
        }
    }

    fn events(&mut self, events: &[Value], now: Timestamp) {
        if events.is_empty() {
            self.line("Events", "<none>");
            return;
        }
        let mut table = super::output::Table::new(["AGE", "TYPE", "REASON", "FROM", "MESSAGE"]);
        for event in &events[events.len().saturating_sub(EVENT_LIMIT)..] {
            let age = age(event, now);
            let from = event["source"]["component"].as_str().or(event["reportingComponent"].as_str()).unwrap_or("");
            table.row([age, text(&event["type"]), text(&event["reason"]), from.to_owned(), text(&event["message"])]);
        }
        self.table("Events", table);
    }
}

#[cfg(test)]
mod tests;
