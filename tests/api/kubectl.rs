//! The real kubectl, of two releases that `scripts/kubectl.sh` unpacks, and of others that
//! `KITH_KUBECTL` names, separated by colons.

use std::io::Write as _;
use std::process::{Output, Stdio};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use crate::fleet::{Device, Fleet, PODS, deployment, pod};

struct Kubectl<'a> {
    program: String,
    device: &'a Device,
    home: tempfile::TempDir,
}

impl<'a> Kubectl<'a> {
    fn all(device: &'a Device) -> Vec<Self> {
        let named = std::env::var("KITH_KUBECTL").unwrap_or_default();
        let others = named.split(':').filter(|program| !program.is_empty()).map(str::to_owned);
        let home = || tempfile::tempdir().unwrap();
        let unpacked = ["1.20", "1.32"].map(|release| {
            let program = format!("{}/target/tools/kubectl-{release}", env!("CARGO_MANIFEST_DIR"));
            assert!(std::path::Path::new(&program).exists(), "{program} is missing: run scripts/kubectl.sh");
            program
        });
        unpacked.into_iter().chain(others).map(|program| Self { program, device, home: home() }).collect()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--server").arg(format!("http://{}", self.device.address)).args(arguments);
        command.env("HOME", self.home.path()).env("KUBECONFIG", "/dev/null").env("KUBECTL_KUBERC", "false");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    async fn run(&self, arguments: &[&str], manifest: &str) -> Output {
        let mut command = self.command(arguments);
        let mut child = command.spawn().expect("kubectl is needed: apt-get install kubernetes-client");
        let mut input = child.stdin.take().unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut input, manifest.as_bytes()).await.unwrap();
        drop(input);
        child.wait_with_output().await.unwrap()
    }

    async fn done(&self, arguments: &[&str], manifest: &str) -> String {
        let output = self.run(arguments, manifest).await;
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{} {arguments:?}: {out} {err}", self.program);
        out
    }

