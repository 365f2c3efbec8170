//! Whatever is killed, and whenever: containers live on or are cleared away, and nothing is left.

use std::fs;
use std::time::Duration;

use kith::reconciler::container::{ContainerState, StopSignal};
use kith::runtime::Runtime;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::bench::{self, Bench};

/// How many starts are hit by a kill, spread over twice the time that one takes.
const KILLS: u32 = 60;

#[test]
fn a_new_agent_finds_what_an_earlier_one_started() {
    let bench = Bench::new();
    bench.make_gate();
    let spec = Bench::spec("survivor", &["/bin/sh", "-c", "echo born; read line </gate; echo dying; exit 9"]);
    let first = bench::life(async || {
        let shims = bench.open();
        shims.start(spec.clone(), bench.layers()).await.unwrap();
        bench.state(&shims, &spec).await
    });
    // The first agent and its whole runtime are gone.
    bench::life(async || {
        let shims = bench.open();
        shims.sweep().await.unwrap();
        assert_eq!(bench.state(&shims, &spec).await, first);
        bench.open_gate(&shims, &spec).await;
        assert_eq!(bench.exit(&shims, &spec).await.code, 9);
        bench.log_has(&spec, "stdout F dying").await;
        assert!(bench.log(&spec).contains("stdout F born"));
        bench.clear(&shims).await;
    });
}

#[tokio::test]
async fn a_container_outlives_its_shim_with_its_log_and_its_exit_status() {
    let bench = Bench::new();
    bench.make_gate();
    let shims = bench.open();
    let spec = Bench::spec(
        "orphan",
        &["/bin/sh", "-c", "echo before; read line </gate; echo after; until read line </gate; do :; done; exit 5"],
    );
    shims.start(spec.clone(), bench.layers()).await.unwrap();
    bench.log_has(&spec, "before").await;
    let ContainerState::Running { pid, .. } = bench.state(&shims, &spec).await else { panic!("not running") };
    let shim = bench.shim_pid(&spec);
    kill(Pid::from_raw(shim), Signal::SIGKILL).unwrap();
    bench::eventually("a new waiter is there", || bench.shim_pid(&spec) != shim).await;
    assert!(matches!(bench.state(&shims, &spec).await, ContainerState::Running { pid: found, .. } if found == pid));
    bench::eventually("the layer is held again", || bench.layer_is_held()).await;
    bench.open_gate(&shims, &spec).await;
    bench.log_has(&spec, "after").await;
    bench.open_gate(&shims, &spec).await;
    let exit = bench.exit(&shims, &spec).await;
    // Kernels before 6.15 do not keep the status for those who are not the parent.
    assert!(exit.code == 5 || (exit.code == 255 && !exit.message.is_empty()), "{exit:?}");
    bench.clear(&shims).await;
    assert!(!bench.layer_is_held());
}

#[test]
fn a_shim_killed_while_no_agent_runs_is_replaced_by_the_next() {
    let bench = Bench::new();
    let spec = Bench::spec("both", &["/bin/sleep", "1000"]);
    let first = bench::life(async || {
        let shims = bench.open();
        shims.start(spec.clone(), bench.layers()).await.unwrap();
        bench.state(&shims, &spec).await
    });
    let shim = bench.shim_pid(&spec);
    kill(Pid::from_raw(shim), Signal::SIGKILL).unwrap();
    bench::life(async || {
        let shims = bench.open();
        assert_eq!(bench.state(&shims, &spec).await, first);
        bench::eventually("a new waiter is there", || bench.shim_pid(&spec) != shim).await;
        bench.clear(&shims).await;
    });
}

#[test]
fn everything_killed_at_once_is_an_exit_with_a_message() {
    let bench = Bench::new();
    let spec = Bench::spec("all", &["/bin/sleep", "1000"]);
    let pid = bench::life(async || {
        let shims = bench.open();
        shims.start(spec.clone(), bench.layers()).await.unwrap();
        let ContainerState::Running { pid, .. } = bench.state(&shims, &spec).await else { panic!("not running") };
        pid
    });
    for pid in [bench.shim_pid(&spec), pid.cast_signed()] {
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    }
    bench::life(async || {
        let shims = bench.open();
        let exit = bench.exit(&shims, &spec).await;
        assert!(exit.message.contains("shim was killed"), "{exit:?}");
        bench.clear(&shims).await;
    });
}

#[tokio::test]
async fn a_shim_killed_at_any_moment_of_the_start_leaves_nothing() {
    let bench = Bench::new();
    let shims = bench.open();
    // How long a start takes here, to spread the kills over just that.
    let timed = Bench::spec("timed", &["/bin/sleep", "1000"]);
    let begin = std::time::Instant::now();
    shims.start(timed, bench.layers()).await.unwrap();
    let whole = begin.elapsed();
    bench.clear(&shims).await;
    let (mut begun, mut early) = (0, 0);
    for step in 0..KILLS {
        let mut spec = Bench::spec("race", &["/bin/sleep", "1000"]);
        spec.reference.attempt = step;
        let start = shims.start(spec.clone(), bench.layers());
        let assassin = async {
            let lock = bench.container_path(&spec).join("lock");
            bench::eventually("the folder is there", || lock.exists()).await;
            tokio::time::sleep(whole * step * 2 / KILLS).await;
            // Only the first: its clones are what has to be found.
            if let Some(pid) = bench::shims_of(&bench.container_path(&spec)).first() {
                let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
            }
        };
        let (started, ()) = tokio::join!(start, assassin);
        match bench.settled(&shims, &spec).await {
            ContainerState::Running { .. } => begun += 1,
            ContainerState::Exited(exit) => {
                early += 1;
                assert!(started.is_err() || exit.started.is_some(), "{exit:?}");
            }
            ContainerState::Creating => panic!("still creating"),
        }
        bench.clear(&shims).await;
        // A waiter that has left its record still has to end.
        let folder = bench.container_path(&spec);
        bench::eventually("no process is left", || bench::shims_of(&folder).is_empty()).await;
    }
    assert!(begun > 0 && early > 0, "the kills hit too narrow a span: {begun} begun, {early} early");
}

