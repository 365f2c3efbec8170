use super::*;

#[test]
fn a_lost_device_is_replaced_and_its_copies_end_when_it_returns() {
    let mut stage = Stage::with_nodes(&["a", "b", "c"]);
    stage.put(&deployment(3, &template("web:1")));
    stage.settle();
    stage.silence("c", 9);
    let plan = stage.plan();
    assert_eq!(plan.batches, [], "nine seconds are not enough");
    let soon = Timestamp(NOW.0 + 1_001);
    assert_eq!(plan.wake_at, Some(soon));
    stage.silence("c", 10);
    stage.settle();
    assert_eq!(stage.spread().replace("a:2 b:1", "a:1 b:2"), "a:1 b:2");
    assert_eq!(stage.pods().len(), 4, "the lost copy is marked, not gone: only its device can confirm its end");
    assert_eq!(stage.events("NodeNotReady"), 1);
    assert!(stage.plan().report.iter().any(|note| note.reason == Reason::DeviceLost));
    stage.hear("c");
    stage.settle();
    assert_eq!(stage.pods().len(), 3, "exactly as many as asked for");
}

#[test]
fn a_new_leader_gives_every_device_time_to_be_heard() {
    let mut stage = Stage::with_nodes(&["a", "b"]);
    stage.put(&deployment(2, &template("web:1")));
    stage.settle();
    stage.rehearsal.fleet.liveness.remove("b");
    stage.rehearsal.fleet.leader_for = Duration::from_secs(4);
    let plan = stage.plan();
    assert_eq!(plan.batches, []);
    assert_eq!(plan.wake_at, Some(Timestamp(NOW.0 + 6_001)));
    stage.rehearsal.fleet.leader_for = Duration::from_secs(10);
    stage.settle();
    assert_eq!(stage.spread(), "a:2");
}

#[test]
fn bare_and_pinned_pods_stay_with_a_lost_device() {
    let mut stage = Stage::with_nodes(&["a", "b"]);
    let mut pinned = template("web:1");
    pinned["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": "b"});
    stage.put(&deployment(1, &pinned));
    stage.put(&bare_pod("bare", &pinned["spec"]));
    stage.settle();
    assert_eq!(stage.spread(), "b:2");
    stage.silence("b", 60);
    let plan = stage.settle();
    assert_eq!(stage.spread(), "b:2");
    assert!(stage.pods().iter().all(|(_, pod)| !pods::is_ready(pod)));
    assert_eq!(plan.report.iter().filter(|note| note.reason == Reason::DeviceLost).count(), 2);
    stage.hear("b");
    stage.settle();
    assert!(stage.pods().iter().all(|(_, pod)| pods::is_ready(pod)));
}

#[test]
fn lost_after_of_a_pod_overrides_the_fleets() {
    let mut stage = Stage::with_nodes(&["a", "b"]);
    let mut patient = template("web:1");
    patient["metadata"]["annotations"] = json!({"kith.dev/lost-after": "5m", "kith.dev/on-partition": "stop"});
    stage.put(&deployment(2, &patient));
    let report = stage.settle().report;
    assert!(
        report.iter().any(|note| note.reason == Reason::NotHonoured && note.text.contains("on-partition")),
        "{report:?}"
    );
    stage.silence("b", 60);
    stage.settle();
    assert_eq!(stage.spread(), "a:1 b:1");
    stage.silence("b", 300);
    stage.settle();
    assert_eq!(stage.spread(), "a:2");
}

#[test]
fn what_must_not_run_twice_is_replaced_once_its_end_is_sure() {
    let mut stage = Stage::with_nodes(&["a", "b"]);
    let mut single = template("web:1");
    single["metadata"]["annotations"] = json!({"kith.dev/on-partition": "stop-after=1m"});
    stage.put(&deployment(2, &single));
    stage.settle();
    let part = |stage: &mut Stage, silent: u64, asked: u64| {
        let times = (Duration::from_secs(silent), Some(Duration::from_secs(asked)));
        let liveness = Liveness { silent_for: times.0, asked_for: times.1 };
        stage.rehearsal.fleet.liveness.insert("b".into(), liveness);
    };
    // A minute, its grace of half a minute, what clocks may differ by, and a margin.
    part(&mut stage, 300, 105);
    let report = stage.settle().report;
    assert_eq!(stage.spread(), "a:1 b:1", "it asked not long ago, whatever else is heard of it");
    assert!(report.iter().any(|note| note.text.contains("nothing takes its place before that is sure")), "{report:?}");
    part(&mut stage, 5, 300);
    stage.settle();
    assert_eq!(stage.spread(), "a:1 b:1", "a device that is heard of is not lost");
    part(&mut stage, 106, 106);
    stage.settle();
    assert_eq!(stage.spread(), "a:2");
    // It may have been back for a moment before it was told: what it runs then has to end first.
    stage.put(&deployment(3, &single));
    part(&mut stage, 300, 3);
    let pods = stage.pods().len();
    stage.settle();
    assert_eq!((stage.spread().as_str(), stage.pods().len()), ("a:2", pods), "one of three may still run");
    stage.hear("b");
    stage.settle();
    assert_eq!(stage.spread().replace("a:1 b:2", "a:2 b:1"), "a:2 b:1");
}

#[test]
fn pods_of_a_device_that_left_are_gone() {
    let mut stage = Stage::with_nodes(&["a", "b"]);
    stage.put(&deployment(2, &template("web:1")));
    stage.settle();
    stage.rehearsal.fleet.members.remove("b");
    stage.settle();
    assert_eq!(stage.spread(), "a:2");
    assert_eq!(stage.pods().len(), 2);
    assert!(!stage.rehearsal.fleet.nodes.contains_key("b"));
}
