//! The published ways out of containers of runc and youki, each tried by an image and a program that
//! mean harm. All of them fail: nothing on the device changes, and nothing of it is read.
//!
//! Canaries stand for what an escape would reach: a file of the device next to the container's own
//! folders, and `/proc/sys/kernel/core_pattern`, the classic way from a write to root.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use kith::reconciler::container::{ContainerSpec, Mount, Propagation};
use kith::runtime::{Runtime, Shims};

use crate::bench::{self, Bench};
use crate::profile::{output, started};

/// What must not change, whatever a container does.
struct Canaries {
    file: PathBuf,
    core_pattern: Vec<u8>,
}

const UNTOUCHED: &str = "untouched";

impl Canaries {
    fn put(bench: &Bench) -> Self {
        let file = bench.path().join("canary");
        fs::write(&file, UNTOUCHED).unwrap();
        Self { file, core_pattern: fs::read("/proc/sys/kernel/core_pattern").unwrap() }
    }

    fn sing(&self) {
        assert_eq!(fs::read_to_string(&self.file).unwrap(), UNTOUCHED);
        assert_eq!(fs::read("/proc/sys/kernel/core_pattern").unwrap(), self.core_pattern);
    }
}

/// As much as a pod may ask for on any device.
fn root(name: &str) -> ContainerSpec {
    let mut spec = Bench::spec(name, &[]);
    spec.capabilities =
        ["CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT", "SETFCAP"]
            .map(|name| format!("CAP_{name}"))
            .to_vec();
    spec
}

/// Starts a container that may be refused, and waits for its end.
async fn attempt(bench: &Bench, shims: &Shims, mut spec: ContainerSpec, script: &str) -> String {
    spec.args = vec!["/bin/sh".into(), "-c".into(), script.into()];
    match shims.start(spec.clone(), bench.layers()).await {
        Ok(()) => {
            bench.exit(shims, &spec).await;
            bench.log(&spec)
        }
        Err(refused) => refused.to_string(),
    }
}

/// CVE-2019-5736: the runtime is overwritten through `/proc/self/exe` of what it starts, here by an
/// image whose program is a link to it, and by a process that waits for it to come into the container.
#[tokio::test]
async fn cve_2019_5736_the_runtime_is_not_overwritten_through_proc_self_exe() {
    let bench = Bench::new();
    let canaries = Canaries::put(&bench);
    let mut config = bench.config();
    // A copy of its own: nothing else executes it, which would keep it from being written as well.
    config.exe = bench.path().join("kith");
    fs::copy(env!("CARGO_BIN_EXE_kith"), &config.exe).unwrap();
    let before = fs::metadata(&config.exe).unwrap().len();
    let shims = Shims::new(config.clone()).unwrap();
    symlink("/proc/self/exe", bench.path().join("layer/bin/myself")).unwrap();
    let mut spec = root("self");
    spec.args = vec!["/bin/myself".into()];
    let _ = shims.start(spec.clone(), bench.layers()).await;
    bench.exit(&shims, &spec).await;
    // One that holds on to whatever executes in the container: its exec, and every other process of it.
    let hold = "for i in 1 2 3 4 5 6 7 8; do for exe in /proc/[0-9]*/exe; do (echo overwritten > $exe) 2>/dev/null && \
                case $(readlink $exe) in /bin/busybox*) ;; *) echo DID $(readlink $exe);; esac; done; done; echo done";
    let text = output(&bench, &shims, root("holds"), hold).await;
    assert!(text.ends_with("done\n") && !text.contains("DID"), "{text}");
    assert_eq!(fs::metadata(&config.exe).unwrap().len(), before);
    assert_eq!(fs::read(&config.exe).unwrap(), fs::read(env!("CARGO_BIN_EXE_kith")).unwrap());
    canaries.sing();
    bench.clear(&shims).await;
}

