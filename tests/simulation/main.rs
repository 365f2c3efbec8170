//! A deterministic simulation of whole fleets in one process: real engines with their real log,
//! state and encoding, on simulated time, networks and disks. Everything follows from a seed.
//! docs/reliability.md tells what is checked and how to replay a failure.
#![allow(
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::needless_for_each,
    clippy::option_option,
    clippy::cast_precision_loss,
    reason = "a test ends at the first thing that is wrong"
)]

mod bugs;
mod checks;
mod client;
mod disk;
mod faults;
mod linearizable;
mod network;
mod schedule;
mod totals;
mod trace;
mod world;

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, Once};
use std::time::{Duration, Instant};

use kith::resource::Timestamp;
use kith::storage::seeded::Bug;
use schedule::{Plan, REGRESSIONS, stream};
use totals::Totals;
use world::{Report, World};

/// Simulated hours and power cuts that one run of this test has, at least.
const HOURS: u64 = 100;
const CUTS: u64 = 20_000;

thread_local! {
    /// What panicked in the run of this thread: openraft's core ends in silence when it does.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Remembers every panic for the run that it happened in, and prints it.
fn watch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        std::panic::set_hook(Box::new(|panic| {
            println!("{panic}");
            PANIC.with_borrow_mut(|known| {
                known.get_or_insert_with(|| panic.to_string());
            });
        }));
    });
}

/// What panicked in the run of this thread, if anything did.
fn panicked() -> Option<String> {
    PANIC.with_borrow_mut(Option::take)
}

/// Runs a plan on a thread of its own: nothing of a run before is left there.
fn simulate(plan: Plan) -> Result<Report, String> {
    simulate_with(plan, None)
}

/// The same with a mistake in the fleet.
fn simulate_with(plan: Plan, bug: Option<Bug>) -> Result<Report, String> {
    watch_panics();
    let seed = plan.seed;
    let run = move || {
        kith::storage::seeded::choose(bug);
        kith::storage::seed_randomness(stream(seed, 4));
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_time().start_paused(true);
        #[cfg(tokio_unstable)]
        builder.rng_seed(tokio::runtime::RngSeed::from_bytes(&stream(seed, 5).to_be_bytes()));
        let mut report = builder.build().unwrap().block_on(async { World::new(plan).run().await })?;
        // This thread did nothing else.
        report.processor = nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into();
        Ok(report)
    };
    let ended = std::thread::Builder::new().name(format!("seed {seed}")).spawn(run).unwrap().join();
    ended.unwrap_or_else(|_| Err("something panicked; see above".into()))
}

fn failed(plan: &Plan, reason: &str) -> String {
    format!("{}\n{reason}\nreplay with: KITH_SEED={} make simulation", plan.title(), plan.seed)
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

fn tell(plan: &Plan, report: &Report) {
    println!(
        "{}: {:.2} processor seconds, {:.0} times real time, {} cuts, {} messages, {} entries, {:?}, trace {:016x}",
        plan.title(),
        report.processor.as_secs_f64(),
        report.simulated.as_secs_f64() / report.processor.as_secs_f64(),
        report.cuts,
        report.messages,
        report.entries,
        report.tally,
        report.trace,
    );
}

/// Runs seed after seed on all processors until there is enough, or something is wrong. `note` hears
/// of the totals after each run.
fn run_many(first: u64, enough: impl Fn(&Totals) -> bool + Sync, note: impl Fn(&Totals) + Sync) -> Option<String> {
    let threads = std::thread::available_parallelism().unwrap().get();
    let begin = Instant::now();
    let totals = Mutex::new(Totals::default());
    let trouble: Mutex<Option<String>> = Mutex::default();
    let next = AtomicU64::new(first);
    let regressions = Mutex::new(REGRESSIONS.iter().rev().copied().collect::<Vec<_>>());
    let work = || {
        while trouble.lock().unwrap().is_none() && !enough(&totals.lock().unwrap()) {
            let regression = regressions.lock().unwrap().pop();
            let plan = Plan::of(regression.unwrap_or_else(|| next.fetch_add(1, Ordering::Relaxed)));
            match simulate(plan.clone()) {
                Ok(report) => {
                    tell(&plan, &report);
                    let mut totals = totals.lock().unwrap();
                    totals.add(&plan, &report);
                    note(&totals);
                }
                Err(reason) => {
                    trouble.lock().unwrap().get_or_insert_with(|| failed(&plan, &reason));
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    println!("{}", totals.into_inner().unwrap().tell(begin.elapsed(), threads));
    trouble.into_inner().unwrap()
}

/// With `KITH_SEED` one run; otherwise as many as the hours and the power cuts take.
#[test]
fn fleets_lose_nothing_and_heal() {
    if let Some(seed) = number("KITH_SEED") {
        let plan = Plan::of(seed);
        let report = simulate(plan.clone()).unwrap_or_else(|reason| panic!("{}", failed(&plan, &reason)));
        return tell(&plan, &report);
    }
    let hours = Duration::from_hours(number("KITH_HOURS").unwrap_or(HOURS));
    let cuts = number("KITH_CUTS").unwrap_or(CUTS);
    let enough = |totals: &Totals| totals.simulated() >= hours && totals.cuts >= cuts;
    if let Some(trouble) = run_many(number("KITH_FIRST_SEED").unwrap_or(1), enough, |_| ()) {
        panic!("{trouble}");
    }
}

/// Runs for `SOAK_HOURS`, or until stopped, from a seed that nobody ran before. The totals are kept
/// as they grow.
#[test]
#[ignore = "it takes as long as it is given: make soak"]
fn the_night() {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let began = Timestamp(u64::try_from(now.as_millis()).unwrap());
    let hours = number("SOAK_HOURS").map_or(Duration::MAX, Duration::from_hours);
    let begin = Instant::now();
    let last = Mutex::new(Totals::default());
    let trouble = run_many(
        began.0,
        |_| begin.elapsed() >= hours,
        |totals| {
            *last.lock().unwrap() = totals.clone();
            totals.keep(began, begin.elapsed(), "nothing found");
        },
    );
    if let Some(trouble) = trouble {
        let seed = trouble.lines().next().unwrap_or_default().to_owned();
        last.into_inner().unwrap().keep(began, begin.elapsed(), &format!("FOUND: {seed}"));
        panic!("{trouble}");
    }
}

/// The same seed must give the same messages, writes and answers at the same times.
#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 1..=4 {
        let mut plan = Plan::of(seed);
        plan.length /= 4;
        let first = simulate(plan.clone()).unwrap_or_else(|reason| panic!("{}", failed(&plan, &reason)));
        let second = simulate(plan.clone()).unwrap_or_else(|reason| panic!("{}", failed(&plan, &reason)));
        assert_eq!((first.trace, first.events), (second.trace, second.events), "{}", plan.title());
        println!("{}: trace {:016x} of {} events, twice", plan.title(), first.trace, first.events);
    }
}
