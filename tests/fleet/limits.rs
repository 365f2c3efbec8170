//! Full disks, taken ports, and devices that leave: what a fleet does at its edges.

use serde_json::json;

use crate::harness::{Answer, Fleet, KITH, succeed, wait_for};

const CONFIGMAPS: &str = "/api/v1/namespaces/default/configmaps";

/// Puts a device's data on a disk of its own, of 48 MiB, with its agent stopped meanwhile.
fn on_small_disk(fleet: &Fleet, device: &str) {
    fleet.dev(&["kill", device]);
    let (data, aside) = (fleet.file(device, "data"), fleet.file(device, "aside"));
    std::fs::rename(&data, &aside).unwrap();
    std::fs::create_dir(&data).unwrap();
    succeed(std::process::Command::new("mount").args(["-t", "tmpfs", "-o", "size=48m", "kith-test"]).arg(&data));
    succeed(std::process::Command::new("cp").arg("-aT").arg(&aside).arg(&data));
    fleet.dev(&["start", device]);
}

/// Takes every byte of a device's disk.
fn fill(fleet: &Fleet, device: &str) {
    let mut file = std::fs::File::create(fleet.file(device, "data/ballast")).unwrap();
    while std::io::Write::write_all(&mut file, &[0; 4096]).is_ok() {}
}

fn empty(fleet: &Fleet, device: &str) {
    std::fs::remove_file(fleet.file(device, "data/ballast")).unwrap();
}

fn write(fleet: &Fleet, device: &str, name: &str) -> Option<Answer> {
    let object =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"v": "x".repeat(2000)}});
    fleet.request(device, "POST", CONFIGMAPS, Some(&object)).ok()
}

#[test]
fn a_device_with_a_full_disk_can_be_read_and_catches_up_when_there_is_room() {
    let fleet = Fleet::up("t-full", 3);
    let leader = fleet.leader("d1").unwrap();
    let full = ["d1", "d2", "d3"].into_iter().find(|device| *device != leader).unwrap();
    on_small_disk(&fleet, full);
    wait_for("an acknowledged write", || write(&fleet, full, "before").filter(|a| matches!(a.status, 201 | 409)));
    fill(&fleet, full);
    for number in 0..30 {
        let answer = write(&fleet, &leader, &format!("full-{number}")).unwrap();
        assert_eq!(answer.status, 201, "one full disk of three stops nobody: {}", answer.body);
    }
    assert_eq!(fleet.get(full, &format!("{CONFIGMAPS}/before"))["metadata"]["name"], "before");
    let problems = fleet.status(full)["problems"].to_string();
    assert!(problems.contains("disk") && problems.contains(full), "{problems}");
    // Even an agent that starts on it serves reads.
    fleet.dev(&["kill", full]);
    fleet.dev(&["start", full]);
    wait_for("reads on the full disk", || {
        fleet.request(full, "GET", CONFIGMAPS, None).ok().filter(|a| a.status == 200)
    });
    wait_for("the log to name the full disk", || fleet.agent_log(full).contains("is full").then_some(()));
    empty(&fleet, full);
    fleet.wait_same_hash(&["d1", "d2", "d3"]);
    assert!(!fleet.agent_log(full).contains("panicked"));
}

#[test]
fn a_single_device_with_a_full_disk_says_so_and_goes_on_by_itself() {
    let fleet = Fleet::up("t-full1", 1);
    on_small_disk(&fleet, "d1");
    wait_for("an acknowledged write", || write(&fleet, "d1", "before").filter(|a| matches!(a.status, 201 | 409)));
    fill(&fleet, "d1");
    let refused = write(&fleet, "d1", "during").unwrap();
    let message = refused.body["message"].as_str().unwrap_or_default().to_owned();
    assert!(refused.status >= 500 && message.contains("full") && message.contains("d1"), "{}", refused.body);
    assert_eq!(fleet.get("d1", &format!("{CONFIGMAPS}/before"))["metadata"]["name"], "before");
    fleet.dev(&["kill", "d1"]);
    fleet.dev(&["start", "d1"]);
    wait_for("reads on the full disk", || {
        fleet.request("d1", "GET", CONFIGMAPS, None).ok().filter(|a| a.status == 200)
    });
    empty(&fleet, "d1");
    wait_for("an acknowledged write", || write(&fleet, "d1", "after").filter(|a| matches!(a.status, 201 | 409)));
    assert!(!fleet.agent_log("d1").contains("panicked"));
}

