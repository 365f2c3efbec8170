//! Who votes and who leads, when devices come, go, stop and are set aside.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::harness::{Fleet, wait_for};

const CONFIGMAPS: &str = "/api/v1/namespaces/default/configmaps";

fn configmap(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"v": name}})
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn wait_voters(fleet: &Fleet, device: &str, expected: &[&str]) {
    wait_for(&format!("the voters {expected:?}"), || {
        let status = fleet.request(device, "GET", "/kith/v1/status", None).ok()?.body;
        (strings(&status["voters"]) == expected && status["quorum"] == true).then_some(())
    });
}

fn write(fleet: &Fleet, device: &str, name: &str) {
    wait_for(&format!("a write of {name}"), || {
        let answer = fleet.request(device, "POST", CONFIGMAPS, Some(&configmap(name))).ok()?;
        matches!(answer.status, 201 | 409).then_some(())
    });
}

#[test]
fn two_devices_and_a_witness_survive_the_loss_of_one() {
    let fleet = Fleet::up_with("t-witness", 2, &["lost_after_seconds=3"]);
    let text = fleet.kith("d2", &["status"]);
    assert!(text.contains("two devices can not outvote each other") && text.contains("--witness"), "{text}");
    fleet.dev(&["add", "--witness"]);
    wait_voters(&fleet, "d1", &["d1", "d2", "d3"]);
    fleet.wait_same_hash(&["d1", "d2", "d3"]);

    // It answers like the others, is no node, holds no authority, and carries no writes.
    let nodes = fleet.get("d3", "/api/v1/nodes");
    assert_eq!(nodes["items"].as_array().unwrap().len(), 2, "a witness is no node");
    let refused = fleet.request("d3", "POST", CONFIGMAPS, Some(&configmap("no"))).unwrap();
    assert_eq!(refused.status, 403, "{}", refused.body);
    let users = fleet.try_kith("d3", &["kubeconfig"]);
    assert!(String::from_utf8_lossy(&users.stderr).contains("authority"), "{users:?}");
    assert!(!fleet.file("d3", "data/images").exists(), "a witness keeps no images");
    let text = fleet.kith("d3", &["status"]);
    assert!(text.contains("witness"), "{text}");

    let leader = fleet.leader("d1").unwrap();
    let other = if leader == "d1" { "d2" } else { "d1" };
    fleet.dev(&["kill", "--power", &leader]);
    write(&fleet, other, "after");
    wait_for("the device, not the witness, to lead", || (fleet.leader(other)? == other).then_some(()));
    wait_for("a status that says how thin it is", || {
        fleet.kith(other, &["status"]).contains("2 of 3 voters answer").then_some(())
    });
    fleet.dev(&["start", &leader]);
    write(&fleet, &leader, "back");
    fleet.wait_same_hash(&["d1", "d2", "d3"]);
}

#[test]
fn a_witness_token_lets_no_full_device_in() {
    let fleet = Fleet::up("t-role", 1);
    let token = fleet.kith("d1", &["token", "create", "--witness", "-q"]);
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().to_str().unwrap();
    let kith = std::fs::canonicalize(crate::harness::KITH).unwrap();
    let join = [kith.to_str().unwrap(), "join", token.trim(), "--name", "x", "--data-dir", dir];
    let full = fleet.exec("d1", &[&join[..], &["--advertise", "10.77.0.99:7443"]].concat());
    let said = String::from_utf8_lossy(&full.stderr);
    assert!(!full.status.success() && said.contains("witness only") && said.contains("--witness"), "{said}");
    let list = fleet.kith("d1", &["token", "list"]);
    assert!(list.contains("witness"), "{list}");
}

/// Writes through a device until told to stop, and insists that each is taken at the first try;
/// returns the longest time that one took.
fn write_on(fleet: &Fleet, device: &str, stop: &AtomicBool) -> Duration {
    let mut longest = Duration::ZERO;
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let begun = Instant::now();
        let answer = fleet.request(device, "POST", CONFIGMAPS, Some(&configmap(&format!("w-{number}")))).unwrap();
        assert_eq!(answer.status, 201, "write {number}: {}", answer.body);
        longest = longest.max(begun.elapsed());
    }
    longest
}

