//! Volumes, secrets and claims as users see them.

use std::path::Path;
use std::process::Command;

use base64::Engine as _;
use serde_json::{Value, json};

use crate::harness::{Fleet, is_ready, node, succeed, wait_for};

const PODS: &str = "/api/v1/namespaces/default/pods";
const CONFIGMAPS: &str = "/api/v1/namespaces/default/configmaps";
const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const CLAIMS: &str = "/api/v1/namespaces/default/persistentvolumeclaims";

/// No test has it anywhere else.
const PLAIN: &str = "pl4in-t3xt-of-a-s3cret";

fn create(fleet: &Fleet, path: &str, object: &Value) {
    // The fleet's key for secrets is made a moment after the fleet.
    wait_for("the object to be taken", || {
        let answer = fleet.request("d1", "POST", path, Some(object)).unwrap();
        assert!([201, 503].contains(&answer.status), "{}", answer.body);
        (answer.status == 201).then_some(())
    });
}

/// A pod that runs a script with these volumes, seen where it says.
fn pod(name: &str, script: &str, volumes: &Value, mounts: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"hostNetwork": true, "terminationGracePeriodSeconds": 1, "volumes": volumes,
            "containers": [{"name": "c", "image": "hello:1", "command": ["/bin/sh", "-c", script],
                "volumeMounts": mounts}]}})
}

fn found(fleet: &Fleet, name: &str) -> Option<Value> {
    let answer = fleet.request("d1", "GET", &format!("{PODS}/{name}"), None).ok()?;
    (answer.status == 200).then_some(answer.body)
}

fn wait_ready(fleet: &Fleet, name: &str) -> Value {
    wait_for(&format!("{name} to be ready"), || found(fleet, name).filter(is_ready))
}

fn wait_message(fleet: &Fleet, name: &str, text: &str) -> String {
    wait_for(&format!("{name} to say {text}"), || {
        let status = found(fleet, name)?["status"].clone();
        let waiting = status["containerStatuses"][0]["state"]["waiting"].to_string();
        let conditions = status["conditions"].to_string();
        (waiting.contains(text) || conditions.contains(text)).then(|| waiting + &conditions)
    })
}

fn wait_log(fleet: &Fleet, device: &str, pod: &str, text: &str) {
    wait_for(&format!("{text:?} in the log of {pod}"), || {
        let output = fleet.try_kith(device, &["logs", pod]);
        String::from_utf8_lossy(&output.stdout).contains(text).then_some(())
    });
}

fn wait_gone(fleet: &Fleet, name: &str) {
    fleet.kith("d1", &["delete", "pod", name]);
    wait_for(&format!("{name} to be gone"), || {
        let answer = fleet.request("d1", "GET", &format!("{PODS}/{name}"), None).ok()?;
        (answer.status == 404).then_some(())
    });
}

fn mounted_below(folder: &Path) -> Vec<String> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let folder = format!("{}/", folder.display());
    mounts.lines().filter(|line| line.contains(&folder)).map(str::to_owned).collect()
}

