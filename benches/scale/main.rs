//! What a large fleet costs its leader: three voters and many others in one process, real storage on
//! a folder in memory, real messages on a network in memory. `cargo bench --bench scale`, or with
//! numbers of one's own: `cargo bench --bench scale -- DEVICES FEWER`: plain learners are measured with
//! the fewer, mirrors with both. Prints Markdown tables; nothing is asserted but that all replicas
//! come to one state.

#![allow(
    unreachable_pub,
    missing_docs,
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    reason = "a benchmark ends at the first thing that is wrong, and its figures are small"
)]

mod fleet;
mod meter;
mod wire;

use std::time::{Duration, Instant};

use fleet::{Fleet, Spent};

#[global_allocator]
static ALLOCATOR: meter::Tagging = meter::Tagging;

/// How long idling and writing are measured, in seconds, if `KITH_SCALE_SECONDS` says nothing.
const SPAN: u64 = 30;
/// Writes a second.
const RATE: u64 = 10;
/// Writes that leave everyone else behind the leader's log.
const BACKLOG: u64 = 5000;

fn main() {
    let numbers: Vec<u64> = std::env::args().filter_map(|arg| arg.parse().ok()).collect();
    let mirrors = numbers.first().copied().unwrap_or(1000);
    let learners = numbers.get(1).copied().unwrap_or(200);
    println!("### One leader and its fleet (profile wan)\n");
    println!(
        "| fleet | | leader CPU, % of a core | leader memory, MB | messages a second | received, KB/s | sent, KB/s |"
    );
    println!("|---|---|---|---|---|---|---|");
    let mut storms = Vec::new();
    // Interleaved: what else the machine does is shared between them.
    for (devices, standbys) in [(learners, 1000), (learners, 16), (mirrors, 16)] {
        storms.extend(run(devices, standbys));
    }
    println!("\n### Reconnect storm: all but the voters lose the network for 10 s and regain it at once\n");
    println!("| fleet | | all current after, s | leader CPU, s | leader memory, peak, MB | sent by the leader, MB |");
    println!("|---|---|---|---|---|---|");
    for line in &storms {
        println!("{line}");
    }
}

fn run(devices: u64, standbys: usize) -> Vec<String> {
    let seconds = std::env::var("KITH_SCALE_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    let span = Duration::from_secs(seconds.unwrap_or(SPAN));
    let began = Instant::now();
    let fleet = Fleet::up(devices, standbys);
    fleet.current();
    let roles = fleet.roles();
    eprintln!("{roles}: up after {:?}", began.elapsed());
    std::thread::sleep(Duration::from_secs(10));
    let idle = fleet.measure(|| std::thread::sleep(span));
    row(&roles, "idle", &idle);
    let busy = fleet.measure(|| fleet.write(RATE * span.as_secs(), 1, span));
    row(&roles, &format!("{RATE} writes a second"), &busy);
    eprintln!("{} are late when the last write is acknowledged", fleet.late());
    fleet.current();

    let mut lines = Vec::new();
    fleet.cut(true);
    fleet.write(RATE * 10, 1, Duration::from_secs(10));
    lines.push(storm(&fleet, &roles, "a log of 100 writes behind"));
    fleet.cut(true);
    fleet.write(BACKLOG, 100, Duration::from_secs(10));
    lines.push(storm(&fleet, &roles, "a snapshot behind"));
    fleet.agree();
    fleet.down();
    lines
}

fn storm(fleet: &Fleet, roles: &str, what: &str) -> String {
    let spent = fleet.measure(|| {
        fleet.cut(false);
        fleet.current();
    });
    format!(
        "| {roles} | {what} | {:.1} | {:.2} | {:.1} | {:.1} |",
        spent.span.as_secs_f64(),
        spent.cpu.as_secs_f64(),
        spent.peak as f64 / 1e6,
        spent.sent as f64 / 1e6,
    )
}

fn row(roles: &str, what: &str, spent: &Spent) {
    let span = spent.span.as_secs_f64();
    println!(
        "| {roles} | {what} | {:.2} | {:.1} | {:.0} | {:.1} | {:.1} |",
        spent.cpu.as_secs_f64() / span * 100.0,
        spent.peak as f64 / 1e6,
        spent.messages as f64 / span,
        spent.received as f64 / span / 1e3,
        spent.sent as f64 / span / 1e3,
    );
}
