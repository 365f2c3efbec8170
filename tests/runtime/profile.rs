//! What a container may do, see and use.

use std::fs;
use std::os::fd::AsRawFd;

use kith::reconciler::container::{ContainerSpec, ContainerState};
use kith::runtime::{Runtime, Shims};

use crate::bench::{self, Bench};

/// Starts a container, and tells the pid of its program.
pub(crate) async fn started(bench: &Bench, shims: &Shims, spec: &ContainerSpec) -> u32 {
    shims.start(spec.clone(), bench.layers()).await.unwrap();
    let ContainerState::Running { pid, .. } = bench.state(shims, spec).await else { panic!("not running") };
    pid
}

/// Runs a script to its end and tells what it logged.
pub(crate) async fn output(bench: &Bench, shims: &Shims, mut spec: ContainerSpec, script: &str) -> String {
    spec.args = vec!["/bin/sh".into(), "-c".into(), script.into()];
    shims.start(spec.clone(), bench.layers()).await.unwrap();
    bench.exit(shims, &spec).await;
    let log = bench.log(&spec);
    let written = log.lines().filter(|line| line.contains(" stdout "));
    let lines: Vec<&str> = written.map(|line| line.splitn(4, ' ').nth(3).unwrap_or_default()).collect();
    lines.join("\n") + "\n"
}

#[tokio::test]
async fn limits_are_set_in_the_cgroup() {
    let bench = Bench::new();
    let shims = bench.open();
    let spec = Bench::spec("limits", &["/bin/sleep", "1000"]);
    started(&bench, &shims, &spec).await;
    if bench::is_unified() {
        for (file, expected) in [
            ("memory.max", "67108864"),
            ("memory.swap.max", "0"),
            ("cpu.max", "50000 100000"),
            ("cpu.weight", "35"),
            ("pids.max", "64"),
        ] {
            assert_eq!(bench.limit(&spec, "", file), expected, "{file}");
        }
    } else {
        for (controller, file, expected) in [
            ("memory", "memory.limit_in_bytes", "67108864"),
            ("memory", "memory.memsw.limit_in_bytes", "67108864"),
            ("cpu", "cpu.cfs_quota_us", "50000"),
            ("cpu", "cpu.cfs_period_us", "100000"),
            ("cpu", "cpu.shares", "256"),
            ("pids", "pids.max", "64"),
        ] {
            assert_eq!(bench.limit(&spec, controller, file), expected, "{file}");
        }
        let devices = bench.limit(&spec, "devices", "devices.list");
        assert!(devices.contains("c 1:3 rwm") && !devices.contains("a *:* rwm"), "{devices}");
    }
    bench.clear(&shims).await;
}

#[tokio::test]
async fn a_container_is_where_something_limits_counts_or_freezes_it_and_its_shim_is_not() {
    let bench = Bench::new();
    let shims = bench.open();
    let spec = Bench::spec("joined", &["/bin/sleep", "1000"]);
    let pid = started(&bench, &shims, &spec).await;
    let own = format!("{}/{}", bench.cgroup, spec.reference.id());
    let inside = |pid: &str| {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        let lines = text.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
        let own = lines.filter(|(_, path)| *path == own).flat_map(|(controllers, _)| controllers.split(','));
        own.map(str::to_owned).collect::<std::collections::BTreeSet<_>>()
    };
    let limiting: &[&str] = &["cpu", "cpuacct", "devices", "freezer", "memory", "pids"];
    let expected = if bench::is_unified() { &[""] } else { limiting };
    assert_eq!(inside(&pid.to_string()), expected.iter().map(|&name| name.to_owned()).collect());
    assert_eq!(inside(&bench.shim_pid(&spec).to_string()).len(), 0);
    // A program beside it joins all of them too.
    let words = ["sh", "-c", "cat /proc/self/cgroup"].map(str::to_owned).to_vec();
    let told = shims.exec_capture(&spec.reference, words, bench::PATIENCE, 4096).await.unwrap().output;
    let told = String::from_utf8(told).unwrap();
    let roots = told.lines().filter(|line| line.ends_with(":/")).count();
    assert_eq!(roots, told.lines().count(), "its own cgroup is the root of what it sees: {told}");
    bench.clear(&shims).await;
}

