//! The life of a pod: the order of its containers, probes, hooks, static pods, and agents that die in
//! the middle of it.

use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::harness::{Fleet, KITH, is_ready, name, succeed, wait_for};

const PODS: &str = "/api/v1/namespaces/default/pods";
const EVENTS: &str = "/api/v1/namespaces/default/events";

fn create(fleet: &Fleet, object: &Value) {
    let path = if object["kind"] == "Deployment" { "/apis/apps/v1/namespaces/default/deployments" } else { PODS };
    let answer = fleet.request("d1", "POST", path, Some(object)).unwrap();
    assert_eq!(answer.status, 201, "{}", answer.body);
    assert_eq!(answer.warnings, Vec::<String>::new());
}

fn pod(fleet: &Fleet, name: &str) -> Option<Value> {
    let answer = fleet.request("d1", "GET", &format!("{PODS}/{name}"), None).ok()?;
    (answer.status == 200).then_some(answer.body)
}

fn wait_pod(fleet: &Fleet, name: &str, what: &str, so: impl Fn(&Value) -> bool) -> Value {
    wait_for(&format!("{name} to be {what}"), || pod(fleet, name).filter(|pod| so(pod)))
}

/// A container that runs a script until the test says `USR1`.
fn container(name: &str, on_usr1: &str) -> Value {
    let script =
        format!("trap '{on_usr1}' USR1; trap 'echo bye; exit 0' TERM; echo up; while true; do sleep 0.1; done");
    json!({"name": name, "image": "hello:1", "command": ["/bin/sh", "-c", script]})
}

fn with(mut container: Value, more: &Value) -> Value {
    for (key, value) in more.as_object().unwrap() {
        container[key] = value.clone();
    }
    container
}

fn pod_of(name: &str, spec: &Value) -> Value {
    let mut object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"hostNetwork": true, "terminationGracePeriodSeconds": 10}});
    for (key, value) in spec.as_object().unwrap() {
        object["spec"][key] = value.clone();
    }
    object
}

/// Names of the containers that run, with their attempts, and their pids.
fn running(fleet: &Fleet) -> Vec<(String, i32)> {
    // An id is `<uid>-<container>-<attempt>`, and a uid has five parts.
    let short = |id: &str| id.splitn(6, '-').nth(5).unwrap_or_default().to_owned();
    let mut all: Vec<_> =
        fleet.containers("d1").into_iter().map(|(id, pid, _)| (short(&id), i32::try_from(pid).unwrap())).collect();
    all.sort();
    all
}

fn wait_running(fleet: &Fleet, wanted: &[&str]) {
    wait_for(&format!("{wanted:?} to run"), || {
        let names: Vec<String> = running(fleet).into_iter().map(|(name, _)| name).collect();
        (names == wanted).then_some(())
    });
}

fn say_usr1(fleet: &Fleet, container: &str) {
    let (_, pid) = running(fleet).into_iter().find(|(name, _)| name == container).unwrap();
    kill(Pid::from_raw(pid), Signal::SIGUSR1).unwrap();
}

/// Waits until a container of a pod has said `up`: until then it does not hear signals.
fn wait_up(fleet: &Fleet, pod: &str, container: &str) {
    wait_for(&format!("{container} to be up"), || {
        let output = fleet.try_kith("d1", &["logs", pod, "-c", container]);
        String::from_utf8_lossy(&output.stdout).contains("up").then_some(())
    });
}

fn word(fleet: &Fleet, pod: &str) -> String {
    let table = fleet.kith("d1", &["get", "pod", pod]);
    table.lines().nth(1).unwrap_or_default().split_whitespace().nth(2).unwrap_or_default().to_owned()
}

fn has_event(fleet: &Fleet, reason: &str, part: &str) -> bool {
    let events = fleet.get("d1", EVENTS);
    events["items"].as_array().unwrap().iter().any(|event| {
        event["reason"] == reason && event["message"].as_str().is_some_and(|message| message.contains(part))
    })
}

fn wait_event(fleet: &Fleet, reason: &str, part: &str) {
    wait_for(&format!("an event {reason} {part:?}"), || has_event(fleet, reason, part).then_some(()));
}

