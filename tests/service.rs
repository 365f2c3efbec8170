//! The package on a Debian system of its own, booted by systemd in a container: the service starts,
//! is restarted, crashes, is upgraded and takes new settings, and what runs goes on. Needs root; the
//! system is made once by `scripts/debian-root.sh`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods, reason = "tests fail by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Longest that anything here may take; reached only when something is broken.
const PATIENCE: Duration = Duration::from_secs(90);

/// Hierarchies in which Kith limits containers; systemd-nspawn mounts them read-only.
const HIERARCHIES: [&str; 8] = ["cpuacct", "cpu", "blkio", "memory", "devices", "freezer", "pids", "cpuset"];

/// A booted system.
struct Machine {
    folder: tempfile::TempDir,
    nspawn: Child,
    leader: String,
    cgroup: String,
}

impl Machine {
    fn boot() -> Self {
        let system = output(&mut Command::new("scripts/debian-root.sh"));
        let system = Path::new(system.trim());
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        // A copy, not an overlay: containers inside have overlays of their own, which do not stack.
        let root = folder.path().join("root");
        output(Command::new("cp").args(["-a", "--reflink=auto"]).arg(system).arg(&root));
        // The system's own systemd-nspawn with its own libraries: this machine's may be of another version.
        let libraries = system.join("usr/lib/x86_64-linux-gnu");
        let nspawn = Command::new(system.join("lib64/ld-linux-x86-64.so.2"))
            .arg("--library-path")
            .arg(format!("{0}:{0}/systemd", libraries.display()))
            .arg(system.join("usr/bin/systemd-nspawn"))
            .arg("-D")
            .arg(&root)
            .args(["--register=no", "--keep-unit", "--private-network", "--boot", "--console=read-only"])
            .arg(format!("--machine=kith-{}", std::process::id()))
            .stdin(Stdio::null())
            .stdout(fs::File::create(folder.path().join("console")).unwrap())
            .stderr(fs::File::create(folder.path().join("errors")).unwrap())
            .spawn()
            .unwrap();
        let cgroup = format!("/kith/test-service-{}", std::process::id());
        let mut machine = Self { folder, nspawn, leader: String::new(), cgroup };
        let children = format!("/proc/{0}/task/{0}/children", machine.nspawn.id());
        machine.eventually("the system has a first process", |_| {
            !fs::read_to_string(&children).unwrap_or_default().trim().is_empty()
        });
        fs::read_to_string(&children).unwrap().trim().clone_into(&mut machine.leader);
        machine.eventually("systemd is up", |machine| {
            matches!(machine.try_run("systemctl is-system-running").1.trim(), "running" | "degraded")
        });
        for name in HIERARCHIES {
            machine.run(&format!("mount -o remount,rw,bind /sys/fs/cgroup/{name}"));
        }
        machine
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    /// Whether a script succeeded inside, and what it printed.
    fn try_run(&self, script: &str) -> (bool, String) {
        let output = Command::new("nsenter")
            .args(["-t", &self.leader, "-a", "/bin/sh", "-c"])
            .arg(format!("cd /; {script}"))
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.success(), text)
    }

    fn run(&self, script: &str) -> String {
        let (done, text) = self.try_run(script);
        assert!(done, "{script}: {text}\n{}", self.try_run("journalctl -u kith --no-pager | tail -n 40").1);
        text
    }