#[test]
fn every_kind_of_volume_is_mounted_kept_over_a_restart_and_removed() {
    let shared = tempfile::tempdir_in("/var/tmp").unwrap();
    std::fs::create_dir(shared.path().join("rw")).unwrap();
    std::fs::write(shared.path().join("ro"), "read me").unwrap();
    let (rw, ro) = (shared.path().join("rw"), shared.path().join("ro"));
    let setting = format!("host_paths=[\"{}\", \"{}:ro\"]", rw.display(), ro.display());
    let fleet = Fleet::up_with("t-volumes", 1, &[&setting]);
    fleet.load_hello();
    create(
        &fleet,
        CONFIGMAPS,
        &json!({"metadata": {"name": "cfg"}, "data": {"colour": "red"},
        "binaryData": {"raw": "AAECAw=="}}),
    );
    create(&fleet, SECRETS, &json!({"metadata": {"name": "db"}, "stringData": {"password": "first"}}));
    let volumes = json!([{"name": "disk", "emptyDir": {}}, {"name": "ram", "emptyDir": {"medium": "Memory",
            "sizeLimit": "1Mi"}}, {"name": "rw", "hostPath": {"path": rw.join("made"), "type": "DirectoryOrCreate"}},
        {"name": "ro", "hostPath": {"path": ro, "type": "File"}}, {"name": "cfg", "configMap": {"name": "cfg"}},
        {"name": "secret", "secret": {"secretName": "db", "defaultMode": 256}},
        {"name": "self", "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
        {"name": "all", "projected": {"sources": [{"configMap": {"name": "cfg"}}, {"secret": {"name": "db"}}]}}]);
    let mounts = json!([{"name": "disk", "mountPath": "/disk"}, {"name": "ram", "mountPath": "/ram"},
        {"name": "rw", "mountPath": "/rw"}, {"name": "ro", "mountPath": "/ro", "readOnly": true},
        {"name": "cfg", "mountPath": "/cfg"}, {"name": "secret", "mountPath": "/secret"},
        {"name": "self", "mountPath": "/self"}, {"name": "all", "mountPath": "/all"},
        {"name": "cfg", "mountPath": "/one/colour", "subPath": "colour"}, {"name": "disk", "mountPath": "/part",
            "subPath": "of/it"}]);
    let script = "echo d > /disk/f; echo r > /ram/f; echo h > /rw/f; echo p > /part/f; \
        echo see $(cat /disk/of/it/f /ram/f /rw/f /ro /self/labels /all/colour /all/password); \
        echo no > /cfg/x || echo closed; cat /ro > /ro || echo shut; stat -c %a /secret/..data/password; \
        while true; do echo now $(cat /cfg/colour) $(cat /secret/password) $(cat /one/colour) $(cat /disk/f); sleep 0.2; done";
    create(&fleet, PODS, &pod("all", script, &volumes, &mounts));
    wait_ready(&fleet, "all");
    wait_log(&fleet, "d1", "all", "see p r h read meapp=\"all\"redfirst");
    for text in ["closed", "shut", "400", "now red first red d"] {
        wait_log(&fleet, "d1", "all", text);
    }
    assert_eq!(std::fs::read_to_string(rw.join("made/f")).unwrap(), "h\n");

    // Settings change while the container runs; a file that is mounted by itself stays as it was.
    let patch = |path: &str, body: &Value| fleet.request("d1", "PATCH", path, Some(body)).unwrap();
    assert_eq!(patch(&format!("{CONFIGMAPS}/cfg"), &json!({"data": {"colour": "blue"}})).status, 200);
    wait_log(&fleet, "d1", "all", "now blue first red d");
    // Also by an agent that was killed and found everything as it was.
    fleet.signal("d1", nix::sys::signal::Signal::SIGKILL);
    fleet.dev(&["start", "d1"]);
    wait_for("the secret to be changed", || {
        let answer = fleet.request(
            "d1",
            "PATCH",
            &format!("{SECRETS}/db"),
            Some(&json!({"stringData": {"password": "second"}})),
        );
        answer.ok().filter(|answer| answer.status == 200).map(drop)
    });
    wait_log(&fleet, "d1", "all", "now blue second red d");
    assert_eq!(found(&fleet, "all").unwrap()["status"]["containerStatuses"][0]["restartCount"], 0);

    let described = fleet.kith("d1", &["describe", "pod", "all"]);
    assert!(described.contains("cfg: configMap cfg") && described.contains("/part from disk/of/it"), "{described}");
    wait_gone(&fleet, "all");
    let pods = fleet.file("d1", "data/pods");
    wait_for("its volumes to be gone", || (std::fs::read_dir(&pods).unwrap().count() == 0).then_some(()));
    assert_eq!(mounted_below(&pods), Vec::<String>::new());
    assert_eq!(std::fs::read_to_string(rw.join("made/f")).unwrap(), "h\n");
    let kept = fleet.file("d1", "data/secrets");
    wait_for("its secret to be forgotten", || (std::fs::read_dir(&kept).unwrap().count() == 0).then_some(()));
}

#[test]
fn what_a_volume_lacks_is_said_where_users_look() {
    let fleet = Fleet::up("t-novolume", 1);
    fleet.load_hello();
    for (name, volume, text) in [
        ("map", json!({"configMap": {"name": "late"}}), "configmap \\\"late\\\" not found"),
        ("secret", json!({"secret": {"secretName": "late"}}), "secret \\\"late\\\" not found"),
        ("host", json!({"hostPath": {"path": "/etc"}}), "host_paths"),
        (
            "claim",
            json!({"persistentVolumeClaim": {"claimName": "late"}}),
            "persistentvolumeclaim \\\"late\\\" not found",
        ),
    ] {
        let mut volume = volume;
        volume["name"] = json!("v");
        let mounts = json!([{"name": "v", "mountPath": "/v"}]);
        create(&fleet, PODS, &pod(name, "ls /v; sleep 1000", &json!([volume]), &mounts));
        wait_message(&fleet, name, text);
    }
    let described = wait_for("an event", || {
        let text = fleet.kith("d1", &["describe", "pod", "map"]);
        text.contains("FailedMount").then_some(text)
    });
    assert!(
        described.contains("MountVolume.SetUp failed for volume \"v\" : configmap \"late\" not found"),
        "{described}"
    );
    create(&fleet, CONFIGMAPS, &json!({"metadata": {"name": "late"}, "data": {"k": "v"}}));
    create(&fleet, SECRETS, &json!({"metadata": {"name": "late"}, "stringData": {"k": "v"}}));
    let claim = json!({"metadata": {"name": "late"}, "spec": {"accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Mi"}}}});
    create(&fleet, CLAIMS, &claim);
    for name in ["map", "secret", "claim"] {
        wait_ready(&fleet, name);
    }
}

