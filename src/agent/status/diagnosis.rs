//! What is wrong with a fleet, and what to type about each thing; and why these devices vote. Pure:
//! it reads what was seen, and decides nothing for the fleet.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::api::fleet::{DeviceRole, DeviceStatus, FleetStatus, Problem};
use crate::identity::Preference;

/// A device is worth a word once it has been silent for this part of the time after which it is
/// lost, and for longer than a quiet one may be.
const WORRY: u32 = 4;
/// A device that misses entries as old as this is behind.
const LATE: Duration = Duration::from_secs(10);
/// Names in one sentence.
const NAMES: usize = 8;

/// When silence means what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Silence {
    /// A device that is well is heard this often.
    pub(crate) sign_of_life: Duration,
    /// Then it counts as lost.
    pub(crate) lost_after: Duration,
}

impl Silence {
    /// A mirror is heard of poll by poll through those above it, the others directly.
    fn worry(self, role: DeviceRole) -> Duration {
        if role == DeviceRole::Mirror {
            return self.lost_after / WORRY * (WORRY - 1);
        }
        (self.lost_after / WORRY).max(self.sign_of_life + self.sign_of_life / WORRY)
    }
}

/// Why these devices vote and not others, and how to have more votes, as a sentence. `pilot` is
/// what the leader waits for, if it waits.
pub(crate) fn why_voters(fleet: &FleetStatus, pilot: &str) -> String {
    let (devices, votes) = (fleet.devices.len(), fleet.voters.len());
    match (devices, votes) {
        (_, 0) => "nobody votes yet".into(),
        (1, 1) => "one device votes alone; three make a fleet that survives the loss of one: kith token create".into(),
        (2, 1) => {
            "two devices can not outvote each other, so one votes: the fleet stops with it. A third device makes \
                   three votes (kith token create), and so does a witness that runs nothing (kith token create \
                   --witness)"
                .into()
        }
        (_, 1) if pilot.is_empty() => "one device votes: fewer than three are able to".into(),
        (_, 1) => format!("one device votes: {pilot}"),
        _ => {
            let works = format!("{votes} of {devices} devices vote; the fleet works while {} answer", votes / 2 + 1);
            if pilot.is_empty() { works } else { format!("{works}. Now: {pilot}") }
        }
    }
}

/// What is wrong, worst first.
pub(crate) fn problems(fleet: &FleetStatus, limits: Silence) -> Vec<Problem> {
    let mut found = Vec::new();
    if !fleet.devices.iter().any(|device| device.member_id == fleet.member_id) {
        let what = format!("{} is no member of this fleet any more", fleet.device);
        let todo = "forget the fleet here: kith leave --force; then kith join TOKEN".into();
        return vec![Problem { what, todo }];
    }
    if fleet.quorum {
        found.extend(thin_quorum(fleet, limits.lost_after));
        found.extend(fleet.devices.iter().filter_map(|device| unwell(device, fleet, limits)));
        found.extend(misplaced(fleet));
    } else {
        found.push(no_quorum(fleet, limits.lost_after));
    }
    found
}

fn voters(fleet: &FleetStatus) -> impl Iterator<Item = &DeviceStatus> {
    fleet.devices.iter().filter(|device| fleet.voters.contains(&device.name))
}

fn silence(device: &DeviceStatus) -> Duration {
    Duration::from_millis(device.last_heard_ms.unwrap_or(0))
}

fn silent_voters(fleet: &FleetStatus, lost_after: Duration) -> Vec<&str> {
    let answers = |device: &DeviceStatus| {
        device.name == fleet.observer || device.last_heard_ms.is_some() && silence(device) <= lost_after
    };
    voters(fleet).filter(|device| !answers(device)).map(|device| device.name.as_str()).collect()
}

fn no_quorum(fleet: &FleetStatus, lost_after: Duration) -> Problem {
    let silent = silent_voters(fleet, lost_after);
    let (votes, needed) = (fleet.voters.len(), fleet.voters.len() / 2 + 1);
    let there = votes - silent.len();
    if there >= needed {
        return Problem {
            what: "no leader is confirmed by a quorum at this moment: writes wait".into(),
            todo: "nothing yet: an election takes moments. If it stays so: are all links between the voters up?".into(),
        };
    }
    let what = format!(
        "no quorum: {there} of {votes} voters answer here, {needed} must. Reads come from this device's copy, writes fail"
    );
    let missing = needed - there;
    let todo = format!(
        "switch on or connect {} of: {}. If they are gone for good: kith recover, on one device only; it says first \
         what may be lost",
        if missing == 1 { "one".to_owned() } else { missing.to_string() },
        list(&silent)
    );
    Problem { what, todo }
}

