//! What is said about each kind. A reason why something is not as it should be stands under
//! `Why not:`, in front of the events.

use serde_json::Value;

use super::{Page, storage, text};
use crate::cli::output::Table;
use crate::cli::target::{name_of, namespace_of};
use crate::resource::table::pod_status;

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn found<'a>(list: &'a Value, key: &str, wanted: &str) -> Option<&'a Value> {
    list.as_array()?.iter().find(|item| item[key] == wanted)
}

pub(super) fn pod(page: &mut Page, pod: &Value) {
    let (spec, status) = (&pod["spec"], &pod["status"]);
    page.line("Node", text(&spec["nodeName"]));
    page.line(
        "Status",
        if pod["metadata"]["deletionTimestamp"].is_string() {
            "Terminating".to_owned()
        } else {
            text(&status["phase"])
        },
    );
    page.line("IP", text(&status["podIP"]));
    page.line("Restart policy", text(&spec["restartPolicy"]));
    if !spec["nodeSelector"].is_null() {
        page.map("Node selector", &spec["nodeSelector"]);
    }
    for (title, containers, statuses) in [
        ("Init containers", "initContainers", "initContainerStatuses"),
        ("Containers", "containers", "containerStatuses"),
        ("Ephemeral containers", "ephemeralContainers", "ephemeralContainerStatuses"),
    ] {
        if list(&spec[containers]).next().is_none() {
            continue;
        }
        page.section(title, |page| {
            for container in list(&spec[containers]) {
                let status = found(&status[statuses], "name", name_of_container(container));
                page.section(name_of_container(container), |page| one_container(page, container, status));
            }
        });
    }
    storage::volumes(page, spec);
    conditions(page, status);
    why_not(page, &pod_reasons(pod));
}

fn name_of_container(container: &Value) -> &str {
    container["name"].as_str().unwrap_or_default()
}

fn one_container(page: &mut Page, container: &Value, status: Option<&Value>) {
    page.line("Image", text(&container["image"]));
    for (name, key) in [("Command", "command"), ("Args", "args")] {
        let words: Vec<_> = list(&container[key]).map(text).collect();
        if !words.is_empty() {
            page.line(name, words.join(" "));
        }
    }
    let ports: Vec<_> = list(&container["ports"])
        .map(|port| format!("{}/{}", text(&port["containerPort"]), port["protocol"].as_str().unwrap_or("TCP")))
        .collect();
    if !ports.is_empty() {
        page.line("Ports", ports.join(", "));
    }
    for (name, key) in [("Requests", "requests"), ("Limits", "limits")] {
        let amounts: Vec<_> = container["resources"][key]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(resource, amount)| format!("{resource} {}", text(amount)))
            .collect();
        if !amounts.is_empty() {
            page.line(name, amounts.join(", "));
        }
    }
    for (name, key) in [("Startup", "startupProbe"), ("Liveness", "livenessProbe"), ("Readiness", "readinessProbe")] {
        if container[key].is_object() {
            page.line(name, probe(&container[key]));
        }
    }
    let env: Vec<_> = list(&container["env"]).map(variable).collect();
    if !env.is_empty() {
        page.line("Environment", env.join("\n"));
    }
    storage::mounts(page, container);
    let Some(status) = status else {
        page.line("State", "not started");
        return;
    };
    page.line("State", state(&status["state"]));
    if status["lastState"].as_object().is_some_and(|last| !last.is_empty()) {
        page.line("Last state", state(&status["lastState"]));
    }
    page.line("Ready", text(&status["ready"]));
    page.line("Restarts", text(&status["restartCount"]));
    page.line("Container id", text(&status["containerID"]));
}

