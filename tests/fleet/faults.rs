//! What the fleet owes its users when devices and networks fail.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::json;

use crate::harness::{Fleet, Raised, name, node, succeed, wait_for};

const CONFIGMAPS: &str = "/api/v1/namespaces/default/configmaps";

fn configmap(name: &str) -> serde_json::Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"v": name}})
}

/// Creates `name` through `device`, again and again until it is acknowledged. A retry after a lost
/// answer finds its own object.
fn create_until_acknowledged(fleet: &Fleet, device: &str, name: &str) {
    wait_for(&format!("an acknowledged write of {name}"), || {
        let answer = fleet.request(device, "POST", CONFIGMAPS, Some(&configmap(name))).ok()?;
        matches!(answer.status, 201 | 409).then_some(())
    });
}

#[test]
fn writes_acknowledged_while_the_leader_is_killed_are_all_there_once() {
    let fleet = Fleet::up("t-writes", 3);
    let leader = fleet.leader("d1").unwrap();
    let others: Vec<&str> = ["d1", "d2", "d3"].into_iter().filter(|d| *d != leader).collect();
    let written = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for lane in 0..4 {
            let (fleet, others, written) = (&fleet, &others, &written);
            scope.spawn(move || {
                for number in 0..125 {
                    create_until_acknowledged(fleet, others[lane % 2], &format!("w-{lane}-{number}"));
                    written.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        wait_for("150 writes", || (written.load(Ordering::Relaxed) >= 150).then_some(()));
        fleet.dev(&["kill", &leader]);
    });
    assert_eq!(written.load(Ordering::Relaxed), 500);
    fleet.dev(&["start", &leader]);
    for device in ["d1", "d2", "d3"] {
        wait_for("the killed agent to answer", || fleet.leader(device));
        let list = fleet.get(device, CONFIGMAPS);
        let names: Vec<&str> =
            list["items"].as_array().unwrap().iter().map(name).filter(|n| n.starts_with("w-")).collect();
        assert_eq!(names.len(), 500, "on {device}");
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), 500, "twice on {device}");
    }
    fleet.wait_same_hash(&["d1", "d2", "d3"]);
}

#[test]
fn an_agent_killed_a_dozen_times_restarts_no_container_and_leaves_no_orphan() {
    let fleet = Fleet::up("t-agent", 3);
    fleet.load_hello();
    fleet.kith("d1", &["apply", "-f", "configs/examples/hello.yaml"]);
    fleet.wait_ready_pods("d1", 3);
    let before = fleet.containers("d2");
    assert!(!before.is_empty(), "nothing runs on d2");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Also when this thread panics, or the scope would wait for the load for ever.
        let _guard = Raised(&stop);
        let load = scope.spawn(|| {
            let mut number = 0;
            while !stop.load(Ordering::Relaxed) {
                create_until_acknowledged(&fleet, "d1", &format!("load-{number}"));
                number += 1;
            }
            number
        });
        for round in 0..12u64 {
            fleet.dev(&["kill", "d2"]);
            fleet.dev(&["start", "d2"]);
            // Not always at the same point of the agent's start.
            std::thread::sleep(std::time::Duration::from_millis(round * 37));
        }
        wait_for("d2 to answer", || fleet.leader("d2"));
        stop.store(true, Ordering::Relaxed);
        assert!(load.join().unwrap() > 0);
    });
    let pods = fleet.wait_ready_pods("d2", 3);
    assert_eq!(fleet.containers("d2"), before, "a container of d2 was restarted or lost");
    for pod in &pods {
        for status in pod["status"]["containerStatuses"].as_array().unwrap() {
            assert_eq!(status["restartCount"], 0, "{}", name(pod));
        }
    }
    for device in ["d1", "d2", "d3"] {
        let bound = pods.iter().filter(|pod| node(pod) == device).count();
        assert_eq!(fleet.containers(device).len(), bound, "containers and pods of {device} differ");
    }
}

