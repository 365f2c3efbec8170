//! What a pod may lift of the restricted profile, and what it can not.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;

use kith::reconciler::container::{
    ContainerSpec, ContainerState, DeviceNode, Namespace, Seccomp, StopSignal, UserRange,
};
use kith::runtime::{Runtime, Shims};

use crate::bench::{self, Bench};
use crate::profile::{output, started};

fn status_of(pid: u32, field: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let found = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(":\t").map(str::to_owned));
    found.unwrap_or_else(|| panic!("{field} in {status}"))
}

fn capability_bits(names: &[&str]) -> String {
    let bits = names.iter().map(|name| kith::resource::capability::number(name).unwrap());
    format!("{:016x}", bits.fold(0_u64, |all, bit| all | 1 << bit))
}

#[tokio::test]
async fn a_program_that_may_gain_privileges_is_filtered_and_short_of_capabilities_as_any() {
    let bench = Bench::new();
    let shims = bench.open();
    let mut spec = Bench::spec("escalates", &["/bin/sleep", "1000"]);
    spec.confinement.no_new_privileges = false;
    let pid = started(&bench, &shims, &spec).await;
    let kept = capability_bits(&["NET_BIND_SERVICE"]);
    for (field, expected) in
        [("NoNewPrivs", "0"), ("Seccomp", "2"), ("CapBnd", &kept), ("CapPrm", &kept), ("CapEff", &kept)]
    {
        assert_eq!(status_of(pid, field), expected, "{field}");
    }
    // A program with the set-user-id bit becomes root for a user, and only here. Not busybox: it
    // gives such rights up.
    bench::copy_program(&bench.path().join("layer"), "/bin/cat");
    fs::set_permissions(bench.path().join("layer/bin/cat"), fs::Permissions::from_mode(0o4755)).unwrap();
    for (number, (allowed, expected)) in [(true, "0\n"), (false, "1000\n")].into_iter().enumerate() {
        let mut spec = Bench::spec("suid", &[]);
        spec.reference.attempt = u32::try_from(number).unwrap();
        spec.confinement.no_new_privileges = !allowed;
        (spec.uid, spec.gid) = (1000, 1000);
        spec.capabilities = vec!["CAP_SETUID".into()];
        let text = output(&bench, &shims, spec, "/bin/cat /proc/self/status | grep Uid | cut -f3").await;
        assert_eq!(text, expected, "{allowed}");
    }
    bench.clear(&shims).await;
}

