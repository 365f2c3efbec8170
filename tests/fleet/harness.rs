//! A fleet of real agents in network namespaces, made and removed by `kith dev` as a user would.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde_json::Value;

pub const KITH: &str = env!("CARGO_BIN_EXE_kith");

/// How long anything may take before a test gives up waiting for it. Not a measurement.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// How long an agent may take to answer: longer than it says itself that it takes, and than a test
/// lets it sleep.
const ANSWER: Duration = Duration::from_secs(20);

pub struct Fleet {
    name: String,
    pub dir: PathBuf,
}

/// An answer of the API.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub warnings: Vec<String>,
    pub body: Value,
}

impl Fleet {
    /// A fleet of `devices` devices, all of them ready, with the `hello:1` image on each.
    pub fn up(name: &str, devices: usize) -> Self {
        Self::up_with(name, devices, &[])
    }

    /// The same, with settings of every agent.
    pub fn up_with(name: &str, devices: usize, settings: &[&str]) -> Self {
        Self::by(KITH, name, devices, settings)
    }

    /// The same, made by another program, which is also what its agents run.
    pub fn by(program: &str, name: &str, devices: usize, settings: &[&str]) -> Self {
        let fleet = Self::named(name);
        let devices = devices.to_string();
        let mut args = vec!["up", "--devices", &devices];
        args.extend(settings.iter().flat_map(|setting| ["--set", setting]));
        succeed(Command::new(program).args(["dev", "--fleet", name]).args(&args));
        fleet
    }

