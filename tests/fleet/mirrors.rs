//! A fleet that is larger than its leader's followers, on real agents: mirrors write, read, run pods
//! and outlive those above them like every other device.

use serde_json::{Value, json};

use crate::harness::{Fleet, name, node, wait_for};

const CONFIGMAPS: &str = "/api/v1/namespaces/default/configmaps";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

fn role<'a>(status: &'a Value, device: &str) -> &'a str {
    let devices = status["devices"].as_array().unwrap();
    devices.iter().find(|found| found["name"] == device).map_or("", |found| found["role"].as_str().unwrap())
}

fn devices_with(status: &Value, wanted: &str) -> Vec<String> {
    let devices = status["devices"].as_array().unwrap();
    let found = devices.iter().filter(|found| found["role"] == wanted);
    found.map(|found| found["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn mirrors_serve_their_users_and_outlive_those_above_them() {
    let fleet = Fleet::up_with("e-mirrors", 6, &["standbys=1"]);
    let status = fleet.status("d1");
    let (standbys, mirrors) = (devices_with(&status, "learner"), devices_with(&status, "mirror"));
    assert_eq!((standbys.len(), mirrors.len()), (1, 2), "{status}");
    let [below, other] = [&mirrors[0], &mirrors[1]];
    assert!(fleet.kith("d1", &["status"]).contains("mirror"));

    // A write through one mirror is read at once through the other.
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"v": "1"}});
    assert_eq!(fleet.request(below, "POST", CONFIGMAPS, Some(&map)).unwrap().status, 201);
    let read = fleet.request(other, "GET", &format!("{CONFIGMAPS}/m"), None).unwrap();
    assert_eq!((read.status, read.warnings.len(), &read.body["data"]["v"]), (200, 0, &json!("1")));

    // Every device gets a pod, and reports it.
    fleet.load_hello();
    let labels = json!({"app": "all"});
    let container = json!({"name": "c", "image": "hello:1", "ports": [{"containerPort": 8080, "hostPort": 8080}]});
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "all"},
        "spec": {
            "replicas": 6, "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"hostNetwork": true, "containers": [container]},
            },
        },
    });
    let made = fleet.request(other, "POST", DEPLOYMENTS, Some(&deployment)).unwrap();
    assert_eq!(made.status, 201, "{}", made.body);
    let pods = fleet.wait_ready_pods(below, 6);
    assert!(pods.iter().any(|pod| node(pod) == below) && pods.iter().any(|pod| node(pod) == other));

    // Without the standby above them, one mirror takes its place, and nobody is lost.
    fleet.dev(&["kill", "--power", &standbys[0]]);
    let leader = fleet.leader(below).unwrap();
    wait_for("a mirror in the standby's place", || {
        let status = fleet.status(&leader);
        let replaced = mirrors.iter().any(|mirror| role(&status, mirror) == "learner");
        (replaced && role(&status, &standbys[0]) == "mirror").then_some(())
    });
    let list = fleet.get(other, CONFIGMAPS);
    assert!(list["items"].as_array().unwrap().iter().any(|found| name(found) == "m"));
    let staying: Vec<String> = (1..=6).map(|n| format!("d{n}")).filter(|d| *d != standbys[0]).collect();
    fleet.wait_same_hash(&staying.iter().map(String::as_str).collect::<Vec<_>>());

    // A mirror that loses its network is missed like every other device, and comes back.
    let ready = |device: &str| {
        let devices = fleet.status(&leader)["devices"].as_array().unwrap().clone();
        devices.iter().any(|found| found["name"] == device && found["ready"] == true)
    };
    let remaining = devices_with(&fleet.status(&leader), "mirror");
    let mirror = remaining.iter().find(|device| **device != standbys[0]).unwrap();
    assert!(ready(mirror));
    fleet.dev(&["cut", mirror]);
    wait_for("the mirror to be missed", || (!ready(mirror)).then_some(()));
    let alone = fleet.request(mirror, "GET", CONFIGMAPS, None).unwrap();
    assert_eq!((alone.status, alone.warnings.len()), (200, 1), "it says how old its answer is");
    fleet.dev(&["heal", mirror]);
    wait_for("the mirror to be back", || ready(mirror).then_some(()));
    fleet.dev(&["start", &standbys[0]]);
    wait_for("the former standby to be ready", || ready(&standbys[0]).then_some(()));
    let all: Vec<String> = (1..=6).map(|n| format!("d{n}")).collect();
    fleet.wait_same_hash(&all.iter().map(String::as_str).collect::<Vec<_>>());
}
