//! Programs run beside a container's own: as confined as it, and never longer than who asked for them.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::time::Duration;

use kith::reconciler::container::{ContainerSpec, ContainerState, StopSignal};
use kith::runtime::{ExecSession, ExecSpec, Runtime, RuntimeError, Shims, TerminalSize};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::bench::{self, Bench, PATIENCE};

const LIMIT: usize = 64 << 10;

fn args(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn script(text: &str) -> ExecSpec {
    ExecSpec { args: args(&["/bin/sh", "-c", text]), stdin: true, ..ExecSpec::default() }
}

async fn sleeper(bench: &Bench, shims: &Shims, spec: &ContainerSpec) -> u32 {
    shims.start(spec.clone(), bench.layers()).await.unwrap();
    let ContainerState::Running { pid, .. } = bench.state(shims, spec).await else { panic!("not running") };
    pid
}

async fn captured(shims: &Shims, spec: &ContainerSpec, text: &str) -> (Option<i32>, String) {
    let words = args(&["sh", "-c", text]);
    let found = shims.exec_capture(&spec.reference, words, PATIENCE, LIMIT).await.unwrap();
    (found.code, String::from_utf8(found.output).unwrap())
}

/// What the kernel says of a process, without what is its own affair.
fn confinement(pid: u32) -> Vec<String> {
    let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap();
    let status = read("status");
    let fields = [
        "Umask",
        "Uid",
        "Gid",
        "Groups",
        "CapInh",
        "CapPrm",
        "CapEff",
        "CapBnd",
        "CapAmb",
        "NoNewPrivs",
        "Seccomp",
        "Seccomp_filters",
        "SigBlk",
        "SigIgn",
        "Cpus_allowed",
    ];
    let mut found: Vec<String> = status
        .lines()
        .filter(|line| line.split_once(':').is_some_and(|(name, _)| fields.contains(&name)))
        .map(str::to_owned)
        .collect();
    assert_eq!(found.len(), fields.len(), "{found:?}");
    for name in ["user", "mnt", "net", "ipc", "uts", "pid", "cgroup", "time"] {
        found.push(format!("{name} {}", fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap().display()));
    }
    found.push(format!("oom {}", read("oom_score_adj")));
    found.push(format!("cgroup {}", read("cgroup")));
    found.push(format!("root {}", fs::read_link(format!("/proc/{pid}/root")).unwrap().display()));
    found.push(format!("cwd {}", fs::read_link(format!("/proc/{pid}/cwd")).unwrap().display()));
    let limits = read("limits");
    // The pending signals of a user depend on the moment; their limit does not.
    found.extend(limits.lines().map(str::to_owned));
    found
}

async fn compare(bench: &Bench, shims: &Shims, spec: &ContainerSpec) {
    let init = sleeper(bench, shims, spec).await;
    for terminal in [None, Some(TerminalSize { width: 80, height: 24 })] {
        let order = ExecSpec { args: args(&["sleep", "1000"]), terminal, ..ExecSpec::default() };
        let session = shims.exec(&spec.reference, order).await.unwrap();
        let pid = session.running.pid.unsigned_abs();
        assert_eq!(confinement(pid), confinement(init));
        let open: BTreeSet<_> =
            fs::read_dir(format!("/proc/{pid}/fd")).unwrap().map(|fd| fd.unwrap().file_name()).collect();
        assert_eq!(open, ["0", "1", "2"].map(Into::into).into());
        // A session and a process group of its own.
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        assert_eq!((fields[2], fields[3]), (pid.to_string().as_str(), pid.to_string().as_str()));
        assert_eq!(fields[4] != "0", terminal.is_some(), "a controlling terminal");
        drop(session);
        bench::eventually("the program is gone", || !fs::exists(format!("/proc/{pid}")).unwrap()).await;
    }
}

#[tokio::test]
async fn a_program_is_as_confined_as_its_container() {
    let bench = Bench::new();
    let shims = bench.open();
    let root = Bench::spec("root", &["/bin/sleep", "1000"]);
    compare(&bench, &shims, &root).await;
    let mut user = Bench::spec("user", &["/bin/sleep", "1000"]);
    (user.uid, user.gid, user.groups) = (1000, 1001, vec![50, 60]);
    user.capabilities = vec!["CAP_NET_RAW".into(), "CAP_SYS_PTRACE".into()];
    user.read_only_root = true;
    compare(&bench, &shims, &user).await;
    bench.clear(&shims).await;
}

#[tokio::test]
async fn what_is_dangerous_is_denied_to_it_too() {
    let bench = Bench::new();
    let shims = bench.open();
    let spec = Bench::spec("denied", &["/bin/sleep", "1000"]);
    sleeper(&bench, &shims, &spec).await;
    for act in ["mount -t tmpfs none /tmp", "unshare -r true", "echo 1 > /proc/sys/kernel/panic", "mknod /d b 254 0"] {
        let (code, output) = captured(&shims, &spec, act).await;
        assert_ne!(code, Some(0), "{act}: {output}");
    }
    // Its binary, as long as it is ours, can not be written through.
    let (_, output) = captured(&shims, &spec, "for e in /proc/*/exe; do echo x >> $e && echo WROTE; done; true").await;
    assert!(!output.contains("WROTE"), "{output}");
    bench.clear(&shims).await;
}

#[tokio::test]
async fn exit_codes_output_and_environment_come_back() {
    let bench = Bench::new();
    let shims = bench.open();
    let mut spec = Bench::spec("codes", &["/bin/sleep", "1000"]);
    (spec.uid, spec.gid) = (1000, 1001);
    sleeper(&bench, &shims, &spec).await;
    assert_eq!(captured(&shims, &spec, "exit 7").await, (Some(7), String::new()));
    assert_eq!(captured(&shims, &spec, "kill -9 $$").await.0, Some(137));
    let (code, output) = captured(&shims, &spec, "echo out; echo err >&2; id; pwd; echo $HOME $GREETING").await;
    assert_eq!(code, Some(0));
    assert_eq!(output, "out\nerr\nuid=1000(web) gid=1001\n/srv\n/home/web hi\n");
    // Opened again by name, as the user.
    assert_eq!(captured(&shims, &spec, "echo again > /dev/stdout").await, (Some(0), "again\n".into()));
    let missing = shims.exec_capture(&spec.reference, args(&["nothing"]), PATIENCE, LIMIT).await.unwrap_err();
    assert!(missing.to_string().contains("start nothing: no such program in the image"), "{missing}");
    let none = shims.exec_capture(&spec.reference, Vec::new(), PATIENCE, LIMIT).await.unwrap_err();
    assert!(none.to_string().contains("no program is named"), "{none}");
    // What it leaves in the background with its streams open keeps nobody waiting.
    assert_eq!(captured(&shims, &spec, "sleep 1000 & echo done").await, (Some(0), "done\n".into()));
    shims.stop(&spec.reference, StopSignal::Kill).await.unwrap();
    bench.exit(&shims, &spec).await;
    let over = shims.exec_capture(&spec.reference, args(&["true"]), PATIENCE, LIMIT).await.unwrap_err();
    assert!(over.to_string().contains("the container is not running"), "{over}");
    bench.clear(&shims).await;
    let unknown = shims.exec_capture(&spec.reference, args(&["true"]), PATIENCE, LIMIT).await.unwrap_err();
    assert!(matches!(unknown, RuntimeError::Unknown(_)), "{unknown}");
}

/// Host pids of all that runs in a container's cgroup.
fn inside(bench: &Bench, spec: &ContainerSpec) -> BTreeSet<i32> {
    let controller = if bench::is_unified() { "" } else { "pids" };
    bench.limit(spec, controller, "cgroup.procs").lines().map(|line| line.parse().unwrap()).collect()
}

#[tokio::test]
async fn time_and_output_are_bounded() {
    let bench = Bench::new();
    let shims = bench.open();
    let spec = Bench::spec("bounds", &["/bin/sleep", "1000"]);
    sleeper(&bench, &shims, &spec).await;
    let before = inside(&bench, &spec);
    let words = args(&["sh", "-c", "echo begun; sleep 1000 & sleep 1000 & wait"]);
    let late = shims.exec_capture(&spec.reference, words, Duration::from_secs(3), LIMIT).await.unwrap();
    assert_eq!((late.code, late.output.as_slice()), (None, b"begun\n".as_slice()));
    bench::eventually("all that it started is gone", || inside(&bench, &spec) == before).await;
    let words = args(&["sh", "-c", "dd if=/dev/zero bs=1024 count=4096 2>/dev/null; exit 3"]);
    let much = shims.exec_capture(&spec.reference, words, PATIENCE, 1000).await.unwrap();
    assert_eq!((much.code, much.output.len()), (Some(3), 1000));
    bench.clear(&shims).await;
}

async fn read_all(from: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut text = String::new();
    tokio::time::timeout(PATIENCE, from.read_to_string(&mut text)).await.expect("it ends").unwrap();
    text
}

#[tokio::test]
async fn streams_are_apart_and_end_one_by_one() {
    let bench = Bench::new();
    let shims = bench.open();
    let spec = Bench::spec("streams", &["/bin/sleep", "1000"]);
    sleeper(&bench, &shims, &spec).await;
    let mut session = shims.exec(&spec.reference, script("cat; echo end >&2; exit 4")).await.unwrap();
    let big: Vec<u8> = (0..3_000_000_u32).map(|n| b'a' + u8::try_from(n % 23).unwrap()).collect();
    let (mut stdin, mut stdout) = (session.stdin.take().unwrap(), session.stdout.take().unwrap());
    let write = async {
        stdin.write_all(&big).await.unwrap();
        drop(stdin);
    };
    let (echoed, ()) = tokio::join!(read_all(&mut stdout), write);
    assert!(echoed.as_bytes() == big);
    assert_eq!(read_all(&mut session.stderr.take().unwrap()).await, "end\n");
    assert_eq!(session.running.ended().await, Ok(4));
    // Asked again, it says the same.
    assert_eq!(session.running.ended().await, Ok(4));
    bench.clear(&shims).await;
}

async fn read_until(session: &mut ExecSession, text: &str) -> String {
    let stdout = session.stdout.as_mut().unwrap();
    let mut seen = Vec::new();
    let mut chunk = [0; 1024];
    let reading = async {
        while !String::from_utf8_lossy(&seen).contains(text) {
            let read = stdout.read(&mut chunk).await.unwrap();
            assert!(read > 0, "it ended before {text:?}: {}", String::from_utf8_lossy(&seen));
            seen.extend_from_slice(&chunk[..read]);
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("it comes");
    String::from_utf8(seen).unwrap()
}

#[tokio::test]
async fn a_terminal_is_the_containers_own_and_follows_its_size() {
    let bench = Bench::new();
    let shims = bench.open();
    let mut spec = Bench::spec("terminal", &["/bin/sleep", "1000"]);
    (spec.uid, spec.gid) = (1000, 1001);
    sleeper(&bench, &shims, &spec).await;
    let order = ExecSpec {
        terminal: Some(TerminalSize { width: 71, height: 19 }),
        ..script("tty; stty size; echo $TERM; read a; stty size; read b; echo got $b; exit 6")
    };
    let mut session = shims.exec(&spec.reference, order).await.unwrap();
    let begun = read_until(&mut session, "xterm").await;
    assert!(begun.starts_with("/dev/pts/0\r\n19 71\r\n"), "{begun:?}");
    session.terminal.as_ref().unwrap().resize(TerminalSize { width: 133, height: 44 }).unwrap();
    let mut stdin = session.stdin.take().unwrap();
    stdin.write_all(b"\n").await.unwrap();
    read_until(&mut session, "44 133").await;
    stdin.write_all(b"word\n").await.unwrap();
    let rest = read_all(session.stdout.as_mut().unwrap()).await;
    assert!(rest.contains("got word"), "{rest:?}");
    assert_eq!(session.running.ended().await, Ok(6));
    // The end of the input is told as by a keyboard.
    let order = ExecSpec { terminal: Some(TerminalSize::default()), ..script("cat; echo over") };
    let mut session = shims.exec(&spec.reference, order).await.unwrap();
    session.stdin.as_mut().unwrap().shutdown().await.unwrap();
    assert_eq!(read_all(session.stdout.as_mut().unwrap()).await, "over\r\n");
    bench.clear(&shims).await;
}

#[tokio::test]
async fn who_lets_go_ends_the_program_with_all_that_it_started() {
    let bench = Bench::new();
    let shims = bench.open();
    let spec = Bench::spec("dropped", &["/bin/sleep", "1000"]);
    sleeper(&bench, &shims, &spec).await;
    let before = inside(&bench, &spec);
    for terminal in [None, Some(TerminalSize::default())] {
        // It ignores what a terminal that hangs up sends.
        let order = ExecSpec { terminal, ..script("trap '' HUP TERM; sleep 1000 & sleep 1000 & echo up; wait") };
        let mut session = shims.exec(&spec.reference, order).await.unwrap();
        read_until(&mut session, "up").await;
        assert_eq!(inside(&bench, &spec).len(), before.len() + 3);
        drop(session);
        bench::eventually("all of it is gone", || inside(&bench, &spec) == before).await;
    }
    let helpers = || {
        let folder = bench.container_path(&spec);
        bench::shims_of(&folder).len()
    };
    bench::eventually("only the waiter is left", || helpers() == 1).await;
    bench.clear(&shims).await;
}

#[tokio::test]
async fn a_helper_that_is_killed_takes_the_program_with_it() {
    let bench = Bench::new();
    let shims = bench.open();
    let mut spec = Bench::spec("helper", &["/bin/sleep", "1000"]);
    (spec.uid, spec.gid) = (1000, 1001);
    sleeper(&bench, &shims, &spec).await;
    let order = ExecSpec { args: args(&["sleep", "1000"]), ..ExecSpec::default() };
    let mut session = shims.exec(&spec.reference, order).await.unwrap();
    let pid = session.running.pid;
    let waiter = bench.shim_pid(&spec);
    let helper = bench::shims_of(&bench.container_path(&spec)).into_iter().find(|found| *found != waiter).unwrap();
    kill(Pid::from_raw(helper), Signal::SIGKILL).unwrap();
    bench::eventually("the program is gone", || !fs::exists(format!("/proc/{pid}")).unwrap()).await;
    assert!(session.running.ended().await.unwrap_err().contains("helper was killed"));
    bench.clear(&shims).await;
}

#[test]
fn an_agent_that_dies_leaves_no_program_behind() {
    let bench = Bench::new();
    let spec = Bench::spec("agentless", &["/bin/sleep", "1000"]);
    let pid = bench::life(async || {
        let shims = bench.open();
        sleeper(&bench, &shims, &spec).await;
        let session = shims.exec(&spec.reference, script("sleep 1000; true")).await.unwrap();
        // As after `kill -9`: nothing of the agent's is left but its descriptors, which the kernel closes.
        session.running.pid
    });
    bench::life(async || {
        let shims = bench.open();
        bench::eventually("the program is gone", || !fs::exists(format!("/proc/{pid}")).unwrap()).await;
        assert!(matches!(bench.state(&shims, &spec).await, ContainerState::Running { .. }));
        bench.clear(&shims).await;
    });
}

#[tokio::test]
async fn a_container_that_ends_takes_its_programs_with_it() {
    let bench = Bench::new();
    let shims = bench.open();
    let spec = Bench::spec("ends", &["/bin/sleep", "1000"]);
    sleeper(&bench, &shims, &spec).await;
    let mut session = shims.exec(&spec.reference, script("sleep 1000")).await.unwrap();
    shims.stop(&spec.reference, StopSignal::Kill).await.unwrap();
    assert_eq!(session.running.ended().await, Ok(137));
    bench.clear(&shims).await;
}

#[tokio::test]
async fn a_hostile_working_folder_leads_nowhere() {
    let bench = Bench::new();
    let shims = bench.open();
    // CVE-2024-21626: a folder that is a descriptor which the runtime left open.
    for number in 3..12 {
        let spec = Bench::spec("folder", &["/bin/sleep", "1000"]);
        sleeper(&bench, &shims, &spec).await;
        let config = bench.container_path(&spec).join("config.json");
        let text = fs::read_to_string(&config).unwrap();
        let hostile = text.replace("\"cwd\":\"/srv\"", &format!("\"cwd\":\"/proc/self/fd/{number}\""));
        assert_ne!(hostile, text);
        fs::write(&config, hostile).unwrap();
        let refused = shims.exec_capture(&spec.reference, args(&["pwd"]), PATIENCE, LIMIT).await.unwrap_err();
        assert!(refused.to_string().contains("enter the folder"), "{refused}");
        bench.clear(&shims).await;
    }
}

/// A process in user, mount, network, pid and other namespaces of its own, as a container's first.
#[expect(unsafe_code, reason = "a user namespace has to be mapped before the program begins")]
fn foreigner() -> std::process::Child {
    use std::os::unix::process::CommandExt;
    let (mut told, mut tell) = std::io::pipe().unwrap();
    let (mut go, mut let_go) = std::io::pipe().unwrap();
    let mapper = std::thread::spawn(move || {
        let mut pid = [0; 4];
        told.read_exact(&mut pid).unwrap();
        for map in ["uid_map", "gid_map"] {
            fs::write(format!("/proc/{}/{map}", i32::from_ne_bytes(pid)), "0 100000 65536").unwrap();
        }
        let_go.write_all(b"g").unwrap();
    });
    let mut command = std::process::Command::new("unshare");
    command.args([
        "--mount",
        "--net",
        "--uts",
        "--ipc",
        "--cgroup",
        "--pid",
        "--fork",
        "--kill-child",
        "sleep",
        "1000",
    ]);
    // SAFETY: between fork and exec this only makes system calls.
    unsafe {
        command.pre_exec(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER)?;
            tell.write_all(&nix::unistd::getpid().as_raw().to_ne_bytes())?;
            go.read_exact(&mut [0])?;
            nix::unistd::setgid(0.into())?;
            nix::unistd::setuid(0.into())?;
            Ok(())
        });
    }
    let child = command.spawn().expect("install it first: apt-get install util-linux");
    mapper.join().unwrap();
    child
}

#[tokio::test]
async fn a_user_namespace_is_joined_first() {
    let bench = Bench::new();
    let shims = bench.open();
    let spec = Bench::spec("userns", &["/bin/sleep", "1000"]);
    sleeper(&bench, &shims, &spec).await;
    let mut child = foreigner();
    let children = format!("/proc/{0}/task/{0}/children", child.id());
    let first = || fs::read_to_string(&children).unwrap().trim().parse::<u32>().ok();
    let name = |pid| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    bench::eventually("it sleeps", || first().is_some_and(|pid| name(pid) == "sleep\n")).await;
    let init = first().unwrap();
    // The container's record is led to it.
    let state = bench.container_path(&spec).join("state.json");
    let real = fs::read_to_string(&state).unwrap();
    let mut led: serde_json::Value = serde_json::from_str(&real).unwrap();
    let stat = fs::read_to_string(format!("/proc/{init}/stat")).unwrap();
    let start: u64 = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap().parse().unwrap();
    led["running"][0] = serde_json::json!({"pid": init, "start": start});
    fs::write(&state, led.to_string()).unwrap();
    let config = bench.container_path(&spec).join("config.json");
    let text = fs::read_to_string(&config).unwrap().replace("\"cwd\":\"/srv\"", "\"cwd\":\"/\"");
    fs::write(&config, text).unwrap();
    let order = ExecSpec { args: args(&["sleep", "1000"]), ..ExecSpec::default() };
    let session = shims.exec(&spec.reference, order).await.unwrap();
    let pid = session.running.pid;
    for name in ["user", "mnt", "net", "ipc", "uts", "pid", "cgroup"] {
        let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap();
        assert_eq!(of(&pid.to_string()), of(&init.to_string()), "{name}");
        assert_ne!(of(&pid.to_string()), of("self"), "{name}");
    }
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains("Uid:\t100000\t100000\t100000\t100000"), "{status}");
    assert!(status.contains("Gid:\t100000\t100000\t100000\t100000"), "{status}");
    assert!(status.contains("CapEff:\t0000000000000400"), "{status}");
    drop(session);
    fs::write(&state, real).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    bench.clear(&shims).await;
}

