//! The columns of each kind, and how an object fills them.

use serde_json::{Value, json};

use super::{ago, pod};
use crate::resource::kind::Kind;
use crate::resource::time::Timestamp;
use crate::resource::{claim, meta};

/// One column.
#[derive(Debug, PartialEq, Eq)]
pub struct Column {
    /// Its heading.
    pub name: &'static str,
    /// `string` or `integer`.
    pub form: &'static str,
    /// What it shows.
    pub about: &'static str,
    /// Whether it is shown only when the user asks for wide output.
    pub wide: bool,
}

const fn text(name: &'static str, about: &'static str) -> Column {
    Column { name, form: "string", about, wide: false }
}

const fn number(name: &'static str, about: &'static str) -> Column {
    Column { name, form: "integer", about, wide: false }
}

const fn wide(name: &'static str, about: &'static str) -> Column {
    Column { name, form: "string", about, wide: true }
}

const NAME: Column = text("Name", "The object's name.");
const AGE: Column = text("Age", "Time since the object was created.");

static POD: [Column; 9] = [
    NAME,
    text("Ready", "Containers that are ready, of all."),
    text("Status", "Where the pod is in its life, or what holds it up."),
    text("Restarts", "Restarts of its containers, and when the last one was."),
    AGE,
    wide("IP", "The pod's address."),
    wide("Node", "The device that it is bound to."),
    wide("Nominated Node", "The device that it may be bound to."),
    wide("Readiness Gates", "Conditions that it waits for."),
];
static DEPLOYMENT: [Column; 8] = [
    NAME,
    text("Ready", "Pods that are ready, of all that are wanted."),
    number("Up-to-date", "Pods made from the current template."),
    number("Available", "Pods that have been ready long enough."),
    AGE,
    wide("Containers", "Names of the template's containers."),
    wide("Images", "Images of the template's containers."),
    wide("Selector", "Labels that its pods have."),
];
static REPLICA_SET: [Column; 8] = [
    NAME,
    number("Desired", "Pods that are wanted."),
    number("Current", "Pods that exist."),
    number("Ready", "Pods that are ready."),
    AGE,
    wide("Containers", "Names of the template's containers."),
    wide("Images", "Images of the template's containers."),
    wide("Selector", "Labels that its pods have."),
];
static NODE: [Column; 10] = [
    NAME,
    text("Status", "Whether the device is there, and takes pods."),
    text("Roles", "What the device does for the fleet."),
    AGE,
    text("Version", "The agent's version."),
    wide("Internal-IP", "The device's address."),
    wide("External-IP", "The device's address from outside."),
    wide("OS-Image", "The device's operating system."),
    wide("Kernel-Version", "The device's kernel."),
    wide("Container-Runtime", "What runs its containers."),
];
static PRIORITY_CLASS: [Column; 5] = [
    NAME,
    number("Value", "Pods with more of it are placed first and evicted last."),
    text("Global-Default", "Whether pods without a class are of it."),
    AGE,
    text("PreemptionPolicy", "Nothing is ended for a pod that waits."),
];
static NAMESPACE: [Column; 3] = [NAME, text("Status", "Whether it is there to stay."), AGE];
static CONFIG_MAP: [Column; 3] = [NAME, number("Data", "How many keys it has."), AGE];
static SECRET: [Column; 4] = [NAME, text("Type", "What it is for."), number("Data", "How many keys it has."), AGE];
static CLAIM: [Column; 8] = [
    NAME,
    text("Status", "Whether it can be used."),
    text("Volume", "The device that its volume is on."),
    text("Capacity", "Bytes that it asked for; they are not kept back."),
    text("Access Modes", "How pods may use it."),
    text("StorageClass", "It is always a folder of one device."),
    AGE,
    wide("VolumeMode", "It is always a file system."),
];
static EVENT: [Column; 10] = [
    text("Last Seen", "When it happened last."),
    text("Type", "Normal or Warning."),
    text("Reason", "What happened, in a word."),
    text("Object", "To what it happened."),
    wide("Subobject", "To which part of it."),
    wide("Source", "Who saw it."),
    text("Message", "What happened."),
    wide("First Seen", "When it happened first."),
    wide("Count", "How often it happened."),
    wide("Name", "The event's name."),
];