/// Devices on whose disks, or in whose state in memory, a text can be read.
fn readable_on<'a>(fleet: &Fleet, devices: &[&'a str], folder: &str, text: &str) -> Vec<&'a str> {
    let encoded = base64::engine::general_purpose::STANDARD.encode(text);
    let has = |device: &&&str| {
        [text, encoded.trim_end_matches('=')].iter().any(|text| {
            let found = Command::new("grep").args(["-rqaF", text]).arg(fleet.file(device, folder)).status().unwrap();
            found.success()
        })
    };
    devices.iter().filter(has).copied().collect()
}

#[test]
fn a_secret_is_locked_everywhere_and_opened_where_its_pods_are() {
    let all = ["d1", "d2", "d3", "d4"];
    let fleet = Fleet::up("t-secrets", 4);
    fleet.load_hello();
    let voters = wait_for("three voters", || {
        let voters = fleet.status("d1")["voters"].clone();
        (voters.as_array()?.len() == 3).then_some(voters)
    })
    .to_string();
    let host = all.into_iter().find(|device| !voters.contains(&format!("\"{device}\""))).expect("one does not vote");
    create(&fleet, SECRETS, &json!({"metadata": {"name": "db"}, "stringData": {"password": PLAIN}}));
    create(&fleet, SECRETS, &json!({"metadata": {"name": "other"}, "stringData": {"password": "an-unrelated-one"}}));
    fleet.wait_same_hash(&all);
    assert_eq!(readable_on(&fleet, &all, "data", PLAIN), [""; 0], "before any pod");
    // Whoever may ask sees it, also on a device that can not open it itself.
    for device in [host, "d1"] {
        let shown: Value = serde_json::from_str(&fleet.kith(device, &["get", "secret", "db", "-o", "json"])).unwrap();
        assert_eq!(shown["data"]["password"], json!(base64::engine::general_purpose::STANDARD.encode(PLAIN)));
        let described = fleet.kith(device, &["describe", "secret", "db"]);
        assert!(described.contains(&format!("password: {} bytes", PLAIN.len())), "{described}");
        assert!(!described.contains(PLAIN), "{described}");
    }

    let mut object = pod(
        "db",
        "echo env $WORD; echo file $(cat /s/password); while true; do sleep 1; done",
        &json!([{"name": "s", "secret": {"secretName": "db"}}]),
        &json!([{"name": "s", "mountPath": "/s"}]),
    );
    object["spec"]["nodeName"] = json!(host);
    object["spec"]["containers"][0]["env"] =
        json!([{"name": "WORD", "valueFrom": {"secretKeyRef": {"name": "db", "key": "password"}}}]);
    create(&fleet, PODS, &object);
    wait_ready(&fleet, "db");
    wait_log(&fleet, host, "db", &format!("env {PLAIN}"));
    wait_log(&fleet, host, "db", &format!("file {PLAIN}"));
    // On the disks it is nowhere to be read, not even where it is used; the volume is memory.
    let pods = fleet.file(host, "data/pods");
    assert!(!mounted_below(&pods).is_empty());
    let others: Vec<&str> = all.into_iter().filter(|device| *device != host).collect();
    for folder in ["data", "run"] {
        assert_eq!(readable_on(&fleet, &others, folder, PLAIN), [""; 0], "{folder}");
    }
    for folder in ["data/log", "data/state.redb", "data/secrets"] {
        assert_eq!(readable_on(&fleet, &[host], folder, PLAIN), [""; 0], "{folder}");
    }
    assert_eq!(std::fs::read_dir(fleet.file(host, "data/secrets")).unwrap().count(), 1, "one secret is needed");
    let backup = fleet.dir.join("backup");
    fleet.kith("d1", &["backup", backup.to_str().unwrap()]);
    assert!(!Command::new("grep").args(["-qaF", PLAIN]).arg(&backup).status().unwrap().success());

    // In the dark: no voter can be asked, and the pod starts.
    fleet.dev(&["kill", "--power", host]);
    assert_eq!(readable_on(&fleet, &[host], "data", PLAIN), [""; 0], "a disk without power");
    fleet.dev(&["cut", host]);
    fleet.dev(&["start", host]);
    wait_for("the container to run in the dark", || (!fleet.containers(host).is_empty()).then_some(()));
    wait_for("what it sees", || {
        let output = fleet.try_kith(host, &["logs", "db"]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (text.contains(&format!("env {PLAIN}")) && text.contains(&format!("file {PLAIN}"))).then_some(())
    });
    fleet.dev(&["heal", host]);
    wait_gone(&fleet, "db");
    wait_for("the secret to be forgotten", || {
        (std::fs::read_dir(fleet.file(host, "data/secrets")).unwrap().count() == 0).then_some(())
    });
}

#[test]
fn a_claim_outlives_its_pods_and_holds_them_to_its_device() {
    let fleet = Fleet::up("t-claims", 2);
    fleet.load_hello();
    let claim = json!({"metadata": {"name": "db"}, "spec": {"accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "10Mi"}}}});
    create(&fleet, CLAIMS, &claim);
    let described = fleet.kith("d1", &["describe", "pvc", "db"]);
    assert!(described.contains("none yet"), "{described}");
    let volumes = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "db"}}]);
    let mounts = json!([{"name": "v", "mountPath": "/v"}]);
    let script = "cat /v/rows; echo row >> /v/rows; echo wrote; sleep 1000";
    create(&fleet, PODS, &pod("one", script, &volumes, &mounts));
    let device = node(&wait_ready(&fleet, "one")).to_owned();
    wait_log(&fleet, &device, "one", "wrote");
    let described = fleet.kith("d1", &["describe", "pvc", "db"]);
    assert!(described.contains(&device) && described.contains("one"), "{described}");
    let listed = fleet.kith("d1", &["get", "pvc"]);
    assert!(listed.contains("Bound") && listed.contains("RWO") && listed.contains("10Mi"), "{listed}");
    wait_gone(&fleet, "one");
    create(&fleet, PODS, &pod("two", script, &volumes, &mounts));
    assert_eq!(node(&wait_ready(&fleet, "two")), device);
    wait_log(&fleet, &device, "two", "row");
    wait_gone(&fleet, "two");
    fleet.kith("d1", &["cordon", &device]);
    create(&fleet, PODS, &pod("three", script, &volumes, &mounts));
    let message = wait_message(&fleet, "three", "volume node affinity conflict");
    assert!(message.contains(&format!("is on device {device}")), "{message}");
    fleet.kith("d1", &["uncordon", &device]);
    assert_eq!(node(&wait_ready(&fleet, "three")), device);
    wait_gone(&fleet, "three");
    fleet.kith("d1", &["delete", "pvc", "db"]);
    let rows = std::fs::read_to_string(fleet.file(&device, "data/volumes/default/db/rows")).unwrap();
    assert_eq!(rows.lines().count(), 3, "data is never removed with its claim");
}

