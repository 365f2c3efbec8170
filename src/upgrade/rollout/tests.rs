use super::*;

const NOW: Timestamp = Timestamp(1_000_000);

fn fleet() -> Vec<Seen> {
    let device = |name: &str, votes: bool, leads: bool| Seen {
        name: name.into(),
        votes,
        leads,
        ready: true,
        runs_new: Some(false),
        pods: 1,
        pods_ready: 1,
        ..Seen::default()
    };
    vec![
        device("a", true, true),
        device("b", true, false),
        device("c", true, false),
        device("d", false, false),
        device("e", false, false),
        device("f", false, false),
    ]
}

fn rollout() -> Rollout {
    Rollout { id: "r".into(), canary: 1, percent: 50, steady_seconds: 10, within_seconds: 600, ..Rollout::default() }
}

fn device<'a>(fleet: &'a mut [Seen], name: &str) -> &'a mut Seen {
    fleet.iter_mut().find(|device| device.name == name).unwrap()
}

/// Decides, and writes what was decided.
fn step(rollout: &mut Rollout, fleet: &[Seen]) -> (Vec<Change>, String) {
    let (changes, waits) = decide(rollout, fleet);
    for change in &changes {
        rollout.apply(change, NOW);
    }
    (changes, waits)
}

fn permitted(changes: &[Change]) -> Vec<&str> {
    let name = |change: &'_ Change| matches!(change, Change::Permit(..));
    let permits = changes.iter().filter(|change| name(change));
    permits.map(|change| if let Change::Permit(name, _) = change { name.as_str() } else { "" }).collect()
}

/// Everyone who may exchange its program has done so, and has been well for long enough.
fn succeed(rollout: &Rollout, fleet: &mut [Seen]) {
    let names: Vec<String> = rollout.in_flight().map(|(name, _)| name.clone()).collect();
    for name in names {
        let seen = device(fleet, &name);
        (seen.runs_new, seen.well_for) = (Some(true), Some(Duration::from_secs(10)));
    }
}

#[test]
fn waves_go_from_the_least_to_the_most_important() {
    let (mut rollout, mut fleet) = (rollout(), fleet());
    let mut waves = Vec::new();
    for _ in 0..20 {
        let (changes, _) = step(&mut rollout, &fleet);
        let wave: Vec<String> = permitted(&changes).into_iter().map(str::to_owned).collect();
        if !wave.is_empty() {
            waves.push(wave.join(" "));
        }
        succeed(&rollout, &mut fleet);
        if rollout.complete {
            break;
        }
    }
    assert_eq!(waves, ["d", "e f", "b", "c", "a"]);
    assert!(rollout.complete && decide(&rollout, &fleet) == (Vec::new(), String::new()));
}

#[test]
fn nobody_follows_before_the_last_wave_is_well() {
    let (mut rollout, mut fleet) = (rollout(), fleet());
    assert_eq!(permitted(&step(&mut rollout, &fleet).0), ["d"]);
    let waits = |rollout: &mut Rollout, fleet: &[Seen]| {
        let (changes, waits) = step(rollout, fleet);
        assert_eq!(changes, []);
        assert!(waits.contains('d'), "{waits}");
    };
    waits(&mut rollout, &fleet);
    let seen = device(&mut fleet, "d");
    (seen.runs_new, seen.on_trial, seen.well_for) = (Some(true), true, Some(Duration::from_mins(1)));
    waits(&mut rollout, &fleet);
    let seen = device(&mut fleet, "d");
    (seen.on_trial, seen.well_for) = (false, Some(Duration::from_secs(9)));
    waits(&mut rollout, &fleet);
    let seen = device(&mut fleet, "d");
    (seen.well_for, seen.pods_ready) = (Some(Duration::from_mins(1)), 0);
    waits(&mut rollout, &fleet);
    device(&mut fleet, "d").pods = 0;
    assert!(step(&mut rollout, &fleet).0.contains(&Change::Done("d".into())), "its pods went elsewhere");
}

#[test]
fn a_failure_stops_it_until_it_is_resumed() {
    let (mut rollout, mut fleet) = (rollout(), fleet());
    step(&mut rollout, &fleet);
    device(&mut fleet, "d").failure = Some("rolled back".into());
    let (changes, _) = step(&mut rollout, &fleet);
    assert_eq!(changes, [Change::Failed("d".into(), "rolled back".into())]);
    assert_eq!(rollout.failed, "d: rolled back");
    assert_eq!(step(&mut rollout, &fleet).0, []);
    // As `kith upgrade --resume` does.
    rollout.failed.clear();
    rollout.devices.remove("d");
    device(&mut fleet, "d").failure = None;
    assert_eq!(permitted(&step(&mut rollout, &fleet).0), ["d"]);
}