    async fn refused(&self, arguments: &[&str], manifest: &str) -> String {
        let output = self.run(arguments, manifest).await;
        assert!(!output.status.success(), "{} {arguments:?}: {}", self.program, text(&output.stdout));
        text(&output.stderr)
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

#[tokio::test]
async fn deployments_are_applied_changed_scaled_and_deleted() {
    let fleet = Fleet::new().await;
    let device = fleet.device("a").await;
    for kubectl in Kubectl::all(&device) {
        let manifest = deployment("web");
        let applied = kubectl.done(&["apply", "-f", "-"], &manifest.to_string()).await;
        assert_eq!(applied, "deployment.apps/web created\n");
        let again = kubectl.done(&["apply", "-f", "-"], &manifest.to_string()).await;
        assert_eq!(again, "deployment.apps/web unchanged\n");
        let mut changed = manifest.clone();
        changed["spec"]["template"]["spec"]["containers"] = json!([{"name": "main", "image": "web:2", "env": [{"name": "A", "value": "1"}]}, {"name": "side", "image": "side:1"}]);
        let applied = kubectl.done(&["apply", "-f", "-"], &changed.to_string()).await;
        assert_eq!(applied, "deployment.apps/web configured\n");
        changed["spec"]["template"]["spec"]["containers"].as_array_mut().unwrap().pop();
        kubectl.done(&["apply", "-f", "-"], &changed.to_string()).await;
        let shown: Value =
            serde_json::from_str(&kubectl.done(&["get", "deploy", "web", "-o", "json"], "").await).unwrap();
        let containers = shown["spec"]["template"]["spec"]["containers"].as_array().unwrap();
        assert_eq!((containers.len(), &containers[0]["image"]), (1, &json!("web:2")), "apply removes what it added");

        let scaled = kubectl.done(&["scale", "deployment/web", "--replicas", "5"], "").await;
        assert!(scaled.starts_with("deployment.apps/web scaled"), "{scaled}");
        let listed = kubectl.done(&["get", "deployments"], "").await;
        assert_eq!(words(listed.lines().nth(1).unwrap())[..4], ["web", "0/5", "0", "0"]);
        let wide = kubectl.done(&["get", "deploy,rs", "-A", "-o", "wide"], "").await;
        assert!(wide.contains("SELECTOR") && wide.contains("app=web"), "{wide}");
        let described = kubectl.done(&["describe", "deployment", "web"], "").await;
        assert!(described.contains("web:2"), "{described}");
        let image = kubectl.done(&["set", "image", "deployment/web", "main=web:3"], "").await;
        assert!(image.contains("image updated"), "{image}");
        kubectl.done(&["label", "deploy", "web", "tier=front"], "").await;
        kubectl.done(&["annotate", "deploy", "web", "kith.dev/on-partition=keep"], "").await;
        kubectl
            .done(
                &[
                    "patch",
                    "deploy",
                    "web",
                    "--type=json",
                    "-p",
                    r#"[{"op":"replace","path":"/spec/replicas","value":1}]"#,
                ],
                "",
            )
            .await;
        let yaml = kubectl.done(&["get", "deploy", "-l", "tier=front", "-o", "yaml"], "").await;
        assert!(yaml.contains("image: web:3") && yaml.contains("replicas: 1"), "{yaml}");
        let deleted = kubectl.done(&["delete", "deployment", "web"], "").await;
        assert!(deleted.contains("\"web\" deleted"), "{deleted}");
    }
}

#[tokio::test]
async fn pods_nodes_and_logs_are_shown() {
    let fleet = Fleet::new().await;
    let device = fleet.device("a").await;
    fleet.node("a").await;
    for kubectl in Kubectl::all(&device) {
        let mut object = pod("web");
        object["spec"]["nodeName"] = json!("a");
        kubectl.done(&["create", "-f", "-"], &object.to_string()).await;
        let made = device.get(&format!("{PODS}/web")).await.expect(200);
        let folder = fleet.log_dir("a").join(format!("default_web_{}/main", made["metadata"]["uid"].as_str().unwrap()));
        std::fs::create_dir_all(&folder).unwrap();
        let mut log = std::fs::File::create(folder.join("0.log")).unwrap();
        writeln!(log, "2026-01-31T07:05:09.000000000Z stdout F hello").unwrap();
        assert_eq!(kubectl.done(&["logs", "web"], "").await, "hello\n");
        assert_eq!(
            kubectl.done(&["logs", "web", "-c", "main", "--tail=1", "--timestamps"], "").await,
            "2026-01-31T07:05:09.000000000Z hello\n"
        );
        let pods = kubectl.done(&["get", "pods", "-o", "wide"], "").await;
        let row = words(pods.lines().nth(1).unwrap());
        assert_eq!((row[0], row[2], row[6]), ("web", "Pending", "a"), "{pods}");
        assert_eq!(kubectl.done(&["get", "po", "-o", "name"], "").await, "pod/web\n");
        let nodes = kubectl.done(&["get", "nodes"], "").await;
        assert_eq!(words(nodes.lines().nth(1).unwrap())[..2], ["a", "Ready"]);
        assert!(kubectl.done(&["describe", "pod", "web"], "").await.contains("web:1"));
        assert!(kubectl.done(&["describe", "node", "a"], "").await.contains("web"));
        assert!(kubectl.done(&["describe", "namespace", "default"], "").await.contains("Active"));
        kubectl.done(&["cordon", "a"], "").await;
        assert!(kubectl.done(&["get", "nodes"], "").await.contains("Ready,SchedulingDisabled"));
        kubectl.done(&["uncordon", "a"], "").await;
        let events = kubectl.run(&["get", "events"], "").await;
        assert!(text(&events.stderr).contains("No resources found"));
        assert!(kubectl.done(&["api-resources"], "").await.contains("deployments"));
        assert!(kubectl.done(&["version"], "").await.contains("1.33"));
        kubectl.done(&["delete", "pod", "web", "--force", "--grace-period=0"], "").await;
        let missing = kubectl.refused(&["get", "pod", "web"], "").await;
        assert_eq!(missing, "Error from server (NotFound): pods \"web\" not found\n");
    }
}

/// Waits until the pod `web` is to go, and confirms it as its device would. Gives the pod as it was marked.
async fn ended(fleet: &Fleet, device: &Device) -> Value {
    let mut revision = kith::consensus::Replica::revision(&*fleet.memory);
    loop {
        let found = device.get(&format!("{PODS}/web")).await.expect(200);
        if found["metadata"]["deletionTimestamp"].is_string() {
            device.delete(&format!("{PODS}/web?gracePeriodSeconds=0")).await.expect(200);
            return found;
        }
        revision.changed().await.unwrap();
    }
}

#[tokio::test]
async fn kubectl_waits_for_a_graceful_deletion() {
    let fleet = Fleet::new().await;
    let device = fleet.device("a").await;
    fleet.node("a").await;
    for kubectl in Kubectl::all(&device) {
        let mut object = pod("web");
        object["spec"]["nodeName"] = json!("a");
        kubectl.done(&["create", "-f", "-"], &object.to_string()).await;
        let deleting = kubectl.run(&["delete", "pod", "web"], "");
        let (output, _) = tokio::join!(deleting, ended(&fleet, &device));
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
}

#[tokio::test]
async fn kubectl_drains_by_evictions() {
    let fleet = Fleet::new().await;
    let device = fleet.device("a").await;
    fleet.node("a").await;
    for kubectl in Kubectl::all(&device) {
        let mut object = pod("web");
        object["spec"]["nodeName"] = json!("a");
        kubectl.done(&["create", "-f", "-"], &object.to_string()).await;
        let kept = kubectl.done(&["delete", "pod", "web", "--dry-run=server"], "").await;
        assert_eq!(kept, "pod \"web\" deleted (server dry run)\n");
        let draining = kubectl.run(&["drain", "a", "--force", "--grace-period=7", "--timeout=60s", "-v=6"], "");
        let (output, marked) = tokio::join!(draining, ended(&fleet, &device));
        assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 7);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{}: {out} {err}", kubectl.program);
        // Releases before 1.22 look for a group that holds budgets, and delete where there is none.
        let (method, path, did) = if kubectl.program.ends_with("1.20") {
            ("DELETE", format!("{PODS}/web "), "pod/web deleted")
        } else {
            ("POST", format!("{PODS}/web/eviction "), "pod/web evicted")
        };
        let asked = err.lines().any(|line| line.contains(method) && line.contains(&path));
        assert!(asked && out.contains(did), "{}: {out} {err}", kubectl.program);
        let node = device.get("/api/v1/nodes/a").await.expect(200);
        assert_eq!(node["spec"]["unschedulable"], true);
        kubectl.done(&["uncordon", "a"], "").await;
    }
}

#[tokio::test]
async fn kubectl_watches() {
    let fleet = Fleet::new().await;
    let device = fleet.device("a").await;
    for kubectl in Kubectl::all(&device) {
        device.send("POST", PODS, &pod("first")).await.expect(201);
        let mut child = kubectl.command(&["get", "pods", "--watch"]).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut row = async || words(&lines.next_line().await.unwrap().unwrap())[..3].join(" ");
        assert_eq!(row().await, "NAME READY STATUS");
        assert_eq!(row().await, "first 0/1 Pending");
        device.send("POST", PODS, &pod("second")).await.expect(201);
        assert_eq!(row().await, "second 0/1 Pending");
        let status = json!({"status": {"phase": "Succeeded", "reason": "Done"}});
        device.patch("merge-patch+json", &format!("{PODS}/first/status"), &status).await.expect(200);
        assert_eq!(row().await, "first 0/1 Done");
        child.kill().await.unwrap();
        device.delete(PODS).await.expect(200);
    }
}

#[tokio::test]
async fn kubectl_shows_mistakes_and_warnings() {
    let fleet = Fleet::new().await;
    let device = fleet.device("a").await;
    for kubectl in Kubectl::all(&device) {
        let mut bad = pod("web");
        bad["spec"]["dnsPolicy"] = json!("None");
        let refused = kubectl.refused(&["apply", "-f", "-"], &bad.to_string()).await;
        assert!(refused.contains("must provide at least one DNS nameserver"), "{refused}");
        let mut warned = pod("web");
        warned["spec"]["affinity"] = json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 1, "preference": {"matchExpressions": [{"key": "a", "operator": "Exists"}]}}]}});
        let output = kubectl.run(&["apply", "-f", "-"], &warned.to_string()).await;
        assert!(text(&output.stderr).contains("Warning: spec.affinity: not honoured"), "{}", text(&output.stderr));
        let mut typo = pod("typo");
        typo["spec"]["containers"][0]["imagee"] = json!("x");
        let output = kubectl.run(&["apply", "-f", "-"], &typo.to_string()).await;
        assert!(
            text(&output.stderr).contains("unknown field \"spec.containers[0].imagee\""),
            "{}",
            text(&output.stderr)
        );
        let unknown = kubectl.refused(&["get", "widgets"], "").await;
        assert!(unknown.contains("the server doesn't have a resource type \"widgets\""), "{unknown}");
        kubectl.done(&["delete", "pods", "--all"], "").await;
    }
}

