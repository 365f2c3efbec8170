//! What all runs of one test came to: for the output, and for docs/reliability.md.

use std::collections::BTreeMap;
use std::time::Duration;

use kith::resource::Timestamp;

use super::schedule::Plan;
use super::world::Report;

/// The page that keeps the totals of nights; its last table has a row for each.
const PAGE: &str = "docs/reliability.md";

/// Sums over runs.
#[derive(Clone, Default)]
pub struct Totals {
    pub runs: u64,
    simulated: BTreeMap<String, Duration>,
    processor: BTreeMap<String, Duration>,
    pub cuts: u64,
    starts: u64,
    messages: u64,
    entries: u64,
    reads: u64,
    writes: u64,
    histories: u64,
}

fn hours(span: Duration) -> f64 {
    span.as_secs_f64() / 3600.0
}

impl Totals {
    pub fn add(&mut self, plan: &Plan, report: &Report) {
        self.runs += 1;
        let profile = format!("{:?}", plan.profile).to_lowercase();
        *self.simulated.entry(profile.clone()).or_default() += report.simulated;
        *self.processor.entry(profile).or_default() += report.processor;
        self.cuts += report.cuts;
        self.starts += report.starts;
        self.messages += report.messages;
        self.entries += report.entries;
        self.reads += report.tally.reads;
        self.writes += report.tally.written;
        self.histories += report.tally.histories;
    }

    pub fn simulated(&self) -> Duration {
        self.simulated.values().sum()
    }

    fn by_profile(&self) -> String {
        let each = self.simulated.iter().map(|(name, span)| format!("{name} {:.1}", hours(*span)));
        each.collect::<Vec<_>>().join(", ")
    }

    /// How much faster than life each profile ran, on one processor.
    fn speed(&self) -> String {
        let times = |name: &String, span: &Duration| {
            let spent = self.processor.get(name).copied().unwrap_or_default();
            format!("{name} {:.0}", span.as_secs_f64() / spent.as_secs_f64().max(0.001))
        };
        self.simulated.iter().map(|(name, span)| times(name, span)).collect::<Vec<_>>().join(", ")
    }

    /// In a few lines.
    pub fn tell(&self, wall: Duration, threads: usize) -> String {
        let seconds = wall.as_secs_f64();
        format!(
            "{} runs, {:.1} simulated hours ({}), {:.0} times real time on {threads} threads\n\
             {:.0} processor seconds; on one processor, times real time: {}\n\
             {} device power cuts ({:.0} a second), {} starts, {} messages, {} committed entries\n\
             {} linearizable reads, {} acknowledged writes, {} histories checked",
            self.runs,
            hours(self.simulated()),
            self.by_profile(),
            self.simulated().as_secs_f64() / seconds,
            self.processor.values().sum::<Duration>().as_secs_f64(),
            self.speed(),
            self.cuts,
            self.cuts as f64 / seconds,
            self.starts,
            self.messages,
            self.entries,
            self.reads,
            self.writes,
            self.histories,
        )
    }

    /// Writes the row of the night that began then, in place of the one that it wrote before.
    pub fn keep(&self, begin: Timestamp, wall: Duration, outcome: &str) {
        let text = std::fs::read_to_string(PAGE).unwrap();
        let start = format!("| {begin} |");
        let mut lines: Vec<&str> = text.lines().filter(|line| !line.starts_with(&start)).collect();
        let row = format!(
            "{start} {:.1} | {} | {:.1} ({}) | {} | {} | {outcome} |",
            hours(wall),
            self.runs,
            hours(self.simulated()),
            self.by_profile(),
            self.cuts,
            self.entries,
        );
        lines.push(&row);
        std::fs::write(PAGE, lines.join("\n") + "\n").unwrap();
    }
}
