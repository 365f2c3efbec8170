//! What a pod costs before its first container: making and removing what its containers share, with a
//! network of its own and on the device's, and the kernel's memory for it. Needs root. Everything is in
//! a network namespace of its own and is removed again.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods, reason = "a bench fails by panicking")]

use std::fs;
use std::time::{Duration, Instant};

use kith::network::sandbox::{Sandboxes, SandboxesConfig, remove_everything};
use kith::reconciler::container::PodRef;
use kith::reconciler::sandbox::{Protocol, PublishedPort, Resolver, SandboxSpec};
use nix::sched::{CloneFlags, unshare};

/// Pods made one after the other, and pods that are there at once for their memory.
const ROUNDS: u16 = 40;
const AT_ONCE: u16 = 50;

fn main() {
    // Before any thread exists: all of them live there.
    unshare(CloneFlags::CLONE_NEWNET).expect("make a network namespace: this bench needs root");
    let dir = tempfile::tempdir_in("/run").unwrap();
    let config = SandboxesConfig { run_dir: dir.path().to_owned(), range: "10.42.1.0/24".parse().unwrap() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let sandboxes = Sandboxes::open(&config).unwrap();
        for (name, own_network, port) in [
            ("on the device's network", false, false),
            ("own network", true, false),
            ("own network, a port", true, true),
        ] {
            let (mut made, mut removed) = (Vec::new(), Vec::new());
            for number in 0..ROUNDS {
                let spec = spec(number, own_network, port);
                let pod = spec.pod.clone();
                let begun = Instant::now();
                sandboxes.make(spec).await.unwrap();
                made.push(begun.elapsed());
                let begun = Instant::now();
                sandboxes.remove(&pod).await.unwrap();
                removed.push(begun.elapsed());
            }
            println!("{name}: made in {}, removed in {}", quantiles(&mut made), quantiles(&mut removed));
        }
        for (name, own_network) in [("on the device's network", false), ("own network", true)] {
            let before = kernel_memory();
            for number in 0..AT_ONCE {
                sandboxes.make(spec(number, own_network, false)).await.unwrap();
            }
            let each = kernel_memory().saturating_sub(before) / u64::from(AT_ONCE);
            println!("{name}: {each} KiB of the kernel's memory for each of {AT_ONCE} pods");
            for number in 0..AT_ONCE {
                sandboxes.remove(&spec(number, own_network, false).pod).await.unwrap();
            }
        }
    });
    drop(runtime);
    remove_everything(&config).unwrap();
}

fn spec(number: u16, own_network: bool, port: bool) -> SandboxSpec {
    let name = format!("bench-{number}");
    let tcp = PublishedPort { protocol: Protocol::Tcp, host_ip: None, host_port: 8000 + number, port: 80 };
    SandboxSpec {
        pod: PodRef { namespace: "bench".into(), name: name.clone(), uid: name.clone() },
        own_network,
        host_ipc: false,
        hostname: name.clone(),
        names: vec![name],
        aliases: Vec::new(),
        resolver: Resolver { as_device: true, ..Resolver::default() },
        ports: if port { vec![tcp] } else { Vec::new() },
        sysctls: Vec::new(),
        users: None,
    }
}

/// Slabs and per-processor memory, in KiB: what namespaces and links are made of.
fn kernel_memory() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap();
    let of = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("0");
        line.trim_matches([':', ' ']).trim_end_matches(" kB").trim().parse::<u64>().unwrap_or(0)
    };
    of("Slab:") + of("Percpu:")
}

fn quantiles(times: &mut [Duration]) -> String {
    times.sort();
    let at = |part: usize| times[times.len() * part / 100].as_secs_f64() * 1000.0;
    format!("{:.1} ms (p10 {:.1}, p90 {:.1})", at(50), at(10), at(90))
}