#[tokio::test]
async fn kubectl_applies_on_the_server_and_reads_config_maps() {
    let fleet = Fleet::new().await;
    let device = fleet.device("a").await;
    for kubectl in Kubectl::all(&device) {
        let manifest = deployment("web").to_string();
        let applied = kubectl.done(&["apply", "--server-side", "-f", "-"], &manifest).await;
        assert_eq!(applied, "deployment.apps/web serverside-applied\n");
        kubectl.done(&["apply", "--server-side", "-f", "-"], &manifest).await;
        kubectl.done(&["create", "configmap", "settings", "--from-literal=a=1"], "").await;
        let shown = kubectl.done(&["get", "cm", "settings", "-o", "jsonpath={.data.a}"], "").await;
        assert_eq!(shown, "1");
        let dry = kubectl.done(&["apply", "--dry-run=server", "-f", "-"], &deployment("dry").to_string()).await;
        assert!(dry.contains("deployment.apps/dry created (server dry run)"), "{dry}");
        kubectl.done(&["create", "namespace", "other"], "").await;
        kubectl.done(&["create", "deployment", "plain", "--image=web:1"], "").await;
        assert!(kubectl.done(&["get", "ns"], "").await.contains("other"));
        kubectl.done(&["delete", "namespace", "other", "--wait=false"], "").await;
        kubectl.done(&["delete", "deploy/web", "deploy/plain", "cm/settings"], "").await;
        fleet.remove("Namespace", "other").await;
    }
}