/// CVE-2024-21626: a working folder of `/proc/self/fd/N` is a folder of the device that the runtime
/// has left open.
#[tokio::test]
async fn cve_2024_21626_no_working_folder_is_outside() {
    let bench = Bench::new();
    let canaries = Canaries::put(&bench);
    let shims = bench.open();
    symlink("/proc/self/fd/7", bench.path().join("layer/leads")).unwrap();
    for number in 0..24 {
        for folder in [format!("/proc/self/fd/{number}"), format!("/proc/self/fd/{number}/../.."), "/leads".into()] {
            let mut spec = root("cwd");
            spec.reference.container = format!("cwd-{number}-{}", folder.len());
            spec.working_dir = folder;
            if bench.container_path(&spec).exists() {
                continue;
            }
            let script =
                "ls; cat canary ../canary ../../canary ../../../canary 2>/dev/null; echo x > ../canary; echo done";
            let text = attempt(&bench, &shims, spec, script).await;
            assert!(!text.contains(UNTOUCHED), "{text}");
        }
    }
    canaries.sing();
    bench.clear(&shims).await;
}

/// CVE-2025-31133, and CVE-2025-62161 in youki: `/dev/null`, which is bound over what is masked, is replaced by a link, so that what
/// it leads to is bound, writable, in place of a masked file.
#[tokio::test]
async fn cve_2025_31133_and_62161_what_is_masked_stays_so_whatever_the_image_has_at_dev_null() {
    let bench = Bench::new();
    let canaries = Canaries::put(&bench);
    let shims = bench.open();
    let dev = bench.path().join("layer/dev");
    symlink("/proc/sys/kernel/core_pattern", dev.join("null")).unwrap();
    symlink("/proc/self/fd", dev.join("fd")).unwrap();
    let script = "test -c /dev/null && echo device; echo '|/evil' > /proc/kcore; echo '|/evil' > /proc/sys/kernel/core_pattern; \
                  for f in /proc/kcore /proc/keys /proc/timer_list /proc/sched_debug; do head -c 4 $f 2>/dev/null | grep -q . && echo DID $f; done; \
                  rm -f /dev/null; ln -s /proc/sys/kernel/core_pattern /dev/null; echo '|/evil' > /dev/null; echo done";
    let text = attempt(&bench, &shims, root("null"), script).await;
    assert!(text.contains("device") && text.contains("done") && !text.contains("DID"), "{text}");
    canaries.sing();
    bench.clear(&shims).await;
}

/// CVE-2025-52565: `/dev/pts/N` is replaced while it is bound to `/dev/console`. Kith binds no
/// console: terminals come from the container's own devpts. What the image has there stays hidden.
#[tokio::test]
async fn cve_2025_52565_the_console_is_no_link_of_the_image() {
    let bench = Bench::new();
    let canaries = Canaries::put(&bench);
    let shims = bench.open();
    let dev = bench.path().join("layer/dev");
    fs::create_dir_all(dev.join("pts")).unwrap();
    for name in ["console", "pts/0", "ptmx", "tty"] {
        symlink("/proc/sys/kernel/core_pattern", dev.join(name)).unwrap();
    }
    let script = "for f in /dev/console /dev/pts/0 /dev/ptmx /dev/tty; do (echo '|/evil' > $f) 2>/dev/null; done; \
                  readlink /dev/console && echo DID; test -c /dev/tty && echo tty; echo done";
    let text = attempt(&bench, &shims, root("console"), script).await;
    assert!(text.contains("tty") && text.contains("done") && !text.contains("DID"), "{text}");
    canaries.sing();
    bench.clear(&shims).await;
}

