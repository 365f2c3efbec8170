//! The life of pods and Deployments as users see it.

use serde_json::{Value, json};

use crate::harness::{Fleet, is_ready, name, node, wait_for};

const PODS: &str = "/api/v1/namespaces/default/pods";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

fn create(fleet: &Fleet, path: &str, object: &Value) {
    let answer = fleet.request("d1", "POST", path, Some(object)).unwrap();
    assert_eq!(answer.status, 201, "{}", answer.body);
}

/// A pod that runs a script, on a device that is named or any.
fn shell(name: &str, script: &str, policy: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"hostNetwork": true, "restartPolicy": policy, "terminationGracePeriodSeconds": 2,
            "containers": [{"name": "c", "image": "hello:1", "command": ["/bin/sh", "-c", script],
                "resources": {"limits": {"memory": "24Mi"}}}]}})
}

fn pod(fleet: &Fleet, name: &str) -> Option<Value> {
    let answer = fleet.request("d1", "GET", &format!("{PODS}/{name}"), None).ok()?;
    (answer.status == 200).then_some(answer.body)
}

/// Waits until the first container's status of a pod is so.
fn wait_status(fleet: &Fleet, name: &str, what: &str, so: impl Fn(&Value) -> bool) -> Value {
    wait_for(&format!("{name} to be {what}"), || {
        let pod = pod(fleet, name)?;
        so(&pod["status"]["containerStatuses"][0]).then_some(pod)
    })
}

#[test]
fn containers_that_end_are_told_apart() {
    let fleet = Fleet::up("t-ends", 1);
    fleet.load_hello();
    create(&fleet, PODS, &shell("crash", "echo boom; exit 3", "Always"));
    create(&fleet, PODS, &shell("hungry", "a=x; while true; do a=$a$a; done", "Never"));
    create(&fleet, PODS, &shell("job", "echo done", "Never"));
    create(&fleet, PODS, &shell("bad", "echo bad; exit 4", "Never"));
    let mut empty = shell("missing", "sleep 1000", "Always");
    empty["spec"]["containers"][0]["env"] =
        json!([{"name": "COLOUR", "valueFrom": {"configMapKeyRef": {"name": "paint", "key": "colour"}}}]);
    create(&fleet, PODS, &empty);

    let crash = wait_status(&fleet, "crash", "in back-off", |status| {
        status["state"]["waiting"]["reason"] == "CrashLoopBackOff" && status["restartCount"].as_u64() >= Some(1)
    });
    assert_eq!(crash["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"], 3, "{crash}");
    assert!(fleet.kith("d1", &["logs", "crash", "--previous"]).contains("boom"));
    let ended = |name: &str| wait_status(&fleet, name, "over", |status| status["state"]["terminated"].is_object());
    let hungry = ended("hungry");
    assert_eq!(hungry["status"]["containerStatuses"][0]["state"]["terminated"]["reason"], "OOMKilled", "{hungry}");
    assert_eq!(ended("job")["status"]["phase"], "Succeeded");
    assert_eq!(ended("bad")["status"]["phase"], "Failed");
    assert!(fleet.kith("d1", &["logs", "job"]).contains("done"));

    let missing = wait_status(&fleet, "missing", "without its settings", |status| {
        status["state"]["waiting"]["reason"] == "CreateContainerConfigError"
    });
    let message = missing["status"]["containerStatuses"][0]["state"]["waiting"]["message"].to_string();
    assert!(message.contains("paint"), "{message}");
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "paint"}, "data": {"other": "x"}});
    create(&fleet, "/api/v1/namespaces/default/configmaps", &map);
    wait_status(&fleet, "missing", "missing its key", |status| {
        status["state"]["waiting"]["message"].as_str().is_some_and(|text| text.contains("colour"))
    });
    let patch = json!({"data": {"colour": "red"}});
    fleet.request("d1", "PATCH", "/api/v1/namespaces/default/configmaps/paint", Some(&patch)).unwrap();
    wait_status(&fleet, "missing", "running", |status| status["state"]["running"].is_object());
}