    /// One that is not made yet, and gone in the end if somebody made it.
    pub fn named(name: &str) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "fleet tests make network namespaces and cgroups: run them as root");
        let fleet = Self { name: name.into(), dir: PathBuf::from(format!("/var/lib/kith-dev/{name}")) };
        fleet.dev(&["down"]);
        fleet
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `kith dev` on this fleet and insists on success.
    pub fn dev(&self, args: &[&str]) -> String {
        let mut all = vec!["dev", "--fleet", &self.name];
        all.extend(args);
        succeed(Command::new(KITH).args(&all))
    }

    /// Runs `kith` on a device and insists on success.
    pub fn kith(&self, device: &str, args: &[&str]) -> String {
        succeed(&mut self.command(device, args))
    }

    /// Runs `kith` on a device, whatever comes of it.
    pub fn try_kith(&self, device: &str, args: &[&str]) -> Output {
        self.command(device, args).output().unwrap()
    }

    fn command(&self, device: &str, args: &[&str]) -> Command {
        let mut command = Command::new(KITH);
        command.args(["--config", self.file(device, "agent.toml").to_str().unwrap()]);
        command.args(args).stdin(Stdio::null());
        command
    }

    /// A program inside a device's network, as if started there.
    pub fn inside(&self, device: &str, argv: &[&str]) -> Command {
        let mut command = Command::new(KITH);
        command.args(["dev", "--fleet", &self.name, "exec", device, "--"]).args(argv);
        command
    }

    /// Runs a program inside a device's network.
    pub fn exec(&self, device: &str, argv: &[&str]) -> Output {
        let mut all = vec!["dev", "--fleet", &self.name, "exec", device, "--"];
        all.extend(argv);
        Command::new(KITH).args(&all).stdin(Stdio::null()).output().unwrap()
    }

    pub fn file(&self, device: &str, path: &str) -> PathBuf {
        self.dir.join(device).join(path)
    }

    /// Builds the demo's web image and loads it on every device.
    pub fn load_hello(&self) {
        let tar = self.dir.join("hello-rootfs.tar");
        succeed(Command::new("scripts/hello-image.sh").arg(&tar));
        let archive = self.dir.join("hello-image.tar");
        let (tar, archive) = (tar.to_str().unwrap(), archive.to_str().unwrap());
        self.kith("d1", &["image", "import", tar, "hello:1", "--cmd", "/bin/hello"]);
        self.kith("d1", &["image", "save", "hello:1", "-o", archive]);
        self.dev(&["load", archive]);
    }

    /// One request to a device's API.
    pub fn request(&self, device: &str, method: &str, path: &str, body: Option<&Value>) -> std::io::Result<Answer> {
        let socket = self.file(device, "run/kith.sock");
        let bytes = body.map_or_else(Vec::new, |body| serde_json::to_vec(body).unwrap());
        let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let request = hyper::Request::builder()
            .method(method)
            .uri(path)
            .header("host", "kith")
            .header("content-type", kind)
            .body(Full::new(Bytes::from(bytes)))
            .unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let answered = runtime.block_on(async { tokio::time::timeout(ANSWER, ask(&socket, request)).await });
        answered.unwrap_or_else(|late| Err(late.into()))
    }

    pub fn get(&self, device: &str, path: &str) -> Value {
        let answer = self.request(device, "GET", path, None).unwrap();
        assert_eq!(answer.status, 200, "GET {path} on {device}: {}", answer.body);
        answer.body
    }

    pub fn status(&self, device: &str) -> Value {
        self.get(device, "/kith/v1/status")
    }

    /// The leader's name as a device sees it.
    pub fn leader(&self, device: &str) -> Option<String> {
        let answer = self.request(device, "GET", "/kith/v1/status", None).ok()?;
        answer.body["leader"].as_str().map(str::to_owned)
    }

    /// Pods that are neither deleted nor finished, as a device's API lists them.
    pub fn pods(&self, device: &str) -> Vec<Value> {
        let list = self.get(device, "/api/v1/namespaces/default/pods");
        list["items"].as_array().unwrap().clone()
    }

    /// Pods that run and are ready, and are not being deleted.
    pub fn ready_pods(&self, device: &str) -> Vec<Value> {
        self.pods(device)
            .into_iter()
            .filter(|pod| is_ready(pod) && pod["metadata"]["deletionTimestamp"].is_null())
            .collect()
    }

    /// Waits until that many pods are ready, and returns them.
    pub fn wait_ready_pods(&self, device: &str, count: usize) -> Vec<Value> {
        wait_for(&format!("{count} ready pods on {device}"), || {
            let answer = self.request(device, "GET", "/api/v1/namespaces/default/pods", None).ok()?;
            let ready: Vec<Value> = answer.body["items"]
                .as_array()?
                .iter()
                .filter(|pod| is_ready(pod) && pod["metadata"]["deletionTimestamp"].is_null())
                .cloned()
                .collect();
            (ready.len() == count).then_some(ready)
        })
    }

    /// Waits until all devices show one state hash at one revision, and returns it.
    pub fn wait_same_hash(&self, devices: &[&str]) -> String {
        wait_for("one state hash on all devices", || {
            let mut seen = Vec::new();
            for device in devices {
                let status = self.request(device, "GET", "/kith/v1/status", None).ok()?.body;
                seen.push((status["revision"].as_u64()?, status["state_hash"].as_str()?.to_owned()));
            }
            seen.windows(2).all(|pair| pair[0] == pair[1]).then(|| seen[0].1.clone())
        })
    }

    /// Containers of a device: id -> (pid, start time of the pid), from what runs.
    pub fn containers(&self, device: &str) -> Vec<(String, u64, String)> {
        let dir = self.file(device, "run/containers");
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let state = std::fs::read_to_string(entry.path().join("state.json")).unwrap_or_default();
            let Ok(state) = serde_json::from_str::<Value>(&state) else { continue };
            let Some(pid) = state["running"][0]["pid"].as_u64() else { continue };
            if let Some(started) = start_time(pid) {
                found.push((entry.file_name().to_string_lossy().into_owned(), pid, started));
            }
        }
        found.sort();
        found
    }

    /// The pid of a device's agent, if it runs.
    pub fn agent_pid(&self, device: &str) -> Option<i32> {
        let view: Value = serde_json::from_str(&self.dev(&["status", "-o", "json"])).unwrap();
        let devices = view["devices"].as_array().unwrap();
        let found = devices.iter().find(|known| known["name"] == device).and_then(|known| known["pid"].as_i64());
        found.and_then(|pid| i32::try_from(pid).ok())
    }

    /// The pid of a device's agent, whether it still runs or not.
    pub fn pid(&self, device: &str) -> i32 {
        let text = std::fs::read_to_string(self.file(device, "agent.pid")).unwrap();
        text.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// Sends a signal to a device's agent, and waits for the end of one that was killed.
    pub fn signal(&self, device: &str, signal: nix::sys::signal::Signal) {
        let pid = self.pid(device);
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
        if signal == nix::sys::signal::Signal::SIGKILL {
            // Finds it dead, or waits until it is.
            self.dev(&["kill", device]);
        }
    }

    pub fn agent_log(&self, device: &str) -> String {
        std::fs::read_to_string(self.file(device, "agent.log")).unwrap_or_default()
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for entry in std::fs::read_dir(&self.dir).into_iter().flatten().flatten() {
                let log = std::fs::read_to_string(entry.path().join("agent.log")).unwrap_or_default();
                let tail: Vec<&str> = log.lines().rev().take(40).collect();
                eprintln!("--- {} (last lines of agent.log)", entry.path().display());
                tail.iter().rev().for_each(|line| eprintln!("{line}"));
            }
        }
        let down = Command::new(KITH).args(["dev", "--fleet", &self.name, "down"]).output().unwrap();
        if !std::thread::panicking() {
            assert!(down.status.success(), "kith dev down: {}", String::from_utf8_lossy(&down.stderr));
        }
    }
}

/// Raises a flag when it goes: also when a thread panics whose scope would wait for others.
pub struct Raised<'a>(pub &'a AtomicBool);

impl Drop for Raised<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

async fn ask(socket: &Path, request: hyper::Request<Full<Bytes>>) -> std::io::Result<Answer> {
    let stream = tokio::net::UnixStream::connect(socket).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(std::io::Error::other)?;
    let driver = tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(std::io::Error::other)?;
    let status = response.status().as_u16();
    let warnings = response.headers().get_all("warning").iter().map(|w| w.to_str().unwrap_or("").to_owned()).collect();
    let bytes = response.into_body().collect().await.map_err(std::io::Error::other)?.to_bytes();
    driver.abort();
    Ok(Answer { status, warnings, body: serde_json::from_slice(&bytes).unwrap_or(Value::Null) })
}

/// When a process started, in clock ticks since boot: with the pid it names one process for good.
pub fn start_time(pid: u64) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(')').next()?.split_whitespace().nth(19).map(str::to_owned)
}

pub fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

pub fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap()
}

pub fn node(pod: &Value) -> &str {
    pod["spec"]["nodeName"].as_str().unwrap_or("")
}

/// Asks again and again, and gives up with the name of what did not come.
pub fn wait_for<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

pub fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?} ended with {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
