//! What a Prometheus gets from real agents: it is well formed, complete, and all that the dashboard and
//! the alerts ask for.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, Stdio};

use base64::Engine;
use kith::metrics::{Kind, family};
use serde_json::{Value, json};

use crate::harness::{Fleet, is_ready, name, succeed, wait_for};

const PODS: &str = "/api/v1/namespaces/default/pods";

/// What a device shows, as it is.
fn scrape(fleet: &Fleet, device: &str) -> String {
    let socket = fleet.file(device, "run/kith.sock");
    succeed(Command::new("curl").args(["-sS", "--fail", "--unix-socket"]).arg(socket).arg("http://kith/metrics"))
}

/// The samples of a page by name, with their labels.
fn samples(page: &str) -> BTreeMap<&str, Vec<(&str, f64)>> {
    let mut found: BTreeMap<&str, Vec<(&str, f64)>> = BTreeMap::new();
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_at(series.find('{').unwrap_or(series.len()));
        found.entry(name).or_default().push((labels, value.parse().unwrap()));
    }
    found
}

fn value(page: &str, name: &str, label: &str) -> f64 {
    let found = samples(page);
    let series = found.get(name).unwrap_or_else(|| panic!("{name} is not in\n{page}"));
    series.iter().filter(|(labels, _)| labels.contains(label)).map(|(_, value)| value).sum()
}

fn promtool(args: &[&str], input: &str) -> String {
    let mut child = Command::new(succeed(&mut Command::new("scripts/promtool.sh")).trim())
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "promtool {args:?}: {said}");
    said
}

/// Names of metrics in an expression.
fn asked(expression: &str) -> BTreeSet<String> {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("kith_")).map(str::to_owned).collect()
}

/// A pod whose container ends once and then fails its probe of readiness for ever.
fn restless() -> Value {
    let script = "[ -e /data/second ] || { touch /data/second; exit 1; }; while true; do sleep 1; done";
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "restless"}, "spec": {
        "hostNetwork": true, "terminationGracePeriodSeconds": 1,
        "volumes": [{"name": "data", "emptyDir": {}}],
        "containers": [{"name": "c", "image": "hello:1", "command": ["/bin/sh", "-c", script],
            "volumeMounts": [{"name": "data", "mountPath": "/data"}],
            "readinessProbe": {"exec": {"command": ["false"]}, "periodSeconds": 1}}]}})
}

fn create(fleet: &Fleet, object: &Value) {
    let answer = fleet.request("d1", "POST", PODS, Some(object)).unwrap();
    assert_eq!(answer.status, 201, "{}", answer.body);
}

#[test]
fn metrics_are_what_prometheus_the_dashboard_and_the_alerts_want() {
    let fleet = Fleet::up_with("t-metrics", 3, &["metrics.listen = \"127.0.0.1:9643\""]);
    fleet.load_hello();
    create(&fleet, &restless());
    let steady = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "steady"}, "spec": {
        "hostNetwork": true, "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "c", "image": "hello:1", "command": ["sleep", "100000"]}]}});
    create(&fleet, &steady);
    let mut absent = steady.clone();
    absent["metadata"]["name"] = json!("absent");
    absent["spec"]["containers"][0]["image"] = json!("127.0.0.1:9/nothing:1");
    create(&fleet, &absent);
    wait_for("the steady pod to be ready", || {
        fleet.ready_pods("d1").iter().any(|pod| name(pod) == "steady").then_some(())
    });
    let leader = fleet.leader("d1").unwrap();

    let devices = ["d1", "d2", "d3"];
    let pages = wait_for("restarts, failed probes and failed pulls to be counted", || {
        let pages: Vec<String> = devices.iter().map(|device| scrape(&fleet, device)).collect();
        let sum = |name: &str, label: &str| pages.iter().map(|page| value(page, name, label)).sum::<f64>();
        let counted = sum("kith_container_restarts_total", "") >= 1.0
            && sum("kith_probe_failures_total", "readiness") >= 1.0
            && sum("kith_image_pulls_total", "failure") >= 1.0;
        counted.then_some(pages)
    });
    let at = devices.iter().position(|device| *device == leader).unwrap();
    let page = &pages[at];
    let said = promtool(&["check", "metrics"], page);
    assert_eq!(said, "", "promtool has nothing to say");

    for (name, label, least) in [
        ("kith_build_info", env!("CARGO_PKG_VERSION"), 1.0),
        ("kith_raft_is_leader", "", 1.0),
        ("kith_raft_has_leader", "", 1.0),
        ("kith_raft_is_voter", "", 1.0),
        ("kith_raft_commit_duration_seconds_count", "", 1.0),
        ("kith_fleet_devices", "ready=\"true\"", 3.0),
        ("kith_fleet_pods", "Running", 2.0),
        ("kith_fleet_members", "voter", 3.0),
        ("kith_store_documents", "", 5.0),
        ("kith_disk_written_bytes_total", "log", 1000.0),
        ("kith_disk_sync_duration_seconds_count", "log", 1.0),
        ("kith_link_bytes_total", "sent", 1000.0),
        ("kith_link_bytes_total", "received", 1000.0),
        ("kith_agent_memory_bytes", "proportional", 1e6),
        ("kith_api_requests_total", "verb=\"get\"", 1.0),
        ("kith_planner_run_duration_seconds_count", "", 1.0),
        ("kith_reconciler_round_duration_seconds_count", "", 1.0),
        ("kith_images", "", 1.0),
    ] {
        assert!(value(page, name, label) >= least, "{name}{{{label}}} is {}", value(page, name, label));
    }
    let created =
        pages.iter().map(|page| value(page, "kith_api_requests_total", "create\",resource=\"pods\"")).sum::<f64>();
    assert!(created >= 3.0, "{created}");
    let running: f64 = pages.iter().map(|page| value(page, "kith_pods", "Running")).sum();
    assert!(running >= 2.0, "{running}");

    // Every family has numbers on some device, and nothing is shown that is not described.
    let everything = pages.concat();
    let found = samples(&everything);
    let series = |family: &family::Family| match family.kind {
        Kind::Histogram => format!("{}_bucket", family.name),
        Kind::Counter | Kind::Gauge => family.name.to_owned(),
    };
    for family in family::ALL {
        assert!(found.contains_key(series(family).as_str()), "{} has no numbers", family.name);
    }
    for name in found.keys() {
        let plain = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        assert!(family::ALL.iter().any(|family| family.name == *name || family.name == plain), "{name}");
    }
    let exists = |name: &String| found.contains_key(name.as_str());
    let dashboard: Value =
        serde_json::from_str(&std::fs::read_to_string("configs/grafana/kith.json").unwrap()).unwrap();
    check_dashboard(&dashboard, &exists);
    let rules = std::fs::read_to_string("configs/prometheus/alerts.yaml").unwrap();
    let names: BTreeSet<String> =
        rules.lines().filter(|line| line.trim().starts_with("expr:")).flat_map(asked).collect();
    assert!(names.len() >= 10 && names.iter().all(exists), "{names:?}");
    let said = promtool(&["check", "rules", "configs/prometheus/alerts.yaml"], "");
    assert!(said.contains("SUCCESS"), "{said}");
    promtool(&["check", "config", "--syntax-only", "configs/prometheus/scrape.yaml"], "");

    the_doors(&fleet);
}

