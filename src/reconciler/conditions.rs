//! The conditions of a pod: a time moves only with its status.

use k8s_openapi::api::core::v1::{PodCondition, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::lifecycle::Case;
use super::roles::Role;
use super::standing::Standing;

/// What a condition says.
struct Saying<'a> {
    kind: &'a str,
    holds: bool,
    reason: Option<&'a str>,
    message: Option<String>,
}

/// Says everything that is known of the pod, in place.
pub(super) fn say_all(case: &Case<'_>, status: &mut PodStatus, standings: &[Standing<'_>], phase: &str, now: &Time) {
    let finished = matches!(phase, "Succeeded" | "Failed");
    let why_finished = match phase {
        "Succeeded" => Some("PodCompleted"),
        "Failed" => Some("PodFailed"),
        _ => None,
    };
    let names = |picked: &dyn Fn(&Standing<'_>) -> bool| {
        let all: Vec<&str> = standings.iter().filter(|one| picked(one)).map(Standing::name).collect();
        all.join(" ")
    };
    let conditions = status.conditions.get_or_insert_default();
    let mut say = |kind, holds, reason, message| say(conditions, Saying { kind, holds, reason, message }, now);
    say("PodScheduled", true, None, None);
    let sheltered = case.sandbox.is_some_and(|sandbox| sandbox.ready().is_some());
    say("PodReadyToStartContainers", sheltered && !finished, None, None);
    let incomplete = names(&|one| matches!(one.part.role, Role::Init | Role::Sidecar) && !one.passed);
    let initialized = incomplete.is_empty() || phase == "Succeeded";
    let message = (!initialized).then(|| format!("containers with incomplete status: [{incomplete}]"));
    let why =
        if initialized { why_finished.filter(|why| *why == "PodCompleted") } else { Some("ContainersNotInitialized") };
    say("Initialized", initialized, why, message);

    let unready = names(&|one| matches!(one.part.role, Role::Sidecar | Role::Main) && !one.ready);
    let ready = unready.is_empty() && !finished;
    let why = if ready { None } else { why_finished.or(Some("ContainersNotReady")) };
    let text = (!unready.is_empty()).then(|| format!("containers with unready status: [{unready}]"));
    say("ContainersReady", ready, why, text.clone());
    let (gates, open) = gates(case);
    match (ready, open) {
        (true, false) => say("Ready", false, Some("ReadinessGatesNotReady"), Some(gates)),
        (ready, _) => say("Ready", ready, why, text),
    }
}

/// Whether every condition that the pod waits for holds, and which do not.
fn gates(case: &Case<'_>) -> (String, bool) {
    let spec = case.pod.pod.spec.as_ref();
    let stored = case.pod.pod.status.as_ref();
    let mut missing = Vec::new();
    for gate in spec.iter().flat_map(|spec| spec.readiness_gates.iter().flatten()) {
        let kind = &gate.condition_type;
        let mut all = stored.iter().flat_map(|status| status.conditions.iter().flatten());
        match all.find(|condition| condition.type_ == *kind).map(|condition| condition.status.as_str()) {
            Some("True") => {}
            Some(status) => {
                missing.push(format!("the status of pod readiness gate {kind:?} is not \"True\", but {status}"));
            }
            None => missing.push(format!("corresponding condition of pod readiness gate {kind:?} does not exist.")),
        }
    }
    (missing.join(", "), missing.is_empty())
}

/// Says it in place, or adds it.
fn say(conditions: &mut Vec<PodCondition>, saying: Saying<'_>, now: &Time) {
    let status = if saying.holds { "True" } else { "False" };
    let stored = conditions.iter().position(|condition| condition.type_ == saying.kind);
    let since = stored
        .map(|index| &conditions[index])
        .filter(|stored| stored.status == status)
        .and_then(|stored| stored.last_transition_time.clone());
    let condition = PodCondition {
        type_: saying.kind.to_owned(),
        status: status.to_owned(),
        reason: saying.reason.map(str::to_owned),
        message: saying.message,
        last_transition_time: since.or_else(|| Some(now.clone())),
        ..PodCondition::default()
    };
    match stored {
        Some(index) => conditions[index] = condition,
        None => conditions.push(condition),
    }
}
