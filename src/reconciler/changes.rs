//! Events for what a new status says that the stored one did not.

use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, PodStatus};

use super::Action;
use super::lifecycle::Case;
use super::volumes::FAILED_MOUNT;

impl Case<'_> {
    pub(super) fn changes(&self, stored: &PodStatus, fresh: &PodStatus) -> Vec<Action> {
        let mut events = Vec::new();
        for new in statuses(fresh) {
            let old = statuses(stored).find(|old| old.name == new.name);
            let name = &new.name;
            let known = |part: fn(&ContainerStatus) -> Option<String>| old.and_then(part) == part(new);
            let mut tell = |warning, reason, text: String| events.push(self.event(Some(name), warning, reason, text));
            let failed =
                |status: &ContainerStatus| waiting_message(status).filter(|text| text.starts_with(FAILED_MOUNT));
            if let Some(message) = failed(new).filter(|_| old.and_then(failed) != failed(new)) {
                tell(true, "FailedMount", message);
            }
            if let Some(reason) = waiting_reason(new).filter(|_| !known(waiting_reason)) {
                match reason.as_str() {
                    // The hook's own event has told, and so has the pull's.
                    "ContainerCreating" | "PodInitializing" | "PostStartHookError" | "ErrImagePull" => {}
                    "ImagePullBackOff" => {
                        tell(false, "BackOff", format!("Back-off pulling image {:?}", new.image));
                    }
                    "CrashLoopBackOff" => {
                        let text =
                            format!("Back-off restarting failed container {name} in pod {}", self.reference.name);
                        tell(true, "BackOff", text);
                    }
                    _ => {
                        let message = waiting_message(new).unwrap_or_default();
                        tell(true, "Failed", format!("Container {name} can not start: {reason}: {message}"));
                    }
                }
            }
            if let Some((reason, code)) = ended(new).filter(|ended| old.and_then(self::ended).as_ref() != Some(ended)) {
                match reason.as_str() {
                    "Completed" => {}
                    "OOMKilled" => tell(true, "OOMKilled", format!("Container {name} ran out of memory")),
                    "StartError" => {
                        tell(true, "Failed", format!("Container {name} could not be started: {}", last_words(new)));
                    }
                    _ => tell(true, "Exited", format!("Container {name} ended with exit code {code}")),
                }
            }
            if begun(new).is_some() && !known(begun) {
                tell(false, "Created", format!("Created container {name}"));
                tell(false, "Started", format!("Started container {name}"));
            }
        }
        events
    }
}

/// The statuses of all containers of a pod.
pub(super) fn statuses(status: &PodStatus) -> impl Iterator<Item = &ContainerStatus> {
    let lists = [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses];
    lists.into_iter().flat_map(|list| list.iter().flatten())
}

/// The attempt that began, while it runs or when it has ended.
fn begun(status: &ContainerStatus) -> Option<String> {
    let state = status.state.as_ref()?;
    let began = state.running.is_some() || state.terminated.as_ref().is_some_and(|ended| ended.started_at.is_some());
    status.container_id.clone().filter(|_| began)
}

fn waiting_reason(status: &ContainerStatus) -> Option<String> {
    status.state.as_ref()?.waiting.as_ref()?.reason.clone()
}

fn waiting_message(status: &ContainerStatus) -> Option<String> {
    status.state.as_ref()?.waiting.as_ref()?.message.clone()
}

/// Reason and exit code of the newest end that a status tells of.
fn ended(status: &ContainerStatus) -> Option<(String, i32)> {
    let told = newest_end(status)?;
    Some((told.reason.clone()?, told.exit_code))
}

/// What the newest end says of itself.
fn last_words(status: &ContainerStatus) -> &str {
    newest_end(status).and_then(|told| told.message.as_deref()).unwrap_or("its shim left no reason")
}

fn newest_end(status: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    let now = status.state.as_ref().and_then(|state| state.terminated.as_ref());
    now.or_else(|| status.last_state.as_ref().and_then(|state| state.terminated.as_ref()))
}
