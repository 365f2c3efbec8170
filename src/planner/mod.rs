//! The leader's decisions: from the state of the fleet to the writes that bring it closer to what
//! was asked for, with a report of why the rest was left alone.
//!
//! ```text
//! documents --parse--> Fleet --plan--> Plan { batches, report, wake_at } --propose--> store
//! ```
//!
//! A plan is computed from one view and nothing else: same fleet, same moment, same plan. Every
//! batch carries preconditions on all that it relied on, so a plan made from an old view, or by a
//! leader that no longer leads, is refused and does no harm. What depends on a write of this plan
//! waits for the next one. Nothing here reads a clock, draws a random number or does I/O.

mod claims;
mod collector;
mod contract;
mod deployment;
mod device;
mod draft;
mod expiry;
mod fit;
pub mod fleet;
mod namespace;
mod others;
mod pods;
mod rehearsal;
mod replica_set;
mod rollout;
mod scheduler;
mod view;

#[cfg(test)]
mod tests;

use crate::resource::Timestamp;
use crate::store::{Batch, Key};

pub use fleet::{Fleet, Liveness, Settings, Skipped, Versioned};
pub use others::{Other, Others};
pub use rehearsal::{Binding, Forecast, Rehearsal, plan_manifest};

/// The most batches of one plan; the next plan goes on from there.
pub const BATCHES_LIMIT: usize = 256;
/// The most notes of one report.
pub const NOTES_LIMIT: usize = 2_000;
/// The most pods that one batch of a ReplicaSet makes.
pub const PODS_PER_BATCH: usize = 32;
/// The most documents that one batch removes.
pub const REMOVALS_PER_BATCH: usize = 64;
/// Events that are kept at most; the oldest go first.
pub const EVENTS_LIMIT: usize = 1_000;

/// What the leader proposes, and why it proposes nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In any order, or all at once: none touches what another relies on, and a refused one spoils no other.
    pub batches: Vec<PlannedBatch>,
    /// Why things are not further along.
    pub report: Vec<Note>,
    /// When to plan again though nothing was written in between.
    pub wake_at: Option<Timestamp>,
}

/// One transaction of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedBatch {
    /// Writes, with preconditions on everything that they rely on.
    pub batch: Batch,
    /// One sentence for the log.
    pub why: String,
    /// The object that it is about.
    pub object: Key,
}

/// Why something was not done, or not as asked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Note {
    /// The object that waits.
    pub object: Key,
    /// What it waits for.
    pub reason: Reason,
    /// One sentence for people.
    pub text: String,
}

/// What an object waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// No device can take the pod.
    Unschedulable,
    /// A device has not been heard of for a while, not yet for long enough.
    DeviceSilent,
    /// A device is lost; what is on it waits for it.
    DeviceLost,
    /// A rollout goes on as pods become available.
    Rollout,
    /// Somebody paused it.
    Paused,
    /// A name is taken by an object of somebody else.
    NameTaken,
    /// Something that was asked for is not honoured.
    NotHonoured,
    /// Something is being deleted and not gone yet.
    Terminating,
    /// An owner is of a kind that is not known here.
    UnknownOwner,
    /// The plan is as large as one plan may be: the rest follows in the next.
    PlanFull,
}

/// Computes what to write next. An empty list of batches means that the fleet is as close to what
/// was asked for as it can be at this moment.
pub fn plan(fleet: &Fleet, now: Timestamp) -> Plan {
    let view = view::View::new(fleet, now);
    let mut draft = draft::Draft::default();
    device::plan(&view, &mut draft);
    namespace::plan(&view, &mut draft);
    collector::plan(&view, &mut draft);
    deployment::plan(&view, &mut draft);
    replica_set::plan(&view, &mut draft);
    scheduler::plan(&view, &mut draft);
    claims::plan(&view, &mut draft);
    expiry::plan(&view, &mut draft);
    draft.finish(now)
}