#[tokio::test]
async fn kubectl_makes_secrets_and_claims_and_shows_them() {
    let fleet = Fleet::new().await;
    let device = fleet.device("a").await;
    let files = tempfile::tempdir().unwrap();
    let pair = rcgen::generate_simple_self_signed(["web".to_owned()]).unwrap();
    let (certificate, key) = (files.path().join("crt"), files.path().join("key"));
    std::fs::write(&certificate, pair.cert.pem()).unwrap();
    std::fs::write(&key, pair.signing_key.serialize_pem()).unwrap();
    let (certificate, key) = (format!("--cert={}", certificate.display()), format!("--key={}", key.display()));
    for kubectl in Kubectl::all(&device) {
        kubectl.done(&["create", "secret", "generic", "db", "--from-literal=password=hunter2"], "").await;
        kubectl.done(&["create", "secret", "tls", "web", &certificate, &key], "").await;
        kubectl
            .done(
                &["create", "secret", "docker-registry", "pull", "--docker-username=u", "--docker-password=hunter2"],
                "",
            )
            .await;
        let shown = kubectl.done(&["get", "secret", "db", "-o", "jsonpath={.data.password}"], "").await;
        assert_eq!(shown, "aHVudGVyMg==");
        let listed = kubectl.done(&["get", "secrets"], "").await;
        let types = ["Opaque", "kubernetes.io/tls", "kubernetes.io/dockerconfigjson"];
        assert!(types.iter().all(|kind| listed.contains(kind)) && !listed.contains("hunter2"), "{listed}");
        let tls = kubectl.done(&["get", "secrets", "--field-selector=type=kubernetes.io/tls", "-o", "name"], "").await;
        assert_eq!(tls, "secret/web\n");
        let described = kubectl.done(&["describe", "secret", "db"], "").await;
        assert!(described.contains("password:  7 bytes"), "{described}");

        let applied = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "app"},
            "stringData": {"word": "hunter2"}});
        kubectl.done(&["apply", "-f", "-"], &applied.to_string()).await;
        assert!(kubectl.done(&["apply", "-f", "-"], &applied.to_string()).await.contains("secret/app"));
        let key = kith::store::Key::new("Secret", "default", "app");
        let stored = kith::consensus::Replica::get(&*fleet.memory, &key).unwrap().unwrap();
        let stored = text(&stored.body);
        assert!(!stored.contains("hunter2") && !stored.contains("aHVudGVyMg"), "{stored}");

        let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "db"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
        kubectl.done(&["apply", "-f", "-"], &claim.to_string()).await;
        let listed = kubectl.done(&["get", "pvc"], "").await;
        assert!(listed.contains("Bound") && listed.contains("1Gi") && listed.contains("RWO"), "{listed}");
        assert!(kubectl.done(&["describe", "pvc", "db"], "").await.contains("Bound"));
        kubectl.done(&["delete", "secret/db", "secret/web", "secret/pull", "secret/app", "pvc/db"], "").await;
    }
}