#[test]
fn a_taken_port_or_folder_is_named_with_its_setting() {
    let fleet = Fleet::up("t-port", 1);
    let agent = |config: &std::path::Path| {
        let output = fleet.exec("d1", &["timeout", "20", KITH, "--config", &config.to_string_lossy(), "agent"]);
        assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let message = agent(&fleet.file("d1", "agent.toml"));
    assert!(message.contains("another agent (pid") && message.contains("data_dir"), "{message}");

    let dir = fleet.dir.join("second");
    std::fs::create_dir_all(&dir).unwrap();
    let config = dir.join("agent.toml");
    let settings = |ports: &str| {
        let text = format!(
            "name = \"second\"\ndata_dir = {:?}\nrun_dir = {:?}\nlog_dir = {:?}\ncgroup = \"/kith/t-port-2\"\n{ports}",
            dir.join("data"),
            dir.join("run"),
            dir.join("log")
        );
        std::fs::write(&config, text).unwrap();
    };
    settings("");
    let init = fleet.exec("d1", &[KITH, "--config", &config.to_string_lossy(), "init"]);
    assert!(init.status.success(), "{}", String::from_utf8_lossy(&init.stderr));
    let message = agent(&config);
    assert!(message.contains("7443") && message.contains("peer_listen"), "{message}");
    settings("peer_listen = \"0.0.0.0:7555\"\n");
    let message = agent(&config);
    assert!(message.contains("6443") && message.contains("api_listen"), "{message}");
    settings("peer_listen = \"0.0.0.0:7555\"\napi_listen = \"0.0.0.0:7556\"\n");
    std::fs::create_dir_all(dir.join("run/kith.sock/occupied")).unwrap();
    let message = agent(&config);
    assert!(message.contains("kith.sock") && message.contains("run_dir"), "{message}");
    let _ = std::fs::remove_dir("/sys/fs/cgroup/kith/t-port-2");
}

#[test]
fn devices_leave_and_join_again_and_the_last_one_only_by_force() {
    let fleet = Fleet::up("t-leave", 3);
    let leader = fleet.leader("d1").unwrap();
    let others: Vec<&str> = ["d1", "d2", "d3"].into_iter().filter(|device| *device != leader).collect();
    let count = |device: &str| fleet.status(device)["devices"].as_array().map(Vec::len);

    fleet.kith(others[0], &["leave"]);
    wait_for("two devices", || (count(&leader) == Some(2)).then_some(()));
    fleet.kith(&leader, &["leave"]);
    let last = others[1];
    wait_for("the last device to lead", || fleet.leader(last).filter(|leader| leader == last));
    wait_for("one device", || (count(last) == Some(1)).then_some(()));
    wait_for("a write on the last device", || write(&fleet, last, "alone").filter(|a| matches!(a.status, 201 | 409)));

    let refused = fleet.try_kith(last, &["leave"]);
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(3) && message.contains("--force"), "{message}");

    let made: serde_json::Value = serde_json::from_str(&fleet.kith(last, &["token", "create", "-o", "json"])).unwrap();
    let config = fleet.file(others[0], "agent.toml").to_string_lossy().into_owned();
    let joined = fleet.exec(others[0], &[KITH, "--config", &config, "join", made["token"].as_str().unwrap()]);
    assert!(joined.status.success(), "{}", String::from_utf8_lossy(&joined.stderr));
    fleet.dev(&["start", others[0]]);
    wait_for("two devices again", || (count(last) == Some(2)).then_some(()));
    wait_for("the fleet's state on it", || {
        let answer = fleet.request(others[0], "GET", &format!("{CONFIGMAPS}/alone"), None).ok()?;
        (answer.status == 200).then_some(())
    });
}
