//! This release and the one before in one fleet: a rollout, and the way back, need both to understand
//! each other and each other's disks.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{Fleet, KITH, name, node, succeed, wait_for};

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// The release before this one.
fn previous() -> String {
    succeed(&mut Command::new("scripts/previous.sh")).trim().to_owned()
}

/// Starts a device's agent as this program, after the one that runs was killed.
fn become_release(fleet: &Fleet, device: &str, program: &str) {
    fleet.dev(&["kill", device]);
    succeed(Command::new(program).args(["dev", "--fleet", fleet.name(), "start", device]));
    wait_for(&format!("{device} to find its fleet"), || fleet.leader(device));
}

fn write(fleet: &Fleet, device: &str, what: &str) {
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": what}, "data": {"by": device}});
    wait_for(&format!("{device} to write {what}"), || {
        let answer = fleet.request(device, "POST", CONFIG_MAPS, Some(&object)).ok()?;
        [201, 409].contains(&answer.status).then_some(())
    });
}

fn names(fleet: &Fleet, device: &str) -> Vec<String> {
    let list = fleet.get(device, CONFIG_MAPS);
    list["items"].as_array().unwrap().iter().map(|object| name(object).to_owned()).collect()
}

/// Reads and writes through everybody, and goes into pods from device to device.
fn everybody_works(fleet: &Fleet, devices: &[&str], round: &str, pods: &[Value]) {
    for device in devices {
        write(fleet, device, &format!("{round}-{device}"));
    }
    for device in devices {
        wait_for(&format!("{device} to read what was written in round {round}"), || {
            let found = names(fleet, device);
            devices.iter().all(|by| found.contains(&format!("{round}-{by}"))).then_some(())
        });
        for pod in pods {
            let output = fleet.try_kith(device, &["exec", name(pod), "--", "echo", "heard"]);
            let text = String::from_utf8_lossy(&output.stdout);
            assert_eq!(text.trim(), "heard", "{device} into {} on {}: {output:?}", name(pod), node(pod));
        }
    }
    fleet.wait_same_hash(devices);
}

fn containers(fleet: &Fleet, devices: &[&str]) -> Vec<Vec<(String, u64, String)>> {
    devices.iter().map(|device| fleet.containers(device)).collect()
}

#[test]
fn this_release_and_the_one_before_work_in_one_fleet() {
    let previous = previous();
    assert!(Path::new(&previous).exists(), "{previous}: scripts/previous.sh builds it");
    let fleet = Fleet::by(&previous, "t-both", 3, &[]);
    let devices = ["d1", "d2", "d3"];
    fleet.load_hello();
    for device in devices {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("on-{device}")}, "spec": {
            "nodeName": device, "hostNetwork": true, "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "c", "image": "hello:1", "command": ["sleep", "100000"]}]}});
        // Without a quorum for a moment, nobody knows whether it was written.
        wait_for("the pod to be taken", || {
            let answer = fleet.request("d1", "POST", "/api/v1/namespaces/default/pods", Some(&pod)).ok()?;
            matches!(answer.status, 201 | 409).then_some(())
        });
    }
    let pods = fleet.wait_ready_pods("d1", 3);
    let before = containers(&fleet, &devices);
    everybody_works(&fleet, &devices, "old", &pods);

    // One after the other, as a rollout does; the leader is of either release on the way.
    for (number, device) in devices.iter().enumerate() {
        become_release(&fleet, device, KITH);
        everybody_works(&fleet, &devices, &format!("mixed-{number}"), &pods);
    }
    // A device of the old release joins, and follows a leader of the new one.
    succeed(Command::new(&previous).args(["dev", "--fleet", fleet.name(), "add"]));
    let all = ["d1", "d2", "d3", "d4"];
    everybody_works(&fleet, &all, "joined", &pods);
    // The way back: what this release wrote is read by the one before.
    become_release(&fleet, "d2", &previous);
    everybody_works(&fleet, &all, "back", &pods);
    assert_eq!(containers(&fleet, &devices), before, "no container noticed");
}