#[tokio::test]
async fn privileges_are_dropped_and_the_filter_is_on() {
    let bench = Bench::new();
    let shims = bench.open();
    let spec = Bench::spec("profile", &["/bin/sleep", "1000"]);
    let pid = started(&bench, &shims, &spec).await;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let bind_service = format!("{:016x}", 1 << 10);
    for (field, expected) in [
        ("CapPrm", bind_service.as_str()),
        ("CapEff", &bind_service),
        ("CapBnd", &bind_service),
        ("CapInh", "0000000000000000"),
        ("CapAmb", "0000000000000000"),
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
        ("Seccomp_filters", "1"),
        ("Groups", " "),
        ("SigIgn", "0000000000000000"),
        ("SigBlk", "0000000000000000"),
    ] {
        let found = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(":\t"));
        assert_eq!(found, Some(expected), "{field}");
    }
    assert_eq!(fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap().trim(), "500");
    let namespace = |pid: &str, name: &str| fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap();
    for own in ["pid", "mnt", "uts", "ipc", "cgroup"] {
        assert_ne!(namespace(&pid.to_string(), own), namespace("self", own), "{own}");
    }
    assert_eq!(namespace(&pid.to_string(), "net"), namespace("self", "net"));
    // Nothing of the device is left open in it.
    let open: Vec<_> = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().map(|fd| fd.unwrap().file_name()).collect();
    assert_eq!(open.len(), 3, "{open:?}");
    bench.clear(&shims).await;
}

#[tokio::test]
async fn the_shim_keeps_no_privilege_for_itself_that_the_container_could_reach() {
    let bench = Bench::new();
    // A copy of its own: nothing else executes it, which would keep it from being written as well.
    let mut config = bench.config();
    config.exe = bench.path().join("kith");
    fs::copy(bench.config().exe, &config.exe).unwrap();
    let shims = Shims::new(config.clone()).unwrap();
    let spec = Bench::spec("seal", &["/bin/sleep", "1000"]);
    started(&bench, &shims, &spec).await;
    let shim = bench.shim_pid(&spec);
    let exe = fs::File::open(format!("/proc/{shim}/exe")).unwrap();
    let score: i32 = fs::read_to_string(format!("/proc/{shim}/oom_score_adj")).unwrap().trim().parse().unwrap();
    assert!(score <= 0, "{score}");
    assert_eq!(fs::read_link(format!("/proc/{shim}/ns/mnt")).unwrap(), fs::read_link("/proc/self/ns/mnt").unwrap());
    // Not started by the agent: refused.
    let plain = std::process::Command::new(env!("CARGO_BIN_EXE_kith"))
        .args(["shim", "create", "/tmp/none", "/none"])
        .output()
        .unwrap();
    assert!(!plain.status.success() && String::from_utf8_lossy(&plain.stdout).contains("not sealed"));
    bench.clear(&shims).await;
    // What a container could have kept open leads nowhere, also once nothing executes the binary.
    let own = format!("/proc/self/fd/{}", exe.as_raw_fd());
    let refused = |error: std::io::Error| error.raw_os_error();
    assert_eq!(fs::OpenOptions::new().write(true).open(&own).map_err(refused).unwrap_err(), Some(nix::libc::EROFS));
    assert!(fs::OpenOptions::new().write(true).open(&config.exe).is_ok());
}

#[tokio::test]
async fn the_container_sees_its_own_world() {
    let bench = Bench::new();
    let shims = bench.open();
    let mut spec = Bench::spec("world", &[]);
    (spec.uid, spec.gid, spec.groups) = (1000, 1001, vec![50]);
    let script = "id; hostname; pwd; echo $HOME $GREETING; cat /etc/hosts | tail -n 1; cat /etc/hostname; echo again > /dev/stdout; \
                  cat /etc/resolv.conf | grep -c . >/dev/null && echo resolves; ls /dev; echo pid $$";
    let text = output(&bench, &shims, spec, script).await;
    for expected in [
        "uid=1000(web) gid=1001 groups=50\n",
        "world-host\n/srv\n/home/web hi\n127.0.1.1\tworld-host\nworld-host\nagain\n",
        "null\n",
        "pid 1\n",
    ] {
        assert!(text.contains(expected), "{expected:?} in {text}");
    }
    assert!(!text.contains("sda") && !text.contains("vda"), "{text}");
    bench.clear(&shims).await;
}

