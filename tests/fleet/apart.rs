//! Pods that must never run twice: `kith.dev/on-partition: stop-after=...`, with devices that are really
//! cut off, and agents that die meanwhile.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;

use crate::harness::{Fleet, node, wait_for};

const DEVICES: [&str; 3] = ["d1", "d2", "d3"];
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

/// One copy, which ends within a second of being asked.
fn deploy(fleet: &Fleet, stop_after: &str) {
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "one"},
        "spec": {"replicas": 1, "strategy": {"type": "Recreate"}, "selector": {"matchLabels": {"app": "one"}},
            "template": {
                "metadata": {"labels": {"app": "one"}, "annotations":
                    {"kith.dev/on-partition": format!("stop-after={stop_after}"), "kith.dev/lost-after": "3s"}},
                "spec": {"terminationGracePeriodSeconds": 1, "containers": [
                    {"name": "c", "image": "hello:1", "command": ["/bin/sh", "-c", "sleep 1000"]}]}}}});
    let answer = fleet.request("d1", "POST", DEPLOYMENTS, Some(&deployment)).unwrap();
    assert_eq!(answer.status, 201, "{}", answer.body);
}

/// Devices on which something runs, from what runs.
fn running(fleet: &Fleet) -> BTreeSet<&'static str> {
    DEVICES.into_iter().filter(|device| !fleet.containers(device).is_empty()).collect()
}

fn other_than(device: &str) -> &'static str {
    DEVICES.into_iter().find(|other| *other != device).unwrap()
}

/// Looks all the while whether two copies run; tells what `work` came to.
fn never_two<T>(fleet: &Fleet, work: impl FnOnce() -> T) -> T {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut looks = 0;
            while !done.load(Ordering::Relaxed) {
                let now = running(fleet);
                // One that ended between the looks at two devices is no second copy: look again.
                let twice = now.len() > 1 && running(fleet).len() > 1;
                assert!(!twice, "two copies at once: {now:?}");
                looks += 1;
            }
            looks
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        done.store(true, Ordering::Relaxed);
        let looks: u64 = watch.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        assert!(looks > 10, "{looks} looks");
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[test]
fn a_pod_that_must_not_run_twice_stops_before_another_begins() {
    let fleet = Fleet::up_with("t-apart", 3, &["lost_after_seconds=3"]);
    fleet.load_hello();
    // Longer than an agent takes to come back on a busy machine.
    deploy(&fleet, "20s");
    let home = node(&fleet.wait_ready_pods("d1", 1)[0]).to_owned();
    let before = fleet.containers(&home);
    let there = other_than(&home);

    // The agent comes and goes meanwhile, and knows how long it may go on.
    fleet.dev(&["kill", &home]);
    fleet.dev(&["start", &home]);
    wait_for("the agent to answer", || fleet.leader(&home));
    assert_eq!(fleet.containers(&home), before, "its container was restarted");

    never_two(&fleet, || {
        fleet.dev(&["cut", &home]);
        wait_for("the cut-off device to stop it", || fleet.containers(&home).is_empty().then_some(()));
        let log = fleet.agent_log(&home);
        assert!(log.contains("contact with a quorum"), "{log}");
        let next = wait_for("another to begin", || running(&fleet).into_iter().next());
        assert_ne!(next, home);
        wait_for("it to be ready", || fleet.ready_pods(there).iter().any(|pod| node(pod) == next).then_some(()));
        fleet.dev(&["heal", &home]);
        wait_for("the pod of before to be gone", || (fleet.pods(there).len() == 1).then_some(()));
        assert_eq!(running(&fleet), BTreeSet::from([next]));
    });
}

#[test]
fn a_pod_that_was_stopped_begins_again_when_its_device_is_back_in_time() {
    let fleet = Fleet::up_with("t-apart-back", 3, &["lost_after_seconds=3"]);
    fleet.load_hello();
    deploy(&fleet, "3s");
    let home = node(&fleet.wait_ready_pods("d1", 1)[0]).to_owned();
    never_two(&fleet, || {
        fleet.dev(&["cut", &home]);
        wait_for("the cut-off device to stop it", || fleet.containers(&home).is_empty().then_some(()));
        // An agent that starts in the dark begins nothing that may run elsewhere.
        fleet.dev(&["kill", &home]);
        fleet.dev(&["start", &home]);
        wait_for("the agent to answer", || fleet.request(&home, "GET", "/api/v1/pods", None).ok());
        assert_eq!(fleet.containers(&home), []);
        fleet.dev(&["heal", &home]);
        wait_for("it to run again, here or elsewhere", || {
            let ready = fleet.ready_pods(other_than(&home));
            (ready.len() == 1 && running(&fleet).len() == 1).then_some(())
        });
    });
    let events = fleet.kith(other_than(&home), &["get", "events"]);
    assert!(events.contains("CutOff"), "{events}");
}

#[test]
fn a_pod_that_must_not_run_twice_ends_though_its_agent_is_dead() {
    let fleet = Fleet::up_with("t-apart-dead", 3, &["lost_after_seconds=3"]);
    fleet.load_hello();
    deploy(&fleet, "3s");
    let home = node(&fleet.wait_ready_pods("d1", 1)[0]).to_owned();
    never_two(&fleet, || {
        // Nobody starts it again: the shims have to see to it.
        fleet.dev(&["kill", &home]);
        wait_for("its container to end", || fleet.containers(&home).is_empty().then_some(()));
        let next = wait_for("another to begin", || running(&fleet).into_iter().next());
        assert_ne!(next, home);
        fleet.dev(&["start", &home]);
        wait_for("the pod of before to be gone", || (fleet.pods(other_than(&home)).len() == 1).then_some(()));
        assert_eq!(running(&fleet), BTreeSet::from([next]));
    });
}
