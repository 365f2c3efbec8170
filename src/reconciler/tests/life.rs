//! Init containers, sidecars, probes and deadlines: the order of a pod's life.

use std::time::Duration;

use super::*;
use crate::resource::table::pod_status as row;

/// A pod with an init container, a sidecar, another init container and a main one.
fn sequence(extra: &Value) -> Bench {
    let container = |name: &str| json!({"name": name, "image": "web:1"});
    let mut side = container("side");
    side["restartPolicy"] = json!("Always");
    let mut spec = json!({"initContainers": [container("one"), side, container("two")]});
    merge(&mut spec, extra);
    Bench::with(&json!({"spec": spec}))
}

/// A boot after which the sandbox is made again at once.
fn reboot(bench: &mut Bench) {
    bench.observed = Observed { sandboxes: vec![shelter(None)], ..Observed::default() };
}

fn status_word(bench: &Bench) -> String {
    row(&serde_json::to_value(&bench.target.pods[0].pod).unwrap())
}

fn condition(status: &PodStatus, kind: &str) -> (String, String) {
    let all = status.conditions.as_ref().unwrap();
    let found = all.iter().find(|one| one.type_ == kind).unwrap();
    (found.status.clone(), found.message.clone().unwrap_or_default())
}

#[test]
fn containers_begin_in_their_order() {
    let mut bench = sequence(&json!({}));
    assert_eq!(bench.words(), ["start u1-one-0"]);
    bench.runs("one", 0);
    let status = bench.store();
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    assert_eq!(
        condition(&status, "Initialized"),
        ("False".into(), "containers with incomplete status: [one side two]".into())
    );
    assert_eq!(status_word(&bench), "Init:0/3");
    assert_eq!(bench.words(), Vec::<String>::new(), "nothing begins beside an init container");

    bench.ends("one", 0, 0);
    assert_eq!(bench.words(), ["start u1-side-0"]);
    bench.runs("side", 0);
    assert_eq!(bench.words(), ["start u1-two-0"]);
    bench.runs("two", 0);
    let status = bench.store();
    assert_eq!(status_word(&bench), "Init:2/3");
    let ready: Vec<_> = status.init_container_statuses.unwrap().iter().map(|one| one.ready).collect();
    assert_eq!(ready, [true, true, false]);

    bench.ends("two", 0, 0);
    assert_eq!(bench.words(), ["start u1-web-0"]);
    bench.runs("web", 0);
    let status = bench.store();
    assert_eq!(status.phase.as_deref(), Some("Running"));
    assert_eq!(condition(&status, "Initialized"), ("True".into(), String::new()));
    assert_eq!(condition(&status, "Ready").0, "True");
    assert_eq!(status_word(&bench), "Running");
    assert_eq!(bench.decide(), Decision::default());
}

#[test]
fn an_init_container_that_fails_is_tried_again_or_fails_the_pod() {
    let mut bench = sequence(&json!({}));
    bench.ends("one", 0, 3);
    assert_eq!(bench.words(), ["start u1-one-1"]);
    bench.ends("one", 1, 3);
    let status = bench.store();
    assert_eq!(status_word(&bench), "Init:CrashLoopBackOff");
    assert_eq!(status.phase.as_deref(), Some("Pending"));

    let mut never = sequence(&json!({"restartPolicy": "Never"}));
    never.ends("one", 0, 0).runs("side", 0).ends("two", 0, 7);
    assert_eq!(
        never.words(),
        [
            "Ask u1-side-0",
            "event Killing",
            "report web-1 at 7",
            "event Created",
            "event Started",
            "event Created",
            "event Started",
            "event Exited",
            "event Created",
            "event Started"
        ]
    );
    assert_eq!(never.store().phase.as_deref(), Some("Pending"), "the sidecar still runs");
    never.ends("side", 0, 143);
    let status = never.store();
    assert_eq!(status.phase.as_deref(), Some("Failed"));
    assert_eq!(status_word(&never), "Init:Error");
    assert_eq!(never.words(), ["unshelter web-1"]);
}

#[test]
fn a_sidecar_that_ends_is_restarted_and_others_go_on() {
    let mut bench = sequence(&json!({}));
    bench.ends("one", 0, 0).runs("side", 0).ends("two", 0, 0).runs("web", 0);
    bench.store();
    bench.ends("side", 0, 0);
    assert_eq!(bench.words(), ["start u1-side-1"]);
    bench.ends("side", 1, 1);
    let status = bench.store();
    assert_eq!(condition(&status, "Ready").1, "containers with unready status: [side]");
    assert_eq!(condition(&status, "Initialized").0, "True", "it was passed");
    assert_eq!(bench.words(), Vec::<String>::new());
}