/// A probe in one line, as kubectl has it.
fn probe(probe: &Value) -> String {
    let seconds = |key: &str, default: i64| probe[key].as_i64().unwrap_or(default);
    let does = ["exec", "httpGet", "tcpSocket", "grpc"].iter().find(|name| probe[**name].is_object());
    let what = match does.copied() {
        Some("exec") => format!("exec {:?}", list(&probe["exec"]["command"]).map(text).collect::<Vec<_>>()),
        Some("httpGet") => {
            let ask = &probe["httpGet"];
            let scheme = ask["scheme"].as_str().unwrap_or("HTTP").to_lowercase();
            let host = ask["host"].as_str().unwrap_or_default();
            format!("http-get {scheme}://{host}:{}{}", text(&ask["port"]), ask["path"].as_str().unwrap_or("/"))
        }
        Some("tcpSocket") => format!("tcp-socket :{}", text(&probe["tcpSocket"]["port"])),
        _ => format!("grpc :{}", text(&probe["grpc"]["port"])),
    };
    format!(
        "{what} delay={}s timeout={}s period={}s #success={} #failure={}",
        seconds("initialDelaySeconds", 0),
        seconds("timeoutSeconds", 1),
        seconds("periodSeconds", 10),
        seconds("successThreshold", 1),
        seconds("failureThreshold", 3)
    )
}

fn variable(variable: &Value) -> String {
    let name = text(&variable["name"]);
    if let Some(value) = variable["value"].as_str() {
        return format!("{name}={value}");
    }
    let from = &variable["valueFrom"];
    let field = &from["fieldRef"]["fieldPath"];
    if field.is_string() { format!("{name}=({})", text(field)) } else { format!("{name}=({from})") }
}

/// A container's state as a sentence.
pub(super) fn state(state: &Value) -> String {
    let Some((name, detail)) = state.as_object().and_then(|all| all.iter().next()) else {
        return "unknown".to_owned();
    };
    let reason = detail["reason"].as_str().map(|reason| format!(", {reason}")).unwrap_or_default();
    let message = detail["message"].as_str().filter(|m| !m.is_empty()).map(|m| format!(": {m}")).unwrap_or_default();
    match &name[..] {
        "running" => format!("Running since {}", text(&detail["startedAt"])),
        "terminated" => {
            let signal = detail["signal"].as_i64().filter(|s| *s != 0).map(|s| format!(" (signal {s})"));
            let code = text(&detail["exitCode"]);
            let at = detail["finishedAt"].as_str().map(|at| format!(" at {at}")).unwrap_or_default();
            format!("Terminated with exit code {code}{}{reason}{at}{message}", signal.unwrap_or_default())
        }
        "waiting" => format!("Waiting{reason}{message}"),
        other => other.to_owned(),
    }
}

/// Why a pod does not run, or is not ready.
pub(super) fn pod_reasons(pod: &Value) -> Vec<String> {
    let status = &pod["status"];
    let mut reasons = Vec::new();
    if let Some(message) = status["message"].as_str().filter(|m| !m.is_empty()) {
        reasons.push(message.to_owned());
    }
    if status["phase"] == "Succeeded" {
        return reasons;
    }
    for condition in list(&status["conditions"]).filter(|condition| condition["status"] == "False") {
        reasons.extend(condition_reason(condition));
    }
    for container in list(&status["initContainerStatuses"]).chain(list(&status["containerStatuses"])) {
        let waits = &container["state"]["waiting"];
        let ended = &container["state"]["terminated"];
        // It waits for the init containers, which say why.
        let its_turn = waits["reason"] != "PodInitializing";
        if (waits.is_object() && its_turn) || (ended.is_object() && ended["exitCode"] != 0) {
            reasons.push(format!("container {}: {}", text(&container["name"]), state(&container["state"])));
        }
    }
    reasons.dedup();
    reasons
}

fn condition_reason(condition: &Value) -> Option<String> {
    let said = ["message", "reason"].iter().find_map(|key| condition[*key].as_str().filter(|text| !text.is_empty()))?;
    Some(format!("{}: {said}", text(&condition["type"])))
}

fn why_not(page: &mut Page, reasons: &[String]) {
    if !reasons.is_empty() {
        page.line("Why not", reasons.join("\n"));
    }
}

fn conditions(page: &mut Page, status: &Value) {
    let mut table = Table::new(["TYPE", "STATUS", "REASON", "MESSAGE"]);
    let mut any = false;
    for condition in list(&status["conditions"]) {
        any = true;
        table.row(["type", "status", "reason", "message"].map(|key| match condition[key].as_str() {
            Some(said) => said.to_owned(),
            None => String::new(),
        }));
    }
    if any {
        page.table("Conditions", table);
    }
}

