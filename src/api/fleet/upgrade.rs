//! Shapes of exchanging the program: on one device, and of the whole fleet.

use serde::{Deserialize, Serialize};

/// Path of [`UpgradeView`] and, by POST, of [`UpgradeAsk`].
pub const UPGRADE: &str = "/kith/v1/upgrade";
/// Path of [`RolloutAsk`].
pub const ROLLOUT: &str = "/kith/v1/upgrade/fleet";
/// Path of [`RolloutSteer`].
pub const ROLLOUT_STEER: &str = "/kith/v1/upgrade/steer";

/// A program that lies ready is to take over on this device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpgradeAsk {
    /// Its SHA-256, hexadecimal.
    pub digest: String,
    /// Though nobody signed it.
    pub unsigned: bool,
    /// Though it is older.
    pub downgrade: bool,
}

/// It takes over now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpgradeBegun {
    /// Its release.
    pub version: String,
    /// The release that ran.
    pub before: String,
    /// Seconds in which it has to show that it is well.
    pub within_seconds: u64,
}

/// What runs on this device, and the fleet's rollout.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UpgradeView {
    /// This device.
    pub device: String,
    /// The release that runs.
    pub version: String,
    /// SHA-256 of its program.
    pub digest: String,
    /// The release of the installed program.
    pub installed: String,
    /// It has still to show that it is well.
    pub on_trial: bool,
    /// What came of the last exchange, if there was one.
    pub last: Option<UpgradeOutcome>,
    /// The fleet's latest rollout.
    pub rollout: Option<RolloutView>,
}

/// What came of an exchange.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UpgradeOutcome {
    /// The release that was to take over.
    pub version: String,
    /// SHA-256 of its program.
    pub digest: String,
    /// Whether it stayed.
    pub well: bool,
    /// Why it did not.
    pub why: String,
}

/// Begins a rollout. The programs lie ready on the device that is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutAsk {
    /// SHA-256 of each.
    pub digests: Vec<String>,
    /// Though they are older.
    pub downgrade: bool,
    /// Devices of the first wave.
    pub canary: usize,
    /// Hundredths of the fleet in each later one.
    pub percent: usize,
    /// Seconds that a device must be well before others follow.
    pub steady_seconds: u64,
    /// Seconds that a device may take.
    pub within_seconds: u64,
}

/// What to do with the rollout that goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RolloutSteer {
    /// No further device.
    Pause,
    /// Go on, and try those again that failed.
    Resume,
    /// Never again.
    Abort,
}

/// A rollout.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RolloutView {
    /// Its id.
    pub id: String,
    /// The release.
    pub version: String,
    /// `running`, `paused`, `failed`, `aborted` or `complete`.
    pub phase: String,
    /// Why it failed.
    pub why: String,
    /// What the leader waits for.
    pub waits: String,
    /// Who began it, and when.
    pub by: String,
    /// When, RFC 3339.
    pub at: String,
    /// Members of the fleet, sorted by name.
    pub devices: Vec<RolloutDevice>,
}

/// One device in a rollout.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RolloutDevice {
    /// Its name.
    pub name: String,
    /// `waiting`, `away`, `upgrading`, `done` or `failed`.
    pub phase: String,
    /// Since when, RFC 3339; empty while it waits.
    pub at: String,
    /// Why it failed.
    pub why: String,
}
