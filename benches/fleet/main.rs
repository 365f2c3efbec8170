//! What a fleet costs and how fast it is, measured on real agents in network namespaces:
//! `make bench`, or one part of it with `cargo bench --bench fleet -- idle|writes|apply|failover`.
//! Prints Markdown tables of medians; nothing is asserted.

#![allow(
    unreachable_pub,
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "a benchmark ends at the first thing that is wrong, and its figures are small"
)]

mod client;
mod etcd;
mod fleet;
mod load;

use std::time::Duration;

use fleet::Fleet;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    if args.first().is_some_and(|arg| arg == "client") {
        load::client(&args[1..]);
        return;
    }
    let wanted = |part: &str| args.is_empty() || args.iter().any(|arg| arg == part);
    assert!(nix::unistd::geteuid().is_root(), "the benchmark makes network namespaces: run it as root");
    let fleet = Fleet::up("bench", 3);
    if wanted("idle") {
        idle(&fleet);
    }
    if wanted("apply") {
        apply(&fleet);
    }
    if wanted("writes") {
        writes(&fleet);
    }
    if wanted("failover") {
        failover(&fleet);
    }
}

/// Memory and processor of the agents while ten pods run and nothing happens.
fn idle(fleet: &Fleet) {
    const PODS: usize = 10;
    const SPAN: Duration = Duration::from_secs(30);
    fleet.deploy("idle", PODS, None);
    fleet.wait_ready("idle", PODS);
    std::thread::sleep(Duration::from_secs(5));
    let before: Vec<_> =
        fleet.agents().iter().map(|(_, pid)| (fleet::cpu_time(*pid), fleet::disk_writes(*pid))).collect();
    std::thread::sleep(SPAN);
    println!("\n### Idle, {PODS} pods on 3 devices, {} s\n", SPAN.as_secs());
    println!("| device | agent PSS, MB | agent CPU, % of a core | bytes written |\n|---|---|---|---|");
    for ((name, pid), (cpu, written)) in fleet.agents().into_iter().zip(before) {
        let used = fleet::cpu_time(pid).saturating_sub(cpu).as_secs_f64() / SPAN.as_secs_f64() * 100.0;
        let wrote = fleet::disk_writes(pid) - written;
        println!("| {name} | {:.1} | {used:.2} | {wrote} |", fleet::pss_kib(pid) as f64 / 1024.0);
    }
    let mut shims: Vec<u64> = fleet.shims().into_iter().map(fleet::pss_kib).collect();
    println!("\nShim PSS, median of {}: {} KiB", shims.len(), median(&mut shims));
    fleet.delete("idle");
}

/// From the request that creates a Deployment to the first HTTP 200 of its pod.
fn apply(fleet: &Fleet) {
    const ROUNDS: usize = 15;
    let device = fleet.leader();
    let mut millis: Vec<u64> = (0..ROUNDS)
        .map(|round| {
            let name = format!("apply-{round}");
            let spent = fleet.client(&device, &["apply", &name, &device, &fleet.socket(&device)]);
            fleet.delete(&name);
            spent.trim().parse().expect("milliseconds")
        })
        .collect();
    println!("\n### Apply to HTTP 200, one replica, image present\n");
    println!("median {} ms, min {}, max {} (n = {ROUNDS})", median(&mut millis), millis[0], millis[ROUNDS - 1]);
}

/// Acknowledged 512-byte writes a second, against etcd with TLS, interleaved.
fn writes(fleet: &Fleet) {
    const ROUNDS: usize = 3;
    let etcd = etcd::Cluster::up(fleet);
    println!("\n### Writes, 512 bytes, three nodes, TLS with client certificates, medians of {ROUNDS} rounds of 5 s\n");
    println!(
        "| clients | kith writes/s | etcd writes/s | ratio | kith p50 / p99 ms | etcd p50 / p99 ms |\n|---|---|---|---|---|---|"
    );
    for clients in ["1", "16", "256"] {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            let prefix = format!("w{clients}-{round}");
            let device = fleet.leader();
            let certificates = fleet.certificates();
            ours.push(load::Figures::parse(&fleet.client(&device, &["kith", clients, &prefix, &certificates])));
            theirs.push(load::Figures::parse(&etcd.client(fleet, clients, &prefix)));
        }
        let (ours, theirs) = (load::Figures::median(ours), load::Figures::median(theirs));
        println!(
            "| {clients} | {:.0} | {:.0} | {:.2}x | {:.1} / {:.1} | {:.1} / {:.1} |",
            ours.rate,
            theirs.rate,
            ours.rate / theirs.rate,
            ours.p50,
            ours.p99,
            theirs.p50,
            theirs.p99
        );
    }
    println!("\n| process | PSS after the load, MB |\n|---|---|");
    for (name, pid) in fleet.agents() {
        println!("| kith {name} | {:.1} |", fleet::pss_kib(pid) as f64 / 1024.0);
    }
    for (name, pid) in etcd.processes() {
        println!("| etcd {name} | {:.1} |", fleet::pss_kib(pid) as f64 / 1024.0);
    }
}

/// From the kill -9 of the leader to the next acknowledged write through another device.
fn failover(fleet: &Fleet) {
    const ROUNDS: usize = 15;
    let mut millis: Vec<u64> = (0..ROUNDS)
        .map(|round| {
            let leader = fleet.leader();
            let other = fleet.agents().into_iter().map(|(name, _)| name).find(|name| *name != leader).expect("another");
            let pid = fleet.agents().into_iter().find(|(name, _)| *name == leader).expect("the leader").1;
            let spent =
                fleet.client(&other, &["failover", &format!("f{round}"), &pid.to_string(), &fleet.socket(&other)]);
            fleet.dev(&["start", &leader]);
            fleet.settle();
            spent.trim().parse().expect("milliseconds")
        })
        .collect();
    println!("\n### Leader killed to next acknowledged write\n");
    println!("median {} ms, min {}, max {} (n = {ROUNDS})", median(&mut millis), millis[0], millis[ROUNDS - 1]);
}

/// Sorts, and returns the middle.
fn median(values: &mut [u64]) -> u64 {
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(0)
}