#[test]
fn a_device_that_boots_alone_starts_its_pods_and_says_what_it_can_not_do() {
    let fleet = Fleet::up("t-dark", 3);
    fleet.load_hello();
    fleet.kith("d1", &["apply", "-f", "configs/examples/hello.yaml"]);
    let pods = fleet.wait_ready_pods("d1", 3);
    fleet.wait_same_hash(&["d1", "d2", "d3"]);
    let mine = pods.iter().find(|pod| node(pod) == "d3").expect("a pod on d3");
    for device in ["d1", "d2", "d3"] {
        fleet.dev(&["kill", "--power", device]);
    }
    assert_eq!(fleet.containers("d3").len(), 0, "the power is off, and something runs");
    fleet.dev(&["start", "d3"]);
    wait_for("d3 to run its pod", || (fleet.containers("d3").len() == 1).then_some(()));
    wait_for("the pod of d3 to answer", || {
        let page = fleet.exec("d3", &["curl", "-s", "--max-time", "2", "http://127.0.0.1:8080/"]);
        String::from_utf8_lossy(&page.stdout).contains("d3").then_some(())
    });

    let read = fleet.request("d3", "GET", &format!("/api/v1/namespaces/default/pods/{}", name(mine)), None).unwrap();
    assert_eq!(read.status, 200);
    assert!(read.warnings.iter().any(|w| w.contains("d3 knew") && w.contains("ago")), "no age: {:?}", read.warnings);

    let write = fleet.request("d3", "POST", CONFIGMAPS, Some(&configmap("dark"))).unwrap();
    assert_eq!(write.status, 503, "{}", write.body);
    assert!(write.body["message"].as_str().unwrap().contains("quorum"), "{}", write.body);

    for device in ["d1", "d2"] {
        fleet.dev(&["start", device]);
    }
    fleet.wait_ready_pods("d1", 3);
    create_until_acknowledged(&fleet, "d3", "light");
    fleet.wait_same_hash(&["d1", "d2", "d3"]);
}

#[test]
fn a_cut_off_leader_refuses_writes_and_heals_into_the_same_state() {
    let fleet = Fleet::up("t-cut", 3);
    let old = fleet.leader("d1").unwrap();
    let other = if old == "d1" { "d2" } else { "d1" };
    fleet.dev(&["cut", &old]);
    let refused = wait_for("the cut leader to refuse a write", || {
        let answer = fleet.request(&old, "POST", CONFIGMAPS, Some(&configmap("minority"))).ok()?;
        (answer.status != 201).then_some(answer)
    });
    assert_eq!(refused.status, 503, "{}", refused.body);
    let new = wait_for("a new leader", || fleet.leader(other).filter(|leader| *leader != old));
    create_until_acknowledged(&fleet, &new, "majority");
    fleet.dev(&["heal", &old]);
    fleet.wait_same_hash(&["d1", "d2", "d3"]);
    assert_eq!(fleet.get(&old, &format!("{CONFIGMAPS}/majority"))["data"]["v"], "majority");
}

#[test]
fn pods_of_a_lost_device_move_and_surplus_copies_stop_when_it_returns() {
    let fleet = Fleet::up("t-lost", 3);
    fleet.load_hello();
    fleet.kith("d1", &["apply", "-f", "configs/examples/hello.yaml"]);
    fleet.wait_ready_pods("d1", 3);
    let leader = fleet.leader("d1").unwrap();
    let lost = ["d1", "d2", "d3"].into_iter().find(|d| *d != leader).unwrap();
    fleet.dev(&["cut", lost]);
    let moved = wait_for("three ready pods elsewhere", || {
        let ready = fleet.ready_pods(&leader);
        let elsewhere: Vec<_> = ready.into_iter().filter(|pod| node(pod) != lost).collect();
        (elsewhere.len() == 3).then_some(elsewhere)
    });
    assert!(moved.iter().all(|pod| node(pod) != lost));
    let nodes = fleet.get(&leader, &format!("/api/v1/nodes/{lost}"));
    assert!(!crate::harness::is_ready(&nodes), "{lost} is cut off and Ready");
    assert_eq!(fleet.containers(lost).len(), 1, "a cut-off device keeps its work");
    fleet.dev(&["heal", lost]);
    wait_for("surplus copies to stop", || (fleet.containers(lost).is_empty()).then_some(()));
    wait_for("exactly three pods", || (fleet.pods(&leader).len() == 3).then_some(()));
}

