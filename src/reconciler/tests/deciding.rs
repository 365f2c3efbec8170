use std::time::Duration;

use super::*;

#[test]
fn a_pod_starts_and_is_reported_once_it_runs() {
    let mut bench = Bench::with(&json!({}));
    assert_eq!(bench.words(), ["start u1-web-0"]);
    assert_eq!(bench.decide().wake_at, Some(NOW.plus(Duration::from_secs(10))), "a start may leave no trace");
    bench.running(0);
    assert_eq!(bench.words(), ["report web-1 at 7", "event Created", "event Started"]);
    let status = bench.store();
    assert_eq!(bench.decide(), Decision::default(), "what is stored is not reported again");
    assert_eq!(status.phase.as_deref(), Some("Running"));
    assert_eq!((status.host_ip.as_deref(), status.pod_ip.as_deref()), (Some("10.0.0.1"), Some("10.0.0.1")));
    assert_eq!(status.qos_class.as_deref(), Some("BestEffort"));
    let conditions: Vec<String> = status
        .conditions
        .unwrap()
        .iter()
        .map(|condition| format!("{}={}", condition.type_, condition.status))
        .collect();
    assert_eq!(
        conditions,
        [
            "PodScheduled=True",
            "PodReadyToStartContainers=True",
            "Initialized=True",
            "ContainersReady=True",
            "Ready=True"
        ]
    );
    let web = &status.container_statuses.unwrap()[0];
    assert_eq!((web.container_id.as_deref(), web.image_id.as_str()), (Some("kith://u1-web-0"), "sha256:aa"));
    assert_eq!((web.ready, web.started, web.restart_count), (true, Some(true), 0));
}

#[test]
fn images_are_prepared_waited_for_or_missed() {
    let mut bench = Bench::with(&json!({}));
    bench.target.images.clear();
    assert_eq!(bench.words(), ["prepare web:1", "report web-1 at 7"]);
    let waiting = |status: ContainerStatus| {
        let waiting = status.state.unwrap().waiting.unwrap();
        (waiting.reason.unwrap(), waiting.message.unwrap_or_default())
    };
    bench.target.images.insert("web:1".into(), ImageState::Preparing);
    assert_eq!(waiting(bench.web()).0, "ContainerCreating");
}

#[test]
fn an_end_is_followed_by_a_restart_then_by_a_wait() {
    let mut bench = Bench::with(&json!({}));
    bench.exited(0, exit(1, 0, 1));
    bench.now = NOW.plus(Duration::from_secs(1));
    assert_eq!(bench.words(), ["start u1-web-1"]);
    bench.exited(1, Exit { oom_killed: true, code: 137, ..exit(137, 1, 2) });
    bench.now = NOW.plus(Duration::from_secs(3));
    let decision = bench.decide();
    assert_eq!(decision.wake_at, Some(NOW.plus(Duration::from_secs(12))));
    assert_eq!(bench.words(), ["report web-1 at 7", "event BackOff", "event OOMKilled"]);
    let web = bench.web();
    let last = web.last_state.unwrap().terminated.unwrap();
    assert_eq!((last.reason.as_deref(), last.exit_code, web.restart_count), (Some("OOMKilled"), 137, 1));
    let message = web.state.unwrap().waiting.unwrap().message.unwrap();
    assert_eq!(message, "back-off 10s restarting failed container=web pod=web-1_default(u1)");
    bench.now = NOW.plus(Duration::from_secs(12));
    assert_eq!(bench.words(), ["start u1-web-2"]);
    bench.running(2);
    assert_eq!(bench.words(), ["remove u1-web-0", "report web-1 at 7", "event Created", "event Started"]);
}

#[test]
fn a_start_that_failed_says_what_failed() {
    let mut bench = Bench::with(&json!({"spec": {"restartPolicy": "Never"}}));
    let failed = Exit { started: None, message: "exec /httpd: no such file".into(), ..exit(128, 0, 0) };
    bench.exited(0, failed);
    let told = bench.decide().actions.into_iter().find_map(|action| match action {
        Action::Event(event) => Some(event.message),
        _ => None,
    });
    assert_eq!(told.as_deref(), Some("Container web could not be started: exec /httpd: no such file"));
    let status = bench.store();
    assert_eq!(status.phase.as_deref(), Some("Failed"));
    let ended = status.container_statuses.unwrap().remove(0).state.unwrap().terminated.unwrap();
    assert_eq!((ended.reason.as_deref(), ended.exit_code), (Some("StartError"), 128));
    assert_eq!(ended.message.as_deref(), Some("exec /httpd: no such file"));
}

#[test]
fn a_finished_pod_rests() {
    for (policy, code, phase) in [("Never", 0, "Succeeded"), ("Never", 3, "Failed"), ("OnFailure", 0, "Succeeded")] {
        let mut bench = Bench::with(&json!({"spec": {"restartPolicy": policy}}));
        bench.exited(0, exit(code, 0, 1));
        bench.now = NOW.plus(Duration::from_secs(5));
        assert_eq!(bench.store().phase.as_deref(), Some(phase), "{policy} {code}");
        assert_eq!(bench.words(), ["unshelter web-1"]);
        bench.shelter();
        assert_eq!(bench.decide(), Decision::default());
        bench.observed.containers.clear();
        assert_eq!(bench.decide(), Decision::default(), "not started again after a reboot");
    }
}