/// The columns of a kind.
pub fn columns(kind: &Kind) -> &'static [Column] {
    match kind.kind {
        "Pod" => &POD,
        "Deployment" => &DEPLOYMENT,
        "ReplicaSet" => &REPLICA_SET,
        "Node" => &NODE,
        "ConfigMap" => &CONFIG_MAP,
        "Secret" => &SECRET,
        "PersistentVolumeClaim" => &CLAIM,
        "Event" => &EVENT,
        "PriorityClass" => &PRIORITY_CLASS,
        _ => &NAMESPACE,
    }
}

/// An object's cells, one for each column of its kind.
pub fn cells(kind: &Kind, object: &Value, now: Timestamp) -> Vec<Value> {
    let name = meta::name(object);
    let age = ago(meta::text(object, "creationTimestamp"), now);
    let count = |path: &str| meta::integer_at(object, path).unwrap_or(0);
    match kind.kind {
        "Pod" => {
            let [ready, status, restarts] = pod::progress(object, now);
            let (ip, node) = (meta::text_at(object, "status.podIP"), meta::text_at(object, "spec.nodeName"));
            let nominated = meta::text_at(object, "status.nominatedNodeName");
            cells_of([name, &ready, &status, &restarts, &age, or_none(ip), or_none(node), or_none(nominated), "<none>"])
        }
        "Deployment" => {
            let ready = format!("{}/{}", count("status.readyReplicas"), count("spec.replicas"));
            let head = vec![
                json!(name),
                json!(ready),
                json!(count("status.updatedReplicas")),
                json!(count("status.availableReplicas")),
                json!(age),
            ];
            [head, template(object)].concat()
        }
        "ReplicaSet" => {
            let head = vec![
                json!(name),
                json!(count("spec.replicas")),
                json!(count("status.replicas")),
                json!(count("status.readyReplicas")),
                json!(age),
            ];
            [head, template(object)].concat()
        }
        "Node" => node(object, name, &age),
        "ConfigMap" => {
            let keys = |field: &str| object.get(field).and_then(Value::as_object).map_or(0, serde_json::Map::len);
            vec![json!(name), json!(keys("data") + keys("binaryData")), json!(age)]
        }
        "Secret" => {
            let keys = object.get("data").and_then(Value::as_object).map_or(0, serde_json::Map::len);
            vec![json!(name), json!(meta::text_at(object, "type")), json!(keys), json!(age)]
        }
        "PersistentVolumeClaim" => claim(object, name, &age),
        "Event" => event(object, name, now),
        "PriorityClass" => {
            let default = object.get("globalDefault") == Some(&Value::Bool(true));
            let policy = meta::text_at(object, "preemptionPolicy");
            vec![json!(name), json!(count("value")), json!(default.to_string()), json!(age), json!(policy)]
        }
        _ => {
            let phase = meta::text_at(object, "status.phase");
            cells_of([name, if phase.is_empty() { "Active" } else { phase }, &age])
        }
    }
}

fn cells_of<const N: usize>(texts: [&str; N]) -> Vec<Value> {
    texts.iter().map(|text| json!(text)).collect()
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { "<none>" } else { text }
}

/// Containers, images, selector.
fn template(object: &Value) -> Vec<Value> {
    let containers = meta::list_at(object, "spec.template.spec.containers");
    let joined =
        |field: &str| containers.iter().map(|container| meta::text_at(container, field)).collect::<Vec<_>>().join(",");
    let labels = meta::at(object, "spec.selector.matchLabels").and_then(Value::as_object);
    let selector: Vec<String> = labels
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    vec![json!(joined("name")), json!(joined("image")), json!(selector.join(","))]
}