#[tokio::test]
async fn a_flood_without_a_newline_harms_nothing() {
    let bench = Bench::new();
    let shims = bench.open();
    // As fast as it can: hundreds of megabytes a second, were it not held back.
    let spec = Bench::spec("flood", &["/bin/dd", "if=/dev/zero", "bs=1M"]);
    sleeper(&bench, &shims, &spec).await;
    let folder = kith::reconciler::container::log_path(&bench.path().join("log"), &spec.reference);
    let files = || -> Vec<u64> {
        let entries = fs::read_dir(folder.parent().unwrap()).into_iter().flatten().flatten();
        entries.filter_map(|entry| Some(entry.metadata().ok()?.len())).collect()
    };
    // It went round all of its files, and others are served meanwhile.
    let oldest = folder.with_extension("log.2");
    let inode = || std::os::unix::fs::MetadataExt::ino(&fs::metadata(&oldest).ok()?).into();
    bench::eventually("the log was rotated", || oldest.exists()).await;
    let first: Option<u64> = inode();
    bench::eventually("it goes on", || inode().is_some_and(|now| Some(now) != first)).await;
    assert_eq!(captured(&shims, &spec, "echo alive").await, (Some(0), "alive\n".into()));
    let config = bench.config();
    let sizes = files();
    assert!(sizes.len() <= config.log_max_files as usize, "{sizes:?}");
    assert!(sizes.iter().all(|size| *size <= config.log_max_bytes), "{sizes:?}");
    let heap = bench::heap_kib(bench.shim_pid(&spec));
    assert!(heap < 512, "the waiter holds {heap} KiB");
    bench.clear(&shims).await;
}

#[tokio::test]
async fn what_containers_use_is_counted() {
    let bench = Bench::new();
    let shims = bench.open();
    let spec = Bench::spec("busy", &["/bin/sh", "-c", "while :; do :; done"]);
    sleeper(&bench, &shims, &spec).await;
    let mut last = 0;
    for _ in 0..2 {
        let counted =
            async || shims.usage().await.unwrap().containers.into_iter().find(|(one, _)| *one == spec.reference);
        let met = tokio::time::timeout(PATIENCE, async {
            loop {
                let (_, used) = counted().await.expect("it runs");
                if used.cpu > last && used.memory > 0 {
                    return used;
                }
            }
        });
        last = met.await.expect("the counter moves").cpu;
    }
    let device = shims.usage().await.unwrap().device;
    assert!(device.cpu > 0 && device.memory > 1 << 20, "{device:?}");
    bench.clear(&shims).await;
}
