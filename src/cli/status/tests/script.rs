//! Reads a situation, and compares the screen that it makes.

use std::time::Duration;

use super::super::*;
use crate::agent::status::{Silence, problems, why_voters};
use crate::identity::Preference;

/// Plays a situation:
/// `seen by d1 | leader d2 | no quorum | age 61m | waits TEXT`, then a line for each device:
/// `NAME ROLE [votes] [witness] [unready] [cordoned] [never|prefer] [silent=SECONDS] [behind=ENTRIES/SECONDS]
/// [zone=ZONE] [pods=COUNT] [bench=TEXT]`.
pub(super) fn situation(script: &str) {
    let (told, expected): (Vec<&str>, Vec<&str>) =
        script.lines().map(str::trim).filter(|line| !line.is_empty()).partition(|line| !line.starts_with('|'));
    let (first, devices) = told.split_first().unwrap();
    let mut status = FleetStatus {
        fleet: "f-1".into(),
        quorum: true,
        term: 3,
        revision: 17,
        state_hash: "0123456789abcdef".into(),
        ..FleetStatus::default()
    };
    let mut pilot = "";
    for part in first.split(" | ") {
        match part.split_once(' ') {
            Some(("seen", by)) => by.trim_start_matches("by ").clone_into(&mut status.device),
            Some(("leader", name)) => status.leader = Some(name.to_owned()),
            Some(("age", seconds)) => status.knowledge_age_ms = seconds.parse::<u64>().unwrap() * 1000,
            Some(("waits", why)) => pilot = why,
            _ => status.quorum = part != "no quorum",
        }
    }
    status.observer = if status.quorum { status.leader.clone().unwrap() } else { status.device.clone() };
    for line in devices {
        let device = device(line, &status, status.devices.len() as u64 + 1);
        if line.contains(" votes") {
            status.voters.push(device.name.clone());
        }
        status.devices.push(device);
    }
    status.voters.sort();
    status.member_id = status.devices.iter().find(|d| d.name == status.device).map_or(99, |d| d.member_id);
    status.why_voters = why_voters(&status, pilot);
    status.problems =
        problems(&status, Silence { sign_of_life: Duration::from_millis(100), lost_after: Duration::from_secs(10) });
    let screen = render(&status, false, Paint::none());
    let actual: Vec<String> = screen.lines().map(|line| format!("| {line}").trim_end().to_owned()).collect();
    assert_eq!(actual.join("\n"), expected.join("\n"), "the screen is\n{}", actual.join("\n"));
    for line in screen.lines() {
        assert!(line.chars().count() <= COLUMNS, "{} columns: {line}", line.chars().count());
    }
    assert!(screen.lines().count() <= 48, "{} lines", screen.lines().count());
}

fn device(line: &str, status: &FleetStatus, member_id: u64) -> DeviceStatus {
    let (line, bench) = line.split_once(" bench=").unwrap_or((line, ""));
    let mut words = line.split(' ');
    let name = words.next().unwrap().to_owned();
    let leads = status.leader.as_deref() == Some(&name);
    let own = name == status.observer;
    let mut device = DeviceStatus {
        name,
        member_id,
        ready: true,
        no_vote: bench.into(),
        last_heard_ms: (!own).then_some(80),
        lag: (status.quorum && !own).then_some(0),
        lag_ms: (status.quorum && !own).then_some(0),
        ..DeviceStatus::default()
    };
    let number = |text: &str| text.parse::<u64>().unwrap();
    for word in words {
        match word.split_once('=').unwrap_or((word, "")) {
            ("votes", _) if leads => device.role = DeviceRole::Leader,
            ("votes", _) => device.role = DeviceRole::Voter,
            ("learner", _) => {}
            ("witness", _) => device.witness = true,
            ("unready", _) => device.ready = false,
            ("cordoned", _) => device.cordoned = true,
            ("never", _) => device.preference = Preference::Never,
            ("prefer", _) => device.preference = Preference::Prefer,
            ("unheard", _) => device.last_heard_ms = None,
            ("silent", seconds) => device.last_heard_ms = Some(number(seconds) * 1000),
            ("behind", both) => {
                let (entries, seconds) = both.split_once('/').unwrap();
                (device.lag, device.lag_ms) = (Some(number(entries)), Some(number(seconds) * 1000));
            }
            ("zone", zone) => zone.clone_into(&mut device.zone),
            ("pods", count) => device.pods = u32::try_from(number(count)).unwrap(),
            other => panic!("{other:?} in {line:?}"),
        }
    }
    device
}