fn node(object: &Value, name: &str, age: &str) -> Vec<Value> {
    let ready = meta::list_at(object, "status.conditions").iter().find(|condition| condition["type"] == "Ready");
    let mut status = match ready.map(|condition| meta::text_at(condition, "status")) {
        Some("True") => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if meta::at(object, "spec.unschedulable") == Some(&Value::Bool(true)) {
        status.push_str(",SchedulingDisabled");
    }
    let labels = object.pointer("/metadata/labels").and_then(Value::as_object);
    let roles: Vec<&str> = labels
        .into_iter()
        .flatten()
        .filter_map(|(label, _)| label.strip_prefix("node-role.kubernetes.io/"))
        .filter(|role| !role.is_empty())
        .collect();
    let address = |form: &str| {
        let found = meta::list_at(object, "status.addresses").iter().find(|address| address["type"] == form);
        found.map_or("<none>", |address| meta::text_at(address, "address")).to_owned()
    };
    let known = |field: &str| {
        let text = meta::text_at(object, &format!("status.nodeInfo.{field}"));
        if text.is_empty() { "<unknown>".to_owned() } else { text.to_owned() }
    };
    cells_of([
        name,
        &status,
        or_none(&roles.join(",")),
        age,
        meta::text_at(object, "status.nodeInfo.kubeletVersion"),
        &address("InternalIP"),
        &address("ExternalIP"),
        &known("osImage"),
        &known("kernelVersion"),
        &known("containerRuntimeVersion"),
    ])
}

fn claim(object: &Value, name: &str, age: &str) -> Vec<Value> {
    let annotations = object.pointer("/metadata/annotations");
    let device = annotations.and_then(|all| all.get(claim::SELECTED_NODE)).and_then(Value::as_str).unwrap_or_default();
    let short = |mode: &Value| match mode.as_str() {
        Some("ReadWriteOnce") => "RWO",
        Some("ReadOnlyMany") => "ROX",
        Some("ReadWriteMany") => "RWX",
        Some("ReadWriteOncePod") => "RWOP",
        _ => "",
    };
    let modes: Vec<&str> = meta::list_at(object, "status.accessModes").iter().map(short).collect();
    cells_of([
        name,
        meta::text_at(object, "status.phase"),
        device,
        meta::text_at(object, "status.capacity.storage"),
        &modes.join(","),
        meta::text_at(object, "spec.storageClassName"),
        age,
        meta::text_at(object, "spec.volumeMode"),
    ])
}

fn event(object: &Value, name: &str, now: Timestamp) -> Vec<Value> {
    let first_of = |fields: &[&str]| {
        let found = fields.iter().map(|field| meta::text_at(object, field)).find(|text| !text.is_empty());
        found.unwrap_or_default().to_owned()
    };
    let first = ago(&first_of(&["firstTimestamp", "eventTime", "metadata.creationTimestamp"]), now);
    let last = ago(&first_of(&["series.lastObservedTime", "lastTimestamp", "eventTime", "firstTimestamp"]), now);
    let about = meta::text_at(object, "involvedObject.kind").to_lowercase();
    let target = format!("{about}/{}", meta::text_at(object, "involvedObject.name"));
    let component = first_of(&["source.component", "reportingComponent"]);
    let host = meta::text_at(object, "source.host");
    let source = if host.is_empty() { component } else { format!("{component}, {host}") };
    let count = meta::integer_at(object, "series.count").or_else(|| meta::integer_at(object, "count")).unwrap_or(1);
    cells_of([
        &last,
        meta::text_at(object, "type"),
        meta::text_at(object, "reason"),
        &target,
        meta::text_at(object, "involvedObject.fieldPath"),
        &source,
        meta::text_at(object, "message").trim(),
        &first,
        &count.to_string(),
        name,
    ])
}