#[test]
fn an_image_is_looked_at_again_when_its_name_means_another() {
    let fleet = Fleet::up("t-image", 1);
    create(
        &fleet,
        PODS,
        &json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "late"},
        "spec": {"hostNetwork": true, "terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "hello:1", "imagePullPolicy": "Never"}]}}),
    );
    wait_status(&fleet, "late", "without its image", |status| {
        status["state"]["waiting"]["reason"] == "ErrImageNeverPull"
    });
    fleet.load_hello();
    let first = wait_status(&fleet, "late", "running", |status| status["state"]["running"].is_object());

    let tar = fleet.dir.join("hello-rootfs.tar").to_string_lossy().into_owned();
    fleet.kith("d1", &["image", "import", &tar, "hello:1", "--cmd", "echo second; sleep 1000"]);
    let before = &first["status"]["containerStatuses"][0]["imageID"];
    let pid = fleet.containers("d1")[0].1;
    succeed_kill(pid);
    let second = wait_status(&fleet, "late", "started again from the new image", |status| {
        status["restartCount"] == 1 && status["imageID"] != *before
    });
    assert!(second["status"]["containerStatuses"][0]["imageID"].as_str().unwrap().starts_with("sha256:"), "{second}");
}

fn succeed_kill(pid: u64) {
    crate::harness::succeed(std::process::Command::new("kill").args(["-9", &pid.to_string()]));
}

#[test]
fn a_program_has_its_grace_and_no_more() {
    let fleet = Fleet::up("t-grace", 1);
    fleet.load_hello();
    create(
        &fleet,
        PODS,
        &shell("polite", "trap 'echo bye; exit 0' TERM; echo up; while true; do sleep 0.1; done", "Always"),
    );
    create(&fleet, PODS, &shell("deaf", "trap '' TERM; echo up; while true; do sleep 0.1; done", "Always"));
    for pod in ["polite", "deaf"] {
        wait_for("its program to run", || {
            let output = fleet.try_kith("d1", &["logs", pod]);
            String::from_utf8_lossy(&output.stdout).contains("up").then_some(())
        });
    }
    fleet.kith("d1", &["delete", "pod", "polite", "deaf"]);
    wait_for("both pods to be gone", || fleet.pods("d1").is_empty().then_some(()));
    assert_eq!(fleet.containers("d1"), []);
    let logs =
        crate::harness::succeed(std::process::Command::new("grep").args(["-rh", "bye"]).arg(fleet.file("d1", "log")));
    assert!(logs.contains("bye"), "the polite one was asked first");
}

#[test]
fn deployments_follow_their_scale_their_template_and_the_cordon() {
    let fleet = Fleet::up("t-roll", 2);
    fleet.load_hello();
    fleet.kith("d1", &["apply", "-f", "configs/examples/hello.yaml"]);
    let first = fleet.wait_ready_pods("d1", 3);
    let plan = fleet.kith("d1", &["plan", "-f", "configs/examples/hello.yaml"]);
    assert!(!plan.trim().is_empty());
    fleet.kith("d1", &["scale", "deployment", "hello", "--replicas=0"]);
    wait_for("no pods", || fleet.pods("d1").is_empty().then_some(()));
    wait_for("no containers", || (fleet.containers("d1").len() + fleet.containers("d2").len() == 0).then_some(()));

    let cordon =
        fleet.request("d1", "PATCH", "/api/v1/nodes/d2", Some(&json!({"spec": {"unschedulable": true}}))).unwrap();
    assert_eq!(cordon.status, 200, "{}", cordon.body);
    fleet.kith("d1", &["scale", "deployment", "hello", "--replicas=2"]);
    let pods = fleet.wait_ready_pods("d1", 2);
    assert!(pods.iter().all(|pod| node(pod) == "d1"), "a cordoned device takes no pods");
    fleet.request("d1", "PATCH", "/api/v1/nodes/d2", Some(&json!({"spec": {"unschedulable": null}}))).unwrap();

    let mut deployment = fleet.get("d1", &format!("{DEPLOYMENTS}/hello"));
    let env = &mut deployment["spec"]["template"]["spec"]["containers"][0]["env"];
    env.as_array_mut().unwrap().push(json!({"name": "COLOUR", "value": "red"}));
    let answer = fleet.request("d1", "PUT", &format!("{DEPLOYMENTS}/hello"), Some(&deployment)).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    wait_for("two pods of the new template and no other", || {
        let pods = fleet.pods("d1");
        let new = |pod: &Value| pod["spec"]["containers"][0]["env"].to_string().contains("COLOUR") && is_ready(pod);
        (pods.len() == 2 && pods.iter().all(new)).then_some(())
    });
    assert!(first.iter().all(|old| pod(&fleet, name(old)).is_none()));
}

