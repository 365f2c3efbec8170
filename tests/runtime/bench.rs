//! What the tests run on: folders, a cgroup and an image of their own, removed at the end.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kith::reconciler::container::{
    Console, ContainerRef, ContainerSpec, ContainerState, Exit, Limits, PodRef, StopSignal, log_path,
};
use kith::runtime::{Runtime, Shims, ShimsConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Longest that anything here may take; reached only when something is broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Bench {
    folder: tempfile::TempDir,
    pub(crate) cgroup: String,
}

/// Debian's statically linked busybox.
pub(crate) fn busybox() -> PathBuf {
    let path = PathBuf::from("/bin/busybox");
    assert!(path.exists(), "install it first: apt-get install busybox-static");
    path
}

impl Bench {
    pub(crate) fn new() -> Self {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        make_root(&folder.path().join("layer"));
        Self { folder, cgroup: format!("/kith/test-{}-{count}", std::process::id()) }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn config(&self) -> ShimsConfig {
        ShimsConfig {
            run_dir: self.path().join("run"),
            scratch_dir: self.path().join("scratch"),
            log_dir: self.path().join("log"),
            cgroup: self.cgroup.clone(),
            log_max_bytes: 1 << 20,
            log_max_files: 3,
            memory_max: None,
            exe: PathBuf::from(env!("CARGO_BIN_EXE_kith")),
        }
    }

    pub(crate) fn open(&self) -> Shims {
        Shims::new(self.config()).unwrap()
    }

    pub(crate) fn layers(&self) -> Vec<PathBuf> {
        vec![self.path().join("layer")]
    }

    pub(crate) fn spec(name: &str, args: &[&str]) -> ContainerSpec {
        let pod = PodRef { namespace: "default".into(), name: name.into(), uid: format!("uid-{name}") };
        ContainerSpec {
            reference: ContainerRef { pod, container: "main".into(), attempt: 0 },
            image: "busybox:test".into(),
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            env: vec![("GREETING".into(), "hi".into())],
            working_dir: "/srv".into(),
            uid: 0,
            gid: 0,
            groups: Vec::new(),
            hostname: format!("{name}-host"),
            limits: Limits { memory: Some(64 << 20), cpu: Some(500), cpu_shares: 256, pids: 64 },
            capabilities: vec!["CAP_NET_BIND_SERVICE".into()],
            read_only_root: false,
            oom_score_adj: 500,
            stop_signal: String::new(),
            mounts: Vec::new(),
            sandbox: None,
            namespaces: kith::reconciler::container::Namespaces::default(),
            confinement: kith::reconciler::container::Confinement::default(),
            devices: Vec::new(),
            last_words: None,
            console: Console::default(),
            leash_ms: None,
        }
    }

    pub(crate) async fn state(&self, shims: &Shims, spec: &ContainerSpec) -> ContainerState {
        let listed = shims.list().await.unwrap();
        listed.into_iter().find(|found| found.reference == spec.reference).expect("it is listed").state
    }

    /// Waits until the container has ended.
    pub(crate) async fn exit(&self, shims: &Shims, spec: &ContainerSpec) -> Exit {
        let mut changed = shims.changed();
        let ended = async {
            loop {
                changed.mark_unchanged();
                if let ContainerState::Exited(exit) = self.state(shims, spec).await {
                    return exit;
                }
                changed.changed().await.unwrap();
            }
        };
        tokio::time::timeout(PATIENCE, ended).await.expect("it ends")
    }

    pub(crate) fn log(&self, spec: &ContainerSpec) -> String {
        fs::read_to_string(log_path(&self.path().join("log"), &spec.reference)).unwrap_or_default()
    }

    /// Waits until the log holds a text.
    pub(crate) async fn log_has(&self, spec: &ContainerSpec, text: &str) {
        eventually(&format!("{text:?} is in the log"), || self.log(spec).contains(text)).await;
    }

    /// A pipe in the image that `open_gate` releases: the way to end a container at a known moment.
    pub(crate) fn make_gate(&self) {
        nix::unistd::mkfifo(&self.path().join("layer/gate"), nix::sys::stat::Mode::from_bits_truncate(0o666)).unwrap();
    }

    pub(crate) async fn open_gate(&self, shims: &Shims, spec: &ContainerSpec) {
        let ContainerState::Running { pid, .. } = self.state(shims, spec).await else { panic!("not running") };
        let gate = format!("/proc/{pid}/root/gate");
        tokio::task::spawn_blocking(move || fs::write(gate, "go\n").unwrap()).await.unwrap();
    }

    pub(crate) fn container_path(&self, spec: &ContainerSpec) -> PathBuf {
        self.path().join("run/containers").join(spec.reference.id())
    }

    /// The pid of the shim that attends to a container, as its folder has it.
    pub(crate) fn shim_pid(&self, spec: &ContainerSpec) -> i32 {
        let state = fs::read(self.container_path(spec).join("state.json")).unwrap();
        let state: serde_json::Value = serde_json::from_slice(&state).unwrap();
        i32::try_from(state["shim"]["pid"].as_i64().unwrap()).unwrap()
    }

    /// Waits until a container is neither being created nor about to be settled.
    pub(crate) async fn settled(&self, shims: &Shims, spec: &ContainerSpec) -> ContainerState {
        let mut changed = shims.changed();
        let settled = async {
            loop {
                changed.mark_unchanged();
                let state = self.state(shims, spec).await;
                if !matches!(state, ContainerState::Creating) {
                    return state;
                }
                changed.changed().await.unwrap();
            }
        };
        tokio::time::timeout(PATIENCE, settled).await.expect("it settles")
    }

    /// Whether somebody marks the image's layer as in use.
    pub(crate) fn layer_is_held(&self) -> bool {
        fs::File::open(self.path().join("layer")).unwrap().try_lock().is_err()
    }

    /// Ends and removes everything, and checks that nothing is left.
    pub(crate) async fn clear(&self, shims: &Shims) {
        for found in shims.list().await.unwrap() {
            shims.stop(&found.reference, StopSignal::Kill).await.unwrap();
            let mut changed = shims.changed();
            tokio::time::timeout(PATIENCE, async {
                loop {
                    changed.mark_unchanged();
                    let listed = shims.list().await.unwrap();
                    let state = &listed.iter().find(|other| other.reference == found.reference).unwrap().state;
                    if matches!(state, ContainerState::Exited(_)) {
                        break;
                    }
                    changed.changed().await.unwrap();
                }
            })
            .await
            .expect("it ends");
            shims.remove(&found.reference).await.unwrap();
        }
        self.assert_no_leftovers();
    }

    /// No folder, mount, cgroup or process of these containers is left.
    pub(crate) fn assert_no_leftovers(&self) {
        let names = |folder: &str| {
            fs::read_dir(self.path().join(folder)).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>()
        };
        assert!(names("run/containers").is_empty(), "{:?}", names("run/containers"));
        assert!(names("scratch").is_empty(), "{:?}", names("scratch"));
        let own = self.path().to_str().unwrap();
        assert!(!fs::read_to_string("/proc/self/mountinfo").unwrap().contains(own));
        for folder in self.cgroup_folders() {
            let below: Vec<_> =
                fs::read_dir(&folder).unwrap().flatten().filter(|entry| entry.path().is_dir()).collect();
            assert!(below.is_empty(), "{below:?}");
        }
    }

    pub(crate) fn cgroup_folders(&self) -> Vec<PathBuf> {
        let hierarchies = fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|entry| entry.path());
        hierarchies
            .chain([PathBuf::from("/sys/fs/cgroup")])
            .map(|root| root.join(&self.cgroup[1..]))
            .filter(|path| path.exists())
            .collect()
    }

    /// A file of a container's cgroup.
    pub(crate) fn limit(&self, spec: &ContainerSpec, controller: &str, file: &str) -> String {
        let path =
            Path::new("/sys/fs/cgroup").join(controller).join(&self.cgroup[1..]).join(spec.reference.id()).join(file);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).trim().to_owned()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if let Err(error) = kith::runtime::kill_everything(&self.cgroup) {
            eprintln!("left behind: {error}");
        }
    }
}

