//! Pods that have to go: those that use more of the disk than they may, and those that matter least when
//! the device itself is short.

use std::path::Path;

use serde_json::{Value, json};

use crate::disks::on_disk_of;
use crate::harness::{Fleet, wait_for};

const PODS: &str = "/api/v1/namespaces/default/pods";
const CLASSES: &str = "/apis/scheduling.k8s.io/v1/priorityclasses";

fn create(fleet: &Fleet, path: &str, object: &Value) -> (u16, Value) {
    let answer = fleet.request("d1", "POST", path, Some(object)).unwrap();
    (answer.status, answer.body)
}

fn pod(name: &str, script: &str, fields: &Value) -> Value {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"nodeName": "d1", "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "c", "image": "hello:1", "command": ["/bin/sh", "-c", script],
                "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
            "volumes": [{"name": "v", "emptyDir": {}}]}});
    pod["spec"].as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    pod
}

fn run(fleet: &Fleet, object: &Value) {
    let (status, body) = create(fleet, PODS, object);
    assert_eq!(status, 201, "{body}");
    let name = object["metadata"]["name"].as_str().unwrap();
    wait_for(&format!("{name} to run"), || runs(&found(fleet, name)).then_some(()));
}

fn found(fleet: &Fleet, name: &str) -> Value {
    fleet.request("d1", "GET", &format!("{PODS}/{name}"), None).map_or(Value::Null, |answer| answer.body)
}

fn runs(pod: &Value) -> bool {
    pod["status"]["containerStatuses"][0]["state"]["running"].is_object()
}

#[test]
fn a_static_pod_that_writes_too_much_is_evicted_and_its_mirror_tells() {
    let fleet = Fleet::up("t-evict-static", 3);
    fleet.load_hello();
    let folder = fleet.file("d1", "manifests");
    std::fs::create_dir_all(&folder).unwrap();
    let script = "while [ ! -e /v/now ]; do sleep 0.2; done; dd if=/dev/zero of=/v/x bs=64k count=64; sleep 1000";
    let volumes = json!({"volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Mi"}}]});
    let mut object = pod("fixed", script, &volumes);
    object["spec"].as_object_mut().unwrap().remove("nodeName");
    let file = folder.join("fixed.json");
    std::fs::write(&file, object.to_string()).unwrap();
    wait_for("the static pod to run", || runs(&found(&fleet, "fixed-d1")).then_some(()));
    let before = found(&fleet, "fixed-d1");
    // Nobody can be told: it ends all the same.
    fleet.dev(&["cut", "d1"]);
    let volume = format!("data/pods/{}/volumes/v/now", before["metadata"]["uid"].as_str().unwrap());
    std::fs::write(fleet.file("d1", &volume), "").unwrap();
    wait_for("the static pod to end", || fleet.containers("d1").is_empty().then_some(()));
    fleet.dev(&["heal", "d1"]);
    assert!(evicted(&fleet, "fixed-d1").contains("EmptyDir volume \"v\" exceeds the limit"));
    let after = found(&fleet, "fixed-d1");
    // The mirror is the one that stood for it: the pod's own uid, and the same hash of its file.
    assert_eq!(after["metadata"]["uid"], before["metadata"]["uid"]);
    let hash = |pod: &Value| pod["metadata"]["annotations"]["kubernetes.io/config.hash"].clone();
    assert!(hash(&after).is_string() && hash(&after) == hash(&before), "{after}");
    // It stays as it is, also for the next agent, until its file changes.
    fleet.dev(&["kill", "d1"]);
    fleet.dev(&["start", "d1"]);
    wait_for("the agent to answer", || fleet.leader("d1"));
    assert_eq!(
        (found(&fleet, "fixed-d1")["status"]["reason"].clone(), fleet.containers("d1").len()),
        (json!("Evicted"), 0)
    );
    object["spec"]["containers"][0]["command"] = json!(["/bin/sh", "-c", "sleep 2000"]);
    std::fs::write(&file, object.to_string()).unwrap();
    wait_for("another to run in its place", || runs(&found(&fleet, "fixed-d1")).then_some(()));
    assert_ne!(found(&fleet, "fixed-d1")["metadata"]["uid"], before["metadata"]["uid"]);
}

/// Waits until a pod is evicted, and for the event about it; returns why.
fn evicted(fleet: &Fleet, name: &str) -> String {
    let pod = wait_for(&format!("{name} to be evicted"), || {
        let pod = found(fleet, name);
        (pod["status"]["phase"] == "Failed" && pod["status"]["reason"] == "Evicted").then_some(pod)
    });
    let message = pod["status"]["message"].as_str().unwrap().to_owned();
    let state = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!(state["exitCode"], 137, "{pod}");
    wait_for("the event", || {
        let list = fleet.get("d1", "/api/v1/namespaces/default/events");
        let told = list["items"].as_array()?.iter().any(|event| {
            event["involvedObject"]["name"] == name
                && event["reason"] == "Evicted"
                && event["type"] == "Warning"
                && event["message"].as_str().is_some_and(|text| text.trim() == message.trim())
        });
        told.then_some(())
    });
    message
}

