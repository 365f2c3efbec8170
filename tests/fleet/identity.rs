//! A device is its key, and the fleet knows which of its lives it is in: backups, recoveries,
//! copies, old images, new addresses, wrong clocks.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{Fleet, KITH, succeed, wait_for};

const CONFIGMAPS: &str = "/api/v1/namespaces/default/configmaps";

fn write(fleet: &Fleet, device: &str, name: &str) {
    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"v": name}});
    wait_for(&format!("a write of {name} on {device}"), || {
        let answer = fleet.request(device, "POST", CONFIGMAPS, Some(&body)).ok()?;
        matches!(answer.status, 201 | 409).then_some(())
    });
}

fn has(fleet: &Fleet, device: &str, name: &str) -> bool {
    let answer = fleet.request(device, "GET", &format!("{CONFIGMAPS}/{name}"), None);
    answer.is_ok_and(|answer| answer.status == 200)
}

fn status(fleet: &Fleet, device: &str) -> Option<Value> {
    Some(fleet.request(device, "GET", "/kith/v1/status", None).ok()?.body)
}

fn member_id(fleet: &Fleet, asked: &str, device: &str) -> Option<u64> {
    let status = status(fleet, asked)?;
    status["devices"].as_array()?.iter().find(|known| known["name"] == device)?["member_id"].as_u64()
}

fn problems(fleet: &Fleet, device: &str) -> String {
    status(fleet, device).map_or_else(String::new, |status| status["problems"].to_string())
}

fn has_event(fleet: &Fleet, device: &str, reason: &str) -> Option<()> {
    let list = fleet.request(device, "GET", "/api/v1/events", None).ok()?.body;
    list["items"].as_array()?.iter().any(|event| event["reason"] == reason).then_some(())
}

fn copy(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    succeed(Command::new("cp").arg("-a").arg(from).arg(to));
}

fn wipe(fleet: &Fleet, device: &str) {
    let data = fleet.file(device, "data");
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::create_dir_all(&data).unwrap();
}

/// Runs `kith` inside a device's network.
fn inside(fleet: &Fleet, device: &str, args: &[&str]) -> (i32, String) {
    let config = fleet.file(device, "agent.toml");
    let mut argv = vec![KITH, "--config", config.to_str().unwrap()];
    argv.extend(args);
    let output = fleet.exec(device, &argv);
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned())
}

fn token(fleet: &Fleet, device: &str) -> String {
    let text = fleet.kith(device, &["token", "create"]);
    text.split_whitespace().find(|word| word.starts_with("kith1.")).unwrap().to_owned()
}

#[test]
fn one_survivor_goes_on_and_the_others_come_back_as_new_members() {
    let fleet = Fleet::up_with("d-recover", 3, &["lost_after_seconds=300"]);
    fleet.load_hello();
    fleet.kith("d1", &["apply", "-f", "configs/examples/hello.yaml"]);
    fleet.wait_ready_pods("d1", 3);
    write(&fleet, "d1", "before");
    fleet.wait_same_hash(&["d1", "d2", "d3"]);
    let running = fleet.containers("d1");
    let refused = fleet.try_kith("d2", &["recover", "--yes"]);
    assert_eq!(refused.status.code(), Some(3), "a fleet with a quorum was recovered");

    fleet.dev(&["kill", "d1"]);
    fleet.dev(&["kill", "d3"]);
    wait_for("the quorum to be lost", || (status(&fleet, "d2")?["quorum"] == false).then_some(()));
    let asked = fleet.try_kith("d2", &["recover"]);
    assert_eq!(asked.status.code(), Some(3), "nobody agreed");
    let told = String::from_utf8_lossy(&asked.stderr).into_owned();
    assert!(told.contains("Lost: what d1, d3 had") && told.contains("epoch 2"), "{told}");
    fleet.kith("d2", &["recover", "--yes"]);
    write(&fleet, "d2", "alone");
    assert!(has(&fleet, "d2", "before"));
    wait_for("the recovery to be written down", || has_event(&fleet, "d2", "Recovered"));

    fleet.dev(&["start", "d1"]);
    fleet.dev(&["start", "d3"]);
    for device in ["d1", "d3"] {
        wait_for(&format!("{device} as a new member"), || member_id(&fleet, "d2", device).filter(|id| *id > 3));
    }
    fleet.wait_same_hash(&["d1", "d2", "d3"]);
    assert!(has(&fleet, "d1", "alone"));
    assert!(fleet.file("d1", "data/aside/epoch-1-member-1/state.redb").exists(), "the evidence is gone");
    wait_for("three voters", || (status(&fleet, "d2")?["voters"].as_array()?.len() == 3).then_some(()));
    assert_eq!(fleet.containers("d1"), running, "a container of d1 was restarted");
}