#[test]
fn init_containers_and_sidecars_keep_their_order() {
    let fleet = Fleet::up("t-order", 1);
    fleet.load_hello();
    let side = json!({"restartPolicy": "Always",
        "startupProbe": {"exec": {"command": ["test", "-e", "/tmp/up"]}, "periodSeconds": 1, "failureThreshold": 100}});
    create(
        &fleet,
        &pod_of(
            "ordered",
            &json!({"restartPolicy": "Never",
                "initContainers": [container("one", "exit 0"), with(container("side", "touch /tmp/up"), &side), container("two", "exit 0")],
                "containers": [container("main", "echo the end >/dev/termination-log; exit 0")]}),
        ),
    );
    wait_running(&fleet, &["one-0"]);
    wait_up(&fleet, "ordered", "one");
    wait_for("the first word", || (word(&fleet, "ordered") == "Init:0/3").then_some(()));
    say_usr1(&fleet, "one-0");
    wait_running(&fleet, &["side-0"]);
    wait_up(&fleet, "ordered", "side");
    wait_event(&fleet, "Unhealthy", "Startup probe failed");
    assert_eq!(running(&fleet).len(), 1, "the next one waits for the startup probe");
    say_usr1(&fleet, "side-0");
    wait_running(&fleet, &["side-0", "two-0"]);
    wait_for("the next word", || (word(&fleet, "ordered") == "Init:2/3").then_some(()));
    wait_up(&fleet, "ordered", "two");
    say_usr1(&fleet, "two-0");
    wait_running(&fleet, &["main-0", "side-0"]);
    let ready = wait_pod(&fleet, "ordered", "ready", is_ready);
    assert_eq!(ready["status"]["initContainerStatuses"][0]["state"]["terminated"]["reason"], "Completed", "{ready}");
    wait_up(&fleet, "ordered", "main");
    say_usr1(&fleet, "main-0");
    let done = wait_pod(&fleet, "ordered", "over", |pod| pod["status"]["phase"] == "Succeeded");
    assert_eq!(done["status"]["containerStatuses"][0]["state"]["terminated"]["message"], "the end\n", "{done}");
    assert_eq!(running(&fleet), [], "the sidecar ended with it");
    assert!(fleet.kith("d1", &["logs", "ordered", "-c", "side"]).contains("bye"), "it was asked");
    assert_eq!(word(&fleet, "ordered"), "Completed");
}

#[test]
fn probes_restart_what_is_dead_and_outlive_their_agent() {
    let fleet = Fleet::up("t-probes", 1);
    fleet.load_hello();
    let probes = json!({
        "livenessProbe": {"exec": {"command": ["test", "!", "-e", "/tmp/dead"]}, "periodSeconds": 1, "failureThreshold": 2},
        "readinessProbe": {"tcpSocket": {"port": "web", "host": "127.0.0.1"}, "periodSeconds": 1},
        "ports": [{"name": "web", "containerPort": 9191}]});
    let mut serving = with(container("c", "touch /tmp/dead"), &probes);
    serving["command"][2] = json!(format!("httpd -p 127.0.0.1:9191; {}", serving["command"][2].as_str().unwrap()));
    create(&fleet, &pod_of("probed", &json!({"containers": [serving]})));
    wait_pod(&fleet, "probed", "ready", is_ready);
    let before = running(&fleet);

    fleet.dev(&["kill", "d1"]);
    fleet.dev(&["start", "d1"]);
    wait_for("the agent to answer", || fleet.leader("d1"));
    let again = pod(&fleet, "probed").unwrap();
    assert!(is_ready(&again), "{again}");
    assert_eq!(running(&fleet), before, "nothing was restarted");

    wait_up(&fleet, "probed", "c");
    say_usr1(&fleet, "c-0");
    wait_event(&fleet, "Unhealthy", "Liveness probe failed");
    wait_event(&fleet, "Killing", "failed liveness probe, will be restarted");
    wait_running(&fleet, &["c-1"]);
    let restarted = wait_pod(&fleet, "probed", "ready again", is_ready);
    assert_eq!(restarted["status"]["containerStatuses"][0]["restartCount"], 1, "{restarted}");
}

