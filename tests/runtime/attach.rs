//! The input and the terminal of a container's own program: held by its shim, whatever becomes of the
//! agent.

use kith::reconciler::container::{Console, ContainerSpec, ContainerState};
use kith::runtime::{Attached, Runtime, Shims, TerminalSize, Written};

use crate::bench::{Bench, PATIENCE};

const INPUT: Console = Console { stdin: true, once: false, tty: false };
const ONCE: Console = Console { stdin: true, once: true, tty: false };
const TERMINAL: Console = Console { stdin: true, once: false, tty: true };

fn spec(name: &str, script: &str, console: Console) -> ContainerSpec {
    ContainerSpec { console, ..Bench::spec(name, &["/bin/sh", "-c", script]) }
}

async fn attach(shims: &Shims, spec: &ContainerSpec) -> Attached {
    shims.attach(&spec.reference, true).await.unwrap().expect("there is something to attach to")
}

/// What comes until it ends with a text.
async fn until(attached: &Attached, text: &str) -> String {
    let mut seen = String::new();
    let reading = async {
        while !seen.contains(text) {
            let Some((_, bytes)) = attached.receive().await.unwrap() else { panic!("{text:?} never came: {seen:?}") };
            seen.push_str(&String::from_utf8_lossy(&bytes));
        }
    };
    let came = tokio::time::timeout(PATIENCE, reading).await;
    assert!(came.is_ok(), "{text:?} does not come: {seen:?}");
    seen
}

async fn end_of(attached: &Attached) {
    let reading = async { while attached.receive().await.unwrap().is_some() {} };
    tokio::time::timeout(PATIENCE, reading).await.expect("it ends");
}

#[tokio::test]
async fn input_goes_in_and_both_outputs_come_out_apart() {
    let bench = Bench::new();
    let shims = bench.open();
    let spec = spec("cat", "while read x; do echo out-$x; echo err-$x >&2; done; echo over", INPUT);
    shims.start(spec.clone(), bench.layers()).await.unwrap();
    let attached = attach(&shims, &spec).await;
    attached.write(b"one\n").await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 2 {
        seen.push(attached.receive().await.unwrap().unwrap());
    }
    seen.sort_by_key(|(stream, _)| *stream == Written::Stderr);
    assert_eq!(seen, [(Written::Stdout, b"out-one\n".to_vec()), (Written::Stderr, b"err-one\n".to_vec())]);
    // What is said by whoever leaves is not the end: the input is not one that ends with its first user.
    attached.end().await.unwrap();
    drop(attached);
    let again = attach(&shims, &spec).await;
    again.write(b"two\n").await.unwrap();
    until(&again, "out-two").await;
    bench.log_has(&spec, "stdout F out-one").await;
    bench.log_has(&spec, "stderr F err-two").await;
    bench.clear(&shims).await;
    end_of(&again).await;
}

#[tokio::test]
async fn input_for_one_ends_with_the_first() {
    let bench = Bench::new();
    let shims = bench.open();
    let spec = spec("once", "echo early; printf 'ready> '; cat; echo the-end", ONCE);
    shims.start(spec.clone(), bench.layers()).await.unwrap();
    bench.log_has(&spec, "early").await;
    let attached = attach(&shims, &spec).await;
    // Whoever a container was made for sees what came before, its unfinished line too.
    until(&attached, "early\nready> ").await;
    attached.write(b"text\n").await.unwrap();
    until(&attached, "text\n").await;
    drop(attached);
    let exit = bench.exit(&shims, &spec).await;
    assert_eq!(exit.code, 0, "{exit:?}");
    assert!(bench.log(&spec).contains("stdout F the-end"));
    bench.clear(&shims).await;
}

#[tokio::test]
async fn a_terminal_has_a_size_a_log_and_keys() {
    let bench = Bench::new();
    let shims = bench.open();
    let script = "busybox tty; trap 'busybox stty size' WINCH; printf 'name? '; until [ -n \"$x\" ]; do read x; done; echo hello-$x; while :; do sleep 0.1; done";
    let spec = spec("tty", script, TERMINAL);
    let user = ContainerSpec { uid: 1000, gid: 1000, ..spec };
    shims.start(user.clone(), bench.layers()).await.unwrap();
    bench.log_has(&user, "/dev/pts/0").await;
    let (first, second) = (attach(&shims, &user).await, attach(&shims, &user).await);
    // Both see the prompt that was there before them.
    until(&first, "name? ").await;
    until(&second, "name? ").await;
    second.resize(TerminalSize { width: 101, height: 33 }).await.unwrap();
    first.write(b"me\n").await.unwrap();
    // The terminal shows what is typed, and the program answers.
    assert!(until(&second, "hello-me").await.contains("me\r\n"));
    until(&first, "33 101").await;
    bench.log_has(&user, "stdout F hello-me").await;
    // The key that interrupts.
    first.write(&[3]).await.unwrap();
    assert_eq!(bench.exit(&shims, &user).await.code, 130);
    end_of(&second).await;
    bench.clear(&shims).await;
}

#[tokio::test]
async fn the_agents_end_is_not_the_inputs_end() {
    let bench = Bench::new();
    let shims = bench.open();
    let plain = spec("stays", "while read x; do echo got-$x; done", INPUT);
    let terminal = spec("stays-tty", "busybox stty -echo; while read x; do echo got-$x; done", TERMINAL);
    for spec in [&plain, &terminal] {
        shims.start(spec.clone(), bench.layers()).await.unwrap();
        let attached = attach(&shims, spec).await;
        attached.write(b"before\n").await.unwrap();
        until(&attached, "got-before").await;
    }
    drop(shims);
    let shims = bench.open();
    for spec in [&plain, &terminal] {
        assert!(matches!(bench.state(&shims, spec).await, ContainerState::Running { .. }));
        let attached = attach(&shims, spec).await;
        attached.write(b"after\n").await.unwrap();
        until(&attached, "got-after").await;
        bench.log_has(spec, "got-after").await;
    }
    bench.clear(&shims).await;
}

#[tokio::test]
async fn who_takes_nothing_is_cut_off_and_the_container_goes_on() {
    let bench = Bench::new();
    let shims = bench.open();
    let spec = spec("flood", "read x; busybox seq 200000; echo flooded", INPUT);
    shims.start(spec.clone(), bench.layers()).await.unwrap();
    let idle = attach(&shims, &spec).await;
    let busy = attach(&shims, &spec).await;
    busy.write(b"go\n").await.unwrap();
    assert!(until(&busy, "flooded").await.contains("199999\n200000\nflooded"));
    assert_eq!(bench.exit(&shims, &spec).await.code, 0);
    end_of(&idle).await;
    bench.clear(&shims).await;
}

#[tokio::test]
async fn a_container_without_input_offers_nothing() {
    let bench = Bench::new();
    let shims = bench.open();
    let spec = spec("closed", "read x; echo read-$?; sleep 1000", Console::default());
    shims.start(spec.clone(), bench.layers()).await.unwrap();
    bench.log_has(&spec, "read-1").await;
    assert!(shims.attach(&spec.reference, true).await.unwrap().is_none());
    bench.clear(&shims).await;
}