#[test]
fn a_pod_is_over_with_its_main_containers_and_sidecars_end_last_first() {
    let side = |name: &str| json!({"name": name, "image": "web:1", "restartPolicy": "Always"});
    let mut bench = Bench::with(&json!({"spec": {"restartPolicy": "Never", "initContainers": [side("a"), side("b")]}}));
    bench.runs("a", 0).runs("b", 0).ends("web", 0, 0);
    assert!(bench.words().starts_with(&["Ask u1-b-0".into()]), "{:?}", bench.words());
    assert!(!bench.words().contains(&"Ask u1-a-0".to_owned()), "the first sidecar ends last");
    assert_eq!(bench.store().phase.as_deref(), Some("Running"));
    assert_eq!(bench.decide().ending, ["u1".to_owned()].into());
    let begun = bench.now;
    bench.observed.ending.insert("u1".into(), begun);
    bench.observed.asked.insert(bench.named("b", 0), begun);
    bench.pass(1).ends("b", 0, 143);
    assert!(bench.words().starts_with(&["Ask u1-a-0".into()]), "{:?}", bench.words());
    bench.ends("a", 0, 143);
    assert_eq!(bench.store().phase.as_deref(), Some("Succeeded"), "how sidecars end does not count");
    assert_eq!(bench.words(), ["unshelter web-1"]);
}

#[test]
fn a_deleted_pod_ends_its_sidecars_last_and_within_its_grace() {
    let mut bench = sequence(&json!({}));
    bench.ends("one", 0, 0).runs("side", 0).ends("two", 0, 0).runs("web", 0);
    bench.target.pods[0].pod.metadata.deletion_timestamp = Some(NOW.to_kubernetes());
    assert_eq!(bench.words(), ["Ask u1-web-0", "remove u1-one-0", "remove u1-two-0", "event Killing"]);
    bench.observed.ending.insert("u1".into(), NOW);
    bench.observed.asked.insert(bench.named("web", 0), NOW);
    bench.pass(5);
    assert_eq!(bench.words()[0], "Kill u1-web-0");
    bench.ends("web", 0, 137);
    assert_eq!(bench.words()[0], "Ask u1-side-0");
    let asked = bench.now;
    bench.observed.asked.insert(bench.named("side", 0), asked);
    assert!(!bench.words().iter().any(|word| word.starts_with("Kill")), "it has two seconds at least");
    bench.pass(2);
    assert_eq!(bench.words()[0], "Kill u1-side-0");
}

#[test]
fn a_sidecar_is_waited_for_until_its_startup_probe_succeeds() {
    let probe = json!({"exec": {"command": ["true"]}});
    let mut bench = sequence(&json!({"initContainers": [
        {"name": "side", "image": "web:1", "restartPolicy": "Always", "startupProbe": probe}]}));
    bench.runs("side", 0);
    assert_eq!(bench.decide().probes.len(), 1);
    assert!(!bench.words().iter().any(|word| word.starts_with("start")));
    bench.observed.health.insert(bench.named("side", 0), Health { started: true, ..Health::default() });
    assert_eq!(bench.words(), ["start u1-web-0"]);
}

#[test]
fn after_a_reboot_the_order_begins_again() {
    let mut bench = sequence(&json!({}));
    bench.ends("one", 0, 0).runs("side", 0).ends("two", 0, 0).runs("web", 0);
    bench.store();
    reboot(&mut bench);
    assert_eq!(bench.words(), ["start u1-one-1"]);
    bench.ends("one", 1, 0);
    assert_eq!(bench.words(), ["start u1-side-1"]);

    let mut done = sequence(&json!({"restartPolicy": "OnFailure"}));
    done.ends("one", 0, 0).runs("side", 0).ends("two", 0, 0).ends("web", 0, 0);
    done.store();
    reboot(&mut done);
    assert!(!done.words().iter().any(|word| word.starts_with("start")), "what is over stays over: {:?}", done.words());
    assert_eq!(done.store().phase.as_deref(), Some("Succeeded"));
}

fn probed(extra: &Value) -> Bench {
    let probe = |name: &str| json!({"httpGet": {"port": 80, "path": format!("/{name}")}, "periodSeconds": 7});
    let mut web = json!({"name": "web", "image": "web:1", "startupProbe": probe("up"),
        "livenessProbe": probe("alive"), "readinessProbe": probe("ready")});
    merge(&mut web, extra);
    Bench::with(&json!({"spec": {"containers": [web]}}))
}

