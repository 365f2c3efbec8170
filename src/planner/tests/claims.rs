use super::super::fleet::CLAIM;
use super::*;
use crate::resource::claim;

fn claim(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name, "namespace": "default",
        "uid": format!("claim-{name}")}, "spec": {"accessModes": ["ReadWriteOnce"]}})
}

fn user(name: &str, claims: &[&str]) -> Value {
    let mut spec = template("web:1")["spec"].clone();
    let volumes: Vec<Value> =
        claims.iter().map(|claim| json!({"name": claim, "persistentVolumeClaim": {"claimName": claim}})).collect();
    spec["volumes"] = json!(volumes);
    bare_pod(name, &spec)
}

impl Stage {
    fn device_of(&self, name: &str) -> Option<String> {
        let claim = &self.rehearsal.fleet.claims[&Key::new(CLAIM, "default", name)].object;
        claim::device_of(claim).map(str::to_owned)
    }

    fn node_of(&self, key: &Key) -> Option<String> {
        pods::node_of(&self.rehearsal.fleet.pods[key].object).map(str::to_owned)
    }
}

#[test]
fn the_first_pod_binds_a_claim_and_later_ones_follow_it() {
    let mut stage = Stage::with_nodes(&["a", "b", "c"]);
    stage.put(&claim("db"));
    // Both at once: one plan binds the claim for one of them, the next one places the other.
    let (one, two) = (stage.put(&user("one", &["db"])), stage.put(&user("two", &["db"])));
    stage.settle();
    let device = stage.device_of("db").expect("it is bound");
    assert_eq!((stage.node_of(&one), stage.node_of(&two)), (Some(device.clone()), Some(device.clone())));
    stage.silence(&device, 60);
    stage.delete(&one);
    stage.delete(&two);
    let three = stage.put(&user("three", &["db"]));
    let plan = stage.settle();
    assert_eq!(stage.node_of(&three), None);
    let text = &plan.report.iter().find(|note| note.object == three).unwrap().text;
    assert!(text.contains("2 node(s) had volume node affinity conflict"), "{text}");
    assert!(text.ends_with(&format!("The volume of claim \"db\" is on device {device}.")), "{text}");
    stage.hear(&device);
    stage.settle();
    assert_eq!(stage.node_of(&three), Some(device));
}

#[test]
fn a_pod_waits_for_its_claim_and_one_that_named_its_device_binds_it() {
    let mut stage = Stage::with_nodes(&["a", "b"]);
    let waiting = stage.put(&user("waiting", &["late"]));
    let plan = stage.settle();
    let text = &plan.report.iter().find(|note| note.object == waiting).unwrap().text;
    assert_eq!(text, "0/2 nodes are available: persistentvolumeclaim \"late\" not found.");
    let mut placed = user("placed", &["late"]);
    placed["spec"]["nodeName"] = json!("b");
    stage.put(&placed);
    stage.put(&claim("late"));
    stage.settle();
    // Whichever came first, both are where the volume is, or the one that named another device is not.
    let device = stage.device_of("late").expect("it is bound");
    assert_eq!(stage.node_of(&waiting), Some(device));
}

#[test]
fn claims_on_two_devices_have_no_place_together() {
    let mut stage = Stage::with_nodes(&["a", "b"]);
    for (name, device) in [("left", "a"), ("right", "b")] {
        let mut claim = claim(name);
        claim["metadata"]["annotations"] = json!({claim::SELECTED_NODE: device});
        stage.put(&claim);
    }
    let pod = stage.put(&user("torn", &["left", "right"]));
    let plan = stage.settle();
    let text = &plan.report.iter().find(|note| note.object == pod).unwrap().text;
    assert!(
        text.contains("claim \"left\" is on device a") && text.contains("claim \"right\" is on device b"),
        "{text}"
    );
    assert_eq!(stage.node_of(&pod), None);
}
