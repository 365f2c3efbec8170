//! Processes that are killed and frozen at random while the fleet is written to.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::harness::{Fleet, Raised, name, wait_for};
use crate::ledger::{self, CONFIGMAPS, Writer};

const DEVICES: [&str; 3] = ["d1", "d2", "d3"];

/// Rounds in which an agent is killed.
const ROUNDS: usize = 50;

#[test]
fn fifty_random_kills_under_load_lose_nothing_and_restart_no_container() {
    let seed = ledger::seed("fifty_random_kills");
    let mut rng = StdRng::seed_from_u64(seed);
    let fleet = Fleet::up("t-kills", 3);
    fleet.load_hello();
    fleet.kith("d1", &["apply", "-f", "configs/examples/hello.yaml"]);
    fleet.wait_ready_pods("d1", 3);
    let before: Vec<_> = DEVICES.iter().map(|device| fleet.containers(device)).collect();
    let stop = AtomicBool::new(false);
    let writers = std::thread::scope(|scope| {
        let _guard = Raised(&stop);
        let lanes: Vec<_> = (0..3)
            .map(|lane| {
                let (fleet, stop) = (&fleet, &stop);
                scope.spawn(move || {
                    let mut writer = Writer::new(fleet, lane, &DEVICES, seed);
                    while !stop.load(Ordering::Relaxed) {
                        writer.step();
                    }
                    writer
                })
            })
            .collect();
        for round in 0..ROUNDS {
            let first = rng.random_range(0..DEVICES.len());
            // Now and then two of three: no quorum until they are back.
            let both = rng.random_bool(0.2);
            let killed = [DEVICES[first], DEVICES[(first + 1) % DEVICES.len()]];
            let killed = &killed[..if both { 2 } else { 1 }];
            for device in killed {
                fleet.signal(device, Signal::SIGKILL);
            }
            std::thread::sleep(Duration::from_millis(rng.random_range(0..300)));
            for device in killed {
                fleet.dev(&["start", device]);
            }
            // Not always at the same point of the agent's start.
            std::thread::sleep(Duration::from_millis(rng.random_range(0..400)));
            assert!(
                !lanes.iter().any(std::thread::ScopedJoinHandle::is_finished),
                "a writer gave up before round {round} ended"
            );
        }
        for device in DEVICES {
            wait_for("the fleet to have a leader", || fleet.leader(device));
        }
        stop.store(true, Ordering::Relaxed);
        lanes.into_iter().map(|lane| lane.join().unwrap()).collect::<Vec<_>>()
    });
    let written: usize = writers.iter().map(Writer::written).sum();
    println!("{written} acknowledged writes over {ROUNDS} kills");
    ledger::settle(&fleet, &DEVICES, &writers);
    let pods = fleet.wait_ready_pods("d1", 3);
    for pod in &pods {
        for status in pod["status"]["containerStatuses"].as_array().unwrap() {
            assert_eq!(status["restartCount"], 0, "{}", name(pod));
        }
    }
    let after: Vec<_> = DEVICES.iter().map(|device| fleet.containers(device)).collect();
    assert_eq!(after, before, "a container was restarted or lost");
}

#[test]
fn a_leader_frozen_for_half_a_minute_is_replaced_and_wakes_up_humble() {
    let seed = ledger::seed("a_leader_frozen");
    let fleet = Fleet::up("t-frozen", 3);
    let frozen = fleet.leader("d1").unwrap();
    let others: Vec<&str> = DEVICES.into_iter().filter(|device| *device != frozen).collect();
    let mut writer = Writer::new(&fleet, 0, &others, seed);
    writer.step();
    fleet.signal(&frozen, Signal::SIGSTOP);
    let since = Instant::now();
    let new = wait_for("a new leader", || fleet.leader(others[0]).filter(|leader| *leader != frozen));
    writer.step();
    println!("{new} leads; acknowledged again after {:?}", since.elapsed());
    while since.elapsed() < Duration::from_secs(30) {
        writer.step();
    }
    // Asked while it sleeps, answered when it wakes up: with what was true when it was asked, or
    // with a warning that it may be old.
    let asked = AtomicUsize::new(0);
    let expected = writer.count().to_string();
    std::thread::scope(|scope| {
        let waiting: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    asked.fetch_add(1, Ordering::Relaxed);
                    fleet.request(&frozen, "GET", &format!("{CONFIGMAPS}/counter-0"), None)
                })
            })
            .collect();
        wait_for("the questions to be asked", || (asked.load(Ordering::Relaxed) == waiting.len()).then_some(()));
        std::thread::sleep(Duration::from_millis(100));
        fleet.signal(&frozen, Signal::SIGCONT);
        for answer in waiting {
            let answer = answer.join().unwrap().unwrap();
            let fresh = answer.status == 200 && answer.warnings.is_empty();
            assert!(!fresh || answer.body["data"]["v"] == expected.as_str(), "a stale read: {}", answer.body);
        }
    });
    for _ in 0..10 {
        writer.step();
        writer.look(&frozen);
    }
    ledger::settle(&fleet, &DEVICES, &[writer]);
}