#[test]
fn probes_decide_on_ready_and_on_a_restart() {
    let mut bench = probed(&json!({"livenessProbe": {"terminationGracePeriodSeconds": 2}}));
    bench.runs("web", 0);
    let kinds = |bench: &Bench| bench.decide().probes.iter().map(|order| order.kind).collect::<Vec<_>>();
    assert_eq!(kinds(&bench), [ProbeKind::Startup]);
    let status = bench.store();
    let web = &status.container_statuses.as_ref().unwrap()[0];
    assert_eq!((web.started, web.ready), (Some(false), false));
    assert_eq!(status.phase.as_deref(), Some("Running"));

    let reference = bench.named("web", 0);
    bench.observed.health.insert(reference.clone(), Health { started: true, ..Health::default() });
    assert_eq!(kinds(&bench), [ProbeKind::Liveness, ProbeKind::Readiness]);
    assert_eq!(bench.decide().probes[1].period, Duration::from_secs(7));
    assert!(!bench.web().ready);
    bench.observed.health.get_mut(&reference).unwrap().ready = Some(true);
    assert_eq!(condition(&bench.store(), "Ready").0, "True");

    let saved = std::mem::take(&mut bench.observed.health);
    assert_eq!(bench.words(), Vec::<String>::new(), "after a restart of the agent the stored status stands");
    assert_eq!(kinds(&bench), [ProbeKind::Liveness, ProbeKind::Readiness]);
    bench.observed.health = saved;

    bench.observed.health.get_mut(&reference).unwrap().failed = Some(ProbeKind::Liveness);
    let decision = bench.decide();
    assert_eq!(bench.words(), ["Ask u1-web-0", "event Killing"]);
    assert_eq!(decision.wake_at, Some(NOW.plus(Duration::from_secs(2))), "the probe's own grace");
    let Some(Action::Event(event)) = decision.actions.last() else { panic!("no event") };
    assert_eq!(event.message, "Container web failed liveness probe, will be restarted");
    bench.ends("web", 0, 137);
    assert_eq!(bench.words(), ["start u1-web-1"]);
}

#[test]
fn a_readiness_gate_holds_the_pod_back() {
    let mut bench = Bench::with(&json!({"spec": {"readinessGates": [{"conditionType": "example.com/seen"}]}}));
    bench.runs("web", 0);
    let status = bench.store();
    assert_eq!(condition(&status, "ContainersReady").0, "True");
    let (ready, why) = condition(&status, "Ready");
    assert_eq!(ready, "False");
    assert_eq!(why, "corresponding condition of pod readiness gate \"example.com/seen\" does not exist.");
    let gate = json!({"type": "example.com/seen", "status": "True"});
    let conditions = bench.target.pods[0].pod.status.as_mut().unwrap().conditions.as_mut().unwrap();
    conditions.push(serde_json::from_value(gate).unwrap());
    assert_eq!(condition(&bench.store(), "Ready").0, "True");
}

#[test]
fn a_pod_that_is_active_for_too_long_fails() {
    let mut bench = Bench::with(&json!({"spec": {"activeDeadlineSeconds": 60}}));
    bench.runs("web", 0);
    bench.store();
    assert_eq!(bench.decide().wake_at, Some(NOW.plus(Duration::from_mins(1))));
    bench.pass(60);
    assert_eq!(bench.words(), ["Ask u1-web-0", "event Killing"]);
    bench.ends("web", 0, 143);
    let status = bench.store();
    assert_eq!((status.phase.as_deref(), status.reason.as_deref()), (Some("Failed"), Some("DeadlineExceeded")));
    assert_eq!(status_word(&bench), "Error");
    assert_eq!(bench.words(), ["unshelter web-1"], "not started again");
}

#[test]
fn a_container_may_have_its_own_restart_policy() {
    let mut bench = Bench::with(&json!({"spec": {"containers": [
        {"name": "web", "image": "web:1"}, {"name": "once", "image": "web:1", "restartPolicy": "Never"}]}}));
    bench.runs("web", 0).ends("once", 0, 5);
    assert!(!bench.words().iter().any(|word| word.starts_with("start")));
    assert_eq!(bench.store().phase.as_deref(), Some("Running"));
}

#[test]
fn an_ephemeral_container_runs_once_beside_the_one_it_looks_at() {
    let mut bench = Bench::with(&json!({}));
    bench.runs("web", 0);
    bench.store();
    let spec = bench.target.pods[0].pod.spec.as_mut().unwrap();
    let added = json!([{"name": "look", "image": "web:1", "targetContainerName": "web"}]);
    spec.ephemeral_containers = serde_json::from_value(added).unwrap();
    let Some(Action::Start(started)) = bench.decide().actions.into_iter().next() else { panic!("no start") };
    assert_eq!(started.reference.container, "look");
    assert_eq!(started.namespaces.pid, super::container::Namespace::At("/proc/9/ns/pid".into()));
    bench.ends("look", 0, 1);
    let status = bench.store();
    let look = &status.ephemeral_container_statuses.as_ref().unwrap()[0];
    assert_eq!(look.state.as_ref().unwrap().terminated.as_ref().unwrap().exit_code, 1);
    assert_eq!((status.phase.as_deref(), condition(&status, "Ready").0.as_str()), (Some("Running"), "True"));
    assert_eq!(bench.decide(), Decision::default(), "it is not started again");
}