#[test]
fn a_leader_that_is_told_to_stop_or_is_cordoned_hands_over_and_writes_go_on() {
    let fleet = Fleet::up("t-handover", 3);
    let first = fleet.leader("d1").unwrap();
    let others: Vec<&str> = ["d1", "d2", "d3"].into_iter().filter(|d| *d != first).collect();
    let term = fleet.status(others[0])["term"].as_u64().unwrap();
    let stop = AtomicBool::new(false);
    let longest = std::thread::scope(|scope| {
        let _guard = crate::harness::Raised(&stop);
        let load = scope.spawn(|| write_on(&fleet, others[0], &stop));
        kill(Pid::from_raw(fleet.agent_pid(&first).unwrap()), Signal::SIGTERM).unwrap();
        wait_for("the agent to end", || fleet.agent_pid(&first).is_none().then_some(()));
        wait_for("another leader", || fleet.leader(others[0]).filter(|leader| *leader != first));
        stop.store(true, Ordering::Relaxed);
        load.join().unwrap()
    });
    println!("the longest write while the leader stopped took {longest:?}");
    assert!(fleet.agent_log(&first).contains("handing over the lead"), "it was an election");
    // One election and no more: the successor was asked, and nobody stood against it.
    assert_eq!(fleet.status(others[0])["term"].as_u64(), Some(term + 1));
    fleet.dev(&["start", &first]);

    let second = fleet.leader(others[0]).unwrap();
    fleet.kith(others[0], &["cordon", &second]);
    let third = wait_for("another leader", || fleet.leader(&first).filter(|leader| *leader != second));
    let text = fleet.kith(&first, &["status"]);
    assert!(text.contains("yes, cordoned"), "{text}");
    // The last one that may lead stays when it is cordoned too and nobody is better.
    let rest = ["d1", "d2", "d3"].into_iter().find(|d| *d != second && *d != third).unwrap();
    let handed = || fleet.agent_log(&third).matches("handing over the lead").count();
    let before = handed();
    fleet.kith(rest, &["cordon", rest]);
    fleet.kith(rest, &["cordon", &third]);
    write(&fleet, rest, "all-cordoned");
    // On a busy machine another one may be elected; it is not handed to.
    assert_eq!(handed(), before, "it was handed to one that is no better");
    fleet.kith(rest, &["uncordon", &second, rest, &third]);
    write(&fleet, rest, "uncordoned");
}

#[test]
fn labels_say_who_votes_and_where() {
    let zone = |zone: &str, more: &str| format!("labels = {{ \"topology.kubernetes.io/zone\" = \"{zone}\"{more} }}");
    let fleet = Fleet::up_with("t-zones", 3, &[&zone("a", "")]);
    wait_voters(&fleet, "d1", &["d1", "d2", "d3"]);
    fleet.dev(&["add", "--set", &zone("b", ", \"kith.dev/voter\" = \"never\"")]);
    fleet.dev(&["add", "--set", &zone("c", "")]);
    let leader = fleet.leader("d1").unwrap();
    // The new zone gets a vote; which of the others makes room depends on who leads.
    let voters = wait_for("a vote in the new zone", || {
        let voters = strings(&fleet.request("d1", "GET", "/kith/v1/status", None).ok()?.body["voters"]);
        // While the change is under way, old and new voters count.
        (voters.contains(&"d5".to_owned()) && voters.len() == 3).then_some(voters)
    });
    assert!(voters.contains(&leader) && !voters.contains(&"d4".to_owned()), "{voters:?}");
    let text = fleet.kith("d4", &["status"]);
    assert!(text.contains("d4: its label says kith.dev/voter=never") && text.contains("ZONE"), "{text}");
}