#[test]
fn a_device_that_joins_under_a_later_leader_catches_up() {
    let fleet = Fleet::up("t-late", 3);
    // The founder is not the leader any more: the log begins with memberships without the leader.
    fleet.dev(&["kill", "d1"]);
    wait_for("another leader", || {
        fleet.leader("d2").filter(|leader| leader != "d1" && fleet.status("d2")["quorum"] == true)
    });
    let leader = fleet.leader("d2").unwrap();
    fleet.dev(&["start", "d1"]);
    wait_for("the founder to follow", || fleet.leader("d1").filter(|seen| *seen == leader));
    fleet.dev(&["add"]);
    fleet.wait_same_hash(&["d1", "d2", "d3", "d4"]);
    // And goes again, knowing that it is out.
    assert!(fleet.kith("d4", &["leave"]).starts_with("left fleet"));
    assert_eq!(fleet.status("d1")["devices"].as_array().unwrap().len(), 3);
}

#[test]
fn dev_down_leaves_nothing_behind() {
    let fleet = Fleet::up("t-down", 2);
    fleet.load_hello();
    fleet.kith("d1", &["apply", "-f", "configs/examples/hello.yaml"]);
    fleet.wait_ready_pods("d1", 3);
    fleet.dev(&["down"]);
    let leftovers = succeed(std::process::Command::new("sh").args([
        "-c",
        "ls /run/netns 2>/dev/null | grep t-down; grep t-down /proc/mounts; \
         find /sys/fs/cgroup -type d -path '*kith*t-down*'; ls -d /var/lib/kith-dev/t-down 2>/dev/null; true",
    ]));
    assert_eq!(leftovers, "");
    let of_the_fleet = |entry: &std::fs::DirEntry| {
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&command).contains("kith-dev/t-down/")
    };
    let programs = std::fs::read_dir("/proc").unwrap().flatten().filter(of_the_fleet).count();
    assert_eq!(programs, 0, "a program of the fleet still runs");
}

#[test]
fn a_device_that_is_gone_for_good_is_taken_off_the_list() {
    let fleet = Fleet::up("t-gone", 3);
    let leader = fleet.leader("d1").unwrap();
    let lost = ["d1", "d2", "d3"].into_iter().find(|d| *d != leader).unwrap();
    let refused = fleet.try_kith(&leader, &["leave", "--device", lost]);
    assert_eq!(refused.status.code(), Some(3), "a device that is ready was removed");
    fleet.dev(&["kill", "--power", lost]);
    wait_for("the device to be lost", || {
        let node = fleet.get(&leader, &format!("/api/v1/nodes/{lost}"));
        (!crate::harness::is_ready(&node)).then_some(())
    });
    fleet.kith(&leader, &["leave", "--device", lost]);
    wait_for("two members and two nodes", || {
        let devices = fleet.status(&leader)["devices"].as_array()?.len();
        let nodes = fleet.get(&leader, "/api/v1/nodes")["items"].as_array()?.len();
        (devices == 2 && nodes == 2).then_some(())
    });
    create_until_acknowledged(&fleet, &leader, "after");
    // It comes back, and is a stranger.
    fleet.dev(&["start", lost]);
    let write = fleet.request(lost, "POST", CONFIGMAPS, Some(&configmap("stranger")));
    assert!(write.is_ok_and(|answer| answer.status == 503), "a removed device can write");
}