pub(super) fn node(page: &mut Page, node: &Value, pods: &[Value]) {
    let (spec, status) = (&node["spec"], &node["status"]);
    page.line("Schedulable", if spec["unschedulable"] == true { "no, it is cordoned" } else { "yes" });
    let addresses: Vec<_> =
        list(&status["addresses"]).map(|a| format!("{} {}", text(&a["type"]), text(&a["address"]))).collect();
    page.line("Addresses", if addresses.is_empty() { "<none>".to_owned() } else { addresses.join("\n") });
    let system = &status["nodeInfo"];
    page.line("System", format!("{}, kernel {}", text(&system["osImage"]), text(&system["kernelVersion"])));
    page.line("Agent", text(&system["kubeletVersion"]));
    for (name, key) in [("Capacity", "capacity"), ("Allocatable", "allocatable")] {
        let amounts: Vec<_> =
            status[key].as_object().into_iter().flatten().map(|(k, v)| format!("{k} {}", text(v))).collect();
        page.line(name, amounts.join(", "));
    }
    conditions(page, status);
    let ready = found(&status["conditions"], "type", "Ready");
    let reason = ready.filter(|ready| ready["status"] != "True").and_then(condition_reason);
    why_not(page, reason.as_slice());
    pod_table(page, pods);
}

pub(super) fn deployment(page: &mut Page, deployment: &Value, pods: &[Value]) {
    let (spec, status) = (&deployment["spec"], &deployment["status"]);
    page.map("Selector", &spec["selector"]["matchLabels"]);
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    page.line(
        "Replicas",
        format!(
            "{} wanted, {} up to date, {} ready, {} available",
            spec["replicas"].as_u64().unwrap_or(1),
            number(&status["updatedReplicas"]),
            number(&status["readyReplicas"]),
            number(&status["availableReplicas"])
        ),
    );
    page.line("Strategy", text(&spec["strategy"]["type"]));
    template(page, &spec["template"]);
    conditions(page, status);
    workload_reasons(page, status, pods);
}

pub(super) fn replica_set(page: &mut Page, set: &Value, pods: &[Value]) {
    let (spec, status) = (&set["spec"], &set["status"]);
    page.map("Selector", &spec["selector"]["matchLabels"]);
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    page.line(
        "Replicas",
        format!(
            "{} wanted, {} exist, {} ready",
            spec["replicas"].as_u64().unwrap_or(1),
            number(&status["replicas"]),
            number(&status["readyReplicas"])
        ),
    );
    template(page, &spec["template"]);
    conditions(page, status);
    workload_reasons(page, status, pods);
}

fn template(page: &mut Page, template: &Value) {
    page.section("Pod template", |page| {
        page.map("Labels", &template["metadata"]["labels"]);
        for container in list(&template["spec"]["containers"]) {
            page.line(name_of_container(container), text(&container["image"]));
        }
    });
}

fn workload_reasons(page: &mut Page, status: &Value, pods: &[Value]) {
    let mut reasons: Vec<_> = list(&status["conditions"])
        .filter(|condition| {
            // A failure condition is bad news when it holds, the others when they do not.
            condition["status"] == if condition["type"] == "ReplicaFailure" { "True" } else { "False" }
        })
        .filter_map(condition_reason)
        .collect();
    for pod in pods {
        reasons.extend(pod_reasons(pod).into_iter().map(|reason| format!("pod {}: {reason}", name_of(pod))));
    }
    why_not(page, &reasons);
    pod_table(page, pods);
}

fn pod_table(page: &mut Page, pods: &[Value]) {
    if pods.is_empty() {
        page.line("Pods", "<none>");
        return;
    }
    let mut table = Table::new(["NAMESPACE", "NAME", "STATUS", "NODE"]);
    for pod in pods {
        let cells = [pod_status(pod), text(&pod["spec"]["nodeName"])];
        table.row([namespace_of(pod).to_owned(), name_of(pod).to_owned()].into_iter().chain(cells));
    }
    page.table("Pods", table);
}

/// Everything but the metadata, as YAML.
pub(super) fn generic(page: &mut Page, object: &Value) {
    let rest: serde_json::Map<String, Value> = object
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(key, _)| !["apiVersion", "kind", "metadata"].contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    if !rest.is_empty() {
        page.text.push_str(&serde_saphyr::to_string(&rest).unwrap_or_else(|_| Value::Object(rest).to_string()));
    }
}
