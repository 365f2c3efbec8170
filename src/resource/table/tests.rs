use super::super::kind;
use super::*;

fn now() -> Timestamp {
    Timestamp(1_769_843_109_000) // 2026-01-31T07:05:09Z
}

#[test]
fn spans_as_people_read_them() {
    for (seconds, text) in [
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (192, "3m12s"),
        (3_600, "60m"),
        (4 * 3_600 + 60, "4h1m"),
        (30 * 3_600, "30h"),
        (3 * 86_400, "3d"),
        (3 * 86_400 + 7_200, "3d2h"),
        (400 * 86_400, "400d"),
        (800 * 86_400, "2y70d"),
        (9 * 365 * 86_400, "9y"),
    ] {
        assert_eq!(human(Duration::from_secs(seconds)), text);
    }
}

fn pod(status: &Value) -> Value {
    json!({"metadata": {"name": "a", "creationTimestamp": "2026-01-31T07:00:09Z"},
        "spec": {"nodeName": "n1", "containers": [{"name": "x"}, {"name": "y"}]}, "status": status})
}

#[test]
fn the_status_of_pods() {
    let running = json!({"ready": true, "state": {"running": {}}});
    let done = json!({"restartCount": 0, "state": {"terminated": {"reason": "Completed", "exitCode": 0}}});
    let crashing = json!({"restartCount": 4, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": {"finishedAt": "2026-01-31T07:05:00Z"}}});
    let killed = json!({"state": {"terminated": {"signal": 9, "exitCode": 137}}});
    for (statuses, word) in [
        (json!([running, running]), "Running"),
        (json!([done, done]), "Completed"),
        (json!([running, done]), "NotReady"),
        (json!([running, crashing]), "CrashLoopBackOff"),
        (json!([killed]), "Signal:9"),
        (json!([]), "Running"),
    ] {
        assert_eq!(pod_status(&pod(&json!({"phase": "Running", "containerStatuses": statuses}))), word);
    }
    let row = cells(&kind::POD, &pod(&json!({"phase": "Running", "containerStatuses": [running, crashing]})), now());
    assert_eq!(row[1..5], [json!("1/2"), json!("CrashLoopBackOff"), json!("4 (9s ago)"), json!("5m")]);
    let mut gone = pod(&json!({"phase": "Running"}));
    gone["metadata"]["deletionTimestamp"] = json!("2026-01-31T07:05:00Z");
    assert_eq!(pod_status(&gone), "Terminating");
}

#[test]
fn every_kind_fills_its_columns() {
    for kind in kind::all() {
        assert_eq!(cells(kind, &json!({}), now()).len(), columns(kind).len(), "{}", kind.kind);
    }
    let table = render(&kind::POD, vec![pod(&json!({}))], Include::Metadata, "v1", now());
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    assert_eq!(table["columnDefinitions"][0]["format"], "name");
    assert_eq!(table["columnDefinitions"][6]["priority"], 1);
}
