use super::*;

#[test]
fn a_pod_that_fits_nowhere_says_why_once() {
    let mut stage = Stage::with_nodes(&["a", "b", "c", "d"]);
    stage.edit(&Key::new(NODE, "", "b"), |node| node["spec"] = json!({"unschedulable": true}));
    stage.edit(&Key::new(NODE, "", "c"), |node| {
        node["spec"] = json!({"taints": [{"key": "gpu", "value": "x", "effect": "NoSchedule"}]});
    });
    stage.silence("d", 60);
    let mut big = template("web:1")["spec"].clone();
    big["containers"][0]["resources"]["requests"] = json!({"cpu": "2", "memory": "1Gi"});
    let key = stage.put(&bare_pod("big", &big));
    let plan = stage.settle();
    let text = "0/4 nodes are available: 1 Insufficient cpu, 1 Insufficient memory, \
        1 node(s) had untolerated taint {gpu: x}, 1 node(s) were not ready, 1 node(s) were unschedulable.";
    let notes: Vec<&str> =
        plan.report.iter().filter(|note| note.object == key).map(|note| note.text.as_str()).collect();
    assert_eq!(notes, [text]);
    assert_eq!(stage.events("FailedScheduling"), 2, "once before the lost device was seen to be lost, once after");
    let told = pods::condition(&stage.rehearsal.fleet.pods[&key].object, "PodScheduled").unwrap().clone();
    assert_eq!((told.status.as_str(), told.message.as_deref()), ("False", Some(text)));
}

#[test]
fn host_ports_keep_copies_apart_until_a_device_is_free() {
    let mut stage = Stage::with_nodes(&["a", "b"]);
    let mut web = template("web:1");
    web["spec"]["containers"][0]["ports"] = json!([{"containerPort": 80}]);
    let key = stage.put(&deployment(3, &web));
    let plan = stage.settle();
    assert_eq!(stage.spread(), "-:1 a:1 b:1");
    let text = "0/2 nodes are available: 2 node(s) didn't have free ports for the requested pod ports.";
    assert!(plan.report.iter().any(|note| note.text == text), "{:?}", plan.report);
    stage.rehearsal.fleet.members.insert("c".into());
    stage.hear("c");
    stage.put(&node("c", "1", "512Mi"));
    stage.settle();
    assert_eq!(stage.spread(), "a:1 b:1 c:1");
    assert_eq!(stage.rehearsal.fleet.deployments[&key].object.status.as_ref().unwrap().available_replicas, Some(3));
}

#[test]
fn pods_go_where_their_image_is() {
    let mut stage = Stage::with_nodes(&["a", "b"]);
    stage.edit(&Key::new(NODE, "", "a"), |node| node["status"]["images"] = json!([]));
    stage.edit(&Key::new(NODE, "", "b"), |node| {
        node["status"]["images"] = json!([{"names": ["docker.io/library/web:1"]}]);
    });
    stage.put(&deployment(2, &template("web:1")));
    stage.settle();
    assert_eq!(stage.spread(), "b:2");
}