#[test]
fn a_rollout_waits_for_readiness() {
    let fleet = Fleet::up("t-ready", 1);
    fleet.load_hello();
    let deployment = |probe: &str, version: &str| {
        let container = with(
            container("c", "exit 0"),
            &json!({"env": [{"name": "VERSION", "value": version}],
                "readinessProbe": {"exec": {"command": [probe]}, "periodSeconds": 1}}),
        );
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {
            "replicas": 2, "selector": {"matchLabels": {"app": "web"}},
            "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": {"metadata": {"labels": {"app": "web"}},
                "spec": {"hostNetwork": true, "terminationGracePeriodSeconds": 1, "containers": [container]}}}})
    };
    create(&fleet, &deployment("true", "1"));
    let old: Vec<String> = fleet.wait_ready_pods("d1", 2).iter().map(|pod| name(pod).to_owned()).collect();
    let replace = |object: &Value| {
        let path = "/apis/apps/v1/namespaces/default/deployments/web";
        let answer = fleet.request("d1", "PUT", path, Some(object)).unwrap();
        assert_eq!(answer.status, 200, "{}", answer.body);
    };
    replace(&deployment("false", "2"));
    wait_event(&fleet, "Unhealthy", "Readiness probe failed");
    let ready: Vec<String> = fleet.ready_pods("d1").iter().map(|pod| name(pod).to_owned()).collect();
    assert_eq!(ready, old, "the old ones serve on");
    assert_eq!(fleet.pods("d1").len(), 3, "one new one waits");
    replace(&deployment("true", "3"));
    wait_for("two ready pods of the third version and no other", || {
        let pods = fleet.pods("d1");
        let third = |pod: &Value| pod["spec"]["containers"][0]["env"][0]["value"] == "3" && is_ready(pod);
        (pods.len() == 2 && pods.iter().all(third)).then_some(())
    });
}

#[test]
fn hooks_run_before_the_end_and_after_the_start() {
    let fleet = Fleet::up("t-hooks", 1);
    fleet.load_hello();
    let lifecycle = |start: &str| {
        json!({"lifecycle": {
            "postStart": {"exec": {"command": ["/bin/sh", "-c", start]}},
            "preStop": {"exec": {"command": ["/bin/sh", "-c", "kill -USR1 1; sleep 1"]}}}})
    };
    // The program is asked by the hook first; it says so.
    let fine = with(container("c", "echo hooked"), &lifecycle("echo made >/tmp/made"));
    let fine = with(
        fine,
        &json!({"readinessProbe": {"exec": {"command": ["grep", "made", "/tmp/made"]}, "periodSeconds": 1}}),
    );
    create(&fleet, &pod_of("fine", &json!({"containers": [fine]})));
    create(
        &fleet,
        &pod_of(
            "bad",
            &json!({"containers": [with(container("c", "exit 0"), &lifecycle("echo no such luck; exit 3"))]}),
        ),
    );
    wait_pod(&fleet, "fine", "ready", is_ready);
    wait_event(&fleet, "FailedPostStartHook", "no such luck");
    wait_pod(&fleet, "bad", "restarted", |pod| {
        pod["status"]["containerStatuses"][0]["restartCount"].as_u64() >= Some(1)
    });
    wait_up(&fleet, "fine", "c");
    fleet.kith("d1", &["delete", "pod", "fine", "bad"]);
    wait_for("both pods to be gone", || fleet.pods("d1").is_empty().then_some(()));
    let log = succeed(Command::new("grep").args(["-rhE", "hooked|bye"]).arg(fleet.file("d1", "log")));
    let hooked = log.find("hooked").expect("the hook ran");
    assert!(log[hooked..].contains("bye"), "and was before the end:\n{log}");
}