#[test]
fn a_backup_made_while_the_fleet_runs_is_a_fleet_again_on_a_wiped_device() {
    let fleet = Fleet::up("d-restore", 2);
    write(&fleet, "d1", "kept");
    let file = fleet.dir.join("fleet.backup");
    let file = file.to_str().unwrap();
    let told = fleet.kith("d2", &["backup", file]);
    assert!(told.contains("fleet.backup: fleet"), "{told}");
    write(&fleet, "d1", "too-late");
    let bytes = std::fs::read(file).unwrap();
    let identity = std::fs::read_to_string(fleet.file("d1", "data/identity/device.json")).unwrap();
    let keys: Value = serde_json::from_str(&identity).unwrap();
    let secret = keys["device"].as_str().unwrap().as_bytes();
    assert!(!bytes.windows(secret.len()).any(|window| window == secret), "a private key is in the backup");

    for device in ["d1", "d2"] {
        fleet.dev(&["kill", "--power", device]);
    }
    let refused = fleet.try_kith("d1", &["restore", file]);
    assert_eq!(refused.status.code(), Some(3), "a device of a fleet was overwritten");
    wipe(&fleet, "d1");
    fleet.kith("d1", &["restore", file]);
    fleet.dev(&["start", "d1"]);
    write(&fleet, "d1", "after");
    assert!(has(&fleet, "d1", "kept") && !has(&fleet, "d1", "too-late"));
    assert!(member_id(&fleet, "d1", "d1").unwrap() > 2);
    wait_for("the restore to be written down", || has_event(&fleet, "d1", "Recovered"));

    fleet.kith("d2", &["leave", "--force"]);
    let token = token(&fleet, "d1");
    let (code, text) = inside(&fleet, "d2", &["join", &token]);
    assert_eq!(code, 0, "{text}");
    fleet.dev(&["start", "d2"]);
    fleet.wait_same_hash(&["d1", "d2"]);
}

#[test]
fn two_copies_of_a_device_are_both_fenced_and_told_how_to_go_on() {
    let fleet = Fleet::up("d-clone", 4);
    let leader = fleet.leader("d1").unwrap();
    let cloned = ["d1", "d2", "d3"].into_iter().find(|device| *device != leader).unwrap();
    inside(&fleet, "d4", &["leave"]);
    wait_for("the agent of d4 to end", || status(&fleet, "d4").is_none().then_some(()));
    fleet.dev(&["kill", "d4"]);
    copy(&fleet.file(cloned, "data"), &fleet.file("d4", "data"));
    fleet.dev(&["start", "d4"]);
    let both_seen = std::time::Instant::now();
    for device in [cloned, "d4"] {
        let fenced = || problems(&fleet, device).contains("takes no part: this device is fenced").then_some(());
        wait_for(&format!("{device} to be fenced"), fenced);
    }
    eprintln!("both copies were fenced {:?} after the second one had started", both_seen.elapsed());
    wait_for("the fence to be told", || problems(&fleet, &leader).contains("fenced: two copies").then_some(()));
    wait_for("the event", || has_event(&fleet, &leader, "Cloned"));
    assert_eq!(fleet.leader(&leader).unwrap(), leader, "the lead changed");
    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}});
    for device in [cloned, "d4"] {
        let answer = fleet.request(device, "POST", CONFIGMAPS, Some(&body));
        assert!(answer.is_ok_and(|answer| answer.status >= 500), "a fenced copy can write");
    }
    write(&fleet, &leader, "goes-on");

    // The way out, as kith status says it.
    fleet.kith(&leader, &["leave", "--device", cloned, "--force"]);
    for device in [cloned, "d4"] {
        let (code, text) = inside(&fleet, device, &["leave", "--force"]);
        assert_eq!(code, 0, "{text}");
        fleet.dev(&["kill", device]);
    }
    let token = token(&fleet, &leader);
    let (code, text) = inside(&fleet, cloned, &["join", &token]);
    assert_eq!(code, 0, "{text}");
    fleet.dev(&["start", cloned]);
    fleet.wait_same_hash(&["d1", "d2", "d3"]);
    assert!(!problems(&fleet, &leader).contains("fenced"));
}

