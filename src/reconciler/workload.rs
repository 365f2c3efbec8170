//! Which workload a pod is of, under a name that stays the same from one rollout to the next.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Pod;

use crate::resource::Timestamp;

/// The label with which a Deployment tells its ReplicaSets apart.
const TEMPLATE_HASH: &str = "pod-template-hash";

/// A container that has run for so long is taken for good, in milliseconds.
const GOOD_AFTER: u64 = 10_000;

/// `NAMESPACE/KIND/NAME` of what made the pod: for a Deployment's pod the Deployment, whatever its
/// ReplicaSet is called; the pod itself when nobody did.
pub fn workload_of(pod: &Pod) -> String {
    let meta = &pod.metadata;
    let namespace = meta.namespace.as_deref().unwrap_or("default");
    let owner = meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
    let Some(owner) = owner else {
        return format!("{namespace}/Pod/{}", meta.name.as_deref().unwrap_or_default());
    };
    let hash = meta.labels.iter().flatten().find(|(name, _)| *name == TEMPLATE_HASH).map(|(_, hash)| hash);
    let of_deployment = hash
        .filter(|_| owner.kind == "ReplicaSet")
        .and_then(|hash| owner.name.strip_suffix(hash.as_str())?.strip_suffix('-'));
    match of_deployment {
        Some(deployment) => format!("{namespace}/Deployment/{deployment}"),
        None => format!("{namespace}/{}/{}", owner.kind, owner.name),
    }
}

/// Containers of a pod that run well, or did to their end: name, and digest of their image.
pub fn ran_well(pod: &Pod, now: Timestamp) -> BTreeSet<(String, String)> {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let well = statuses.filter(|status| {
        let Some(state) = &status.state else { return false };
        let since = |started: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Time| {
            let started = u64::try_from(started.0.as_millisecond()).unwrap_or(0);
            now.0.saturating_sub(started) >= GOOD_AFTER
        };
        let runs = state.running.as_ref().and_then(|running| running.started_at.as_ref()).is_some_and(since);
        runs || state.terminated.as_ref().is_some_and(|ended| ended.exit_code == 0)
    });
    well.filter(|status| !status.image_id.is_empty())
        .map(|status| (status.name.clone(), status.image_id.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(value: serde_json::Value) -> Pod {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_rollout_stays_the_same_workload() {
        let of = |hash: &str, kind: &str, owner: &str| {
            workload_of(&pod(json!({"metadata": {"namespace": "n", "name": "p", "labels": {"pod-template-hash": hash},
                "ownerReferences": [{"apiVersion": "v1", "kind": kind, "name": owner, "uid": "u", "controller": true}]}})))
        };
        assert_eq!(of("abc", "ReplicaSet", "web-abc"), "n/Deployment/web");
        assert_eq!(of("abd", "ReplicaSet", "web-abd"), "n/Deployment/web");
        assert_eq!(of("abc", "ReplicaSet", "web"), "n/ReplicaSet/web");
        assert_eq!(of("abc", "DaemonSet", "web-abc"), "n/DaemonSet/web-abc");
        assert_eq!(workload_of(&pod(json!({"metadata": {"name": "alone"}}))), "default/Pod/alone");
    }

    #[test]
    fn what_ran_for_a_while_or_to_its_end_ran_well() {
        let now = Timestamp(1_800_000_000_000);
        let status = |name: &str, state: serde_json::Value| json!({"name": name, "image": "x", "imageID": format!("sha256:{name}"), "ready": true, "restartCount": 0, "state": state});
        let at = |seconds: u64| Timestamp(now.0 - seconds * 1000).to_kubernetes();
        let found = pod(json!({"metadata": {}, "status": {"containerStatuses": [
            status("long", json!({"running": {"startedAt": at(10)}})),
            status("short", json!({"running": {"startedAt": at(9)}})),
            status("done", json!({"terminated": {"exitCode": 0}})),
            status("bad", json!({"terminated": {"exitCode": 1}})),
            status("waits", json!({"waiting": {"reason": "ImagePullBackOff"}})),
        ]}}));
        let names: Vec<String> = ran_well(&found, now).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["done", "long"]);
    }
}