#[test]
fn a_full_disk_leaves_a_volume_as_it_was_and_is_named() {
    let fleet = Fleet::up("t-fullvolume", 1);
    fleet.load_hello();
    create(&fleet, CONFIGMAPS, &json!({"metadata": {"name": "cfg"}, "data": {"text": "old"}}));
    let volumes = json!([{"name": "cfg", "configMap": {"name": "cfg"}}]);
    let mounts = json!([{"name": "cfg", "mountPath": "/cfg"}]);
    // The volumes of pods are on a disk of their own, so that only they have no room.
    let (image, pods) = (fleet.dir.join("pods.ext4"), fleet.file("d1", "data/pods"));
    std::fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
    succeed(Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(&image));
    succeed(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&pods));
    succeed(Command::new("rmdir").arg(pods.join("lost+found")));
    let script = "while true; do echo now $(cut -c 1-9 /cfg/text); sleep 0.2; done";
    create(&fleet, PODS, &pod("web", script, &volumes, &mounts));
    wait_ready(&fleet, "web");
    wait_log(&fleet, "d1", "web", "now old");
    let ballast = pods.join(".ballast");
    let mut file = std::fs::File::create(&ballast).unwrap();
    for piece in [1 << 20, 4096, 1] {
        while std::io::Write::write_all(&mut file, &vec![0; piece]).is_ok() {}
    }
    let _ = file.sync_all();
    // A file that is open keeps its room when it is removed.
    drop(file);
    let long = format!("new {}", "x".repeat(500_000));
    let patch = json!({"data": {"text": long}});
    fleet.request("d1", "PATCH", &format!("{CONFIGMAPS}/cfg"), Some(&patch)).unwrap();
    // A second pod can not have it at all, and says why; the first one goes on with what it has.
    create(&fleet, PODS, &pod("late", script, &volumes, &mounts));
    wait_message(&fleet, "late", "No space left on device");
    let output = fleet.try_kith("d1", &["logs", "web", "--tail", "1"]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("now old"));
    std::fs::remove_file(&ballast).unwrap();
    wait_ready(&fleet, "late");
    wait_log(&fleet, "d1", "web", "now new");
}