fn condition(fleet: &Fleet, kind: &str) -> String {
    let node = fleet.get("d1", "/api/v1/nodes/d1");
    let all = node["status"]["conditions"].as_array().unwrap();
    all.iter().find(|one| one["type"] == kind).unwrap()["status"].as_str().unwrap().to_owned()
}

fn classes(fleet: &Fleet) {
    for (name, value) in [("matters", 1000), ("spare", -10)] {
        let class = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass",
            "metadata": {"name": name}, "value": value});
        assert_eq!(create(fleet, CLASSES, &class).0, 201);
    }
}

#[test]
fn volumes_end_at_their_limits_and_classes_become_priorities() {
    let fleet = Fleet::up("t-volume-limit", 1);
    fleet.load_hello();
    let fill = "dd if=/dev/zero of=/v/file bs=1M count=8; sleep 1000";
    let sized = json!({"volumes": [{"name": "v", "emptyDir": {"sizeLimit": "2Mi"}}]});
    let in_memory = json!({"volumes": [{"name": "v", "emptyDir": {"sizeLimit": "2Mi", "medium": "Memory"}}]});
    run(&fleet, &pod("greedy", fill, &sized));
    run(&fleet, &pod("modest", "dd if=/dev/zero of=/v/file bs=1M count=1; sleep 1000", &sized));
    run(&fleet, &pod("memory", "dd if=/dev/zero of=/v/file bs=64k; wc -c < /v/file; sleep 1000", &in_memory));
    let message = evicted(&fleet, "greedy");
    assert!(message.contains("EmptyDir volume \"v\" exceeds the limit \"2Mi\""), "{message}");
    // In memory there is no more than that: the program is told, and the pod goes on.
    wait_for("the volume in memory to be full", || {
        let said = fleet.try_kith("d1", &["logs", "memory"]);
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        (said.contains("No space left") && said.contains("2097152")).then_some(())
    });
    assert!(runs(&found(&fleet, "modest")) && runs(&found(&fleet, "memory")));

    classes(&fleet);
    let (status, made) = create(&fleet, PODS, &pod("classed", "sleep 9", &json!({"priorityClassName": "matters"})));
    assert_eq!((status, &made["spec"]["priority"]), (201, &json!(1000)), "{made}");
    let (status, refused) = create(&fleet, PODS, &pod("none", "sleep 9", &json!({"priorityClassName": "gone"})));
    assert_eq!(status, 403, "{refused}");
    assert!(refused["message"].as_str().unwrap().contains("no PriorityClass with name gone was found"), "{refused}");
    let default = |name: &str| json!({"metadata": {"name": name}, "value": 5, "globalDefault": true});
    assert_eq!(create(&fleet, CLASSES, &default("usual")).0, 201);
    let (status, second) = create(&fleet, CLASSES, &default("other"));
    assert!(status == 422 && second["message"].as_str().unwrap().contains("usual"), "{second}");
    let (_, made) = create(&fleet, PODS, &pod("plain", "sleep 9", &json!({})));
    assert_eq!((&made["spec"]["priority"], &made["spec"]["priorityClassName"]), (&json!(5), &json!("usual")), "{made}");
    let reserved = json!({"metadata": {"name": "system-mine"}, "value": 5});
    assert_eq!(create(&fleet, CLASSES, &reserved).0, 422);
    // Pods of a template are of a class too.
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"priorityClassName": "matters",
        "containers": [{"name": "c", "image": "hello:1"}]}});
    let deployment = json!({"metadata": {"name": "web"}, "spec": {"replicas": 1,
        "selector": {"matchLabels": {"a": "b"}}, "template": template}});
    assert_eq!(create(&fleet, "/apis/apps/v1/namespaces/default/deployments", &deployment).0, 201);
    wait_for("its pod to be placed by its class", || {
        let pods = fleet.pods("d1");
        pods.iter()
            .any(|pod| {
                pod["metadata"]["labels"]["a"] == "b"
                    && pod["spec"]["priority"] == 1000
                    && pod["spec"]["nodeName"] == "d1"
            })
            .then_some(())
    });
}

/// Bytes that are free on the disk of a folder, and all.
fn room(folder: &Path) -> (u64, u64) {
    let found = nix::sys::statvfs::statvfs(folder).unwrap();
    (found.blocks_available() * found.fragment_size(), found.blocks() * found.fragment_size())
}