#[test]
fn one_that_does_not_come_back_is_a_failure() {
    let (mut rollout, mut fleet) = (rollout(), fleet());
    step(&mut rollout, &fleet);
    let seen = device(&mut fleet, "d");
    (seen.ready, seen.flying_for) = (false, Duration::from_secs(599));
    assert_eq!(step(&mut rollout, &fleet).0, []);
    device(&mut fleet, "d").flying_for = Duration::from_mins(10);
    let (changes, _) = step(&mut rollout, &fleet);
    assert_eq!(changes, [Change::Failed("d".into(), "it has not come back, after 600 s".into())]);
}

#[test]
fn a_voter_goes_only_while_the_others_make_a_quorum() {
    let (mut rollout, mut fleet) = (rollout(), fleet());
    for name in ["d", "e", "f"] {
        rollout.apply(&Change::Done(name.into()), NOW);
    }
    device(&mut fleet, "c").ready = false;
    let (changes, waits) = step(&mut rollout, &fleet);
    assert_eq!(permitted(&changes), Vec::<&str>::new());
    assert!(waits.contains('c') && waits.contains("no quorum"), "{waits}");
    device(&mut fleet, "c").ready = true;
    assert_eq!(permitted(&step(&mut rollout, &fleet).0), ["b"]);
}

#[test]
fn devices_that_are_away_follow_when_they_return() {
    let (mut rollout, mut fleet) = (rollout(), fleet());
    device(&mut fleet, "f").ready = false;
    for _ in 0..10 {
        step(&mut rollout, &fleet);
        succeed(&rollout, &mut fleet);
    }
    let (changes, waits) = step(&mut rollout, &fleet);
    assert!(changes.is_empty() && waits.contains('f') && !rollout.complete, "{changes:?} {waits}");
    // A new leader takes it for ready at first.
    (device(&mut fleet, "f").ready, device(&mut fleet, "f").runs_new) = (true, None);
    assert_eq!(step(&mut rollout, &fleet).0, []);
    device(&mut fleet, "f").runs_new = Some(false);
    assert_eq!(permitted(&step(&mut rollout, &fleet).0), ["f"]);
    succeed(&rollout, &mut fleet);
    step(&mut rollout, &fleet);
    assert!(rollout.complete);
}

#[test]
fn who_runs_it_already_has_nothing_to_do() {
    let (mut rollout, mut fleet) = (rollout(), fleet());
    for seen in &mut fleet {
        seen.runs_new = Some(true);
    }
    step(&mut rollout, &fleet);
    assert!(rollout.complete);
}

#[test]
fn a_fleet_of_one_or_two_devices_goes_over_too() {
    for count in [1, 2] {
        let (mut rollout, mut fleet) = (rollout(), fleet()[..count].to_vec());
        for seen in &mut fleet {
            seen.votes = seen.leads;
        }
        for _ in 0..10 {
            step(&mut rollout, &fleet);
            succeed(&rollout, &mut fleet);
        }
        assert!(rollout.complete, "{count}");
    }
}

#[test]
fn paused_and_aborted_ones_permit_nobody() {
    let fleet = fleet();
    for change in [|r: &mut Rollout| r.paused = true, |r: &mut Rollout| r.aborted = true] {
        let mut rollout = rollout();
        change(&mut rollout);
        assert_eq!(step(&mut rollout, &fleet).0, []);
    }
}

#[test]
fn a_processor_without_a_program_is_said_before_anybody_goes() {
    let programs = BTreeMap::from([("x86_64".to_owned(), Program::default())]);
    let device = |name: &str, arch: &str| (name.to_owned(), arch.to_owned());
    assert_eq!(lacks(&programs, &[device("d1", "x86_64")].into()), None);
    let mixed = [device("d1", "x86_64"), device("d2", "arm"), device("d3", "aarch64"), device("d4", "arm")];
    let said = lacks(&programs, &mixed.into()).unwrap();
    assert_eq!(said, "there is no program for aarch64 (d3) and arm (d2, d4) among those that were given");
    let many: BTreeMap<_, _> = (10..20).map(|number| device(&format!("d{number}"), "arm")).collect();
    assert!(lacks(&programs, &many).unwrap().contains("(d10, d11, d12, d13, d14 and 5 more)"));
}