#[tokio::test]
async fn what_is_dangerous_is_denied() {
    let bench = Bench::new();
    let shims = bench.open();
    let mut spec = Bench::spec("denied", &[]);
    // As much as a pod could ask for without being allowed to mount.
    spec.capabilities = vec!["CAP_DAC_OVERRIDE".into(), "CAP_NET_RAW".into(), "CAP_SYS_PTRACE".into()];
    if !bench::is_unified() {
        spec.capabilities.push("CAP_MKNOD".into());
    }
    let tries = [
        ("mount -t tmpfs none /tmp", "mount"),
        ("unshare -r true", "user namespace"),
        ("echo 1 > /proc/sys/kernel/panic", "sysctl"),
        ("echo b > /proc/sysrq-trigger", "sysrq"),
        ("mkdir /sys/fs/cgroup/memory/x", "cgroup"),
        ("echo x > /sys/kernel/mm/ksm/run", "sysfs"),
        ("test -n \"$(cat /proc/keys)\"", "keys"),
        ("head -c 1 /proc/kcore | grep -q .", "kcore"),
        ("mknod /tmp/disk b 254 0 && head -c 1 /tmp/disk", "block device"),
        ("mknod /dev/disk b 254 0 && head -c 1 /dev/disk", "block device in /dev"),
        ("mknod /tmp/null c 1 3 && echo x > /tmp/null", "device on the root"),
        ("echo x > /etc/resolv.conf", "resolver"),
    ];
    let attempt = |(act, what): (&str, &str)| format!("if ({act}) 2>/dev/null; then echo DID {what}; fi");
    let script = tries.map(attempt).join("\n");
    let text = output(&bench, &shims, spec, &format!("{script}\necho done")).await;
    assert_eq!(text, "done\n");
    bench.clear(&shims).await;
}

#[tokio::test]
async fn a_read_only_root_is_read_only() {
    let bench = Bench::new();
    let shims = bench.open();
    let mut spec = Bench::spec("ro", &[]);
    spec.read_only_root = true;
    let text = output(&bench, &shims, spec, "echo x > /file || echo refused; echo x > /dev/shm/file && echo shm").await;
    assert!(text.contains("refused\n") && text.ends_with("shm\n"), "{text}");
    bench.clear(&shims).await;
}

#[tokio::test]
async fn too_much_memory_is_reported_as_an_oom_kill() {
    let bench = Bench::new();
    let shims = bench.open();
    let mut spec = Bench::spec("oom", &["/bin/dd", "if=/dev/zero", "of=/dev/null", "bs=200M", "count=1"]);
    spec.limits.memory = Some(16 << 20);
    shims.start(spec.clone(), bench.layers()).await.unwrap();
    let exit = bench.exit(&shims, &spec).await;
    assert!(exit.oom_killed, "{exit:?}");
    assert_eq!((exit.code, exit.signal), (137, Some(9)));
    bench.clear(&shims).await;
}

#[tokio::test]
async fn too_many_processes_are_refused_to_the_container_alone() {
    let bench = Bench::new();
    let shims = bench.open();
    let mut spec = Bench::spec("bomb", &[]);
    spec.limits.pids = 16;
    // Forks until it is refused, which ends the shell; what it started is killed with it.
    let text =
        output(&bench, &shims, spec.clone(), "i=0; while [ $i -lt 50 ]; do sleep 1000 & i=$((i+1)); echo $i; done")
            .await;
    let highest: u32 = text.lines().filter_map(|line| line.parse().ok()).max().unwrap();
    assert!((10..16).contains(&highest), "{text}");
    bench.clear(&shims).await;
}
