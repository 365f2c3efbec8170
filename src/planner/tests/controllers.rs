use super::*;

#[test]
fn a_deployment_becomes_spread_pods_and_an_honest_status() {
    let mut stage = Stage::with_nodes(&["a", "b", "c"]);
    let key = stage.put(&deployment(3, &template("web:1")));
    stage.settle();
    assert_eq!(stage.spread(), "a:1 b:1 c:1");
    let status = stage.rehearsal.fleet.deployments[&key].object.status.clone().unwrap();
    assert_eq!((status.replicas, status.ready_replicas, status.available_replicas), (Some(3), Some(3), Some(3)));
    assert_eq!((status.unavailable_replicas, status.observed_generation), (Some(0), Some(1)));
    let conditions: Vec<String> = status
        .conditions
        .unwrap()
        .iter()
        .map(|condition| format!("{}={} {}", condition.type_, condition.status, condition.reason.as_deref().unwrap()))
        .collect();
    assert_eq!(conditions, ["Available=True MinimumReplicasAvailable", "Progressing=True NewReplicaSetAvailable"]);
    assert_eq!((stage.events("SuccessfulCreate"), stage.events("Scheduled")), (3, 3));
    let (_, set) = stage.rehearsal.fleet.replica_sets.first_key_value().unwrap();
    let labels = set.object.metadata.labels.as_ref().unwrap();
    assert!(labels.contains_key("pod-template-hash"));
    assert_eq!(set.object.metadata.annotations.as_ref().unwrap()["deployment.kubernetes.io/revision"], "1");
}

#[test]
fn scaling_keeps_the_spread_and_drops_the_crowded_first() {
    let mut stage = Stage::with_nodes(&["a", "b", "c"]);
    let key = stage.put(&deployment(7, &template("web:1")));
    stage.settle();
    assert_eq!(stage.spread().matches(":2").count(), 2);
    stage.edit(&key, |object| object["spec"]["replicas"] = json!(3));
    stage.settle();
    assert_eq!(stage.spread(), "a:1 b:1 c:1");
    stage.edit(&key, |object| object["spec"]["replicas"] = json!(0));
    stage.settle();
    assert_eq!(stage.pods().len(), 0);
}

#[test]
fn a_rollout_moves_all_pods_and_keeps_the_old_set_for_going_back() {
    let mut stage = Stage::with_nodes(&["a", "b", "c"]);
    let key = stage.put(&deployment(3, &template("web:1")));
    stage.settle();
    stage.edit(&key, |object| {
        object["spec"]["template"]["spec"]["containers"][0]["image"] = json!("web:2");
        object["metadata"]["generation"] = json!(2);
    });
    stage.settle();
    let image = |pod: &Pod| pod.spec.as_ref().unwrap().containers[0].image.clone().unwrap();
    assert!(stage.pods().iter().all(|(_, pod)| image(pod) == "web:2"));
    assert_eq!((stage.pods().len(), stage.rehearsal.fleet.replica_sets.len()), (3, 2));
    stage.edit(&key, |object| object["spec"]["template"]["spec"]["containers"][0]["image"] = json!("web:1"));
    stage.settle();
    assert!(stage.pods().iter().all(|(_, pod)| image(pod) == "web:1"));
    assert_eq!(stage.rehearsal.fleet.replica_sets.len(), 2, "the first ReplicaSet is used again");
    let annotations = stage.rehearsal.fleet.deployments[&key].object.metadata.annotations.clone().unwrap();
    assert_eq!(annotations["deployment.kubernetes.io/revision"], "3");
}

#[test]
fn history_beyond_its_limit_is_forgotten() {
    let mut stage = Stage::with_nodes(&["a"]);
    let mut object = deployment(1, &template("web:0"));
    object["spec"]["revisionHistoryLimit"] = json!(2);
    let key = stage.put(&object);
    stage.settle();
    for version in 1..6 {
        stage.edit(&key, |object| {
            object["spec"]["template"]["spec"]["containers"][0]["image"] = json!(format!("web:{version}"));
        });
        stage.settle();
    }
    assert_eq!(stage.rehearsal.fleet.replica_sets.len(), 3);
}

#[test]
fn recreate_ends_the_old_before_it_makes_the_new() {
    let mut stage = Stage::with_nodes(&["a", "b"]);
    let mut object = deployment(2, &template("web:1"));
    object["spec"]["strategy"] = json!({"type": "Recreate"});
    let key = stage.put(&object);
    stage.settle();
    stage.edit(&key, |object| object["spec"]["template"]["spec"]["containers"][0]["image"] = json!("web:2"));
    for _ in 0..ROUNDS {
        for step in stage.plan().batches {
            stage.rehearsal.apply(&step.batch);
        }
        let images: std::collections::BTreeSet<_> =
            stage.pods().iter().map(|(_, pod)| pod.spec.as_ref().unwrap().containers[0].image.clone()).collect();
        assert!(images.len() <= 1, "{images:?}");
        stage.rehearsal.devices_act(stage.now);
    }
    assert_eq!(stage.spread(), "a:1 b:1");
    assert_eq!(stage.plan().batches, []);
}

const ROUNDS: usize = 20;