/// CVE-2025-52881: writes of the runtime to `/proc/self/attr` and to kernel settings are led elsewhere
/// by a `/proc` that is not one. CVE-2025-54867 is youki's mount of `/proc` and `/sys` over links of
/// the image.
#[tokio::test]
async fn cve_2025_52881_and_54867_proc_and_sys_are_the_kernels_own() {
    let bench = Bench::new();
    let canaries = Canaries::put(&bench);
    let shims = bench.open();
    let layer = bench.path().join("layer");
    // A /proc of the image's own: folders and links where the runtime would write.
    for folder in ["proc/self/attr", "proc/sys/kernel", "proc/thread-self/attr"] {
        fs::create_dir_all(layer.join(folder)).unwrap();
    }
    symlink("/proc/sys/kernel/core_pattern", layer.join("proc/self/attr/exec")).unwrap();
    symlink(&canaries.file, layer.join("proc/sys/kernel/shm_rmid_forced")).unwrap();
    let mut spec = root("proc");
    spec.confinement.sysctls = vec![("kernel.shm_rmid_forced".into(), "1".into())];
    let script = "cat /proc/sys/kernel/shm_rmid_forced; grep -c ' /proc proc ' /proc/self/mounts; grep -c ' /sys sysfs ' /proc/self/mounts; \
                  (echo 0 > /proc/sys/kernel/shm_rmid_forced) 2>/dev/null && echo DID; echo done";
    let text = output(&bench, &shims, spec, script).await;
    assert!(text.starts_with("1\n") && text.ends_with("done\n") && !text.contains("DID"), "{text}");
    canaries.sing();
    // As links: refused before the runtime follows one. Each in another layer, as each is an image of its own.
    for (number, name) in ["proc", "sys", "dev"].into_iter().enumerate() {
        let evil = bench.path().join(format!("evil-{name}"));
        bench::make_root(&evil);
        fs::remove_dir_all(evil.join(name)).unwrap();
        symlink(bench.path(), evil.join(name)).unwrap();
        let mut spec = root("links");
        spec.reference.attempt = u32::try_from(number).unwrap();
        spec.args = vec!["/bin/true".into()];
        let refused = shims.start(spec, vec![bench.path().join("layer"), evil]).await;
        // The upper layer's link hides the lower one's folder.
        assert!(refused.unwrap_err().to_string().contains("symbolic link"));
    }
    canaries.sing();
    bench.clear(&shims).await;
}

/// CVE-2025-62596: youki's check of a label's file was not enough, so that a write went to another file
/// of `/proc`. Kith writes no labels; a manifest that asks for one is refused. What stays to be shown
/// is that the files are the container's own and give it nothing.
#[tokio::test]
async fn cve_2025_62596_labels_are_no_way_to_write() {
    let bench = Bench::new();
    let canaries = Canaries::put(&bench);
    let shims = bench.open();
    let script = "for f in /proc/self/attr/exec /proc/self/attr/apparmor/exec /proc/thread-self/attr/exec; do \
                  (echo 'exec unconfined' > $f) 2>/dev/null; done; \
                  (echo b > /proc/sysrq-trigger) 2>/dev/null && echo DID; (echo 1 > /proc/1/oom_score_adj && echo -1000 > /proc/1/oom_score_adj) 2>/dev/null && echo DID; \
                  grep NoNewPrivs /proc/1/status; grep Seccomp: /proc/1/status; echo done";
    let text = attempt(&bench, &shims, root("labels"), script).await;
    assert!(text.contains("NoNewPrivs:\t1") && text.contains("Seccomp:\t2") && text.contains("done"), "{text}");
    assert!(!text.contains("DID"), "{text}");
    canaries.sing();
    bench.clear(&shims).await;
}

/// Races of mounts with links: paths of an image that change while something is mounted at them.
/// Resolved beneath their root, they lead nowhere else. CVE-2026-41579 is held against this too, as
/// far as can be told: what it is was not public where this was written.
#[tokio::test]
async fn cve_2026_41579_and_races_mounts_go_nowhere_but_into_the_container() {
    let bench = Bench::new();
    let canaries = Canaries::put(&bench);
    let shims = bench.open();
    let volume = bench.path().join("volume");
    fs::create_dir(&volume).unwrap();
    fs::set_permissions(&volume, fs::Permissions::from_mode(0o777)).unwrap();
    symlink(bench.path(), bench.path().join("layer/data")).unwrap();
    // Somebody turns the destination from a folder into a link and back, all the time.
    let place = bench.path().join("layer/turns");
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let turning = {
        let (stop, place, outside) = (stop.clone(), place.clone(), bench.path().to_owned());
        std::thread::spawn(move || {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let _ = fs::create_dir(&place);
                let _ = fs::remove_dir_all(&place);
                let _ = symlink(&outside, &place);
                let _ = fs::remove_file(&place);
            }
        })
    };
    for round in 0..12 {
        for (number, destination) in ["/data", "/turns", "/turns/below"].into_iter().enumerate() {
            let mut spec = root("mounts");
            spec.reference.container = format!("m-{round}-{number}");
            spec.mounts = vec![Mount {
                source: volume.clone(),
                destination: destination.into(),
                read_only: false,
                propagation: Propagation::Private,
                below: Vec::new(),
            }];
            let script = format!(
                "cat {destination}/canary && echo DID; (echo x > {destination}/canary) 2>/dev/null; rm -f {destination}/canary"
            );
            let text = attempt(&bench, &shims, spec, &script).await;
            assert!(!text.contains("DID") && !text.contains(UNTOUCHED), "{text}");
            canaries.sing();
        }
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    turning.join().unwrap();
    let _ = fs::remove_file(&place);
    bench.clear(&shims).await;
}

