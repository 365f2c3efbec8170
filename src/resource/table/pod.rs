//! A pod's row. The status column follows kubectl.

use serde_json::Value;

use super::ago;
use crate::resource::meta;
use crate::resource::time::Timestamp;

/// What the containers of a pod say together.
struct Summary {
    reason: String,
    ready: usize,
    restarts: i64,
    last_restart: String,
}

/// The word in the status column: `Running`, `CrashLoopBackOff`, `Completed`, `Terminating`.
pub fn status(pod: &Value) -> String {
    summarize(pod).reason
}

/// Ready, status, restarts.
pub(super) fn progress(pod: &Value, now: Timestamp) -> [String; 3] {
    let summary = summarize(pod);
    let sidecars = meta::list_at(pod, "spec.initContainers").iter().filter(|container| is_sidecar(container));
    let total = meta::list_at(pod, "spec.containers").len() + sidecars.count();
    let restarts = if summary.restarts > 0 && !summary.last_restart.is_empty() {
        format!("{} ({} ago)", summary.restarts, ago(&summary.last_restart, now))
    } else {
        summary.restarts.to_string()
    };
    [format!("{}/{total}", summary.ready), summary.reason, restarts]
}

fn summarize(pod: &Value) -> Summary {
    let own_reason = meta::text_at(pod, "status.reason");
    let phase = meta::text_at(pod, "status.phase");
    let mut reason = if own_reason.is_empty() { phase } else { own_reason }.to_owned();
    let init = initializing(pod);
    let (mut ready, mut restarts, mut running) = (init.ready, init.sidecar_restarts, false);
    let mut last_restart = init.last_restart;
    let initialized = condition(pod, "Initialized");
    if let Some(word) = init.word.filter(|_| !initialized) {
        reason = word;
        restarts = init.restarts;
    } else {
        for container in meta::list_at(pod, "status.containerStatuses").iter().rev() {
            restarts += meta::integer_at(container, "restartCount").unwrap_or(0);
            last_restart = last_restart.max(last_end(container));
            let waiting = meta::text_at(container, "state.waiting.reason");
            let ended = meta::at(container, "state.terminated");
            if !waiting.is_empty() {
                waiting.clone_into(&mut reason);
            } else if let Some(ended) = ended {
                reason = ending(ended);
            } else if container.get("ready") == Some(&Value::Bool(true))
                && meta::at(container, "state.running").is_some()
            {
                running = true;
                ready += 1;
            }
        }
    }
    if reason == "Completed" && running {
        (if condition(pod, "Ready") { "Running" } else { "NotReady" }).clone_into(&mut reason);
    }
    if meta::is_deleting(pod) {
        (if own_reason == "NodeLost" { "Unknown" } else { "Terminating" }).clone_into(&mut reason);
    }
    Summary { reason, ready, restarts, last_restart: last_restart.to_owned() }
}

/// What the init containers of a pod say.
struct Initializing<'a> {
    /// The status column while they are not through: `Init:1/3`.
    word: Option<String>,
    ready: usize,
    restarts: i64,
    sidecar_restarts: i64,
    last_restart: &'a str,
}

fn initializing(pod: &Value) -> Initializing<'_> {
    let specs = meta::list_at(pod, "spec.initContainers");
    let mut found = Initializing { word: None, ready: 0, restarts: 0, sidecar_restarts: 0, last_restart: "" };
    for (index, container) in meta::list_at(pod, "status.initContainerStatuses").iter().enumerate() {
        let name = meta::text_at(container, "name");
        let sidecar = specs.iter().any(|spec| meta::text_at(spec, "name") == name && is_sidecar(spec));
        let count = meta::integer_at(container, "restartCount").unwrap_or(0);
        found.restarts += count;
        found.last_restart = found.last_restart.max(last_end(container));
        if sidecar {
            found.sidecar_restarts += count;
        }
        let ended = meta::at(container, "state.terminated");
        let waiting = meta::text_at(container, "state.waiting.reason");
        if ended.is_some_and(|ended| meta::integer_at(ended, "exitCode") == Some(0)) {
            continue;
        }
        if sidecar && container.get("started") == Some(&Value::Bool(true)) {
            found.ready += usize::from(container.get("ready") == Some(&Value::Bool(true)));
            continue;
        }
        found.word = Some(match ended {
            Some(ended) => format!("Init:{}", ending(ended)),
            None if !waiting.is_empty() && waiting != "PodInitializing" => format!("Init:{waiting}"),
            None => format!("Init:{index}/{}", specs.len()),
        });
        break;
    }
    found
}

fn is_sidecar(container: &Value) -> bool {
    meta::text_at(container, "restartPolicy") == "Always"
}

fn last_end(container: &Value) -> &str {
    meta::text_at(container, "lastState.terminated.finishedAt")
}

fn condition(pod: &Value, kind: &str) -> bool {
    meta::list_at(pod, "status.conditions").iter().any(|one| one["type"] == kind && one["status"] == "True")
}

fn ending(ended: &Value) -> String {
    let reason = meta::text_at(ended, "reason");
    if !reason.is_empty() {
        return reason.to_owned();
    }
    match meta::integer_at(ended, "signal") {
        Some(signal) if signal != 0 => format!("Signal:{signal}"),
        _ => format!("ExitCode:{}", meta::integer_at(ended, "exitCode").unwrap_or(0)),
    }
}
