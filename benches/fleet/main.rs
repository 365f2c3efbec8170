//! What a fleet costs and how fast it is, measured on real agents in network namespaces:
//! `make bench`, or one part of it with `cargo bench --bench fleet -- idle|apply|writes|reads|failover`,
//! and `traffic [lan|wan|metered]`, which takes a quarter of an hour and runs only when named.
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

mod against;
mod client;
mod etcd;
mod fleet;
mod group;
mod load;
mod traffic;

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
    if args.first().is_some_and(|arg| arg == "traffic") {
        traffic::traffic(args.get(1).map(String::as_str));
        return;
    }
    let _one_group = group::OneGroup::enter();
    let fleet = Fleet::up("bench", 3);
    if wanted("idle") {
        idle(&fleet);
    }
    if wanted("apply") {
        apply(&fleet);
    }
    if wanted("failover") {
        failover(&fleet);
    }
    if wanted("writes") || wanted("reads") {
        against::etcd(&fleet, wanted("writes"), wanted("reads"));
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

/// From the kill -9 of the leader to the next acknowledged write through another device.
fn failover(fleet: &Fleet) {
    const ROUNDS: usize = 50;
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
    let p99 = |sorted: &[u64]| sorted[(ROUNDS * 99).div_ceil(100) - 1];
    println!(
        "median {} ms, min {}, p99 {}, max {} (n = {ROUNDS})",
        median(&mut millis),
        millis[0],
        p99(&millis),
        millis[ROUNDS - 1]
    );
}

/// Sorts, and returns the middle.
fn median(values: &mut [u64]) -> u64 {
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(0)
}
