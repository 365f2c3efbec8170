//! The conditions of a pod: a time moves only with its status.

use k8s_openapi::api::core::v1::PodCondition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// What a condition says.
pub(super) struct Saying<'a> {
    pub(super) kind: &'a str,
    pub(super) holds: bool,
    pub(super) reason: Option<&'a str>,
    pub(super) message: Option<String>,
}

/// Says it in place, or adds it.
pub(super) fn say(conditions: &mut Vec<PodCondition>, saying: Saying<'_>, now: &Time) {
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