/// Leaves so much of a disk free.
fn leave(folder: &Path, file: &str, free: u64) {
    let mut ballast = std::fs::File::create(folder.join(file)).unwrap();
    while let Some(more) = room(folder).0.checked_sub(free).filter(|more| *more > 0) {
        let piece = vec![1; usize::try_from(more.min(1 << 20)).unwrap()];
        std::io::Write::write_all(&mut ballast, &piece).unwrap();
        ballast.sync_all().unwrap();
    }
}

#[test]
fn a_full_disk_costs_images_first_and_then_what_matters_least() {
    let fleet = Fleet::up_with("t-evict-disk", 1, &["eviction={disk_available_percent=30, pressure_seconds=3600}"]);
    on_disk_of(&fleet, "d1", 256);
    wait_for("the agent to answer", || fleet.request("d1", "GET", PODS, None).ok());
    fleet.load_hello();
    let tar = fleet.dir.join("hello-rootfs.tar");
    // An image that nothing needs, of which two thirds are its own.
    let spare = fleet.dir.join("spare");
    std::fs::create_dir(&spare).unwrap();
    let noise: Vec<u8> = (0..12_u64 << 20).map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect();
    std::fs::write(spare.join("noise"), noise).unwrap();
    crate::harness::succeed(
        std::process::Command::new("tar")
            .arg("-cf")
            .arg(spare.with_extension("tar"))
            .arg("-C")
            .arg(&spare)
            .arg("noise"),
    );
    fleet.kith("d1", &["image", "import", spare.with_extension("tar").to_str().unwrap(), "spare:1", "--cmd", "/x"]);
    assert!(tar.exists());
    classes(&fleet);
    let writes = "dd if=/dev/zero of=/v/file bs=1M count=16; sleep 1000";
    run(&fleet, &pod("matters", writes, &json!({"priorityClassName": "matters"})));
    run(&fleet, &pod("spare", writes, &json!({"priorityClassName": "spare"})));
    run(&fleet, &pod("idle", "sleep 1000", &json!({"priorityClassName": "spare"})));
    let data = fleet.file("d1", "data");
    for name in ["matters", "spare"] {
        let uid = found(&fleet, name)["metadata"]["uid"].as_str().unwrap().to_owned();
        let file = data.join(format!("pods/{uid}/volumes/v/file"));
        wait_for("the volume to be written", || (std::fs::metadata(&file).ok()?.len() == 16 << 20).then_some(()));
    }
    let threshold = room(&data).1 / 100 * 30;
    leave(&data, "ballast-1", threshold - (3 << 20));
    wait_for("the spare image to go", || {
        let listed = fleet.kith("d1", &["image", "ls"]);
        (!listed.contains("spare") && listed.contains("hello")).then_some(())
    });
    wait_for("the node to say so", || (condition(&fleet, "DiskPressure") == "True").then_some(()));
    for name in ["matters", "spare", "idle"] {
        assert!(runs(&found(&fleet, name)), "{name} had to go though an image could");
    }
    leave(&data, "ballast-2", threshold - (3 << 20));
    let message = evicted(&fleet, "spare");
    assert!(message.contains("low on resource: ephemeral-storage") && message.contains("Container c"), "{message}");
    wait_for("its volume to be given back", || (room(&data).0 > threshold).then_some(()));
    for name in ["matters", "idle"] {
        assert!(runs(&found(&fleet, name)), "{name} had to go though it matters more, or takes nothing");
    }
}

#[test]
fn when_memory_is_short_the_least_priority_goes_first_and_the_critical_never() {
    let fleet = Fleet::up("t-evict-memory", 1);
    fleet.load_hello();
    classes(&fleet);
    for (name, class) in [("first", "spare"), ("second", "matters"), ("never", "system-node-critical")] {
        run(&fleet, &pod(name, "sleep 1000", &json!({"priorityClassName": class})));
    }
    // As if the device had less than it needs: no device that others work on is made to.
    let settings = fleet.file("d1", "agent.toml");
    let mut text = std::fs::read_to_string(&settings).unwrap();
    assert_eq!(text.matches("memory_available = 0").count(), 1, "{text}");
    text = text.replace("memory_available = 0", "memory_available = 1000000000000000");
    std::fs::write(&settings, text).unwrap();
    fleet.dev(&["kill", "d1"]);
    fleet.dev(&["start", "d1"]);
    let message = evicted(&fleet, "second");
    assert!(message.contains("low on resource: memory"), "{message}");
    // One at a time: the other one was ended before.
    assert_eq!(found(&fleet, "first")["status"]["reason"], "Evicted");
    assert_eq!(condition(&fleet, "MemoryPressure"), "True");
    assert!(runs(&found(&fleet, "never")));
}
