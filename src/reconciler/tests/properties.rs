use std::time::Duration;

use proptest::prelude::*;

use super::*;

/// What happens to one container of a device.
#[derive(Clone, Debug)]
enum Turn {
    Exit(i32),
    Pass(u64),
    ClockBack(u64),
    Delete,
    Reboot,
    Forget,
}

fn turn() -> impl Strategy<Value = Turn> {
    prop_oneof![
        4 => (0i32..3).prop_map(Turn::Exit),
        4 => (0u64..400).prop_map(Turn::Pass),
        1 => (0u64..100_000).prop_map(Turn::ClockBack),
        1 => Just(Turn::Delete),
        1 => Just(Turn::Reboot),
        1 => Just(Turn::Forget),
    ]
}

/// Executes decisions until there is nothing to do; returns whether the pod was deleted.
fn rest(bench: &mut Bench) -> Result<bool, TestCaseError> {
    for _ in 0..20 {
        let decision = bench.decide();
        let mut changed = false;
        for action in decision.actions {
            match action {
                Action::Start(spec) => {
                    let own = &mut bench.observed.containers;
                    prop_assert!(own.iter().all(|other| other.reference.attempt < spec.reference.attempt));
                    prop_assert!(own.iter().all(|other| matches!(other.state, ContainerState::Exited(_))));
                    let state = ContainerState::Running { started: bench.now, pid: 1 };
                    own.push(ObservedContainer {
                        reference: spec.reference,
                        image: spec.image,
                        state,
                        devices: Vec::new(),
                    });
                    changed = true;
                }
                Action::Stop { reference, .. } => {
                    let now = bench.now;
                    let found = bench.observed.containers.iter_mut().find(|own| own.reference == reference).unwrap();
                    found.state = ContainerState::Exited(Exit { finished: now, ..exit(143, 0, 0) });
                    changed = true;
                }
                Action::Remove(reference) => {
                    bench.observed.containers.retain(|own| own.reference != reference);
                    changed = true;
                }
                Action::Report { object, .. } => {
                    bench.target.pods[0].pod = serde_json::from_slice(&serde_json::to_vec(&object).unwrap()).unwrap();
                    changed = true;
                }
                Action::MakeSandbox { .. } => {
                    prop_assert!(bench.observed.sandboxes.is_empty());
                    bench.observed.sandboxes.push(shelter(None));
                    changed = true;
                }
                Action::RemoveSandbox(_) => {
                    let own = &bench.observed.containers;
                    prop_assert!(own.iter().all(|other| matches!(other.state, ContainerState::Exited(_))));
                    bench.observed.sandboxes.clear();
                    changed = true;
                }
                Action::DeletePod { .. } => {
                    prop_assert!(bench.observed.sandboxes.is_empty());
                    return Ok(true);
                }
                Action::PrepareImage { .. }
                | Action::PullImage(_)
                | Action::MakeVolumes { .. }
                | Action::RemoveVolumes { .. }
                | Action::Event(_)
                | Action::Hook(_) => {}
            }
        }
        if !changed {
            return Ok(false);
        }
    }
    Err(TestCaseError::fail(format!("no end: {:#?}", bench.words())))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whatever happens, decisions come to an end; attempts only count up; a container that should run
    /// runs, or there is a moment at which it will be looked at again, at most five minutes away.
    #[test]
    fn decisions_converge(turns in prop::collection::vec(turn(), 1..20), policy in 0usize..3) {
        let policy = ["Always", "OnFailure", "Never"][policy];
        let mut bench = Bench::with(&json!({"spec": {"restartPolicy": policy}}));
        rest(&mut bench)?;
        let mut highest = 0;
        for turn in turns {
            match turn {
                Turn::Exit(code) => {
                    let now = bench.now;
                    for own in &mut bench.observed.containers {
                        if let ContainerState::Running { started, .. } = own.state {
                            let ended = Exit { started: Some(started), finished: now, ..exit(code, 0, 0) };
                            own.state = ContainerState::Exited(ended);
                        }
                    }
                }
                Turn::Pass(seconds) => bench.now = bench.now.plus(Duration::from_secs(seconds)),
                Turn::ClockBack(seconds) => bench.now = Timestamp(bench.now.0 - seconds * 1000),
                Turn::Delete => {
                    bench.target.pods[0].pod.metadata.deletion_timestamp = Some(bench.now.to_kubernetes());
                }
                Turn::Reboot => bench.observed = Observed::default(),
                Turn::Forget => bench.observed.asked.clear(),
            }
            if rest(&mut bench)? {
                prop_assert_eq!(&bench.observed.containers, &vec![]);
                return Ok(());
            }
            let newest = bench.observed.containers.iter().map(|own| own.reference.attempt).max();
            prop_assert!(newest.is_none_or(|newest| newest >= highest), "{newest:?} after {highest}");
            highest = newest.unwrap_or(highest);
            prop_assert!(bench.observed.containers.len() <= 3);
            let runs = bench.observed.containers.iter().any(|own| matches!(own.state, ContainerState::Running { .. }));
            if policy == "Always" && !runs {
                let wake = bench.decide().wake_at;
                prop_assert!(wake.is_some_and(|at| at.since(bench.now) <= Duration::from_mins(5)), "{wake:?}");
            }
        }
    }
}
