//! From a seed to a plan: how many devices, which timing, what goes wrong and how often.

use std::time::Duration;

use kith::config::Profile;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::network::Weather;

/// Seeds that once found a mistake; they are run first, every time.
pub const REGRESSIONS: &[u64] = &[
    // A leader that leaves led on without a vote, for ever.
    5,
];

/// What kind of trouble a run is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// A little of everything.
    Mixed,
    /// Power cuts above all.
    Power,
    /// Lost links above all.
    Links,
    /// Devices come and go.
    Churn,
}

/// One thing that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// One device loses its power at once.
    Cut,
    /// One device loses its power in the middle of a write.
    CutInWrite,
    /// All devices lose their power.
    CutAll,
    /// One device is stopped in order, and started again.
    Restart,
    /// A link swallows everything in one direction.
    OneWay,
    /// One device reaches nobody.
    Alone,
    /// Two groups that do not reach each other.
    Split,
    /// A link comes and goes.
    Flap,
    /// A link is slow.
    Slow,
    /// A device's disk is slow.
    SlowDisk,
    /// A device's disk is full for a while.
    FullDisk,
    /// A device's wall clock jumps.
    Clock,
    /// The lead is handed over.
    Transfer,
    /// A device joins.
    Join,
    /// A device is removed.
    Leave,
    /// A device forgets its log behind a snapshot.
    Compact,
}

/// How one run goes; all of it follows from the seed.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub profile: Profile,
    pub style: Style,
    pub devices: u64,
    pub clients: u64,
    /// Simulated time until everything is healed.
    pub length: Duration,
    /// What other times are measured in: the longest silence before an election, in milliseconds.
    pub unit: u64,
    pub weather: Weather,
    pub disk: (u64, u64),
    pub client_pause: (u64, u64),
    /// Between two faults, in milliseconds.
    pub pause: (u64, u64),
    weights: Vec<(Fault, u32)>,
}

/// A generator for one part of a run, so that parts do not disturb each other.
pub fn stream(seed: u64, part: u64) -> u64 {
    let mixed = (seed ^ part.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed ^ (mixed >> 29)
}

impl Plan {
    pub fn of(seed: u64) -> Self {
        let mut chance = StdRng::seed_from_u64(stream(seed, 1));
        let profile = [Profile::Lan, Profile::Lan, Profile::Wan, Profile::Metered][place(seed % 4)];
        let styles = [Style::Power, Style::Mixed, Style::Links, Style::Power, Style::Churn];
        let style = styles[place(seed / 4 % 5)];
        let unit = u64::try_from(profile.election().1.as_millis()).unwrap_or(u64::MAX);
        let (minutes, delay, client_pause) = match profile {
            Profile::Lan => (6, (0, 4), (10, 400)),
            Profile::Wan => (40, (15, 120), (100, 4_000)),
            Profile::Metered => (480, (40, 400), (2_000, 120_000)),
        };
        let late_by = delay.1 * 10;
        let rough = chance.random_range(0..3);
        let weather = Weather {
            delay,
            loss: [0.0, 0.002, 0.03][rough],
            repeat: [0.0, 0.01, 0.05][rough],
            late: [0.0, 0.01, 0.1][rough],
            late_by,
        };
        Self {
            seed,
            profile,
            style,
            devices: chance.random_range(3..=5),
            clients: chance.random_range(2..=4),
            length: Duration::from_secs(60 * minutes),
            unit,
            weather,
            disk: [(0, 1), (1, 3), (2, 30)][chance.random_range(0..3)],
            client_pause,
            pause: if style == Style::Power { (unit / 4, unit * 3) } else { (unit, unit * 20) },
            weights: weights(style),
        }
    }

    /// A short run with much trouble of one kind.
    pub fn hunt(seed: u64, style: Style) -> Self {
        let plan = Self::of(seed * 16);
        let disk = (1, 12);
        let weights = weights(style);
        Self {
            seed,
            style,
            weights,
            disk,
            pause: (plan.unit / 2, plan.unit * 6),
            length: Duration::from_mins(2),
            client_pause: (5, 60),
            clients: 5,
            ..plan
        }
    }

    /// The next thing that goes wrong.
    pub fn fault(&self, chance: &mut StdRng) -> Fault {
        let total: u32 = self.weights.iter().map(|(_, weight)| weight).sum();
        let mut at = chance.random_range(0..total);
        for &(fault, weight) in &self.weights {
            if at < weight {
                return fault;
            }
            at -= weight;
        }
        Fault::Restart
    }

    /// For people: what a run is about.
    pub fn title(&self) -> String {
        let profile = format!("{:?}", self.profile).to_lowercase();
        let style = format!("{:?}", self.style).to_lowercase();
        let Weather { loss, repeat, late, .. } = self.weather;
        format!(
            "seed {}: {profile}, {style}, {} devices, {} clients, {} minutes, disk {:?} ms, loss {loss}, repeat {repeat}, late {late}",
            self.seed,
            self.devices,
            self.clients,
            self.length.as_secs() / 60,
            self.disk
        )
    }
}

fn place(at: u64) -> usize {
    usize::try_from(at).unwrap_or(0)
}

fn weights(style: Style) -> Vec<(Fault, u32)> {
    let (power, links, churn) = match style {
        Style::Mixed => (4, 4, 4),
        Style::Power => (16, 1, 1),
        Style::Links => (2, 10, 1),
        Style::Churn => (4, 2, 12),
    };
    vec![
        (Fault::Cut, power * 3),
        (Fault::CutInWrite, power * 3),
        (Fault::CutAll, power),
        (Fault::Restart, power),
        (Fault::OneWay, links * 2),
        (Fault::Alone, links * 2),
        (Fault::Split, links * 2),
        (Fault::Flap, links),
        (Fault::Slow, links),
        (Fault::SlowDisk, 3),
        (Fault::FullDisk, 1),
        (Fault::Clock, 2),
        (Fault::Transfer, 4),
        (Fault::Join, churn),
        (Fault::Leave, churn),
        (Fault::Compact, 4),
    ]
}
