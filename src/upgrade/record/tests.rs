use super::*;

fn slot(digest: &str, version: &str) -> Slot {
    Slot { digest: digest.into(), version: version.into(), base: "0.1.0".into() }
}

fn installed(version: &str) -> Starter {
    Starter { slot: None, version: Version::parse(version).unwrap(), counted: None }
}

fn on_trial() -> Record {
    let trial =
        Trial { to: Some(slot("new", "0.2.0")), version: "0.2.0".into(), rollout: "r".into(), ..Trial::default() };
    Record { trial: Some(trial), ..Record::default() }
}

#[test]
fn without_a_record_the_installed_program_runs() {
    assert_eq!(Record::default().start(&installed("0.1.0"), |_| true), Go::Here);
}

#[test]
fn a_trial_is_started_a_few_times_and_then_the_old_one_comes_back() {
    let mut record = on_trial();
    for attempt in 1..=ATTEMPTS {
        assert_eq!(record.start(&installed("0.1.0"), |_| true), Go::Slot(slot("new", "0.2.0")));
        assert_eq!(record.trial.as_ref().unwrap().attempts, attempt);
        // The new one itself begins: this start was counted.
        let new = Starter { slot: Some("new".into()), counted: Some("new".into()), ..installed("0.2.0") };
        let before = record.clone();
        assert_eq!(record.start(&new, |_| true), Go::Here);
        assert_eq!(record, before);
    }
    assert_eq!(record.start(&installed("0.1.0"), |_| true), Go::Here);
    let last = record.last.clone().unwrap();
    assert!(!last.well && last.why.contains("started 3 times") && last.rollout == "r", "{last:?}");
    assert_eq!(record.trial, None);
    // For good.
    assert_eq!(record.start(&installed("0.1.0"), |_| true), Go::Here);
    // One that is still there by hand goes on as the installed one.
    let new = Starter { slot: Some("new".into()), ..installed("0.2.0") };
    assert_eq!(record.start(&new, |_| true), Go::Installed);
}

#[test]
fn one_that_begins_again_by_itself_counts_too() {
    let mut record = on_trial();
    let new = Starter { slot: Some("new".into()), ..installed("0.2.0") };
    for _ in 0..ATTEMPTS {
        assert_eq!(record.start(&new, |_| true), Go::Here);
    }
    assert_eq!(record.start(&new, |_| true), Go::Installed);
}

#[test]
fn one_that_is_well_stays_and_the_one_before_is_kept() {
    let mut record = on_trial();
    record.well();
    assert_eq!(record.current, Some(slot("new", "0.2.0")));
    assert_eq!(record.start(&installed("0.1.0"), |_| true), Go::Slot(slot("new", "0.2.0")));
    let next = Trial { to: Some(slot("newer", "0.3.0")), from: record.current.clone(), ..Trial::default() };
    record.trial = Some(next);
    assert_eq!(record.used(), ["new", "newer", "new"]);
    let before = record.clone();
    record.failed("x");
    assert_eq!(record.start(&installed("0.1.0"), |_| true), Go::Slot(slot("new", "0.2.0")), "back to the one before");
    let mut record = before;
    record.well();
    assert_eq!((record.current, record.previous), (Some(slot("newer", "0.3.0")), Some(slot("new", "0.2.0"))));
}

#[test]
fn a_package_that_brings_a_newer_one_takes_over() {
    let mut record = Record { current: Some(slot("new", "0.2.0")), ..Record::default() };
    assert_eq!(record.start(&installed("0.2.0"), |_| true), Go::Slot(slot("new", "0.2.0")), "the same one");
    assert_eq!(record.start(&installed("0.3.0"), |_| true), Go::Here);
    assert_eq!(record.current, None);
    // Gone back on purpose: the installed one is newer and was so from the start.
    let back = Slot { base: "0.3.0".into(), ..slot("old", "0.2.0") };
    let mut record = Record { current: Some(back.clone()), ..Record::default() };
    assert_eq!(record.start(&installed("0.3.0"), |_| true), Go::Slot(back));
    assert_eq!(record.start(&installed("0.3.1"), |_| true), Go::Here);
}

#[test]
fn a_program_that_is_gone_is_not_waited_for() {
    let gone = |slot: &Slot| slot.digest != "new";
    let mut record = on_trial();
    assert_eq!(record.start(&installed("0.1.0"), gone), Go::Here);
    assert!(record.last.unwrap().why.contains("not there"));
    let mut record =
        Record { current: Some(slot("new", "0.2.0")), previous: Some(slot("old", "0.1.5")), ..Record::default() };
    assert_eq!(record.start(&installed("0.1.0"), gone), Go::Slot(slot("old", "0.1.5")));
    let mut record = Record { current: Some(slot("new", "0.2.0")), ..Record::default() };
    assert_eq!(record.start(&installed("0.1.0"), gone), Go::Here);
}

#[test]
fn the_record_is_replaced_whole() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(Record::load(dir.path()).unwrap(), Record::default());
    on_trial().store(dir.path()).unwrap();
    assert_eq!(Record::load(dir.path()).unwrap(), on_trial());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left over");
    std::fs::write(dir.path().join("record.json"), "{").unwrap();
    assert!(Record::load(dir.path()).unwrap_err().to_string().contains("record.json"));
}

#[test]
fn the_form_of_the_first_release_is_read() {
    let bytes = include_str!("../../../tests/golden/upgrade-record-1.json");
    let record: Record = serde_json::from_str(bytes).unwrap();
    let trial = record.trial.unwrap();
    assert_eq!((trial.attempts, trial.quorum), (2, true));
    assert_eq!(trial.to.unwrap().digest.len(), 64);
    assert_eq!(record.current.unwrap().version, "0.2.0");
    assert!(!record.last.unwrap().well);
}