/// A quorum that the next loss ends, though there are enough voters.
fn thin_quorum(fleet: &FleetStatus, lost_after: Duration) -> Option<Problem> {
    let silent = silent_voters(fleet, lost_after);
    let there = fleet.voters.len() - silent.len();
    if silent.is_empty() || there > fleet.voters.len() / 2 + 1 {
        return None;
    }
    let spare = fleet
        .devices
        .iter()
        .any(|device| device.role == DeviceRole::Learner && device.ready && device.preference != Preference::Never);
    let what = format!("{there} of {} voters answer: if one more is lost, writes stop", fleet.voters.len());
    let todo = if spare {
        "nothing yet: another device takes the vote once it is up to date and has stayed a while".into()
    } else {
        format!("bring back {}, or add a device that can take its vote: kith token create", list(&silent))
    };
    Some(Problem { what, todo })
}

fn unwell(device: &DeviceStatus, fleet: &FleetStatus, limits: Silence) -> Option<Problem> {
    let (name, silent) = (&device.name, silence(device));
    let own = *name == fleet.observer;
    if !own && device.last_heard_ms.is_some() && silent > limits.lost_after {
        return Some(Problem {
            what: format!("{name} is lost: not heard for {}", span(silent)),
            todo: format!("is it on and connected? If it is gone for good: kith leave --device {name}"),
        });
    }
    if !device.ready {
        let look = if device.witness { "does its agent run?".into() } else { format!("kith describe node {name}") };
        return Some(Problem { what: format!("{name} is not ready"), todo: look });
    }
    if !own && silent > limits.worry(device.role) {
        let what = format!("{name} has been silent for {}", span(silent));
        let todo =
            format!("nothing yet: after {} it counts as lost, and its pods start elsewhere", span(limits.lost_after));
        return Some(Problem { what, todo });
    }
    let late = Duration::from_millis(device.lag_ms.unwrap_or(0));
    if !own && late > LATE {
        return Some(Problem {
            what: format!("{name} is {} behind ({} entries)", span(late), device.lag.unwrap_or(0)),
            todo: format!("nothing, if it catches up; else look at the link and at the disk of {name}"),
        });
    }
    None
}

/// Votes that are where they should not be.
fn misplaced(fleet: &FleetStatus) -> Vec<Problem> {
    let mut found = Vec::new();
    if let Some(leader) = fleet.devices.iter().find(|device| device.role == DeviceRole::Leader && device.witness) {
        found.push(Problem {
            what: format!("{} leads, and is a witness", leader.name),
            todo: "nothing: it hands over as soon as another voter is up to date".into(),
        });
    }
    let against: Vec<&str> = voters(fleet)
        .filter(|device| device.preference == Preference::Never)
        .map(|device| device.name.as_str())
        .collect();
    if !against.is_empty() && fleet.devices.len() > 1 {
        found.push(Problem {
            what: format!("{} should not vote and does: nobody can take its place", list(&against)),
            todo: "add a device that may vote: kith token create".into(),
        });
    }
    let zones: BTreeSet<&str> =
        fleet.devices.iter().map(|device| device.zone.as_str()).filter(|z| !z.is_empty()).collect();
    let voting: BTreeSet<&str> = voters(fleet).map(|device| device.zone.as_str()).collect();
    if zones.len() > 1 && voting.len() == 1 && fleet.voters.len() > 1 {
        found.push(Problem {
            what: format!(
                "all votes are in zone {}: without it the fleet stops",
                voting.first().copied().unwrap_or("")
            ),
            todo:
                "let devices of other zones vote: no kith.dev/voter: never in their agent.toml, connected, up to date"
                    .into(),
        });
    }
    found
}

/// A span as people say it, in seconds up to two minutes.
fn span(span: Duration) -> String {
    match span.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds @ 7200..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

fn list(names: &[&str]) -> String {
    if names.len() <= NAMES {
        return names.join(", ");
    }
    format!("{} and {} more", names[..NAMES].join(", "), names.len() - NAMES)
}