#[test]
fn deleting_an_owner_takes_what_it_owns() {
    let mut stage = Stage::with_nodes(&["a", "b"]);
    let key = stage.put(&deployment(2, &template("web:1")));
    stage.settle();
    stage.delete(&key);
    stage.settle();
    assert_eq!((stage.pods().len(), stage.rehearsal.fleet.replica_sets.len()), (0, 0));
}

#[test]
fn another_owner_of_the_same_name_is_not_the_owner() {
    let mut stage = Stage::with_nodes(&["a", "b"]);
    let key = stage.put(&deployment(2, &template("web:1")));
    stage.settle();
    let old: Vec<Key> = stage.pods().iter().map(|(key, _)| (*key).clone()).collect();
    stage.edit(&key, |object| object["metadata"]["uid"] = json!("another"));
    stage.settle();
    let new: Vec<Key> = stage.pods().iter().map(|(key, _)| (*key).clone()).collect();
    assert_eq!(new.len(), 2);
    assert!(new.iter().all(|key| !old.contains(key)), "{old:?} {new:?}");
}

#[test]
fn an_owner_made_since_the_view_saves_what_it_owns() {
    let mut stage = Stage::with_nodes(&["a"]);
    let key = stage.put(&deployment(1, &template("web:1")));
    stage.settle();
    let stale = {
        let mut fleet = stage.rehearsal.fleet.clone();
        fleet.deployments.remove(&key);
        plan(&fleet, stage.now)
    };
    assert!(!stale.batches.is_empty());
    for step in &stale.batches {
        assert!(matches!(stage.rehearsal.apply(&step.batch), Outcome::Refused { .. }), "{}", step.why);
    }
}

#[test]
fn a_namespace_goes_with_everything_in_it() {
    let mut stage = Stage::with_nodes(&["a"]);
    let namespace =
        stage.put(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default", "uid": "n"}}));
    stage.put(&deployment(2, &template("web:1")));
    stage.put(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "default", "uid": "c"}}));
    stage.settle();
    stage.edit(&namespace, |object| object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"));
    let first = stage.plan();
    assert!(first.report.iter().any(|note| note.object == namespace && note.reason == Reason::Terminating));
    stage.settle();
    let fleet = &stage.rehearsal.fleet;
    let left = (
        fleet.namespaces.len(),
        fleet.deployments.len(),
        fleet.replica_sets.len(),
        fleet.pods.len(),
        fleet.others.keys(None).count(),
    );
    assert_eq!(left, (0, 0, 0, 0, 0));
}

#[test]
fn events_go_after_an_hour() {
    let mut stage = Stage::with_nodes(&["a"]);
    stage.put(&deployment(1, &template("web:1")));
    let plan = stage.settle();
    assert!(plan.wake_at.is_some());
    assert!(!stage.rehearsal.fleet.events.is_empty());
    stage.now = NOW.plus(Duration::from_mins(66));
    stage.settle();
    assert_eq!(stage.rehearsal.fleet.events.len(), 0);
}

#[test]
fn a_document_that_can_not_be_read_stops_nothing_else() {
    let document = |kind: &str, name: &str, body: &str| Document {
        key: Key::new(kind, "default", name),
        body: body.as_bytes().to_vec(),
        created: 1,
        modified: 1,
    };
    let documents = [
        document(POD, "a", "not json"),
        document(POD, "b", r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"other","namespace":"default"}}"#),
        document(REPLICA_SET, "c", "{}"),
        document("kith.dev/Token", "t", "\x00"),
        document(POD, "d", r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"d","namespace":"default"}}"#),
    ];
    let (fleet, skipped) = Fleet::from_documents(&documents);
    assert_eq!(skipped.iter().map(|skip| skip.key.name.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!(fleet.pods.len(), 1);
    let _ = plan(&fleet, NOW);
}

#[test]
fn a_plan_is_bounded_and_the_next_goes_on() {
    let mut stage = Stage::with_nodes(&[]);
    for index in 0..BATCHES_LIMIT + 10 {
        stage.put(&bare_pod(&format!("p{index:04}"), &template("web:1")["spec"]));
    }
    let plan = stage.plan();
    assert_eq!(plan.batches.len(), BATCHES_LIMIT);
    assert_eq!(plan.wake_at, Some(NOW));
    stage.settle();
    assert_eq!(stage.events("FailedScheduling"), BATCHES_LIMIT + 10);
}

#[test]
fn a_manifest_is_played_through_without_a_trace() {
    let mut stage = Stage::with_nodes(&["a", "b"]);
    stage.settle();
    let object = deployment(3, &template("web:1"));
    let document =
        Document { key: key_of(&object), body: serde_json::to_vec(&object).unwrap(), created: 0, modified: 0 };
    let forecast = plan_manifest(stage.rehearsal.fleet.clone(), &[document], NOW);
    assert!(forecast.settled);
    assert_eq!(forecast.created.len(), 5, "{:?}", forecast.created);
    assert_eq!(forecast.bound.len(), 3);
    assert!(forecast.created.iter().all(|key| key.kind != EVENT));
    assert!(stage.rehearsal.fleet.deployments.is_empty());
}
