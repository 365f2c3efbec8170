//! A fleet goes over to another release: what the fleet wants, how far it has come, and which devices
//! may exchange their program next. Pure: the leader hands in what it sees, and writes what this
//! decides.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::resource::Timestamp;

/// Kind of the document; there is one, with this name.
pub const KIND: &str = "kith.dev/Rollout";
/// Its name.
pub const NAME: &str = "fleet";

/// A program for one sort of processor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Program {
    /// Its digest, SHA-256, hexadecimal.
    pub digest: String,
    /// Its bytes.
    pub size: u64,
    /// Its signature, as minisign writes it.
    pub signature: String,
}

/// How far a device has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// It may exchange its program.
    #[default]
    Permitted,
    /// It runs the new one, and is well.
    Done,
    /// It does not run the new one.
    Failed,
}

/// One device in a rollout.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Step {
    /// How far it has come.
    pub phase: Phase,
    /// Since when.
    pub at: Timestamp,
    /// Pods that were ready on it before.
    pub pods: usize,
    /// Why it failed.
    pub why: String,
}

/// What a fleet wants to run, and how far it is: the `spec` of the document.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Rollout {
    /// Its id.
    pub id: String,
    /// The release.
    pub version: String,
    /// Programs by processor.
    pub programs: BTreeMap<String, Program>,
    /// The device that has all of them.
    pub holder: String,
    /// Whether the release may be older than what runs.
    pub downgrade: bool,
    /// Devices in the first wave.
    pub canary: usize,
    /// Hundredths of the fleet in each later wave.
    pub percent: usize,
    /// How long a device must be well before the next ones follow, in seconds.
    pub steady_seconds: u64,
    /// How long a device may take, in seconds.
    pub within_seconds: u64,
    /// Somebody paused it.
    pub paused: bool,
    /// Somebody gave it up.
    pub aborted: bool,
    /// Why it has stopped by itself; empty while it has not.
    pub failed: String,
    /// Every device is done.
    pub complete: bool,
    /// Devices that it has come to.
    pub devices: BTreeMap<String, Step>,
    /// Who began it.
    pub by: String,
    /// When.
    pub at: Timestamp,
}

/// A device as the leader sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Its name.
    pub name: String,
    /// Whether it votes.
    pub votes: bool,
    /// Whether it leads.
    pub leads: bool,
    /// Whether it is there and ready.
    pub ready: bool,
    /// Pods on it that are ready.
    pub pods_ready: usize,
    /// Pods on it that should be ready.
    pub pods: usize,
    /// Whether it runs the new program, as it says; `None` when it said nothing yet.
    pub runs_new: Option<bool>,
    /// It runs the new program and has not found itself well yet.
    pub on_trial: bool,
    /// Why it did not go over, as it says.
    pub failure: Option<String>,
    /// For how long it has run the new one and been ready.
    pub well_for: Option<Duration>,
    /// For how long it has been on its way, as this leader has seen it: clocks of two leaders may differ.
    pub flying_for: Duration,
}

/// What to write next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A device may exchange its program.
    Permit(String, usize),
    /// A device is done.
    Done(String),
    /// A device failed, and the rollout stops.
    Failed(String, String),
    /// All are done.
    Complete,
}

impl Rollout {
    /// What names one permission of a device: a failure is told with it, so that a later permission is
    /// not taken for the one that failed.
    pub fn ticket(&self, step: &Step) -> String {
        format!("{}/{}", self.id, step.at.0)
    }

    /// Whether it still goes on.
    pub fn goes_on(&self) -> bool {
        !self.aborted && !self.complete && !self.paused && self.failed.is_empty()
    }

    /// Devices that may exchange their program and have not come to an end.
    pub fn in_flight(&self) -> impl Iterator<Item = (&String, &Step)> {
        self.devices.iter().filter(|(_, step)| step.phase == Phase::Permitted)
    }

    /// Writes a change in.
    pub fn apply(&mut self, change: &Change, now: Timestamp) {
        let phase = |phase, pods, why: &str| Step { phase, at: now, pods, why: why.into() };
        match change {
            Change::Permit(name, pods) => {
                self.devices.insert(name.clone(), phase(Phase::Permitted, *pods, ""));
            }
            Change::Done(name) => {
                let pods = self.devices.get(name).map_or(0, |step| step.pods);
                self.devices.insert(name.clone(), phase(Phase::Done, pods, ""));
            }
            Change::Failed(name, why) => {
                let pods = self.devices.get(name).map_or(0, |step| step.pods);
                self.devices.insert(name.clone(), phase(Phase::Failed, pods, why));
                self.failed = format!("{name}: {why}");
            }
            Change::Complete => self.complete = true,
        }
    }
}

/// What a rollout lacks before it may begin: devices, each with its processor, for which no program was
/// given.
pub fn lacks(programs: &BTreeMap<String, Program>, devices: &BTreeMap<String, String>) -> Option<String> {
    let mut without: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, arch) in devices.iter().filter(|(_, arch)| !programs.contains_key(*arch)) {
        without.entry(arch).or_default().push(name);
    }
    let part = |(arch, names): (&str, Vec<&str>)| {
        let more = names.len().saturating_sub(NAMED);
        let shown = names[..names.len() - more].join(", ");
        if more == 0 { format!("{arch} ({shown})") } else { format!("{arch} ({shown} and {more} more)") }
    };
    let parts: Vec<String> = without.into_iter().map(part).collect();
    (!parts.is_empty()).then(|| format!("there is no program for {} among those that were given", parts.join(" and ")))
}