/// The other classics: mounting, `release_agent`, `/proc/1/root`, raw disks, `ptrace` of neighbours,
/// handles of files, new namespaces.
#[tokio::test]
async fn the_classic_ways_out_are_closed() {
    let bench = Bench::new();
    let canaries = Canaries::put(&bench);
    let shims = bench.open();
    started(&bench, &shims, &Bench::spec("neighbour", &["/bin/sleep", "4321"])).await;
    let script = "mkdir -p /tmp/m; mount -t cgroup -o memory none /tmp/m 2>/dev/null && echo DID cgroup; \
                  mount -o bind / /tmp/m 2>/dev/null && echo DID bind; unshare -m true 2>/dev/null && echo DID unshare; \
                  unshare -U true 2>/dev/null && echo DID users; ls /proc/1/root/canary 2>/dev/null && echo DID root; \
                  nsenter -t 1 -m true 2>/dev/null && echo DID nsenter; ps | grep -v grep | grep -q 4321 && echo DID neighbour; \
                  mknod /tmp/d b 254 0 2>/dev/null && head -c 1 /tmp/d >/dev/null 2>&1 && echo DID disk; \
                  mkdir -p /tmp/c; chroot /tmp/c /bin/true 2>/dev/null && echo DID chroot; \
                  echo 1 > /proc/sys/kernel/sysrq 2>/dev/null && echo DID sysrq; hostname evil 2>/dev/null && echo DID hostname; \
                  dmesg >/dev/null 2>&1 && echo DID dmesg; echo done";
    let text = output(&bench, &shims, root("classics"), script).await;
    assert_eq!(text, "done\n");
    canaries.sing();
    bench.clear(&shims).await;
}

/// A fork bomb, a memory hog, and one that fills its disk with files: only it suffers.
#[tokio::test]
async fn who_takes_too_much_suffers_alone() {
    let bench = Bench::new();
    let shims = bench.open();
    let bystander = Bench::spec("bystander", &["/bin/sh", "-c", "while true; do echo tick; sleep 0.1; done"]);
    let alive = started(&bench, &shims, &bystander).await;
    let mut bomb = Bench::spec("bomb", &["/bin/sh", "-c", "f() { f | f & }; f; f; f; sleep 2"]);
    bomb.limits.pids = 32;
    shims.start(bomb.clone(), bench.layers()).await.unwrap();
    let mut hog = Bench::spec("hog", &["/bin/sh", "-c", "x=0123456789; while true; do x=$x$x; done"]);
    hog.limits.memory = Some(16 << 20);
    shims.start(hog.clone(), bench.layers()).await.unwrap();
    let exit = bench.exit(&shims, &hog).await;
    assert!(exit.oom_killed && exit.code != 0, "{exit:?}");
    let script = "i=0; while [ $i -lt 2000 ]; do : > /tmp/f$i; i=$((i+1)); done; dd if=/dev/zero of=/tmp/large bs=64k count=160 2>/dev/null";
    let writer = Bench::spec("writer", &["/bin/sh", "-c", script]);
    shims.start(writer.clone(), bench.layers()).await.unwrap();
    assert_eq!(bench.exit(&shims, &writer).await.code, 0);
    if !bench::is_unified() {
        assert_eq!(bench.limit(&bomb, "pids", "pids.max"), "32");
        assert_eq!(bench.limit(&hog, "memory", "memory.limit_in_bytes"), (16 << 20).to_string());
    }
    // What it wrote is seen, so that it can be evicted for it.
    let usage = shims.consumption();
    let of = |spec: &ContainerSpec| usage.iter().find(|(reference, _)| *reference == spec.reference).unwrap().1;
    assert!(of(&writer).disk >= 10 << 20 && of(&writer).inodes >= 2001, "{:?}", of(&writer));
    assert!(of(&bystander).disk < 1 << 20 && of(&bystander).memory < 16 << 20, "{:?}", of(&bystander));
    assert!(PathBuf::from(format!("/proc/{alive}")).exists());
    bench.clear(&shims).await;
}
