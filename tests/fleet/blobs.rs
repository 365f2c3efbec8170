//! Layers of images from device to device: the uplink carries each once. Needs Debian's
//! `docker-registry`.

use serde_json::json;

use crate::harness::{Fleet, KITH, wait_for};
use crate::pulls::Registry;

const PODS: &str = "/api/v1/namespaces/default/pods";
const DEVICES: [&str; 3] = ["d1", "d2", "d3"];
const PORT: u16 = 5050;

#[test]
fn a_registry_sees_one_download_of_a_layer_for_three_devices() {
    let fleet = Fleet::up("t-blobs", 3);
    let node = fleet.get("d1", "/api/v1/nodes/d1");
    let addresses = node["status"]["addresses"].as_array().unwrap();
    let address = addresses.iter().find(|found| found["type"] == "InternalIP").unwrap()["address"].as_str().unwrap();
    let host = format!("{address}:{PORT}");
    for device in DEVICES {
        let settings = fleet.file(device, "agent.toml");
        let mut text = std::fs::read_to_string(&settings).unwrap();
        text.extend(["\n[registries.\"", &host, "\"]\ninsecure = true\n"]);
        std::fs::write(&settings, text).unwrap();
        fleet.dev(&["kill", device]);
        fleet.dev(&["start", device]);
    }
    fleet.wait_same_hash(&DEVICES);
    fleet.load_hello();
    let _registry = Registry::listen(&fleet, &format!("0.0.0.0:{PORT}"));
    let image = format!("{host}/hello:1");
    let settings = fleet.file("d1", "agent.toml");
    let push = [KITH, "--config", settings.to_str().unwrap(), "image", "push", "hello:1", &image];
    let pushed = fleet.exec("d1", &push);
    assert!(pushed.status.success(), "{pushed:?}");
    for device in DEVICES {
        fleet.kith(device, &["image", "rm", "hello:1"]);
    }
    // A rollout: all devices want it at the same moment.
    for device in DEVICES {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("on-{device}")},
            "spec": {"nodeName": device, "terminationGracePeriodSeconds": 0, "containers":
                [{"name": "c", "image": image, "command": ["/bin/sleep", "1000"]}]}});
        let answer = fleet.request("d1", "POST", PODS, Some(&pod)).unwrap();
        assert_eq!(answer.status, 201, "{}", answer.body);
    }
    for device in DEVICES {
        wait_for(&format!("the pod on {device} to run"), || {
            let pod = fleet.request("d1", "GET", &format!("{PODS}/on-{device}"), None).ok()?.body;
            pod["status"]["containerStatuses"][0]["state"]["running"].is_object().then_some(())
        });
    }
    let log = std::fs::read_to_string(fleet.dir.join("registry.log")).unwrap();
    let gets = |part: &str| log.lines().filter(|line| line.contains("\"GET ") && line.contains(part)).count();
    assert_eq!(gets("/manifests/"), 3, "each device asks the registry whether it may: {log}");
    // The configuration is small and comes from there; of the layer, one copy. Who begins at the same moment
    // as another asks it once more a moment later, which a machine that stalls may miss: a second copy then.
    let layers = gets("/blobs/") - 3;
    assert!(matches!(layers, 1 | 2), "{layers} copies of the layer: {log}");
    let given = DEVICES.iter().filter(|device| fleet.agent_log(device).contains("came from another device")).count();
    assert_eq!(given, 3 - layers);

    // A device without a pod of that image gets nothing of it, whatever digest it knows.
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "other"},
        "spec": {"nodeName": "d1", "containers": [{"name": "c", "image": format!("{host}/missing:1")}]}});
    fleet.request("d1", "POST", PODS, Some(&pod)).unwrap();
    wait_for("the registry's word to count", || {
        let pod = fleet.request("d1", "GET", &format!("{PODS}/other"), None).ok()?.body;
        let message = pod["status"]["containerStatuses"][0]["state"]["waiting"]["message"].as_str()?.to_owned();
        message.contains("404").then_some(())
    });
}
