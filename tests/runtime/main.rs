//! Real containers from the real binary. Needs root, cgroups and Debian's `busybox-static`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods, reason = "tests fail by panicking")]

mod adopt;
mod attach;
mod bench;
mod escapes;
mod exec;
mod hostile;
mod mounts;
mod old;
mod profile;
mod security;

use std::fs;
use std::time::Duration;

use bench::Bench;
use kith::reconciler::container::{ContainerState, StopSignal};
use kith::runtime::Runtime;

#[tokio::test]
async fn true_exits_with_0_and_leaves_nothing_after_removal() {
    let bench = Bench::new();
    let shims = bench.open();
    let spec = Bench::spec("true", &["/bin/true"]);
    shims.start(spec.clone(), bench.layers()).await.unwrap();
    let exit = bench.exit(&shims, &spec).await;
    assert_eq!((exit.code, exit.signal, exit.oom_killed), (0, None, false), "{exit:?}");
    assert!(exit.started.is_some_and(|started| started <= exit.finished));
    shims.remove(&spec.reference).await.unwrap();
    shims.remove(&spec.reference).await.unwrap();
    assert_eq!(shims.list().await.unwrap(), []);
    bench.assert_no_leftovers();
}

#[tokio::test]
async fn a_shim_becomes_a_waiter_where_there_is_something_to_wait_for() {
    let bench = Bench::new();
    let shims = bench.open();
    let (brief, long) = (
        Bench::spec("brief", &["/bin/sh", "-c", "echo all; echo of it >&2; exit 7"]),
        Bench::spec("long", &["/bin/sleep", "1000"]),
    );
    for spec in [&brief, &long] {
        shims.start(spec.clone(), bench.layers()).await.unwrap();
    }
    assert_eq!(bench.exit(&shims, &brief).await.code, 7);
    let log = bench.log(&brief);
    assert!(log.contains("stdout F all") && log.contains("stderr F of it"), "{log}");
    bench::eventually("the shim of what is over has ended", || {
        bench::shims_of(&bench.container_path(&brief)).is_empty()
    })
    .await;
    let line = format!("/proc/{}/cmdline", bench.shim_pid(&long));
    bench::eventually("the other one is a waiter", || {
        fs::read_to_string(&line).unwrap().split('\0').skip(1).take(2).eq(["shim", "wait"])
    })
    .await;
    bench.clear(&shims).await;
}

#[tokio::test]
async fn httpd_answers_logs_and_is_killed() {
    let bench = Bench::new();
    let shims = bench.open();
    let port = bench::free_port();
    let script = format!("echo hello; echo oops >&2; exec httpd -f -p 127.0.0.1:{port} -h /srv");
    let spec = Bench::spec("web", &["/bin/sh", "-c", &script]);
    shims.start(spec.clone(), bench.layers()).await.unwrap();
    let ContainerState::Running { pid, .. } = bench.state(&shims, &spec).await else { panic!("not running") };
    assert!(bench::get(port).await.contains("served from busybox"));
    bench.log_has(&spec, "stdout F hello").await;
    bench.log_has(&spec, "stderr F oops").await;
    shims.stop(&spec.reference, StopSignal::Ask).await.unwrap();
    shims.stop(&spec.reference, StopSignal::Kill).await.unwrap();
    let exit = bench.exit(&shims, &spec).await;
    assert_eq!((exit.code, exit.signal), (137, Some(9)));
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    shims.stop(&spec.reference, StopSignal::Kill).await.unwrap();
    shims.remove(&spec.reference).await.unwrap();
    bench.assert_no_leftovers();
}

#[tokio::test]
async fn changed_moves_when_a_container_ends_by_itself() {
    let bench = Bench::new();
    let shims = bench.open();
    let spec = Bench::spec("brief", &["/bin/sh", "-c", "read line </gate; exit 7"]);
    bench.make_gate();
    shims.start(spec.clone(), bench.layers()).await.unwrap();
    let mut changed = shims.changed();
    changed.mark_unchanged();
    bench.open_gate(&shims, &spec).await;
    tokio::time::timeout(Duration::from_secs(20), async {
        while !matches!(bench.state(&shims, &spec).await, ContainerState::Exited(_)) {
            changed.changed().await.unwrap();
        }
    })
    .await
    .expect("the change is seen");
    assert_eq!(bench.exit(&shims, &spec).await.code, 7);
    bench.clear(&shims).await;
}
