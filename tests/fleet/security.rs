//! What pods may do on their device, which of its devices they get, and when they have to go.

use serde_json::{Value, json};

use crate::harness::{Fleet, wait_for};

const PODS: &str = "/api/v1/namespaces/default/pods";

fn create(fleet: &Fleet, name: &str, spec: &Value, container: &Value) {
    let mut object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"hostNetwork": true, "restartPolicy": "Always", "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "c", "image": "hello:1", "command": ["/bin/sh", "-c", "sleep 1000"]}]}});
    let merge = |into: &mut Value, from: &Value| {
        for (key, value) in from.as_object().unwrap() {
            into[key] = value.clone();
        }
    };
    merge(&mut object["spec"]["containers"][0], container);
    merge(&mut object["spec"], spec);
    let answer = fleet.request("d1", "POST", PODS, Some(&object)).unwrap();
    assert_eq!(answer.status, 201, "{}", answer.body);
}

fn pod(fleet: &Fleet, name: &str) -> Value {
    fleet.get("d1", &format!("{PODS}/{name}"))
}

/// Waits until a pod waits for a reason, and tells the message.
fn waits(fleet: &Fleet, name: &str, reason: &str) -> String {
    wait_for(&format!("{name} waits: {reason}"), || {
        let waiting = pod(fleet, name)["status"]["containerStatuses"][0]["state"]["waiting"].clone();
        (waiting["reason"] == reason).then(|| waiting["message"].as_str().unwrap_or_default().to_owned())
    })
}

fn runs(fleet: &Fleet, name: &str) {
    wait_for(&format!("{name} runs"), || {
        let state = pod(fleet, name)["status"]["containerStatuses"][0]["state"].clone();
        state["running"].is_object().then_some(())
    });
}

#[test]
fn a_device_allows_what_its_settings_say_and_names_them_otherwise() {
    let fleet = Fleet::up_with(
        "t-secure",
        1,
        &[
            "security.allow_capabilities=[\"NET_ADMIN\"]",
            "devices=[{resource=\"kith.dev/loop\",paths=[\"/dev/loop-control\"]}]",
        ],
    );
    fleet.load_hello();
    let caps = |name: &str| json!({"securityContext": {"capabilities": {"add": [name]}}});
    create(&fleet, "admin", &json!({}), &caps("NET_ADMIN"));
    create(&fleet, "mounts", &json!({}), &caps("SYS_ADMIN"));
    create(&fleet, "power", &json!({}), &json!({"securityContext": {"privileged": true}}));
    create(&fleet, "pids", &json!({"hostPID": true}), &json!({}));
    runs(&fleet, "admin");
    let reason = "CreateContainerConfigError";
    assert!(waits(&fleet, "mounts", reason).contains("allow_capabilities = [\"SYS_ADMIN\"]"));
    assert!(waits(&fleet, "power", reason).contains("allow_privileged = true"));
    assert!(waits(&fleet, "pids", reason).contains("allow_host_pid = true"));

    // Users of its own: root inside is nobody outside.
    let reads = json!({"command": ["/bin/sh", "-c", "cat /proc/self/uid_map; sleep 1000"]});
    create(&fleet, "users", &json!({"hostUsers": false}), &reads);
    runs(&fleet, "users");
    wait_for("its ids are told", || fleet.kith("d1", &["logs", "users"]).contains("1073741824").then_some(()));

    // Its root has power over the pod's own network, where it has the capability, and over no other.
    let changes = json!({"command": ["/bin/sh", "-c", "ifconfig lo 127.0.0.7 && ifconfig lo | grep 127.0.0.7; \
        echo did; sleep 1000"]});
    let mut powerful = changes.clone();
    powerful["securityContext"] = json!({"capabilities": {"add": ["NET_ADMIN"]}});
    for (name, network, container, power) in [
        ("own-power", false, &powerful, true),
        ("own-none", false, &changes, false),
        ("devices-power", true, &powerful, false),
    ] {
        create(&fleet, name, &json!({"hostUsers": false, "hostNetwork": network}), container);
        runs(&fleet, name);
        let said = wait_for(&format!("{name} to say what it could do"), || {
            let said = fleet.kith("d1", &["logs", name]);
            said.contains("did").then_some(said)
        });
        assert_eq!(said.contains("addr:127.0.0.7"), power, "{name}: {said}");
    }
    // Containers of one pod have the same users.
    let pid = |name: &str| {
        let uid = pod(&fleet, name)["metadata"]["uid"].as_str().unwrap().to_owned();
        let all = fleet.containers("d1");
        all.iter().find(|(id, _, _)| id.starts_with(&uid)).map(|(_, pid, _)| *pid).unwrap()
    };
    let shared = std::fs::read_link(format!("/proc/{}/ns/user", pid("own-power"))).unwrap();
    assert_ne!(shared, std::fs::read_link(format!("/proc/{}/ns/user", pid("own-none"))).unwrap());

    // One device, and two pods that want it.
    let node = fleet.get("d1", "/api/v1/nodes/d1");
    assert_eq!(node["status"]["allocatable"]["kith.dev/loop"], "1", "{node}");
    let wants = json!({"resources": {"limits": {"kith.dev/loop": 1}}});
    create(&fleet, "first", &json!({}), &wants);
    runs(&fleet, "first");
    create(&fleet, "second", &json!({}), &wants);
    let why = wait_for("the second is not placed", || {
        let conditions = pod(&fleet, "second")["status"]["conditions"].clone();
        let placed = conditions.as_array()?.iter().find(|condition| condition["type"] == "PodScheduled")?.clone();
        placed["message"].as_str().filter(|message| message.contains("kith.dev/loop")).map(str::to_owned)
    });
    assert!(why.contains("Insufficient kith.dev/loop"), "{why}");
}