/// Devices that are named in one sentence.
const NAMED: usize = 5;

/// What to write next, and what is waited for.
pub fn decide(rollout: &Rollout, fleet: &[Seen]) -> (Vec<Change>, String) {
    let mut changes = Vec::new();
    if rollout.aborted || rollout.complete {
        return (changes, String::new());
    }
    let seen: BTreeMap<&str, &Seen> = fleet.iter().map(|device| (device.name.as_str(), device)).collect();
    let done_already = |name: &str| rollout.devices.get(name).is_some_and(|step| step.phase == Phase::Done);
    let mut done: BTreeSet<&str> = seen.keys().copied().filter(|name| done_already(name)).collect();
    let mut flying = Vec::new();
    for (name, step) in rollout.in_flight() {
        let Some(device) = seen.get(name.as_str()) else { continue };
        match judge(rollout, device, step) {
            Some(Change::Done(name)) => {
                done.insert(device.name.as_str());
                changes.push(Change::Done(name));
            }
            Some(change) => changes.push(change),
            None => flying.push(*device),
        }
    }
    // One that runs it already, by hand or by a package, has nothing to do.
    for device in fleet {
        if device.runs_new == Some(true) && !device.on_trial && !rollout.devices.contains_key(&device.name) {
            done.insert(&device.name);
            changes.push(Change::Done(device.name.clone()));
        }
    }
    if changes.iter().any(|change| matches!(change, Change::Failed(..))) || !rollout.goes_on() {
        return (changes, String::new());
    }
    if fleet.iter().all(|device| done.contains(device.name.as_str())) && !fleet.is_empty() {
        changes.push(Change::Complete);
        return (changes, String::new());
    }
    if !flying.is_empty() {
        let names: Vec<&str> = flying.iter().map(|device| device.name.as_str()).collect();
        return (changes, format!("{} to be well", names.join(", ")));
    }
    let (wave, waits) = next_wave(rollout, fleet, &done);
    changes.extend(wave.into_iter().map(|device| Change::Permit(device.name.clone(), device.pods_ready)));
    (changes, waits)
}

/// What became of a device that may exchange its program.
fn judge(rollout: &Rollout, device: &Seen, step: &Step) -> Option<Change> {
    let name = || device.name.clone();
    if let Some(why) = &device.failure {
        return Some(Change::Failed(name(), why.clone()));
    }
    let pods_back = device.pods_ready >= step.pods.min(device.pods);
    let steady = device.well_for.is_some_and(|well| well >= Duration::from_secs(rollout.steady_seconds));
    if device.runs_new == Some(true) && !device.on_trial && steady && pods_back {
        return Some(Change::Done(name()));
    }
    if device.flying_for < Duration::from_secs(rollout.within_seconds) {
        return None;
    }
    let why = match (device.ready, device.runs_new) {
        (false, _) => "it has not come back".to_owned(),
        (true, Some(true)) if !pods_back => format!("{} of its {} pods are ready", device.pods_ready, step.pods),
        (true, Some(true)) => "it runs the new release, but is not well".to_owned(),
        (true, _) => "it still runs the old release".to_owned(),
    };
    Some(Change::Failed(name(), format!("{why}, after {} s", rollout.within_seconds)))
}

/// Who may go next: those who do not vote before those who do, one voter at a time and only while the
/// others make a quorum, the leader last and alone. Those who are away go when they return.
fn next_wave<'a>(rollout: &Rollout, fleet: &'a [Seen], done: &BTreeSet<&str>) -> (Vec<&'a Seen>, String) {
    let waiting: Vec<&Seen> = fleet.iter().filter(|device| !done.contains(device.name.as_str())).collect();
    // A new leader may not have noticed yet that a device is gone: one that is there says what it runs.
    let there = |device: &&Seen| device.ready && device.runs_new.is_some();
    let (here, away): (Vec<&Seen>, Vec<&Seen>) = waiting.into_iter().partition(there);
    let size = if done.is_empty() { rollout.canary } else { fleet.len() * rollout.percent / 100 }.max(1);
    let (voters, others): (Vec<&Seen>, Vec<&Seen>) = here.into_iter().partition(|device| device.votes || device.leads);
    if !others.is_empty() {
        return (others.into_iter().take(size).collect(), String::new());
    }
    let away_names = || away.iter().map(|device| device.name.as_str()).collect::<Vec<_>>().join(", ");
    let Some(next) = voters.iter().min_by_key(|device| (device.leads, &device.name)) else {
        return (Vec::new(), format!("{} to come back", away_names()));
    };
    let votes: Vec<&Seen> = fleet.iter().filter(|device| device.votes).collect();
    let left = votes.iter().filter(|device| device.ready && device.name != next.name).count();
    let needed = votes.len() / 2 + 1;
    if votes.len() > 1 && left < needed {
        let missing: Vec<&str> = votes.iter().filter(|one| !one.ready).map(|one| one.name.as_str()).collect();
        return (Vec::new(), format!("{}: without {} too there would be no quorum", missing.join(", "), next.name));
    }
    (vec![next], String::new())
}

#[cfg(test)]
mod tests;