#[test]
fn static_pods_run_in_the_dark_and_are_mirrored() {
    let fleet = Fleet::up("t-static", 3);
    fleet.load_hello();
    let folder = fleet.file("d1", "manifests");
    std::fs::create_dir_all(&folder).unwrap();
    let manifest = pod_of("fixed", &json!({"containers": [container("c", "exit 0")]}));
    std::fs::write(folder.join("fixed.yaml"), manifest.to_string()).unwrap();
    std::fs::write(
        folder.join("bad.yaml"),
        "apiVersion: v1\nkind: Pod\nmetadata: {name: bad}\nspec: {containerz: []}\n",
    )
    .unwrap();
    let mirror = wait_pod(&fleet, "fixed-d1", "mirrored", is_ready);
    assert!(mirror["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_string(), "{mirror}");
    wait_event(&fleet, "InvalidStaticPod", "spec.containerz");

    // A boot in the dark: nothing is left of the containers, and nobody is there to ask.
    fleet.dev(&["cut", "d1"]);
    fleet.dev(&["kill", "--power", "d1"]);
    assert_eq!(running(&fleet), []);
    fleet.dev(&["start", "d1"]);
    wait_running(&fleet, &["c-1"]);
    fleet.dev(&["heal", "d1"]);
    wait_for("d1 to find its fleet", || fleet.leader("d1"));

    let answer = fleet.request("d1", "DELETE", &format!("{PODS}/fixed-d1?gracePeriodSeconds=0"), None).unwrap();
    assert!(answer.status < 300, "{}", answer.body);
    wait_pod(&fleet, "fixed-d1", "mirrored again", |pod| {
        pod["metadata"]["deletionTimestamp"].is_null() && is_ready(pod)
    });
    wait_running(&fleet, &["c-1"]);

    std::fs::remove_file(folder.join("fixed.yaml")).unwrap();
    wait_for("the pod and its mirror to be gone", || {
        (running(&fleet).is_empty() && pod(&fleet, "fixed-d1").is_none()).then_some(())
    });
}

/// An agent of no fleet, with its folders; both end with the test.
struct Alone {
    dir: tempfile::TempDir,
    agent: std::process::Child,
}

impl Alone {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let folders =
            ["data", "run", "log", "manifests"].map(|name| format!("{name}_dir = \"{}\"\n", at(name).display()));
        let config = folders.concat() + "name = \"solo\"\ncgroup = \"/kith/t-alone\"\n";
        std::fs::create_dir(at("manifests")).unwrap();
        std::fs::write(at("agent.toml"), config).unwrap();
        let log = std::fs::File::create(at("agent.log")).unwrap();
        let mut agent = Command::new(KITH);
        agent.arg("--config").arg(at("agent.toml")).arg("agent").stdin(Stdio::null()).stdout(log.try_clone().unwrap());
        let agent = agent.stderr(log).spawn().unwrap();
        Self { dir, agent }
    }

    /// Pids of the programs that run.
    fn pids(&self) -> Vec<i32> {
        let folders = std::fs::read_dir(self.dir.path().join("run/containers")).into_iter().flatten().flatten();
        let states = folders.filter_map(|folder| std::fs::read(folder.path().join("state.json")).ok());
        let pids =
            states.filter_map(|state| serde_json::from_slice::<Value>(&state).ok()?["running"][0]["pid"].as_i64());
        pids.map(|pid| i32::try_from(pid).unwrap()).collect()
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", std::fs::read_to_string(self.dir.path().join("agent.log")).unwrap_or_default());
        }
        let _ = self.agent.kill();
        let _ = self.agent.wait();
        for pid in self.pids() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let hierarchies = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path());
        for hierarchy in hierarchies.chain(["/sys/fs/cgroup".into()]) {
            let _ = std::fs::remove_dir(hierarchy.join("kith/t-alone"));
        }
    }
}

