//! The same load on Kith and on etcd with TLS, in turn: requests a second, and what they cost.

use std::time::Duration;

use crate::etcd::Cluster;
use crate::fleet::{self, Fleet};
use crate::load::Figures;

/// Rounds of each side.
fn rounds() -> usize {
    std::env::var("ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(5)
}

/// Numbers of clients.
fn clients() -> Vec<String> {
    let text = std::env::var("CLIENTS").unwrap_or_else(|_| "1,16,256".into());
    text.split(',').map(str::to_owned).collect()
}

/// Processor time and bytes written by three processes so far.
#[derive(Clone, Copy)]
struct Spent {
    cpu: Duration,
    bytes: u64,
}

impl Spent {
    fn so_far(processes: &[(String, u32)]) -> Self {
        let cpu = processes.iter().map(|(_, pid)| fleet::cpu_time(*pid)).sum();
        let bytes = processes.iter().map(|(_, pid)| fleet::disk_writes(*pid)).sum();
        Self { cpu, bytes }
    }
}

/// One round: how fast it was, and what a request cost all three devices together.
#[derive(Clone, Copy)]
struct Round {
    figures: Figures,
    cpu_ms: f64,
    kib: f64,
}

fn measure(processes: &[(String, u32)], load: impl FnOnce() -> String) -> Round {
    let before = Spent::so_far(processes);
    let figures = Figures::parse(&load());
    let after = Spent::so_far(processes);
    let count = figures.count.max(1.0);
    Round {
        figures,
        cpu_ms: after.cpu.saturating_sub(before.cpu).as_secs_f64() * 1000.0 / count,
        kib: (after.bytes - before.bytes) as f64 / 1024.0 / count,
    }
}

/// The middle of each column by itself.
fn medians(rounds: &[Round]) -> Round {
    let middle = |column: fn(&Round) -> f64| {
        let mut values: Vec<f64> = rounds.iter().map(column).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    Round {
        figures: Figures {
            rate: middle(|round| round.figures.rate),
            p50: middle(|round| round.figures.p50),
            p99: middle(|round| round.figures.p99),
            count: middle(|round| round.figures.count),
        },
        cpu_ms: middle(|round| round.cpu_ms),
        kib: middle(|round| round.kib),
    }
}

/// Starts a load: the number of clients and the seconds, to what it printed.
type Load<'a> = Box<dyn Fn(&str, &str) -> String + 'a>;

/// A side of the comparison: its name, its three processes, and how to put a load on it.
struct Side<'a> {
    name: &'a str,
    processes: Box<dyn Fn() -> Vec<(String, u32)> + 'a>,
    load: Load<'a>,
}

fn compare(title: &str, sides: &[Side<'_>]) {
    let rounds = rounds();
    println!("\n### {title}, medians of {rounds} rounds of 5 s\n");
    println!(
        "| clients | side | a second | against etcd | p50 / p99 ms | CPU ms each, 3 nodes | KiB written each, by a node |"
    );
    println!("|---|---|---|---|---|---|---|");
    for clients in clients() {
        let mut measured = vec![Vec::new(); sides.len()];
        for round in 0..rounds {
            for (side, found) in sides.iter().zip(&mut measured) {
                let prefix = format!("{}-{clients}-{round}-{}", side.name.replace(' ', "-"), std::process::id());
                found.push(measure(&(side.processes)(), || (side.load)(&clients, &prefix)));
            }
        }
        let measured: Vec<Round> = measured.iter().map(|rounds| medians(rounds)).collect();
        let theirs = measured.last().map_or(1.0, |round| round.figures.rate);
        for (side, round) in sides.iter().zip(measured) {
            let Round { figures, cpu_ms, kib } = round;
            println!(
                "| {clients} | {} | {:.0} | {:.2}x | {:.1} / {:.1} | {cpu_ms:.2} | {:.1} |",
                side.name,
                figures.rate,
                figures.rate / theirs,
                figures.p50,
                figures.p99,
                kib / 3.0
            );
        }
    }
}

/// Writes and reads of 512-byte values, three nodes, TLS with client certificates, fsync on a quorum.
pub fn etcd(fleet: &Fleet, writes: bool, reads: bool) {
    let certificates = fleet.certificates();
    let writer = fleet.add_writer();
    let cluster = Cluster::up(fleet);
    let ours = || -> Vec<(String, u32)> { fleet.agents() };
    let api = |what: &'static str| {
        let certificates = certificates.clone();
        move |clients: &str, prefix: &str| fleet.client(&fleet.leader(), &[what, clients, prefix, &certificates])
    };
    let etcd = |what: &'static str| {
        let cluster = &cluster;
        Side {
            name: "etcd",
            processes: Box::new(|| cluster.processes()),
            load: Box::new(move |clients, prefix| cluster.client(fleet, what, clients, prefix)),
        }
    };
    let kith = |name, load| Side { name, processes: Box::new(ours), load };
    if writes {
        let engine = |clients: &str, prefix: &str| fleet.client("d4", &["engine", clients, prefix, &writer]);
        compare(
            "Writes of 512 bytes",
            &[kith("engine", Box::new(engine)), kith("kubernetes api", Box::new(api("kith"))), etcd("etcd")],
        );
    }
    if reads {
        compare(
            "Linearizable reads of 512 bytes",
            &[kith("kubernetes api", Box::new(api("kith-get"))), etcd("etcd-get")],
        );
    }
    println!("\n| process | PSS after the load, MB |\n|---|---|");
    let leader = fleet.leader();
    for (name, pid) in fleet.agents() {
        let role = if name == leader { ", leader" } else { "" };
        println!("| kith {name}{role} | {:.1} |", fleet::pss_kib(pid) as f64 / 1024.0);
    }
    for (name, pid) in cluster.processes() {
        println!("| etcd {name} | {:.1} |", fleet::pss_kib(pid) as f64 / 1024.0);
    }
}
