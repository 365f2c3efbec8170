//! The fleet under measurement, brought up by `kith dev`.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

pub struct Fleet {
    kith: PathBuf,
    name: String,
    pub dir: PathBuf,
}

impl Fleet {
    pub fn up(name: &str, devices: usize) -> Self {
        let fleet = Self::made(name, &["up", "--devices", &devices.to_string()]);
        fleet.load_hello();
        fleet.settle();
        fleet
    }

    /// A fleet as `kith dev` makes it.
    pub fn made(name: &str, up: &[&str]) -> Self {
        let kith = std::env::var_os("KITH").map_or_else(|| PathBuf::from("target/release/kith"), PathBuf::from);
        assert!(kith.exists(), "{} is missing: make build", kith.display());
        let fleet = Self { kith, name: name.into(), dir: PathBuf::from(format!("/var/lib/kith-dev/{name}")) };
        fleet.dev(&["down"]);
        fleet.dev(up);
        fleet
    }

    pub fn dev(&self, args: &[&str]) -> String {
        run(self.command().args(args))
    }

    /// `kith dev` on this fleet.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.kith);
        command.args(["dev", "--fleet", &self.name]);
        command
    }

    fn kith(&self, device: &str, args: &[&str]) -> String {
        let config = self.dir.join(device).join("agent.toml");
        run(Command::new(&self.kith).arg("--config").arg(config).args(args))
    }

    fn load_hello(&self) {
        let (tar, archive) = (self.dir.join("rootfs.tar"), self.dir.join("image.tar"));
        run(Command::new("scripts/hello-image.sh").arg(&tar));
        self.kith("d1", &["image", "import", &tar.to_string_lossy(), "hello:1", "--cmd", "/bin/hello"]);
        self.kith("d1", &["image", "save", "hello:1", "-o", &archive.to_string_lossy()]);
        self.dev(&["load", &archive.to_string_lossy()]);
    }

    pub fn deploy(&self, name: &str, replicas: usize, node: Option<&str>) {
        let file = self.dir.join("deployment.json");
        std::fs::write(&file, serde_json::to_vec(&deployment(name, replicas, node)).expect("JSON")).expect("write");
        self.kith("d1", &["apply", "-f", &file.to_string_lossy()]);
    }

    pub fn delete(&self, name: &str) {
        self.kith("d1", &["delete", "deployment", name]);
        wait("the pods to go", || {
            let pods: Value =
                serde_json::from_str(&self.kith("d1", &["get", "pods", "-l", &format!("app={name}"), "-o", "json"]))
                    .ok()?;
            pods["items"].as_array()?.is_empty().then_some(())
        });
    }

    pub fn wait_ready(&self, name: &str, replicas: usize) {
        wait("the deployment to be ready", || {
            let found: Value =
                serde_json::from_str(&self.kith("d1", &["get", "deployment", name, "-o", "json"])).ok()?;
            (found["status"]["readyReplicas"].as_u64()? == replicas as u64).then_some(())
        });
    }

    pub fn status(&self, device: &str) -> Option<Value> {
        let config = self.dir.join(device).join("agent.toml");
        let output =
            Command::new(&self.kith).arg("--config").arg(config).args(["status", "-o", "json"]).output().ok()?;
        serde_json::from_slice(&output.stdout).ok()
    }

    /// Lets one more device join, and stops its agent: its key stays trusted, and is the load's.
    pub fn add_writer(&self) -> String {
        self.dev(&["add"]);
        self.settle();
        self.dev(&["kill", "d4"]);
        self.dir.join("d4/data").to_string_lossy().into_owned()
    }

    /// Waits until three devices vote and all are ready.
    pub fn settle(&self) {
        wait("three voters", || {
            let status = self.status("d1")?;
            let ready = status["devices"].as_array()?.iter().all(|device| device["ready"] == true);
            (status["voters"].as_array()?.len() == 3 && ready && status["leader"].is_string()).then_some(())
        });
    }

    pub fn leader(&self) -> String {
        wait("a leader", || self.status("d1")?["leader"].as_str().map(str::to_owned))
    }

    pub fn socket(&self, device: &str) -> String {
        self.dir.join(device).join("run/kith.sock").to_string_lossy().into_owned()
    }

    /// A kubeconfig's three PEM files, in a folder.
    pub fn certificates(&self) -> String {
        let dir = self.dir.join("certificates");
        if !dir.exists() {
            let text = self.kith("d1", &["kubeconfig", "-o", "json"]);
            let file: Value = serde_json::from_str(&text).expect("a kubeconfig");
            std::fs::create_dir_all(&dir).expect("make the folder");
            let user = &file["users"][0]["user"];
            let cluster = &file["clusters"][0]["cluster"];
            for (name, value) in [
                ("ca.pem", &cluster["certificate-authority-data"]),
                ("cert.pem", &user["client-certificate-data"]),
                ("key.pem", &user["client-key-data"]),
            ] {
                use base64::Engine as _;
                let pem = base64::prelude::BASE64_STANDARD.decode(value.as_str().expect("PEM")).expect("base64");
                std::fs::write(dir.join(name), pem).expect("write");
            }
        }
        dir.to_string_lossy().into_owned()
    }

    /// Runs this program as a load client inside a device's network.
    pub fn client(&self, device: &str, args: &[&str]) -> String {
        let me = std::env::current_exe().expect("own path");
        let me = me.to_string_lossy();
        let mut all = vec!["exec", device, "--", &me, "client"];
        all.extend(args);
        self.dev(&all)
    }

    /// Starts a program inside a device's network and leaves it running.
    pub fn spawn(&self, device: &str, program: &str, args: &[String]) -> std::process::Child {
        Command::new(&self.kith)
            .args(["dev", "--fleet", &self.name, "exec", device, "--", program])
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start a program")
    }

    pub fn agents(&self) -> Vec<(String, u32)> {
        let mut found = Vec::new();
        for device in ["d1", "d2", "d3"] {
            let text = std::fs::read_to_string(self.dir.join(device).join("agent.pid")).unwrap_or_default();
            if let Some(pid) = text.split_whitespace().next().and_then(|pid| pid.parse().ok()) {
                found.push((device.to_owned(), pid));
            }
        }
        found
    }

    /// Pids of the containers' shims.
    pub fn shims(&self) -> Vec<u32> {
        let mut found = Vec::new();
        for device in ["d1", "d2", "d3"] {
            let containers = self.dir.join(device).join("run/containers");
            for entry in std::fs::read_dir(containers).into_iter().flatten().flatten() {
                let state = std::fs::read_to_string(entry.path().join("state.json")).unwrap_or_default();
                let state: Value = serde_json::from_str(&state).unwrap_or_default();
                found.extend(state["shim"]["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()));
            }
        }
        found
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.dev(&["down"]);
    }
}

/// A Deployment of the hello image.
pub fn deployment(name: &str, replicas: usize, node: Option<&str>) -> Value {
    let mut object = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {
                    "hostNetwork": true,
                    "terminationGracePeriodSeconds": 1,
                    "containers": [{
                        "name": "web", "image": "hello:1", "imagePullPolicy": "IfNotPresent",
                        "env": [{"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
                        "resources": {"requests": {"cpu": "10m", "memory": "8Mi"}, "limits": {"memory": "32Mi"}},
                    }],
                },
            },
        },
    });
    if let Some(node) = node {
        object["spec"]["template"]["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": node});
    }
    object
}

pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn wait<T>(what: &str, probe: impl FnMut() -> Option<T>) -> T {
    wait_within(Duration::from_mins(1), what, probe)
}

pub fn wait_within<T>(limit: Duration, what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(start.elapsed() < limit, "waited {limit:?} for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Proportional set size, in KiB.
pub fn pss_kib(pid: u32) -> u64 {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Processor time that a process has used, in user and in system mode.
pub fn cpu_time(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Some are negative.
    let fields: Vec<i64> =
        stat.rsplit(')').next().unwrap_or("").split_whitespace().filter_map(|field| field.parse().ok()).collect();
    // After the name and the state letter, utime and stime are the 11th and 12th number.
    let ticks: i64 = fields.iter().skip(10).take(2).sum();
    Duration::from_millis(ticks.unsigned_abs() * 10)
}

/// Bytes that a process caused to be written to disk.
pub fn disk_writes(pid: u32) -> u64 {
    let io = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    io.lines().find_map(|line| line.strip_prefix("write_bytes: ")?.parse().ok()).unwrap_or(0)
}