#[test]
fn after_a_reboot_attempts_count_on() {
    let mut bench = Bench::with(&json!({}));
    bench.running(4);
    bench.store();
    bench.observed = Observed::default();
    assert_eq!(bench.words(), ["shelter web-1"]);
    assert_eq!(bench.shelter().words(), ["start u1-web-5"]);
    let mut never = Bench::with(&json!({"spec": {"restartPolicy": "Never"}}));
    never.running(0);
    never.store();
    never.observed = Observed::default();
    let status = never.store();
    assert_eq!(status.phase.as_deref(), Some("Failed"));
    let ended = status.container_statuses.unwrap().remove(0).state.unwrap().terminated.unwrap();
    assert_eq!(ended.reason.as_deref(), Some("ContainerStatusUnknown"));
    assert_eq!(never.decide(), Decision::default());
}

#[test]
fn deletion_asks_kills_removes_and_confirms() {
    let mut bench = Bench::with(&json!({"metadata": {"deletionTimestamp": "2027-01-15T08:00:05Z"}}));
    bench.running(0);
    let decision = bench.decide();
    assert_eq!(bench.words(), ["Ask u1-web-0", "event Killing"]);
    assert_eq!(decision.wake_at, Some(NOW.plus(Duration::from_secs(5))));
    let reference = bench.observed.containers[0].reference.clone();
    bench.observed.asked.insert(reference, NOW);
    assert_eq!(bench.words(), Vec::<String>::new());
    bench.now = NOW.plus(Duration::from_secs(5));
    assert_eq!(bench.words(), ["Kill u1-web-0"]);
    bench.observed.containers.clear();
    bench.exited(0, exit(137, 0, 5));
    assert_eq!(bench.words(), ["remove u1-web-0", "unshelter web-1"]);
    bench.shelter().observed.containers.clear();
    assert_eq!(bench.words(), ["delete web-1 at 7"]);
}

#[test]
fn no_grace_means_at_once() {
    let mut bench = Bench::with(
        &json!({"metadata": {"deletionTimestamp": "2027-01-15T08:00:00Z", "deletionGracePeriodSeconds": 0}}),
    );
    bench.running(0);
    assert_eq!(bench.words(), ["Kill u1-web-0"]);
}

#[test]
fn containers_of_other_pods_are_ended() {
    for change in [json!({"metadata": {"uid": "u2"}}), json!({"spec": {"nodeName": "b"}})] {
        let mut bench = Bench::with(&change);
        bench.running(0);
        assert!(bench.words().contains(&"Ask u1-web-0".to_owned()), "{change}: {:?}", bench.words());
        assert!(!bench.words().contains(&"start u1-web-1".to_owned()));
    }
    let mut bench = Bench::with(&json!({}));
    bench.target.pods.clear();
    bench.exited(0, exit(0, 0, 1));
    assert_eq!(bench.words(), ["remove u1-web-0"]);
}

#[test]
fn a_missing_key_is_named_and_repaired_by_its_arrival() {
    let env = json!([{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}}]);
    let mut bench = Bench::with(&json!({"spec": {"containers": [{"name": "web", "image": "web:1", "env": env}]}}));
    assert_eq!(configmaps_needed(&bench.target.pods[0].pod), [("default".to_owned(), "c".to_owned())].into());
    bench.target.configmaps.extend([config_map("c", &[])]);
    let waiting = bench.web().state.unwrap().waiting.unwrap();
    assert_eq!(waiting.reason.as_deref(), Some("CreateContainerConfigError"));
    assert_eq!(waiting.message.as_deref(), Some("couldn't find key k in ConfigMap \"c\""));
    bench.target.configmaps.extend([config_map("c", &[("k", "v")])]);
    assert_eq!(bench.words(), ["start u1-web-0"]);
}

#[test]
fn a_node_that_was_lost_and_is_back_says_ready_again() {
    let mut bench = Bench::with(&json!({}));
    bench.running(0);
    bench.store();
    let status = bench.target.pods[0].pod.status.as_mut().unwrap();
    for condition in status.conditions.as_mut().unwrap() {
        if condition.type_ == "Ready" {
            condition.status = "False".into();
            condition.reason = Some("NodeLost".into());
        }
    }
    assert_eq!(bench.words(), ["report web-1 at 7"]);
}

#[test]
fn a_container_keeps_the_image_that_it_was_started_from() {
    let mut bench = Bench::with(&json!({}));
    bench.running(0);
    assert_eq!(bench.web().image_id, "sha256:aa");
    let other = ImageState::Ready { config: ImageConfig::default(), id: "sha256:bb".into() };
    bench.target.images.insert("web:1".into(), other);
    assert_eq!(bench.words(), Vec::<String>::new(), "nothing changed for what runs");
    bench.observed.containers.clear();
    bench.running(1);
    assert_eq!(bench.web().image_id, "sha256:bb");
}