#[tokio::test]
async fn profiles_from_files_are_applied_and_broken_ones_stop_the_start() {
    let bench = Bench::new();
    let shims = bench.open();
    let file = bench.path().join("no-mkdir.json");
    fs::write(
        &file,
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13}]}"#,
    )
    .unwrap();
    let mut spec = Bench::spec("profile-file", &[]);
    spec.confinement.seccomp = Seccomp::File(file.clone());
    let text = output(&bench, &shims, spec.clone(), "mkdir /tmp/x 2>&1; touch /tmp/y && echo made").await;
    assert!(text.contains("Permission denied") && text.ends_with("made\n"), "{text}");
    for (attempt, content, reason) in [(1, "{", "EOF"), (2, r#"{"defaultAction": "SCMP_ACT_TRACE"}"#, "SCMP_ACT_TRACE")]
    {
        fs::write(&file, content).unwrap();
        spec.reference.attempt = attempt;
        let error = shims.start(spec.clone(), bench.layers()).await.unwrap_err().to_string();
        assert!(error.contains(reason) && error.contains("no-mkdir.json"), "{error}");
    }
    fs::remove_file(&file).unwrap();
    spec.reference.attempt = 3;
    let error = shims.start(spec.clone(), bench.layers()).await.unwrap_err().to_string();
    assert!(error.contains("No such file") && error.contains("no-mkdir.json"), "{error}");
    let mut spec = Bench::spec("unconfined", &["/bin/sleep", "1000"]);
    spec.confinement.seccomp = Seccomp::Unconfined;
    let pid = started(&bench, &shims, &spec).await;
    assert_eq!((status_of(pid, "Seccomp"), status_of(pid, "NoNewPrivs")), ("0".into(), "1".into()));
    bench.clear(&shims).await;
}

#[tokio::test]
async fn the_image_names_a_users_groups_unless_the_pod_is_strict() {
    let bench = Bench::new();
    let shims = bench.open();
    fs::write(bench.path().join("layer/etc/group"), "root:x:0:\nvideo:x:44:web,other\naudio:x:29:other\n").unwrap();
    let mut spec = Bench::spec("groups", &["/bin/sleep", "1000"]);
    (spec.uid, spec.gid, spec.groups) = (1000, 1000, vec![7]);
    spec.confinement.image_groups = true;
    let pid = started(&bench, &shims, &spec).await;
    assert_eq!(status_of(pid, "Groups").trim(), "7 44");
    spec.reference.container = "strict".into();
    spec.confinement.image_groups = false;
    let pid = started(&bench, &shims, &spec).await;
    assert_eq!(status_of(pid, "Groups").trim(), "7");
    bench.clear(&shims).await;
}

#[tokio::test]
async fn a_privileged_container_sees_the_devices_and_all_of_proc() {
    let bench = Bench::new();
    let shims = bench.open();
    let mut spec = Bench::spec("privileged", &[]);
    spec.confinement.privileged = true;
    spec.confinement.no_new_privileges = false;
    spec.confinement.seccomp = Seccomp::Unconfined;
    spec.confinement.unmasked_proc = true;
    // Those that this machine's root does not have itself are passed over.
    spec.capabilities = kith::resource::capability::CAPABILITIES.iter().map(|name| format!("CAP_{name}")).collect();
    let script = "test -e /dev/kmsg && echo kmsg; mount -t tmpfs none /mnt 2>/dev/null || mount -t tmpfs none /tmp && echo mounted; \
                  grep -c . /proc/interrupts >/dev/null && echo interrupts; mknod /tmp/null c 1 3 && echo x > /tmp/null && echo node; \
                  grep Cap /proc/self/status";
    let text = output(&bench, &shims, spec, script).await;
    for expected in ["kmsg\n", "mounted\n", "interrupts\n"] {
        assert!(text.contains(expected), "{expected:?} in {text}");
    }
    bench.clear(&shims).await;
}

#[tokio::test]
async fn a_device_is_there_for_who_has_it_and_for_nobody_else() {
    let bench = Bench::new();
    let shims = bench.open();
    let mut spec = Bench::spec("device", &[]);
    spec.capabilities = vec!["CAP_MKNOD".into()];
    let script = "test -c /dev/loop-control && echo there; mknod /dev/own c 10 237; (: < /dev/own) 2>/dev/null && echo own; \
                  (: < /dev/loop-control) 2>/dev/null && echo read; (: > /dev/loop-control) 2>/dev/null && echo wrote; \
                  mknod /dev/tun c 10 200; (: < /dev/tun) 2>/dev/null && echo tun";
    // A device of this machine that can be opened without further rights.
    assert!(fs::File::open("/dev/loop-control").is_ok(), "load it first: modprobe loop");
    let without = output(&bench, &shims, spec.clone(), script).await;
    // The file that it wrote in place of the device is its own.
    assert!(!without.contains("there") && !without.contains("own") && !without.contains("tun"), "{without}");
    spec.reference.attempt = 1;
    spec.devices =
        vec![DeviceNode { path: "/dev/loop-control".into(), block: false, major: 10, minor: 237, access: "r".into() }];
    let with = output(&bench, &shims, spec, script).await;
    assert_eq!(with, "there\nown\nread\n");
    let mut spec = Bench::spec("device-outside", &["/bin/true"]);
    spec.devices = vec![DeviceNode { path: "/etc/x".into(), block: false, major: 1, minor: 11, access: "r".into() }];
    assert!(shims.start(spec, bench.layers()).await.unwrap_err().to_string().contains("/etc/x"));
    bench.clear(&shims).await;
}

const RANGE: UserRange = UserRange { first: 1_100_000_000, count: 65_536 };

fn with_own_users(name: &str) -> ContainerSpec {
    let mut spec = Bench::spec(name, &["/bin/sleep", "1000"]);
    spec.namespaces.user = Some(RANGE);
    spec
}

#[tokio::test]
async fn root_of_a_user_namespace_is_nobody_on_the_device() {
    let bench = Bench::new();
    let shims = bench.open();
    let spec = with_own_users("users");
    let pid = started(&bench, &shims, &spec).await;
    let map = fs::read_to_string(format!("/proc/{pid}/uid_map")).unwrap();
    assert_eq!(map.split_whitespace().collect::<Vec<_>>(), ["0", "1100000000", "65536"]);
    assert_eq!(fs::read_to_string(format!("/proc/{pid}/gid_map")).unwrap(), map);
    assert_eq!(status_of(pid, "Uid"), [RANGE.first.to_string().as_str(); 4].join("\t"));
    assert_eq!((status_of(pid, "NoNewPrivs"), status_of(pid, "Seccomp")), ("1".into(), "2".into()));
    let namespace = |pid: &str, name: &str| fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap();
    for own in ["user", "pid", "mnt", "uts", "ipc", "cgroup"] {
        assert_ne!(namespace(&pid.to_string(), own), namespace("self", own), "{own}");
    }
    // The image's files are root's for it, and what it writes belongs to its root on the device.
    let script = "id -u; stat -c %u:%g /bin/busybox /etc /etc/hosts /srv; touch /made; stat -c %u /made; \
                  chown 1000:1000 /made && stat -c %u /made; echo again > /dev/stdout; cat /proc/self/uid_map | tr -s ' '";
    let mut script_spec = with_own_users("users-script");
    script_spec.capabilities = vec!["CAP_CHOWN".into(), "CAP_DAC_OVERRIDE".into()];
    let text = output(&bench, &shims, script_spec.clone(), script).await;
    assert!(text.starts_with("0\n0:0\n0:0\n0:0\n0:0\n0\n1000\nagain\n"), "{text}");
    let made = bench.path().join("scratch").join(script_spec.reference.id()).join("upper/made");
    assert_eq!(fs::metadata(made).unwrap().uid(), RANGE.first + 1000);
    assert_eq!(fs::metadata(bench.path().join("layer/bin/busybox")).unwrap().uid(), 0);
    bench.clear(&shims).await;
}

#[tokio::test]
async fn a_user_namespace_shows_volumes_devices_and_the_pods_network() {
    let bench = Bench::new();
    let shims = bench.open();
    let mut spec = with_own_users("users-mounts");
    spec.capabilities = vec!["CAP_CHOWN".into(), "CAP_DAC_OVERRIDE".into(), "CAP_NET_BIND_SERVICE".into()];
    spec.devices =
        vec![DeviceNode { path: "/dev/loop-control".into(), block: false, major: 10, minor: 237, access: "rw".into() }];
    let script = "ls /dev/loop-control; (: < /dev/loop-control) && echo opened; ls /sys/class/net | grep -c .; cat /etc/resolv.conf >/dev/null && echo resolves; \
                  (echo x > /sys/kernel/mm/ksm/run) 2>/dev/null && echo DID; mount -t tmpfs none /tmp 2>/dev/null && echo DID; \
                  ls /dev/mqueue >/dev/null && echo queues; echo x > /dev/shm/x && echo shm; echo n > /dev/null && echo null";
    let text = output(&bench, &shims, spec.clone(), script).await;
    for expected in ["/dev/loop-control\n", "opened\n", "resolves\n", "queues\n", "shm\n", "null\n"] {
        assert!(text.contains(expected), "{expected:?} in {text}");
    }
    assert!(!text.contains("DID"), "{text}");
    let range = UserRange { first: 0, count: 65_536 };
    let mut spec = with_own_users("users-none");
    spec.namespaces.user = Some(range);
    let error = shims.start(spec, bench.layers()).await.unwrap_err().to_string();
    assert!(error.contains("ids of its own"), "{error}");
    bench.clear(&shims).await;
}

async fn pid_of(bench: &Bench, shims: &Shims, spec: &ContainerSpec) -> u32 {
    match bench.state(shims, spec).await {
        ContainerState::Running { pid, .. } => pid,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn containers_of_a_pod_can_share_their_processes() {
    let bench = Bench::new();
    let pods: PathBuf = bench.path().join("run/holders/uid-share");
    let shims = bench.open();
    let mut first = Bench::spec("share", &["/bin/sh", "-c", "sleep 2222 & sleep 1111"]);
    first.namespaces.pid = Namespace::At(pods.clone());
    let mut second = first.clone();
    second.reference.container = "side".into();
    second.args = vec![
        "/bin/sh".into(),
        "-c".into(),
        "ps -o pid,args; ls /proc/1/root /proc/1/fd 2>&1; echo $$; sleep 1000".into(),
    ];
    started(&bench, &shims, &first).await;
    let side = started(&bench, &shims, &second).await;
    bench.log_has(&second, "sleep 1111").await;
    bench.log_has(&second, "shim idle").await;
    // Nobody is let into the process that holds the namespace.
    bench.log_has(&second, "Permission denied").await;
    let holder: serde_json::Value = serde_json::from_slice(&fs::read(pods.join("holder.json")).unwrap()).unwrap();
    let holder = u32::try_from(holder["pid"].as_u64().unwrap()).unwrap();
    for (field, expected) in [("CapBnd", "0000000000000000"), ("CapPrm", "0000000000000000"), ("NoNewPrivs", "1")] {
        assert_eq!(status_of(holder, field), expected, "{field}");
    }
    assert_eq!(fs::read_dir(format!("/proc/{holder}/root/")).unwrap().count(), 0);
    let memory = bench::heap_kib(i32::try_from(holder).unwrap());
    assert!(memory < 200, "{memory} KiB");
    // One that ends takes its own processes with it, and those of the other live.
    shims.stop(&first.reference, StopSignal::Kill).await.unwrap();
    bench.exit(&shims, &first).await;
    bench::eventually("its processes are gone", || {
        !bench::processes().iter().any(|line| line.contains("sleep\u{0}2222"))
    })
    .await;
    assert_eq!(pid_of(&bench, &shims, &second).await, side);
    bench.clear(&shims).await;
    bench::eventually("the holder is gone", || !pods.exists() && !PathBuf::from(format!("/proc/{holder}")).exists())
        .await;
}