    fn eventually(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !condition(self) {
            assert!(
                begun.elapsed() < PATIENCE,
                "gave up waiting until {what}\n{}",
                self.try_run("systemctl status kith --no-pager; journalctl -u kith --no-pager | tail -n 60").1
            );
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn main_pid(&self) -> String {
        self.run("systemctl show -p MainPID --value kith").trim().to_owned()
    }

    /// The pid of the pod's program and the moment it began.
    fn program(&self) -> String {
        self.run("pid=$(pgrep -f '^/bin/busybox sleep 98765$') && echo $pid $(cut -d' ' -f22 /proc/$pid/stat)")
    }

    /// When systemd last heard that the service lives.
    fn fed(&self) -> String {
        self.run("systemctl show -p WatchdogTimestampMonotonic --value kith").trim().to_owned()
    }

    fn active(&self, other_than: &str) {
        self.eventually("the service is active again", |machine| {
            machine.try_run("systemctl is-active kith").1.trim() == "active" && machine.main_pid() != other_than
        });
    }

    fn journal_says(&self, text: &str) {
        self.eventually(&format!("the journal says {text:?}"), |machine| {
            machine.try_run("journalctl -u kith --no-pager").1.contains(text)
        });
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Err(error) = kith::runtime::kill_everything(&self.cgroup) {
            eprintln!("left behind: {error}");
        }
        let _ = Command::new("kill").args(["-9", &self.leader]).status();
        let _ = self.nspawn.kill();
        let _ = self.nspawn.wait();
    }
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A package of the binary under test, with `mark` behind its program's end.
fn package(folder: &Path, mark: &str) -> PathBuf {
    let binary = folder.join(format!("kith{mark}"));
    output(Command::new("strip").arg("-o").arg(&binary).arg(env!("CARGO_BIN_EXE_kith")));
    let mut bytes = fs::read(&binary).unwrap();
    bytes.extend(mark.as_bytes());
    fs::write(&binary, bytes).unwrap();
    let made = output(
        Command::new("scripts/deb.sh")
            .arg(&binary)
            .arg("amd64")
            .arg(folder)
            .env("DEB_LEVEL", "0")
            .env("HOST_KITH", env!("CARGO_BIN_EXE_kith")),
    );
    let named = folder.join(format!("kith{mark}.deb"));
    fs::rename(made.trim(), &named).unwrap();
    named
}

const POD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: sleeper}
spec:
  hostNetwork: true
  containers:
  - {name: main, image: "sleeper:1", command: [/bin/busybox, sleep, "98765"]}
"#;

/// The program of the package, as another release.
fn release(machine: &Machine, version: &str) -> String {
    let mut bytes = fs::read(machine.folder.path().join("kith-second")).unwrap();
    let own = format!("STAMP:version={};", env!("CARGO_PKG_VERSION"));
    let at = bytes.windows(own.len()).position(|found| found == own.as_bytes()).unwrap();
    bytes[at..at + own.len()].copy_from_slice(format!("STAMP:version={version};").as_bytes());
    fs::write(machine.root().join(format!("root/kith-{version}")), bytes).unwrap();
    format!("/root/kith-{version}")
}

/// Another release takes over as the same service, and one that ends again and again goes back by
/// nothing but systemd's restarts. The package's own file is never touched.
fn upgrades_itself(machine: &Machine, program: &str) {
    let pid = machine.main_pid();
    let said = machine.run(&format!("kith upgrade --unsigned {}", release(machine, "0.2.0")));
    assert!(said.contains("gate runs 0.2.0"), "{said}");
    assert_eq!(machine.main_pid(), pid, "the same process");
    assert!(machine.run(&format!("readlink /proc/{pid}/exe")).contains("/var/lib/kith/upgrade/slots/"));
    assert_eq!(machine.run("systemctl is-active kith").trim(), "active");
    assert_eq!(machine.program(), program);
    machine.run("systemctl restart kith");
    machine.active(&pid);
    machine.eventually("the newer release runs after a restart", |machine| {
        machine.try_run("kith upgrade --status").1.contains("gate runs 0.2.0")
    });

    machine.run("echo 'upgrade:trial!' >/run/kith/kill-at");
    let (done, said) = machine.try_run(&format!("kith upgrade --unsigned {}", release(machine, "0.2.1")));
    assert!(!done && said.contains("0.2.1 did not stay: it was started 3 times"), "{said}");
    assert!(said.contains("gate runs 0.2.0 again"), "{said}");
    machine.run("rm /run/kith/kill-at");
    assert_eq!(machine.program(), program);
    machine.run("dpkg --verify kith");
}

/// Stopped, it leaves containers and folders alone, and takes them over at its start. The watchdog is fed
/// by what the agent does about pods.
fn stops_and_starts(machine: &Machine, program: &str) {
    machine.run("systemctl stop kith");
    assert_eq!(machine.try_run("systemctl is-active kith").1.trim(), "inactive");
    assert_eq!(machine.program(), program);
    let (refused, said) = machine.try_run("kith get pods");
    assert!(!refused && said.contains("is the agent running? systemctl start kith starts it"), "{said}");
    // A folder that is gone is made again at boot.
    machine.run("mv /var/log/kith /var/log/kept && systemd-tmpfiles --create kith.conf");
    assert_eq!(machine.run("stat -c %a /var/log/kith").trim(), "750");
    machine.run("rmdir /var/log/kith && mv /var/log/kept /var/log/kith && systemctl start kith");
    machine.active("0");
    machine.eventually("it answers again", |machine| machine.try_run("kith get pods").1.contains("Running"));
    assert_eq!(machine.program(), program);
    let before = machine.fed();
    machine.run("kith label pod sleeper seen=again");
    machine.eventually("the watchdog is fed", |machine| machine.fed() != before);
}

/// The loop that looks after the pods stands still and all else goes on: systemd ends the agent, and the
/// next one has the same containers, and ends one that it did not start. A loop that only has nothing to do
/// is let be, however short the watchdog.
fn is_ended_when_it_hangs(machine: &Machine, program: &str) {
    machine.run("mkdir -p /run/systemd/system/kith.service.d");
    machine.run("printf '[Service]\\nWatchdogSec=10\\n' >/run/systemd/system/kith.service.d/short.conf");
    machine.run("systemctl daemon-reload && systemctl restart kith");
    machine.active("0");
    fs::write(machine.root().join("root/other.yaml"), POD.replace("sleeper}", "other}").replace("98765", "98766"))
        .unwrap();
    machine.eventually("it takes a pod", |machine| machine.try_run("kith apply -f /root/other.yaml").0);
    machine.eventually("the other pod runs", |machine| machine.try_run("pgrep -f '^/bin/busybox sleep 98766$'").0);
    let before = machine.fed();
    machine.eventually("the watchdog is fed though nothing happens", |machine| machine.fed() != before);

    let pid = machine.main_pid();
    machine.run("echo round:begun >/run/kith/kill-at");
    machine.eventually("the loop hangs", |machine| machine.try_run("test ! -e /run/kith/kill-at").0);
    assert!(machine.run("kith get pods").contains("other"), "the rest of the agent goes on");
    assert_eq!(machine.main_pid(), pid);
    machine.active(&pid);
    assert_eq!(machine.run("systemctl show -p NRestarts --value kith").trim(), "1");
    machine.journal_says("Watchdog timeout (limit 10s)");
    machine.journal_says("Failed with result 'watchdog'");
    assert_eq!(machine.program(), program);
    machine.eventually("it answers again", |machine| machine.try_run("kith get pods").1.contains("other"));
    machine.run("kith delete pod other");
    machine
        .eventually("the other pod has ended", |machine| !machine.try_run("pgrep -f '^/bin/busybox sleep 98766$'").0);
    assert_eq!(machine.program(), program);
    machine.run("rm -r /run/systemd/system/kith.service.d && systemctl daemon-reload && systemctl restart kith");
    machine.eventually("it answers with its own watchdog", |machine| {
        machine.try_run("kith get pods").1.contains("Running")
    });
}

#[test]
fn the_packaged_service_is_restarted_upgraded_and_purged_under_a_running_container() {
    assert!(nix::unistd::geteuid().is_root(), "this test boots a system in a container: run it as root");
    let machine = Machine::boot();
    for mark in ["-first", "-second"] {
        fs::copy(package(machine.folder.path(), mark), machine.root().join(format!("root/kith{mark}.deb"))).unwrap();
    }
    // As an administrator has it who set something before the package came.
    fs::create_dir_all(machine.root().join("etc/kith")).unwrap();
    let settings = format!("name = \"gate\"\ncgroup = \"{}\"\n", machine.cgroup);
    fs::write(machine.root().join("etc/kith/agent.toml"), &settings).unwrap();
    machine.run("dpkg --force-confold -i /root/kith-first.deb");
    machine.active("0");
    assert_eq!(machine.run("systemctl is-enabled kith").trim(), "enabled");
    assert_eq!(machine.run("stat -c %a /var/lib/kith").trim(), "700");
    machine.run("man -w kith-apply && test -s /usr/share/doc/kith/copyright");
    // The place is one where bash looks, when it is asked for kith; what it offers is in tests/completions.rs.
    machine.run("bash -c '. /usr/share/bash-completion/bash_completion; _completion_loader kith; complete -p kith | grep -w _kith'");

    let said = machine.run("kith init --name gate");
    assert!(said.contains("if it does not run: systemctl start kith"), "{said}");
    machine.eventually("the device is ready", |machine| {
        machine.try_run("kith status").1.contains("gate leads") || machine.try_run("kith get nodes").1.contains("Ready")
    });
    machine.run("mkdir -p /tmp/image/bin && cp /bin/busybox /tmp/image/bin/ && tar -C /tmp/image -cf /tmp/image.tar . && kith image import /tmp/image.tar sleeper:1");
    fs::write(machine.root().join("root/pod.yaml"), POD).unwrap();
    machine.run("kith apply -f /root/pod.yaml");
    machine.eventually("the pod runs", |machine| machine.try_run("kith get pods").1.contains("Running"));
    let program = machine.program();

    // What was logged is found by its values, and the doctor sees the unit.
    machine.eventually("a field in the journal", |machine| {
        machine.try_run("journalctl -u kith KITH_NAME=gate --no-pager").1.contains("the agent runs")
    });
    machine.run("kith doctor settings agent-runs unit unit-enabled unit-kill-mode watchdog port-peers | grep '7 ok'");

    // Restarted, killed, upgraded: another agent, the same container.
    let pid = machine.main_pid();
    machine.run("systemctl restart kith");
    machine.active(&pid);
    assert_eq!(machine.program(), program);
    let pid = machine.main_pid();
    machine.run(&format!("kill -9 {pid}"));
    machine.active(&pid);
    assert_eq!(machine.program(), program);
    let pid = machine.main_pid();
    machine.run("dpkg -i /root/kith-second.deb");
    machine.active(&pid);
    assert!(machine.run(&format!("tail -c 7 /proc/{}/exe", machine.main_pid())).contains("-second"));
    assert_eq!(machine.program(), program);

    // New settings, by the same process; wrong ones change nothing.
    let pid = machine.main_pid();
    fs::write(machine.root().join("etc/kith/agent.toml"), format!("{settings}log_max_files = 5\n")).unwrap();
    machine.run("systemctl reload kith");
    machine.journal_says("the agent begins again with them");
    machine.eventually("it answers again", |machine| machine.try_run("kith get pods").1.contains("Running"));
    assert_eq!(machine.main_pid(), pid);
    fs::write(machine.root().join("etc/kith/agent.toml"), "nmae = 1\n").unwrap();
    machine.run("systemctl reload kith");
    machine.journal_says("the agent goes on with the old ones");
    assert_eq!(machine.run("systemctl is-active kith").trim(), "active");

    // With wrong settings it can not start; it is tried again and again, until they are good.
    machine.try_run("systemctl restart kith");
    machine.journal_says("Scheduled restart job, restart counter is at 3");
    assert_eq!(machine.program(), program);
    fs::write(machine.root().join("etc/kith/agent.toml"), &settings).unwrap();
    machine.active("0");
    machine.eventually("it answers again", |machine| machine.try_run("kith get pods").1.contains("Running"));
    assert_eq!(machine.program(), program);

    stops_and_starts(&machine, &program);
    is_ended_when_it_hangs(&machine, &program);
    upgrades_itself(&machine, &program);

    machine.run("dpkg --purge kith");
    assert!(!machine.try_run("pgrep -f '^/bin/busybox sleep 98765$'").0, "the container outlived the package");
    machine.run("! ls -d /var/lib/kith /run/kith /var/log/kith /usr/bin/kith 2>/dev/null");
}
