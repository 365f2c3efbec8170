//! What users type: kubectl of two releases against any device, and bad input of every kind.

use serde_json::json;

use crate::harness::{Fleet, name, wait_for};

const KUBECTLS: [&str; 2] = ["target/tools/kubectl-1.20", "target/tools/kubectl-1.32"];

#[test]
fn two_kubectl_releases_work_against_every_device() {
    let fleet = Fleet::up("t-kubectl", 3);
    fleet.load_hello();
    let file = fleet.dir.join("kubeconfig").to_string_lossy().into_owned();
    let cache = fleet.dir.join("cache").to_string_lossy().into_owned();
    let cwd = std::env::current_dir().unwrap();
    for device in ["d1", "d2", "d3"] {
        std::fs::write(&file, fleet.kith(device, &["kubeconfig"])).unwrap();
        for program in KUBECTLS {
            let program = cwd.join(program).to_string_lossy().into_owned();
            assert!(std::path::Path::new(&program).exists(), "{program} is missing: run scripts/kubectl.sh");
            let kubectl = |args: &[&str]| {
                let mut all = vec![program.as_str(), "--kubeconfig", &file, "--cache-dir", &cache];
                all.extend(args);
                let output = fleet.exec(device, &all);
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                let errors = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "{program} {args:?} on {device}: {text}{errors}");
                text
            };
            let nodes = kubectl(&["get", "nodes"]);
            assert_eq!(nodes.matches(" Ready ").count(), 3, "{nodes}");
            assert!(kubectl(&["apply", "-f", "configs/examples/hello.yaml"]).contains("created"));
            kubectl(&["rollout", "status", "deployment/hello", "--timeout=60s"]);
            assert!(kubectl(&["apply", "-f", "configs/examples/hello.yaml"]).contains("unchanged"));
            kubectl(&["scale", "deployment", "hello", "--replicas=2"]);
            kubectl(&["rollout", "status", "deployment/hello", "--timeout=60s"]);
            let deployment = kubectl(&["get", "deployment", "hello"]);
            assert!(deployment.contains("2/2"), "{deployment}");
            let pods = kubectl(&["get", "pods", "-o", "wide"]);
            assert_eq!(pods.matches("Running").count(), 2, "{pods}");
            let pod = pods.lines().nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
            assert!(kubectl(&["logs", &pod]).contains("8080"), "the log of {pod}");
            assert!(kubectl(&["describe", "pod", &pod]).contains("hello:1"));
            kubectl(&["get", "pod", &pod, "-o", "yaml"]);
            kubectl(&["delete", "-f", "configs/examples/hello.yaml"]);
            wait_for("the pods to go", || fleet.pods(device).is_empty().then_some(()));
        }
    }
}

#[test]
fn tokens_let_in_whom_they_should_and_no_one_else() {
    let fleet = Fleet::up("t-token", 1);
    let other = Fleet::up("t-token2", 1);
    let made = |fleet: &Fleet| -> String {
        let text = fleet.kith("d1", &["token", "create", "-o", "json"]);
        let made: serde_json::Value = serde_json::from_str(&text).unwrap();
        made["token"].as_str().unwrap().to_owned()
    };
    let refused = |token: &str| -> String {
        let dir = fleet.dir.join("stranger");
        std::fs::create_dir_all(&dir).unwrap();
        let config = dir.join("agent.toml");
        let text = format!("name = \"stranger\"\ndata_dir = {:?}\nrun_dir = {:?}\n", dir.join("data"), dir.join("run"));
        std::fs::write(&config, text).unwrap();
        let output = fleet.exec("d1", &[crate::harness::KITH, "--config", &config.to_string_lossy(), "join", token]);
        assert!(!output.status.success(), "the join went through");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let revoked = made(&fleet);
    let listed: serde_json::Value = serde_json::from_str(&fleet.kith("d1", &["token", "list", "-o", "json"])).unwrap();
    for item in listed["items"].as_array().unwrap() {
        fleet.kith("d1", &["token", "revoke", item["id"].as_str().unwrap()]);
    }
    let message = refused(&revoked);
    assert!(message.contains("no such token") && message.contains("hint:"), "{message}");

    let good = made(&fleet);
    let mut typo = good.clone();
    typo.pop();
    assert!(refused(&typo).contains("hint:"));
    // The other fleet lives in namespaces of its own, so at the token's addresses this fleet answers.
    let foreign = refused(&made(&other));
    assert!(foreign.contains("hint:"), "{foreign}");

    fleet.dev(&["add"]);
    wait_for("the second device", || (fleet.get("d1", "/api/v1/nodes")["items"].as_array()?.len() == 2).then_some(()));
}

#[test]
fn bad_input_is_refused_by_name_and_harms_nothing() {
    let fleet = Fleet::up("t-bad", 1);
    let apply = |text: &str| {
        let file = fleet.dir.join("bad.yaml");
        std::fs::write(&file, text).unwrap();
        let output = fleet.try_kith("d1", &["apply", "-f", &file.to_string_lossy()]);
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, message) = apply("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\n data: {\n");
    assert!(code != Some(0) && message.contains("line") && message.contains("bad.yaml"), "{message}");

    let (code, message) = apply("apiVersion: v1\nkind: Spaceship\nmetadata: {name: a}\n");
    assert!(code != Some(0) && message.contains("Spaceship"), "{message}");

    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: c, image: 'hello:1'}]}\n";
    let (code, message) = apply(&pod.replace("spec: {", "spec: {dnsPolicy: None, "));
    assert!(code == Some(3) && message.contains("nameserver"), "{code:?} {message}");

    let typo = pod.replace("spec: {", "spec: {hostNetwork: true, restartPolic: Never, ");
    let (_, message) = apply(&typo);
    assert!(message.contains("restartPolic"), "{message}");

    let volumes = pod.replace("spec: {", "spec: {hostNetwork: true, volumes: [{name: v, nfs: {server: a, path: /}}], ");
    let (code, message) = apply(&volumes);
    assert!(code == Some(3) && message.contains("volumes"), "{message}");

    let big = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "big"}, "data": {"v": "x".repeat(4 << 20)}});
    let answer = fleet.request("d1", "POST", "/api/v1/namespaces/default/configmaps", Some(&big));
    assert!(answer.is_ok_and(|answer| answer.status == 413), "an oversized object");

    let absent = pod
        .replace("name: a", "name: absent")
        .replace("spec: {", "spec: {hostNetwork: true, ")
        .replace("hello:1", "nowhere:9");
    assert_eq!(apply(&absent).0, Some(0));
    wait_for("the pod to say which image is missing", || {
        let pod = fleet.pods("d1").into_iter().find(|pod| name(pod) == "absent")?;
        let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
        waiting["message"].as_str()?.contains("nowhere:9").then_some(())
    });

    // Garbage on the ports: the agent goes on.
    let noise = "head -c 65536 /dev/urandom > /dev/udp/127.0.0.1/7443; head -c 65536 /dev/urandom > /dev/tcp/127.0.0.1/6443; true";
    for _ in 0..5 {
        fleet.exec("d1", &["bash", "-c", noise]);
    }
    let before = fleet.status("d1")["revision"].as_u64().unwrap();
    fleet.kith("d1", &["apply", "-f", "configs/examples/hello.yaml"]);
    assert!(fleet.status("d1")["revision"].as_u64().unwrap() > before);
    assert!(!fleet.agent_log("d1").contains("panicked"), "{}", fleet.agent_log("d1"));
}
