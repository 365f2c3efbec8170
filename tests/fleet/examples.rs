//! Every manifest in `configs/examples` runs as it is and does what its first lines say.

use std::collections::BTreeSet;
use std::process::Output;

use serde_json::{Value, json};

use crate::harness::{Fleet, is_ready, name, node, wait_for};

const PODS: &str = "/api/v1/namespaces/default/pods";

/// What is looked at once the pods of an example are ready.
type Look = fn(&Fleet);

/// Each file, how many ready pods it brings in its namespace, and what else must be so.
const EXAMPLES: [(&str, usize, Look); 17] = [
    ("graceful", 1, graceful),
    ("hardened", 1, hardened),
    ("hello", 3, hello),
    ("limits", 1, limits),
    ("names", 1, names),
    ("namespace", 2, namespace),
    ("once", 0, once),
    ("partition", 1, partition),
    ("pinned", 0, pinned),
    ("probes", 2, probes),
    ("rollout", 3, rollout),
    ("settings", 1, settings),
    ("shared", 1, shared),
    ("sidecar", 1, sidecar),
    ("static", 0, static_pod),
    ("storage", 1, storage),
    ("web", 1, web),
];

fn path(example: &str) -> String {
    format!("configs/examples/{example}.yaml")
}

#[test]
fn every_example_runs_as_it_is() {
    let found: BTreeSet<String> = std::fs::read_dir("configs/examples")
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    let known: BTreeSet<String> = EXAMPLES.iter().map(|(example, ..)| (*example).to_owned()).collect();
    assert_eq!(found, known, "an example without a test, or a test without its example");

    let fleet = Fleet::up("t-examples", 3);
    fleet.load_hello();
    for (example, ready, look) in EXAMPLES {
        eprintln!("{example}.yaml");
        if example == "static" {
            look(&fleet);
            continue;
        }
        let out = fleet.try_kith("d1", &["apply", "-f", &path(example)]);
        let said = text(&out);
        assert!(out.status.success(), "{example}: {said}");
        assert!(!said.contains("warning"), "{example}: {said}");
        let namespace = if example == "namespace" { "shop" } else { "default" };
        wait_ready(&fleet, namespace, ready);
        look(&fleet);
        fleet.kith("d1", &["delete", "--ignore-not-found", "-f", &path(example)]);
        wait_for(&format!("{example} to be gone"), || list(&fleet, namespace)?.is_empty().then_some(()));
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn list(fleet: &Fleet, namespace: &str) -> Option<Vec<Value>> {
    let answer = fleet.request("d1", "GET", &format!("/api/v1/namespaces/{namespace}/pods"), None).ok()?;
    Some(answer.body["items"].as_array()?.clone())
}

fn wait_ready(fleet: &Fleet, namespace: &str, count: usize) {
    wait_for(&format!("{count} ready pods in {namespace}"), || {
        let pods = list(fleet, namespace)?;
        (pods.iter().filter(|pod| is_ready(pod)).count() == count).then_some(())
    });
}

/// Runs a program in a pod, and returns what it printed.
fn inside(fleet: &Fleet, pod: &str, argv: &[&str]) -> String {
    fleet.kith("d1", &[&["exec", pod, "--"], argv].concat())
}

fn wait_log(fleet: &Fleet, args: &[&str], wanted: &str) {
    wait_for(&format!("{wanted:?} in kith logs {}", args.join(" ")), || {
        let said = text(&fleet.try_kith("d1", &[&["logs"], args].concat()));
        said.contains(wanted).then_some(())
    });
}

/// The first page of a device's port as another device sees it.
fn page(fleet: &Fleet, device: &str, port: u16) -> String {
    let from = if device == "d1" { "d2" } else { "d1" };
    let url = format!("http://{}:{port}/", address(device));
    wait_for(&url, || {
        let output = fleet.exec(from, &["curl", "-s", "--max-time", "5", &url]);
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    })
}

fn address(device: &str) -> String {
    format!("10.77.0.{}", 10 + device[1..].parse::<u8>().unwrap())
}

fn pod(fleet: &Fleet, name: &str) -> Value {
    fleet.get("d1", &format!("{PODS}/{name}"))
}

fn graceful(fleet: &Fleet) {
    wait_log(fleet, &["graceful"], "open");
    assert_eq!(inside(fleet, "graceful", &["cat", "/tmp/hooks"]), "registered\n");
    let device = node(&pod(fleet, "graceful")).to_owned();
    let mut follow = fleet
        .inside(&device, &["kith", "logs", "graceful", "-f"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    fleet.kith("d1", &["delete", "pod", "graceful"]);
    let mut said = String::new();
    std::io::Read::read_to_string(follow.stdout.as_mut().unwrap(), &mut said).unwrap();
    follow.wait().unwrap();
    assert!(said.contains("no new work\nclosing"), "{said}");
}

fn hardened(fleet: &Fleet) {
    assert!(inside(fleet, "hardened", &["id"]).contains("uid=1000 gid=1000"));
    let status = inside(fleet, "hardened", &["cat", "/proc/self/status"]);
    for line in ["CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(status.contains(line), "{line} in {status}");
    }
    assert!(!inside(fleet, "hardened", &["cat", "/proc/self/uid_map"]).trim_start().starts_with("0          0"));
    inside(fleet, "hardened", &["touch", "/tmp/mine"]);
    let refused = text(&fleet.try_kith("d1", &["exec", "hardened", "--", "touch", "/mine"]));
    assert!(refused.contains("Read-only file system"), "{refused}");
}

fn hello(fleet: &Fleet) {
    let devices: BTreeSet<String> = fleet.ready_pods("d1").iter().map(|pod| node(pod).to_owned()).collect();
    assert_eq!(devices.len(), 3, "{devices:?}");
    assert!(page(fleet, "d2", 8080).starts_with("hello from d2"));
}

fn limits(fleet: &Fleet) {
    assert_eq!(pod(fleet, "limits")["status"]["qosClass"], "Guaranteed");
    let full = text(&fleet.try_kith("d1", &["exec", "limits", "--", "dd", "if=/dev/zero", "of=/scratch/x", "bs=1M"]));
    assert!(full.contains("No space left on device"), "{full}");
    wait_for("kith top pods to know it", || {
        text(&fleet.try_kith("d1", &["top", "pods"])).contains("limits").then_some(())
    });
}

fn names(fleet: &Fleet) {
    assert_eq!(inside(fleet, "names", &["hostname"]), "press\n");
    let files = inside(fleet, "names", &["cat", "/etc/hosts", "/etc/resolv.conf"]);
    for part in ["192.0.2.10", "plc.hall-2", "nameserver 192.0.2.53", "search factory.example", "options ndots:2"] {
        assert!(files.contains(part), "{part} in {files}");
    }
}

fn namespace(fleet: &Fleet) {
    for pod in list(fleet, "shop").unwrap() {
        wait_log(fleet, &["-n", "shop", name(&pod)], "till 7");
    }
}

fn once(fleet: &Fleet) {
    let done = wait_for("the task to be over", || {
        let pod = pod(fleet, "once");
        (pod["status"]["phase"] == "Succeeded").then_some(pod)
    });
    assert_eq!(done["status"]["containerStatuses"][0]["state"]["terminated"]["message"], "42 boxes\n");
    wait_log(fleet, &["once"], "counting");
}

/// The device is silent for less than it may be: the pod stays where it is, and runs on.
fn partition(fleet: &Fleet) {
    let before = fleet.ready_pods("d1").remove(0);
    let device = node(&before).to_owned();
    let containers = fleet.containers(&device);
    let other = if device == "d1" { "d2" } else { "d1" };
    fleet.dev(&["cut", &device]);
    wait_for("the device to be missed", || {
        let status = fleet.request(other, "GET", "/kith/v1/status", None).ok()?.body;
        let devices = status["devices"].as_array()?.clone();
        devices.iter().any(|known| known["name"] == device.as_str() && known["ready"] == false).then_some(())
    });
    assert_eq!(fleet.containers(&device), containers);
    fleet.dev(&["heal", &device]);
    wait_for("the pod to be ready again", || {
        let pods = fleet.request("d1", "GET", PODS, None).ok()?.body["items"].as_array()?.clone();
        (pods.len() == 1 && is_ready(&pods[0]) && name(&pods[0]) == name(&before)).then_some(())
    });
    assert_eq!(fleet.containers(&device), containers);
    wait_for("a fleet that is whole", || {
        let status = fleet.request("d1", "GET", "/kith/v1/status", None).ok()?.body;
        status["devices"].as_array()?.iter().all(|known| known["ready"] == true).then_some(())
    });
}

fn pinned(fleet: &Fleet) {
    wait_for("the pod to say why it waits", || {
        pod(fleet, "pinned")["status"].to_string().contains("node affinity/selector").then_some(())
    });
    let label = |value: Value| {
        let patch = json!({"metadata": {"labels": {"example.com/door": value}}});
        assert_eq!(fleet.request("d1", "PATCH", "/api/v1/nodes/d2", Some(&patch)).unwrap().status, 200);
    };
    label("front".into());
    wait_ready(fleet, "default", 1);
    assert_eq!(node(&pod(fleet, "pinned")), "d2");
    label(Value::Null);
}

fn probes(fleet: &Fleet) {
    let first = name(&fleet.ready_pods("d1")[0]).to_owned();
    inside(fleet, &first, &["touch", "/tmp/broken"]);
    wait_ready(fleet, "default", 1);
    inside(fleet, &first, &["rm", "/tmp/broken", "/www/index.html"]);
    wait_for("the container to be restarted", || {
        let status = pod(fleet, &first)["status"]["containerStatuses"][0].clone();
        (status["restartCount"] == 1 && status["ready"] == true).then_some(())
    });
}

fn rollout(fleet: &Fleet) {
    let old: BTreeSet<String> = fleet.ready_pods("d1").iter().map(|pod| name(pod).to_owned()).collect();
    let patch = json!({"spec": {"template": {"metadata": {"annotations": {"example.com/again": "1"}}}}});
    let path = "/apis/apps/v1/namespaces/default/deployments/rollout";
    assert_eq!(fleet.request("d1", "PATCH", path, Some(&patch)).unwrap().status, 200);
    wait_for("three new pods", || {
        let ready = fleet.ready_pods("d1");
        assert!(ready.len() >= 3, "a visitor would have noticed: {} copies", ready.len());
        let new = ready.iter().filter(|pod| !old.contains(name(pod))).count();
        (new == 3 && ready.len() == 3).then_some(())
    });
}

fn settings(fleet: &Fleet) {
    let device = node(&pod(fleet, "settings")).to_owned();
    let greeting = format!("GREETING=green from {device}");
    for line in ["ALL_SPEED=3", "COLOUR=green", "MEMORY_MIB=32", &greeting, "good morning", "app=\"settings\""] {
        wait_log(fleet, &["settings"], line);
    }
    let patch = json!({"data": {"greeting.txt": "good night\n"}});
    let path = "/api/v1/namespaces/default/configmaps/settings";
    assert_eq!(fleet.request("d1", "PATCH", path, Some(&patch)).unwrap().status, 200);
    wait_for("the new greeting", || {
        (inside(fleet, "settings", &["cat", "/etc/files/greeting"]) == "good night\n").then_some(())
    });
}

fn shared(fleet: &Fleet) {
    wait_log(fleet, &["shared", "-c", "reader"], "hello from");
    let seen = fleet.kith("d1", &["exec", "shared", "-c", "reader", "--", "ps"]);
    assert!(seen.contains("httpd"), "{seen}");
}

fn sidecar(fleet: &Fleet) {
    wait_log(fleet, &["sidecar", "-c", "shipper"], "measured in the barn: ");
}

fn static_pod(fleet: &Fleet) {
    let file = fleet.file("d2", "manifests/static.yaml");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::copy(path("static"), &file).unwrap();
    wait_ready(fleet, "default", 1);
    assert_eq!(node(&pod(fleet, "static-d2")), "d2");
    std::fs::remove_file(&file).unwrap();
    wait_for("the static pod to end", || list(fleet, "default")?.is_empty().then_some(()));
}

fn storage(fleet: &Fleet) {
    let first = fleet.ready_pods("d1").remove(0);
    assert_eq!(inside(fleet, name(&first), &["cat", "/etc/app/password"]), "change-me");
    fleet.kith("d1", &["delete", "pod", name(&first)]);
    let second = wait_for("another pod", || fleet.ready_pods("d1").into_iter().find(|pod| name(pod) != name(&first)));
    assert_eq!(inside(fleet, name(&second), &["cat", "/data/log"]), "started\nstarted\n");
}

fn web(fleet: &Fleet) {
    let device = node(&pod(fleet, "web")).to_owned();
    assert!(page(fleet, &device, 8080).starts_with(&format!("hello from {device}")));
}
