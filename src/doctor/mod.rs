//! Says what is wrong with a device, and what to do about it: `kith doctor`. The checks are pure, facts in
//! and verdicts out; `probe` finds the facts. It never changes the device, and it needs no agent: it is
//! for the day on which the agent does not start.
//!
//! ```text
//! probe::facts(&config, ..) -> Facts --judge--> Finding: outcome, what was seen, what to do
//! ```

mod agent;
mod cgroups;
mod clock;
mod disk;
pub mod facts;
mod fleet;
mod kernel;
mod limits;
mod memory;
mod network;
pub mod probe;
mod rights;
#[cfg(test)]
mod tests;

use serde::Serialize;

pub use facts::Facts;

/// What a check comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// All is well.
    Ok,
    /// Worth knowing; nothing has to be done.
    Note,
    /// It works, and will not for ever, or not as well as it could.
    Warning,
    /// It does not work.
    Problem,
    /// It could not be looked at, or does not matter here.
    Skipped,
}

/// What a check says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    outcome: Outcome,
    seen: String,
    todo: String,
}

impl Verdict {
    fn new(outcome: Outcome, seen: impl Into<String>, todo: impl Into<String>) -> Self {
        Self { outcome, seen: seen.into(), todo: todo.into() }
    }

    fn ok(seen: impl Into<String>) -> Self {
        Self::new(Outcome::Ok, seen, "")
    }

    fn note(seen: impl Into<String>, todo: impl Into<String>) -> Self {
        Self::new(Outcome::Note, seen, todo)
    }

    fn warning(seen: impl Into<String>, todo: impl Into<String>) -> Self {
        Self::new(Outcome::Warning, seen, todo)
    }

    fn problem(seen: impl Into<String>, todo: impl Into<String>) -> Self {
        Self::new(Outcome::Problem, seen, todo)
    }

    fn skipped(why: impl Into<String>) -> Self {
        Self::new(Outcome::Skipped, why, "")
    }

    /// That something could not be seen, which root might see.
    fn unseen(facts: &Facts, what: &str) -> Self {
        if facts.root {
            Self::skipped(format!("{what} can not be read here"))
        } else {
            Self::new(Outcome::Skipped, format!("only root sees {what}"), "sudo kith doctor")
        }
    }
}

/// One thing that is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Check {
    /// Its name on the command line.
    pub id: &'static str,
    /// What it is about.
    pub title: &'static str,
    judge: fn(&Facts) -> Verdict,
}

/// Checks that belong together.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    /// `kernel`: also takes the place of its checks on the command line.
    pub name: &'static str,
    /// All of its checks.
    pub checks: &'static [Check],
}

/// All groups, in the order in which they are shown.
pub const GROUPS: [Group; 10] = [
    Group { name: "agent", checks: agent::CHECKS },
    Group { name: "fleet", checks: fleet::CHECKS },
    Group { name: "kernel", checks: kernel::CHECKS },
    Group { name: "cgroups", checks: cgroups::CHECKS },
    Group { name: "rights", checks: rights::CHECKS },
    Group { name: "limits", checks: limits::CHECKS },
    Group { name: "clock", checks: clock::CHECKS },
    Group { name: "disk", checks: disk::CHECKS },
    Group { name: "memory", checks: memory::CHECKS },
    Group { name: "network", checks: network::CHECKS },
];

/// What one check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The check.
    pub id: &'static str,
    /// Its group.
    pub group: &'static str,
    /// What it is about.
    pub title: &'static str,
    /// What it comes to.
    pub outcome: Outcome,
    /// What was seen.
    pub seen: String,
    /// What to do; empty when nothing.
    pub todo: String,
}

/// Names that are no check and no group.
pub fn unknown(names: &[String]) -> Vec<&String> {
    let known = |name: &str| GROUPS.iter().any(|g| g.name == name || g.checks.iter().any(|check| check.id == name));
    names.iter().filter(|name| !known(name)).collect()
}

/// Judges by the checks and groups of these names, by all without any.
pub fn examine(facts: &Facts, names: &[String]) -> Vec<Finding> {
    let wanted = |word: &str| names.iter().any(|name| name == word);
    let mut found = Vec::new();
    for group in GROUPS {
        for check in group.checks.iter().filter(|check| names.is_empty() || wanted(group.name) || wanted(check.id)) {
            let Verdict { outcome, seen, todo } = (check.judge)(facts);
            found.push(Finding { id: check.id, group: group.name, title: check.title, outcome, seen, todo });
        }
    }
    found
}

/// Bytes as people say them.
fn size(bytes: u64) -> String {
    let units = [("GiB", 1_u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match units.into_iter().find(|(_, unit)| bytes >= *unit) {
        Some((name, unit)) => format!("{}.{} {name}", bytes / unit, bytes % unit * 10 / unit),
        None => format!("{bytes} B"),
    }
}

/// Hundredths that a part is of the whole.
fn percent(part: u64, whole: u64) -> u64 {
    if whole == 0 { 0 } else { u64::try_from(u128::from(part) * 100 / u128::from(whole)).unwrap_or(100) }
}