/// One agent's life: its runtime is gone afterwards, as after `kill -9`.
pub(crate) fn life<T>(work: impl AsyncFnOnce() -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let result = runtime.block_on(work());
    runtime.shutdown_background();
    result
}

/// Whether version 2 of cgroups holds the controllers.
pub(crate) fn is_unified() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// Processes that carry the command line of a container's shim.
pub(crate) fn shims_of(folder: &Path) -> Vec<i32> {
    let pids =
        fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let needle = format!("\0{}\0", folder.display());
    pids.filter(|pid| {
        fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| String::from_utf8_lossy(&line).contains(&needle))
    })
    .collect()
}

/// Memory of a process that is its own: heap and stack.
pub(crate) fn heap_kib(pid: i32) -> u64 {
    let mut own = false;
    let mut sum = 0;
    for line in fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap().lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        // `from-to rights offset device inode [name]` opens a mapping; nameless ones are allocated.
        if words[0].contains('-') {
            own = words.len() == 5 || words[5] == "[heap]";
        } else if own && words[0] == "Anonymous:" {
            sum += words[1].parse::<u64>().unwrap();
        }
    }
    sum
}

/// A layer with busybox and a page to serve.
pub(crate) fn make_root(root: &Path) {
    for folder in ["bin", "srv", "tmp", "etc", "dev", "proc", "sys"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::copy(busybox(), root.join("bin/busybox")).unwrap();
    for name in [
        "sh", "true", "false", "sleep", "cat", "httpd", "id", "dd", "yes", "mount", "mkdir", "ls", "unshare", "tail",
        "env", "hostname",
    ] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).unwrap();
    }
    fs::write(root.join("srv/index.html"), "served from busybox\n").unwrap();
    fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nweb:x:1000:1001::/home/web:/bin/sh\n").unwrap();
}

/// Waits for a condition that has no event of its own.
pub(crate) async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let met = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, met).await.is_ok(), "gave up waiting until {what}");
}

/// Puts a dynamically linked program of this machine, with its libraries, into a root.
pub(crate) fn copy_program(root: &Path, program: &str) {
    let listed = std::process::Command::new("ldd").arg(program).output().unwrap();
    let text = String::from_utf8(listed.stdout).unwrap();
    let libraries = text.split_whitespace().filter(|word| word.starts_with('/'));
    for file in libraries.chain([program]) {
        let target = root.join(&file[1..]);
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        let _ = fs::remove_file(&target);
        fs::copy(fs::canonicalize(file).unwrap(), target).unwrap();
    }
}

/// The command lines of all processes of this machine, with zero bytes between arguments.
pub(crate) fn processes() -> Vec<String> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let lines = entries.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines.map(|line| String::from_utf8_lossy(&line).into_owned()).collect()
}

pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// What an HTTP server answers, once it listens.
pub(crate) async fn get(port: u16) -> String {
    let answered = async {
        loop {
            let Ok(mut stream) = tokio::net::TcpStream::connect(("127.0.0.1", port)).await else {
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            };
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).await.unwrap();
            return text;
        }
    };
    tokio::time::timeout(PATIENCE, answered).await.expect("it answers")
}