#[test]
fn who_writes_too_much_is_evicted_and_told_why() {
    let fleet = Fleet::up_with("t-evict", 1, &[]);
    fleet.load_hello();
    let limited = json!({"resources": {"limits": {"ephemeral-storage": "1Mi"}},
        "command": ["/bin/sh", "-c", "dd if=/dev/zero of=/tmp/x bs=64k count=64; sleep 1000"]});
    create(&fleet, "writer", &json!({}), &limited);
    create(&fleet, "quiet", &json!({}), &json!({"resources": {"limits": {"ephemeral-storage": "1Mi"}}}));
    let evicted = wait_for("the writer is evicted", || {
        let pod = pod(&fleet, "writer");
        (pod["status"]["reason"] == "Evicted").then_some(pod)
    });
    assert_eq!(evicted["status"]["phase"], "Failed");
    let message = evicted["status"]["message"].as_str().unwrap();
    assert_eq!(message, "Container c exceeded its local ephemeral storage limit \"1Mi\". ");
    wait_for("nothing of it runs", || {
        let uid = evicted["metadata"]["uid"].as_str()?;
        fleet.containers("d1").iter().all(|(id, _, _)| !id.starts_with(uid)).then_some(())
    });
    assert!(fleet.kith("d1", &["get", "events"]).contains("Evicted"));
    runs(&fleet, "quiet");
}

/// Adds or removes a loop device, as plugging in and pulling out do: the kernel makes the node, and tells.
fn loop_device(number: u32, there: bool) -> bool {
    let request = if there { "0x4C80" } else { "0x4C81" };
    let open = "os.open('/dev/loop-control', os.O_RDWR)";
    let script = format!("import fcntl, os; fcntl.ioctl({open}, {request}, {number})");
    let output = std::process::Command::new("python3").args(["-c", &script]).output();
    output.expect("install it first: apt-get install python3").status.success()
}

#[test]
fn a_device_is_given_when_it_is_plugged_in_and_told_when_it_is_gone() {
    const NUMBER: u32 = 1377;
    loop_device(NUMBER, false);
    let rule = format!("devices=[{{resource=\"kith.dev/disk\",paths=[\"/dev/loop{NUMBER}\"]}}]");
    let fleet = Fleet::up_with("t-plug", 1, &[&rule]);
    fleet.load_hello();
    let offered = || fleet.get("d1", "/api/v1/nodes/d1")["status"]["allocatable"]["kith.dev/disk"].clone();
    let script = format!("ls -l /dev; dd if=/dev/loop{NUMBER} count=0 && echo opened; sleep 1000");
    let container = json!({"resources": {"limits": {"kith.dev/disk": 1}}, "command": ["/bin/sh", "-c", script]});
    create(&fleet, "wants", &json!({}), &container);
    wait_for("the pod to wait for it", || {
        let conditions = pod(&fleet, "wants")["status"]["conditions"].clone();
        let all = conditions.as_array()?.iter();
        all.into_iter().any(|one| one["message"].as_str().unwrap_or("").contains("kith.dev/disk")).then_some(())
    });
    assert!(loop_device(NUMBER, true), "this kernel has loop devices");
    wait_for("the device to be offered", || (offered() == "1").then_some(()));
    runs(&fleet, "wants");
    wait_for("the pod to have it", || fleet.kith("d1", &["logs", "wants"]).contains("opened").then_some(()));

    assert!(loop_device(NUMBER, false), "nobody holds it open");
    wait_for("the device not to be offered", || (offered() != "1").then_some(()));
    wait_for("the event", || fleet.kith("d1", &["get", "events"]).contains("DeviceGone").then_some(()));
    // What runs goes on; what starts again waits.
    runs(&fleet, "wants");
}
