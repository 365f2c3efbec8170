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
    let total = meta::list_at(pod, "spec.containers").len();
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
    let (mut ready, mut restarts, mut running) = (0, 0, false);
    let mut last_restart = "";
    for container in meta::list_at(pod, "status.containerStatuses").iter().rev() {
        restarts += meta::integer_at(container, "restartCount").unwrap_or(0);
        last_restart = last_restart.max(meta::text_at(container, "lastState.terminated.finishedAt"));
        let waiting = meta::text_at(container, "state.waiting.reason");
        let ended = meta::at(container, "state.terminated");
        if !waiting.is_empty() {
            waiting.clone_into(&mut reason);
        } else if let Some(ended) = ended {
            reason = ending(ended);
        } else if container.get("ready") == Some(&Value::Bool(true)) && meta::at(container, "state.running").is_some() {
            running = true;
            ready += 1;
        }
    }
    if reason == "Completed" && running {
        let condition = |condition: &Value| condition["type"] == "Ready" && condition["status"] == "True";
        let all = meta::list_at(pod, "status.conditions").iter().any(condition);
        (if all { "Running" } else { "NotReady" }).clone_into(&mut reason);
    }
    if meta::is_deleting(pod) {
        (if own_reason == "NodeLost" { "Unknown" } else { "Terminating" }).clone_into(&mut reason);
    }
    Summary { reason, ready, restarts, last_restart: last_restart.to_owned() }
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