#[test]
fn an_older_disk_image_comes_back_as_a_new_member_by_itself() {
    let fleet = Fleet::up("d-image", 3);
    let leader = fleet.leader("d1").unwrap();
    let device = ["d1", "d2", "d3"].into_iter().find(|device| *device != leader).unwrap();
    let before = member_id(&fleet, &leader, device).unwrap();
    let image = fleet.dir.join("image");
    fleet.dev(&["kill", device]);
    copy(&fleet.file(device, "data"), &image);
    fleet.dev(&["start", device]);
    write(&fleet, device, "newer");
    fleet.wait_same_hash(&["d1", "d2", "d3"]);
    fleet.dev(&["kill", device]);
    copy(&image, &fleet.file(device, "data"));
    std::fs::remove_dir_all(&image).unwrap();
    fleet.dev(&["start", device]);
    wait_for("a new member", || member_id(&fleet, &leader, device).filter(|id| *id > 3 && *id != before));
    fleet.wait_same_hash(&["d1", "d2", "d3"]);
    wait_for("the event", || has_event(&fleet, &leader, "Readmitted"));
    wait_for("three voters", || (status(&fleet, &leader)?["voters"].as_array()?.len() == 3).then_some(()));
    assert!(fleet.file(device, "data/aside").exists(), "the evidence is gone");
}

#[test]
fn a_wiped_device_takes_its_name_back_only_when_it_is_asked_for() {
    let fleet = Fleet::up("d-wiped", 3);
    let leader = fleet.leader("d1").unwrap();
    let device = ["d1", "d2", "d3"].into_iter().find(|device| *device != leader).unwrap();
    let before = member_id(&fleet, &leader, device).unwrap();
    fleet.dev(&["kill", "--power", device]);
    wipe(&fleet, device);
    let token = token(&fleet, &leader);
    let (code, text) = inside(&fleet, device, &["join", &token]);
    assert!(code == 3 && text.contains("kith join TOKEN --replace"), "{code}: {text}");
    let (code, text) = inside(&fleet, device, &["join", &token, "--replace"]);
    assert_eq!(code, 0, "{text}");
    fleet.dev(&["start", device]);
    fleet.wait_same_hash(&["d1", "d2", "d3"]);
    assert!(member_id(&fleet, &leader, device).unwrap() > before);
    let status = status(&fleet, &leader).unwrap();
    assert_eq!(status["devices"].as_array().unwrap().len(), 3, "the old one is still a member");
}

#[test]
fn devices_find_each_other_when_all_addresses_changed_at_once() {
    let fleet = Fleet::up_with("d-moved", 3, &["advertise=[]"]);
    write(&fleet, "d1", "before");
    fleet.wait_same_hash(&["d1", "d2", "d3"]);
    // One of them sleeps meanwhile.
    fleet.dev(&["kill", "d3"]);
    for (device, address) in [("d1", "10.77.9.5/24"), ("d2", "10.77.9.4/24"), ("d3", "10.77.9.3/24")] {
        for change in
            [vec!["ip", "address", "flush", "dev", "eth0"], vec!["ip", "address", "add", address, "dev", "eth0"]]
        {
            let done = fleet.exec(device, &change);
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        }
    }
    fleet.dev(&["start", "d3"]);
    write(&fleet, "d1", "after");
    wait_for("the new addresses in the membership", || {
        let devices = status(&fleet, "d2")?["devices"].clone();
        let known = devices.as_array()?.iter().filter(|device| device["addresses"].to_string().contains("10.77.9."));
        (known.count() == 3).then_some(())
    });
    fleet.wait_same_hash(&["d1", "d2", "d3"]);
}