#[test]
fn a_device_without_a_fleet_runs_its_static_pods() {
    assert!(nix::unistd::geteuid().is_root(), "this test makes containers: run it as root");
    let alone = Alone::start();
    let at = |name: &str| alone.dir.path().join(name);
    succeed(Command::new("scripts/hello-image.sh").arg(at("hello.tar")));
    succeed(
        Command::new(KITH).arg("--config").arg(at("agent.toml")).args(["image", "import"]).arg(at("hello.tar")).args([
            "hello:1",
            "--cmd",
            "/bin/hello",
        ]),
    );
    let spec = json!({"terminationGracePeriodSeconds": 1, "containers": [container("c", "exit 0")]});
    std::fs::write(at("manifests/fixed.json"), pod_of("fixed", &spec).to_string()).unwrap();
    wait_for("the static pod to run", || (alone.pids().len() == 1).then_some(()));
    std::fs::remove_file(at("manifests/fixed.json")).unwrap();
    wait_for("the static pod to end", || alone.pids().is_empty().then_some(()));

    // Outside of a fleet, too, nobody takes more of the disk than it may.
    let command = json!(["/bin/sh", "-c", "dd if=/dev/zero of=/v/x bs=64k count=64; sleep 1000"]);
    let greedy = json!({"volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Mi"}}], "containers": [
        {"name": "c", "image": "hello:1", "command": command, "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]});
    std::fs::write(at("manifests/greedy.json"), pod_of("greedy", &greedy).to_string()).unwrap();
    wait_for("the greedy pod to run", || (alone.pids().len() == 1).then_some(()));
    wait_for("the greedy pod to be evicted", || alone.pids().is_empty().then_some(()));
}

/// Has the agent killed at each of these points, while another pod is made or deleted beside one that
/// must not notice.
fn die_at(fleet_name: &str, makes: bool, points: &[&str]) {
    let fleet = Fleet::up(fleet_name, 1);
    fleet.load_hello();
    create(&fleet, &pod_of("steady", &json!({"containers": [container("steady", "exit 0")]})));
    wait_pod(&fleet, "steady", "ready", is_ready);
    let steady = running(&fleet);
    let order = fleet.file("d1", "run/kill-at");
    let other =
        pod_of("other", &json!({"terminationGracePeriodSeconds": 2, "containers": [container("other", "exit 0")]}));
    // An answer may die with the agent.
    let make = || drop(fleet.request("d1", "POST", PODS, Some(&other)));
    let delete = || drop(fleet.request("d1", "DELETE", &format!("{PODS}/other"), None));
    for point in points {
        if !makes {
            make();
            wait_pod(&fleet, "other", "ready", is_ready);
        }
        std::fs::write(&order, point).unwrap();
        if makes {
            make();
        } else {
            delete();
        }
        wait_for(&format!("the agent to die at {point}"), || (!order.exists()).then_some(()));
        // Finds it dead, or waits until it is.
        fleet.dev(&["kill", "d1"]);
        fleet.dev(&["start", "d1"]);
        wait_for("the agent to answer", || fleet.leader("d1"));
        if makes {
            wait_for(&format!("the other pod after {point}"), || {
                make();
                pod(&fleet, "other").filter(is_ready)
            });
            assert_eq!(running(&fleet).len(), 2, "{point}: {:?}", running(&fleet));
        }
        wait_for(&format!("the other pod to be gone after {point}"), || {
            delete();
            (pod(&fleet, "other").is_none() && running(&fleet).len() == 1).then_some(())
        });
        assert_eq!(running(&fleet), steady, "{point}");
        for folder in ["run/containers", "data/scratch"] {
            wait_for(&format!("nothing to be left in {folder} after {point}"), || {
                let entries = std::fs::read_dir(fleet.file("d1", folder)).unwrap();
                (entries.count() == 1).then_some(())
            });
        }
    }
    let kept = pod(&fleet, "steady").unwrap();
    assert_eq!(kept["status"]["containerStatuses"][0]["restartCount"], 0, "{kept}");
}

#[test]
fn an_agent_that_dies_while_it_starts_or_reports_restarts_nothing() {
    let points = ["start:before", "start:ordered", "start:spawned", "start:after", "report:before", "report:after"];
    die_at("t-points", true, &points);
}

#[test]
fn an_agent_that_dies_while_it_stops_or_removes_leaves_nothing() {
    let points = [
        "stop:before",
        "stop:after",
        "remove:before",
        "remove:cgroup",
        "remove:scratch",
        "remove:buried",
        "remove:after",
    ];
    die_at("t-removes", false, &points);
}