#[test]
fn logs_are_followed_across_a_restart_from_another_device() {
    let fleet = Fleet::up("t-logs", 2);
    fleet.load_hello();
    let mut talker =
        shell("talker", "n=0; while [ $n -lt 20 ]; do echo line $n of $$; n=$((n+1)); sleep 0.1; done", "Always");
    talker["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": "d2"});
    create(&fleet, PODS, &talker);
    wait_status(&fleet, "talker", "running", |status| status["state"]["running"].is_object());
    let follow = std::process::Command::new("timeout")
        .args([
            "60",
            crate::harness::KITH,
            "--config",
            fleet.file("d1", "agent.toml").to_str().unwrap(),
            "logs",
            "-f",
            "talker",
        ])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&follow.stdout).into_owned();
    assert!(text.contains("line 0") && text.contains("line 19"), "{text}{}", String::from_utf8_lossy(&follow.stderr));

    // Many pods by label, wherever they run, and with several containers.
    for (name, device) in [("first", "d1"), ("second", "d2")] {
        let mut pod = shell(name, &format!("echo {name} one; echo {name} two; sleep 1000"), "Always");
        pod["metadata"]["labels"] = json!({"choir": "yes"});
        pod["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": device});
        let mut other = pod["spec"]["containers"][0].clone();
        other["name"] = json!("other");
        other["command"] = json!(["/bin/sh", "-c", format!("echo {name} beside; sleep 1000")]);
        pod["spec"]["containers"].as_array_mut().unwrap().push(other);
        create(&fleet, PODS, &pod);
        wait_status(&fleet, name, "running", |status| status["state"]["running"].is_object());
    }
    let args = ["logs", "-l", "choir=yes", "--all-containers", "--prefix"];
    let said = wait_for("all of them to have spoken", || {
        let said = fleet.kith("d1", &args);
        (said.lines().count() == 6).then_some(said)
    });
    for (pod, container, line) in
        [("first", "c", "first two"), ("second", "c", "second one"), ("second", "other", "beside")]
    {
        let found = said.lines().any(|all| all.contains(pod) && all.contains(container) && all.ends_with(line));
        assert!(found, "{pod} {container} {line} in {said}");
    }
    let last = fleet.kith("d2", &["logs", "-l", "choir=yes", "-c", "c", "--tail", "1"]);
    let mut lines: Vec<&str> = last.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["[first/c] first two", "[second/c] second two"]);
    assert_eq!(fleet.kith("d1", &["logs", "second", "-c", "c", "--since-time", "2100-01-01T00:00:00Z"]), "");
    assert_eq!(fleet.kith("d1", &["logs", "second", "-c", "c", "--since", "1h"]), "second one\nsecond two\n");
}

#[test]
fn a_namespace_takes_what_is_in_it() {
    let fleet = Fleet::up("t-space", 1);
    fleet.load_hello();
    create(
        &fleet,
        "/api/v1/namespaces",
        &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shed"}}),
    );
    let pods = "/api/v1/namespaces/shed/pods";
    create(&fleet, pods, &shell("inside", "while true; do sleep 1; done", "Always"));
    create(
        &fleet,
        "/api/v1/namespaces/shed/configmaps",
        &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}}),
    );
    wait_for("its container", || (fleet.containers("d1").len() == 1).then_some(()));
    fleet.kith("d1", &["delete", "namespace", "shed"]);
    wait_for("the namespace to be gone", || {
        let answer = fleet.request("d1", "GET", "/api/v1/namespaces/shed", None).ok()?;
        (answer.status == 404).then_some(())
    });
    assert_eq!(fleet.get("d1", "/api/v1/pods")["items"], json!([]));
    wait_for("its container to end", || fleet.containers("d1").is_empty().then_some(()));
}

#[test]
fn the_fourth_and_fifth_device_learn_and_do_not_vote() {
    let fleet = Fleet::up("t-five", 5);
    let status = wait_for("three voters of five devices", || {
        let status = fleet.status("d1");
        (status["devices"].as_array()?.len() == 5 && status["voters"].as_array()?.len() == 3).then_some(status)
    });
    let learners = status["devices"].as_array().unwrap().iter().filter(|device| device["role"] == "learner").count();
    assert_eq!(learners, 2, "{status}");
    fleet.wait_same_hash(&["d1", "d2", "d3", "d4", "d5"]);
}