#[test]
fn an_agent_killed_at_any_moment_of_a_start_is_followed_by_one_that_knows() {
    let bench = Bench::new();
    for step in 0..20_u64 {
        let mut spec = Bench::spec("agent", &["/bin/sleep", "1000"]);
        spec.reference.attempt = u32::try_from(step).unwrap();
        bench::life(async || {
            let shims = bench.open();
            let start = shims.start(spec.clone(), bench.layers());
            let _ = tokio::time::timeout(Duration::from_micros(step * 1500), start).await;
        });
        bench::life(async || {
            let shims = bench.open();
            shims.sweep().await.unwrap();
            if shims.list().await.unwrap().is_empty() {
                bench.assert_no_leftovers();
                return;
            }
            let state = bench.settled(&shims, &spec).await;
            assert!(matches!(state, ContainerState::Running { .. }), "{state:?}");
            bench.clear(&shims).await;
        });
    }
}

#[test]
fn a_reboot_is_not_mistaken_for_a_restart() {
    let bench = Bench::new();
    let spec = Bench::spec("boot", &["/bin/sleep", "1000"]);
    bench::life(async || bench.open().start(spec.clone(), bench.layers()).await.unwrap());
    kith::runtime::kill_everything(&bench.cgroup).unwrap();
    fs::write(bench.path().join("run/boot_id"), "another boot\n").unwrap();
    bench::life(async || {
        let shims = bench.open();
        shims.sweep().await.unwrap();
        assert_eq!(shims.list().await.unwrap(), []);
        bench.assert_no_leftovers();
    });
}

#[test]
fn a_power_cut_leaves_neither_processes_nor_records() {
    let bench = Bench::new();
    // Often enough to come in the moment in which a shim becomes a waiter and has no command line.
    for attempt in 0..30 {
        let mut spec = Bench::spec("cut", &["/bin/sleep", "1000"]);
        spec.reference.attempt = attempt;
        bench::life(async || bench.open().start(spec.clone(), bench.layers()).await.unwrap());
        kith::runtime::kill_everything(&bench.cgroup).unwrap();
        assert!(bench::shims_of(&bench.container_path(&spec)).is_empty(), "round {attempt}");
        assert!(bench.cgroup_folders().is_empty(), "round {attempt}");
        assert!(!bench.container_path(&spec).join("exit.json").exists(), "round {attempt}");
    }
    kith::runtime::kill_everything(&bench.cgroup).unwrap();
    assert!(kith::runtime::kill_everything("/").is_err());
}

#[tokio::test]
async fn leftovers_without_an_owner_are_swept() {
    let bench = Bench::new();
    let shims = bench.open();
    let spec = Bench::spec("kept", &["/bin/sleep", "1000"]);
    shims.start(spec.clone(), bench.layers()).await.unwrap();
    fs::create_dir_all(bench.path().join("run/containers/.new-x-main-0")).unwrap();
    fs::create_dir_all(bench.path().join("scratch/x-main-0/upper")).unwrap();
    fs::create_dir_all(bench.cgroup_folders()[0].join("x-main-0/below")).unwrap();
    shims.sweep().await.unwrap();
    assert!(matches!(bench.state(&shims, &spec).await, ContainerState::Running { .. }));
    shims.stop(&spec.reference, StopSignal::Kill).await.unwrap();
    bench.clear(&shims).await;
}

#[tokio::test]
async fn a_shim_ends_its_container_when_the_contact_of_the_device_is_too_old() {
    use kith::runtime::leash;

    let bench = Bench::new();
    let shims = bench.open();
    let noted = leash::since_boot();
    leash::note(&bench.path().join("run").join(leash::CONTACT), &leash::boot(), noted).unwrap();
    let sleeper = |name: &str, leash_ms| {
        let mut spec = Bench::spec(name, &["/bin/sh", "-c", "trap '' TERM; while :; do sleep 1000; done"]);
        spec.leash_ms = leash_ms;
        spec
    };
    let length = Duration::from_secs(4);
    let (short, orphan) = (sleeper("short", Some(4000)), sleeper("short-orphan", Some(4000)));
    let others = [sleeper("long", Some(3_600_000)), sleeper("none", None)];
    for spec in [&short, &orphan].into_iter().chain(&others) {
        shims.start(spec.clone(), bench.layers()).await.unwrap();
    }
    // A waiter that takes over keeps to it as well.
    kill(Pid::from_raw(bench.shim_pid(&orphan)), Signal::SIGKILL).unwrap();
    for spec in [&short, &orphan] {
        let exit = bench.exit(&shims, spec).await;
        assert!(leash::since_boot() >= noted + length, "too early");
        assert!(exit.code == 137 || exit.code == 255, "{exit:?}");
    }
    for spec in &others {
        assert!(matches!(bench.state(&shims, spec).await, ContainerState::Running { .. }), "{spec:?}");
    }
    bench.clear(&shims).await;
}
