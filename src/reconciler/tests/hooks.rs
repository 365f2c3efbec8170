//! What is done after a start and before an end.

use std::time::Duration;

use super::*;

fn hooked(lifecycle: &Value) -> Bench {
    Bench::with(&json!({"spec": {"terminationGracePeriodSeconds": 10, "containers": [
        {"name": "web", "image": "web:1", "lifecycle": lifecycle}, {"name": "next", "image": "web:1"}]}}))
}

fn run(bench: &mut Bench, kind: HookKind, outcome: Option<Result<(), String>>) {
    let key = (bench.named("web", 0), kind);
    let begun = bench.observed.hooks.get(&key).map_or(bench.now, |run| run.begun);
    bench.observed.hooks.insert(key, HookRun { begun, outcome });
}

#[test]
fn a_container_counts_as_started_when_its_hook_is_done() {
    let mut bench = hooked(&json!({"postStart": {"exec": {"command": ["prepare"]}}}));
    assert_eq!(bench.words(), ["start u1-web-0"]);
    bench.runs("web", 0);
    assert_eq!(bench.words()[0], "PostStart u1-web-0");
    run(&mut bench, HookKind::PostStart, None);
    assert!(!bench.words().iter().any(|word| word.starts_with("start")), "the next one waits: {:?}", bench.words());
    assert!(bench.store().container_statuses.unwrap()[0].state.as_ref().unwrap().waiting.is_some());
    run(&mut bench, HookKind::PostStart, Some(Ok(())));
    assert_eq!(bench.words(), ["start u1-next-0"]);
    bench.runs("next", 0);
    assert_eq!(bench.store().phase.as_deref(), Some("Running"));
    bench.observed.hooks.clear();
    assert_eq!(bench.words(), Vec::<String>::new(), "the next agent does not do it again");
}

#[test]
fn a_hook_that_fails_ends_its_container() {
    let mut bench = hooked(&json!({"postStart": {"exec": {"command": ["prepare"]}}}));
    bench.runs("web", 0).runs("next", 0);
    run(&mut bench, HookKind::PostStart, Some(Err("exit code 2".into())));
    let words = bench.words();
    assert_eq!(words[..3], ["Ask u1-web-0", "event FailedPostStartHook", "event Killing"]);
    let waiting = bench.store().container_statuses.unwrap()[0].state.clone().unwrap().waiting.unwrap();
    assert_eq!(waiting.reason.as_deref(), Some("PostStartHookError"));
    assert_eq!(waiting.message.as_deref(), Some("PostStartHook failed: exit code 2"));
    bench.ends("web", 0, 143);
    assert_eq!(bench.words(), ["start u1-web-1"]);
}

fn deleted() -> Bench {
    let mut bench = hooked(&json!({"preStop": {"sleep": {"seconds": 4}}}));
    bench.target.pods[0].pod.metadata.deletion_timestamp = Some(NOW.to_kubernetes());
    bench.runs("web", 0);
    bench
}

#[test]
fn the_stop_hook_runs_inside_the_grace() {
    let mut bench = deleted();
    let decision = bench.decide();
    assert_eq!(bench.words(), ["PreStop u1-web-0", "event Killing"]);
    assert_eq!(decision.wake_at, Some(NOW.plus(Duration::from_secs(10))));
    bench.observed.ending.insert("u1".into(), NOW);
    run(&mut bench, HookKind::PreStop, None);
    bench.pass(4);
    assert_eq!(bench.words(), Vec::<String>::new(), "it goes on");
    run(&mut bench, HookKind::PreStop, Some(Ok(())));
    assert_eq!(bench.words(), ["Ask u1-web-0"]);
    let asked = bench.now;
    bench.observed.asked.insert(bench.named("web", 0), asked);
    bench.pass(5);
    assert_eq!(bench.words(), Vec::<String>::new());
    bench.pass(1);
    assert_eq!(bench.words(), ["Kill u1-web-0"]);
}

#[test]
fn a_stop_hook_that_takes_all_the_time_leaves_two_seconds() {
    let mut bench = deleted();
    bench.observed.ending.insert("u1".into(), NOW);
    run(&mut bench, HookKind::PreStop, None);
    bench.pass(10);
    assert_eq!(bench.words(), ["Ask u1-web-0"]);
    let asked = bench.now;
    bench.observed.asked.insert(bench.named("web", 0), asked);
    assert_eq!(bench.words(), Vec::<String>::new());
    bench.pass(2);
    assert_eq!(bench.words(), ["Kill u1-web-0"]);
}

#[test]
fn a_stop_hook_that_fails_is_told_of_once() {
    let mut bench = deleted();
    run(&mut bench, HookKind::PreStop, Some(Err("no such file".into())));
    assert_eq!(bench.words(), ["Ask u1-web-0", "event FailedPreStopHook"]);
    bench.observed.asked.insert(bench.named("web", 0), NOW);
    assert_eq!(bench.words(), Vec::<String>::new());
}

#[test]
fn a_second_delete_shortens_the_grace() {
    let mut bench = deleted();
    bench.observed.ending.insert("u1".into(), NOW);
    run(&mut bench, HookKind::PreStop, None);
    bench.target.pods[0].pod.metadata.deletion_grace_period_seconds = Some(0);
    assert_eq!(bench.words(), ["Kill u1-web-0"], "no grace means at once, and no hook");
}

#[test]
fn a_stop_signal_of_the_container_wins_over_the_images() {
    let bench = hooked(&json!({"stopSignal": "SIGUSR1"}));
    let Some(Action::Start(spec)) = bench.decide().actions.into_iter().next() else { panic!("no start") };
    assert_eq!(spec.stop_signal, "SIGUSR1");
}
