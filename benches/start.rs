//! Start to removal of `/bin/true`: the runtime against `crun` and `runc` on the same bundle, interleaved.
//!
//! `KITH_EXE` names another binary than the one just built, such as a static one; `ROUNDS` and `PAUSE_MS`
//! change the run. Needs root, `crun`, `runc` and `busybox-static`. The others get the configuration that
//! the shim made, without a seccomp filter.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods, reason = "a bench fails by panicking")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount, umount};
use nix::sched::{CloneFlags, unshare};

use kith::reconciler::container::{Console, ContainerRef, ContainerSpec, ContainerState, Limits, PodRef};
use kith::runtime::{Runtime, Shims, ShimsConfig};

const ROUNDS: u32 = 40;

/// What Kith is measured against.
const OTHERS: [&str; 2] = ["crun", "runc"];

/// A number of the environment, or what it is without.
fn setting(name: &str, otherwise: u32) -> u32 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name} is not a number")))
}

/// What a device has, for this process and those that it starts: `/run` in memory, which each of the
/// runtimes keeps its state in. crun refuses to work where both versions of cgroups are mounted: only
/// version 1 is left then.
fn be_a_device() {
    let nothing = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing).unwrap();
    if !kith::runtime::is_in_memory(Path::new("/run")) {
        mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), Some("mode=755")).unwrap();
    }
    let unified = Path::new("/sys/fs/cgroup/unified");
    if unified.exists() {
        umount(unified).unwrap();
    }
}

fn main() {
    be_a_device();
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let layer = folder.path().join("layer");
    for name in ["bin", "etc", "dev", "proc", "sys"] {
        fs::create_dir_all(layer.join(name)).unwrap();
    }
    fs::copy("/bin/busybox", layer.join("bin/busybox")).unwrap();
    for name in ["true", "sleep"] {
        symlink("busybox", layer.join("bin").join(name)).unwrap();
    }
    let cgroup = format!("/kith/bench-{}", std::process::id());
    let exe = std::env::var_os("KITH_EXE").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_kith")), PathBuf::from);
    let config = ShimsConfig {
        run_dir: Path::new("/run").join(cgroup.replace('/', "-")),
        scratch_dir: folder.path().join("scratch"),
        log_dir: folder.path().join("log"),
        cgroup: cgroup.clone(),
        log_max_bytes: 1 << 20,
        log_max_files: 2,
        memory_max: None,
        exe,
    };
    let run_dir = config.run_dir.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let shims = Shims::new(config).unwrap();
        let bundle = make_bundle(&shims, &layer, folder.path(), &cgroup, &run_dir).await;
        let (mut ours, mut started) = (Vec::new(), Vec::new());
        let mut theirs = OTHERS.map(|_| Vec::new());
        let pause = Duration::from_millis(setting("PAUSE_MS", 50).into());
        for round in 0..setting("ROUNDS", ROUNDS) {
            tokio::time::sleep(pause).await;
            let begun = Instant::now();
            let spec = spec(round, "/bin/true");
            shims.start(spec.clone(), vec![layer.clone()]).await.unwrap();
            started.push(begun.elapsed());
            ended(&shims).await;
            shims.remove(&spec.reference).await.unwrap();
            ours.push(begun.elapsed());
            for (name, times) in OTHERS.iter().zip(&mut theirs) {
                tokio::time::sleep(pause).await;
                let begun = Instant::now();
                let run =
                    Command::new(name).args(["run", "--bundle"]).arg(&bundle).arg(format!("kith-{round}")).status();
                assert!(run.unwrap_or_else(|_| panic!("install it first: apt-get install {name}")).success());
                times.push(begun.elapsed());
            }
        }
        println!("start to running:  {}", quantiles(&mut started));
        println!("start to removed:  {}", quantiles(&mut ours));
        for (name, times) in OTHERS.iter().zip(&mut theirs) {
            let (all, ratio) = (quantiles(times), median(&ours) / median(times));
            println!("{name} run:          {all}; kith takes {ratio:.2} of it");
        }
        waiter_memory(&shims, &layer, &run_dir).await;
    });
    drop(runtime);
    kith::runtime::kill_everything(&cgroup).unwrap();
    fs::remove_dir_all(run_dir).unwrap();
}

fn spec(attempt: u32, program: &str) -> ContainerSpec {
    let pod = PodRef { namespace: "bench".into(), name: "bench".into(), uid: "uid-bench".into() };
    ContainerSpec {
        reference: ContainerRef { pod, container: "main".into(), attempt },
        image: "bench".into(),
        args: vec![program.into(), "1000".into()],
        env: Vec::new(),
        working_dir: "/".into(),
        uid: 0,
        gid: 0,
        groups: Vec::new(),
        hostname: "bench".into(),
        limits: Limits { memory: Some(64 << 20), cpu: Some(1000), cpu_shares: 1024, pids: 64 },
        capabilities: Vec::new(),
        read_only_root: false,
        oom_score_adj: 0,
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

async fn ended(shims: &Shims) {
    let mut changed = shims.changed();
    loop {
        changed.mark_unchanged();
        if shims.list().await.unwrap().iter().all(|found| matches!(found.state, ContainerState::Exited(_))) {
            return;
        }
        changed.changed().await.unwrap();
    }
}

/// What the shim makes of the same container, on the layer itself.
async fn make_bundle(shims: &Shims, layer: &Path, folder: &Path, cgroup: &str, run_dir: &Path) -> PathBuf {
    let spec = spec(1_000_000, "/bin/true");
    shims.start(spec.clone(), vec![layer.to_owned()]).await.unwrap();
    let path = run_dir.join("containers").join(spec.reference.id()).join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    ended(shims).await;
    shims.remove(&spec.reference).await.unwrap();
    config["root"]["path"] = layer.to_str().unwrap().into();
    config["linux"]["cgroupsPath"] = format!("{cgroup}/others").into();
    let bundle = folder.join("bundle");
    fs::create_dir(&bundle).unwrap();
    fs::write(layer.join("etc/resolv.conf"), "").unwrap();
    fs::write(bundle.join("config.json"), config.to_string()).unwrap();
    bundle
}

/// Proportional memory of idle waiters.
async fn waiter_memory(shims: &Shims, layer: &Path, run_dir: &Path) {
    const WAITERS: u32 = 10;
    let mut total = 0;
    let mut pids = Vec::new();
    for attempt in 0..WAITERS {
        let spec = spec(2_000_000 + attempt, "/bin/sleep");
        shims.start(spec.clone(), vec![layer.to_owned()]).await.unwrap();
        let state = run_dir.join("containers").join(spec.reference.id()).join("state.json");
        let state: serde_json::Value = serde_json::from_slice(&fs::read(state).unwrap()).unwrap();
        pids.push(state["shim"]["pid"].as_u64().unwrap());
    }
    // The last ones have only just become waiters.
    // A waiter gives back what its start has touched when it had nothing to do for five seconds.
    tokio::time::sleep(Duration::from_secs(8)).await;
    for pid in pids {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
        let pss = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
        total += pss.trim().trim_end_matches(" kB").parse::<u32>().unwrap();
    }
    println!("a waiter of {WAITERS}:    {} kB PSS", total / WAITERS);
}

/// Of sorted times.
fn median(times: &[Duration]) -> f64 {
    times[times.len() / 2].as_secs_f64()
}

fn quantiles(times: &mut [Duration]) -> String {
    times.sort();
    let at = |part: usize| times[times.len() * part / 100].as_secs_f64() * 1000.0;
    format!("p10 {:.1} ms, median {:.1} ms, p90 {:.1} ms", at(10), at(50), at(90))
}
