//! Descriptions of objects as the fleet stores them.

use serde_json::json;

use super::*;

#[test]
fn a_pod_that_waits_says_why() {
    let pod = json!({
        "metadata": { "name": "a", "namespace": "web", "labels": { "app": "a" }, "creationTimestamp": "2026-01-01T00:00:00Z" },
        "spec": { "nodeName": "d1", "restartPolicy": "Always", "containers": [{
            "name": "main", "image": "hello:1", "command": ["httpd", "-f"],
            "env": [{ "name": "NODE", "valueFrom": { "fieldRef": { "fieldPath": "spec.nodeName" } } }],
            "resources": { "requests": { "cpu": "10m" } },
        }] },
        "status": {
            "phase": "Pending",
            "conditions": [{ "type": "Ready", "status": "False", "message": "containers are not ready" }],
            "containerStatuses": [{ "name": "main", "ready": false, "restartCount": 0,
                "state": { "waiting": { "reason": "ErrImageNeverPull", "message": "no image hello:1 on d1" } } }],
        },
    });
    let event = |at: &str, reason: &str, name: &str| {
        json!({ "lastTimestamp": at, "type": "Normal", "reason": reason, "message": "m", "count": 3,
                "source": { "component": "kith" }, "involvedObject": { "name": name, "kind": "Pod" } })
    };
    let related = Related { events: vec![event("2026-01-01T00:00:30Z", "Scheduled", "a")], pods: Vec::new() };
    let text = describe(&kind::POD, &pod, &related, Timestamp(1_767_225_690_000));
    for line in [
        "Name:             a",
        "Labels:           app=a",
        "    Command:      httpd -f",
        "    Environment:  NODE=(spec.nodeName)",
        "    State:        Waiting, ErrImageNeverPull: no image hello:1 on d1",
        "Why not:          Ready: containers are not ready",
        "                  container main: Waiting, ErrImageNeverPull: no image hello:1 on d1",
        "  60s (x3)   Normal   Scheduled   kith   m",
    ] {
        assert!(text.lines().any(|found| found == line), "no line {line:?} in\n{text}");
    }
}

#[test]
fn a_deployment_gathers_the_reasons_of_its_pods() {
    let pod = json!({
        "metadata": { "name": "h-1", "namespace": "default" },
        "status": { "phase": "Pending", "conditions": [
            { "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0 of 3 devices have 64Gi of memory" }] },
    });
    let deployment =
        json!({ "metadata": { "name": "h", "namespace": "default" }, "spec": { "replicas": 1 }, "status": {} });
    let related = Related { events: Vec::new(), pods: vec![pod] };
    let text = describe(&kind::DEPLOYMENT, &deployment, &related, Timestamp(0));
    assert!(text.contains("1 wanted, 0 up to date, 0 ready"), "{text}");
    assert!(text.contains("Why not:          pod h-1: PodScheduled: 0 of 3 devices have 64Gi of memory"), "{text}");
    assert!(text.contains("Events:           <none>"), "{text}");
}

#[test]
fn a_pod_that_ends_is_not_called_running() {
    let pod = json!({
        "metadata": { "name": "p", "namespace": "default", "deletionTimestamp": "2026-01-31T07:05:00Z" },
        "spec": { "nodeName": "d1" },
        "status": { "phase": "Running" },
    });
    let related = Related { events: Vec::new(), pods: vec![pod] };
    let text = describe(&kind::NODE, &json!({ "metadata": { "name": "d1" } }), &related, Timestamp(0));
    assert!(text.contains("default     p      Terminating   d1"), "{text}");
}

#[test]
fn any_other_kind_is_shown_whole() {
    let map = json!({ "metadata": { "name": "c", "namespace": "d" }, "data": { "key": "value" } });
    let text = describe(&kind::CONFIG_MAP, &map, &Related::default(), Timestamp(0));
    assert!(text.contains("data:\n  key: value\n"), "{text}");
}

#[test]
fn states_read_as_sentences() {
    let ended = json!({ "terminated": { "exitCode": 137, "signal": 9, "reason": "OOMKilled" } });
    assert_eq!(kinds::state(&ended), "Terminated with exit code 137 (signal 9), OOMKilled");
    assert_eq!(kinds::state(&json!({})), "unknown");
}