/// A library that shifts what a program takes for the time of day, and nothing else.
const SHIFT: &str = r#"
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t id, struct timespec *at) {
    int failed = syscall(SYS_clock_gettime, id, at);
    const char *shift = getenv("TEST_SHIFT");
    if (!failed && id == CLOCK_REALTIME && shift) at->tv_sec += atoll(shift);
    return failed;
}
"#;

/// Starts a device's agent with a clock that is wrong by so many seconds.
fn start_with_clock(fleet: &Fleet, device: &str, shift: i64) -> std::process::Child {
    let (source, library) = (fleet.dir.join("shift.c"), fleet.dir.join("shift.so"));
    std::fs::write(&source, SHIFT).unwrap();
    succeed(Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source));
    let mut command = Command::new(KITH);
    command.args(["dev", "--fleet", fleet.dir.file_name().unwrap().to_str().unwrap(), "exec", device, "--", "env"]);
    command.arg(format!("LD_PRELOAD={}", library.display())).arg(format!("TEST_SHIFT={shift}"));
    command.arg(KITH).arg("--config").arg(fleet.file(device, "agent.toml")).arg("agent");
    let log = std::fs::OpenOptions::new().append(true).create(true).open(fleet.file(device, "agent.log")).unwrap();
    command.stdin(std::process::Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
}

/// Ends a child when it goes.
struct Ended(std::process::Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_clock_in_1970_and_one_ten_years_ahead_lock_nobody_out() {
    let fleet = Fleet::up("d-clock", 3);
    write(&fleet, "d1", "before");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let mut agents = Vec::new();
    for (device, shift) in [("d2", -i64::try_from(now).unwrap()), ("d3", 10 * 365 * 86_400)] {
        fleet.dev(&["kill", device]);
        agents.push(Ended(start_with_clock(&fleet, device, shift)));
    }
    for device in ["d1", "d2", "d3"] {
        wait_for(&format!("a quorum on {device}"), || (status(&fleet, device)?["quorum"] == true).then_some(()));
        write(&fleet, device, &format!("from-{device}"));
    }
    fleet.wait_same_hash(&["d1", "d2", "d3"]);
    // The two with a wrong clock are a quorum.
    fleet.dev(&["kill", "d1"]);
    write(&fleet, "d2", "without-d1");
    write(&fleet, "d3", "without-d1-either");
    // A device with the right time is let in by them, and serves with a certificate of theirs.
    fleet.dev(&["start", "d1"]);
    fleet.dev(&["add"]);
    fleet.wait_same_hash(&["d1", "d2", "d3", "d4"]);
}

#[test]
fn a_card_that_was_moved_to_another_board_takes_part_again_as_the_same_device() {
    let fleet = Fleet::up("d-board", 4);
    let leader = fleet.leader("d1").unwrap();
    let moved = ["d1", "d2", "d3"].into_iter().find(|device| *device != leader).unwrap();
    let before = member_id(&fleet, &leader, moved).unwrap();
    inside(&fleet, "d4", &["leave"]);
    wait_for("the agent of d4 to end", || status(&fleet, "d4").is_none().then_some(()));
    fleet.dev(&["kill", "d4"]);
    fleet.dev(&["kill", "--power", moved]);
    copy(&fleet.file(moved, "data"), &fleet.file("d4", "data"));
    wipe(&fleet, moved);
    fleet.dev(&["start", "d4"]);
    write(&fleet, "d4", "from-the-other-board");
    assert_eq!(member_id(&fleet, &leader, moved), Some(before));
    assert!(!problems(&fleet, "d4").contains("takes no part"));
    // It is known there now: the next start is like any other.
    fleet.dev(&["kill", "d4"]);
    fleet.dev(&["start", "d4"]);
    write(&fleet, "d4", "again");
    assert!(!fleet.agent_log("d4").lines().last().unwrap_or("").contains("takes no part"));
}