/// Every panel has a place of its own and asks for what there is.
fn check_dashboard(dashboard: &Value, exists: &dyn Fn(&String) -> bool) {
    assert!(dashboard["schemaVersion"].as_u64() >= Some(30) && dashboard["title"] == "Kith");
    let panels = dashboard["panels"].as_array().unwrap();
    let mut ids = BTreeSet::new();
    let mut taken = BTreeSet::new();
    let mut expressions = 0;
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{} is there twice", panel["id"]);
        let place = &panel["gridPos"];
        let side = |key: &str| place[key].as_u64().unwrap();
        assert!(side("x") + side("w") <= 24, "{}", panel["title"]);
        for (x, y) in
            (side("x")..side("x") + side("w")).flat_map(|x| (side("y")..side("y") + side("h")).map(move |y| (x, y)))
        {
            assert!(taken.insert((x, y)), "{} lies over another panel", panel["title"]);
        }
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = target["expr"].as_str().unwrap();
            let names = asked(expression);
            assert!(!names.is_empty() && names.iter().all(exists), "{}: {expression}", panel["title"]);
            expressions += 1;
        }
    }
    assert!(expressions > 30, "{expressions}");
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    assert!(variables.iter().any(|variable| variable["type"] == "datasource"));
}

/// Who may read them where.
fn the_doors(fleet: &Fleet) {
    let plain = fleet.exec("d2", &["curl", "-sS", "--fail", "http://127.0.0.1:9643/metrics"]);
    assert!(String::from_utf8_lossy(&plain.stdout).contains("kith_raft_term "), "{plain:?}");
    let code = |url: &str, more: &[&str]| {
        let mut words = vec!["curl", "-sk", "-o", "/dev/null", "-w", "%{http_code}"];
        words.extend(more);
        words.push(url);
        String::from_utf8_lossy(&fleet.exec("d2", &words).stdout).into_owned()
    };
    assert_eq!(code("http://127.0.0.1:9643/api/v1/pods", &[]), "404", "nothing else is there");
    assert_eq!(code("http://127.0.0.1:9643/metrics", &["-X", "POST"]), "405");
    assert_eq!(code("https://127.0.0.1:6443/metrics", &[]), "401", "strangers are told nothing");
    let text = fleet.kith("d2", &["kubeconfig", "--user", "prometheus", "--group", "viewers"]);
    let kubeconfig: Value = serde_saphyr::from_str(&text).unwrap();
    let pem = |key: &str| {
        let encoded = kubeconfig["users"][0]["user"][key].as_str().unwrap();
        let file = fleet.dir.join(format!("{key}.pem"));
        let decoded = base64::prelude::BASE64_STANDARD.decode(encoded).unwrap();
        std::fs::write(&file, decoded).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let (cert, key) = (pem("client-certificate-data"), pem("client-key-data"));
    let as_viewer = ["--cert", cert.as_str(), "--key", key.as_str()];
    assert_eq!(code("https://127.0.0.1:6443/metrics", &as_viewer), "200");
    assert_eq!(code("https://127.0.0.1:6443/metrics", &[&as_viewer[..], &["-X", "POST"]].concat()), "405");
    let pods = fleet.pods("d1");
    assert!(pods.iter().any(is_ready), "{pods:?}");
}
