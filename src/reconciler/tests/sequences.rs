//! Pods of several containers through everything that befalls a device: what must hold at each start.

use std::time::Duration;

use proptest::prelude::*;

use super::*;

/// What happens to a pod.
#[derive(Clone, Debug)]
enum Turn {
    /// The container of this place in the pod ends, if it runs.
    End(usize, i32),
    /// Its probes find it started, and ready or not.
    Probe(usize, bool),
    /// Its liveness probe fails.
    Unhealthy(usize),
    Pass(u64),
    ClockBack(u64),
    Delete,
    Reboot,
    /// The agent restarts.
    Forget,
}

fn turn() -> impl Strategy<Value = Turn> {
    prop_oneof![
        6 => (0usize..5, 0i32..2).prop_map(|(place, code)| Turn::End(place, code)),
        4 => (0usize..5, any::<bool>()).prop_map(|(place, ready)| Turn::Probe(place, ready)),
        1 => (0usize..5).prop_map(Turn::Unhealthy),
        4 => (0u64..400).prop_map(Turn::Pass),
        1 => (0u64..100_000).prop_map(Turn::ClockBack),
        1 => Just(Turn::Delete),
        1 => Just(Turn::Reboot),
        2 => Just(Turn::Forget),
    ]
}

/// Which init containers there are (whether each is a sidecar), how many main ones, and the policy.
fn pod() -> impl Strategy<Value = Value> {
    let init = prop::collection::vec((any::<bool>(), any::<bool>()), 0..3);
    (init, 1usize..3, 0usize..3, any::<bool>()).prop_map(|(init, main, policy, hooked)| {
        let container = |name: String| json!({"name": name, "image": "web:1"});
        let probe = json!({"tcpSocket": {"port": 80}});
        let init: Vec<Value> = init
            .into_iter()
            .enumerate()
            .map(|(place, (sidecar, probed))| {
                let mut one = container(format!("i{place}"));
                if sidecar {
                    one["restartPolicy"] = json!("Always");
                    if probed {
                        one["startupProbe"] = probe.clone();
                    }
                }
                one
            })
            .collect();
        let main: Vec<Value> = (0..main)
            .map(|place| {
                let mut one = container(format!("m{place}"));
                one["livenessProbe"] = probe.clone();
                if hooked {
                    let hook = json!({"exec": {"command": ["x"]}});
                    one["lifecycle"] = json!({"postStart": hook, "preStop": hook});
                }
                one
            })
            .collect();
        let policy = ["Always", "OnFailure", "Never"][policy];
        json!({"spec": {"restartPolicy": policy, "initContainers": init, "containers": main}})
    })
}

/// Names in the order of the pod's life, and whether each is an init container that runs to its end.
fn order(bench: &Bench) -> Vec<(String, bool)> {
    let spec = bench.target.pods[0].pod.spec.as_ref().unwrap();
    super::super::roles::parts(spec)
        .iter()
        .map(|part| (part.container.name.clone(), part.role == super::super::roles::Role::Init))
        .collect()
}

fn check_start(bench: &Bench, reference: &ContainerRef) -> Result<(), TestCaseError> {
    let seen = |name: &str| -> Vec<&ObservedContainer> {
        bench.observed.containers.iter().filter(|own| own.reference.container == name).collect()
    };
    let own = seen(&reference.container);
    prop_assert!(own.iter().all(|other| matches!(other.state, ContainerState::Exited(_))), "two attempts at once");
    prop_assert!(own.iter().all(|other| other.reference.attempt < reference.attempt), "an attempt again");
    prop_assert!(bench.target.pods[0].pod.metadata.deletion_timestamp.is_none(), "started while it is deleted");
    let all = order(bench);
    let place = all.iter().position(|(name, _)| *name == reference.container).unwrap();
    for (name, runs_to_its_end) in &all[..place] {
        if !name.starts_with('i') {
            continue;
        }
        let done = |other: &ObservedContainer| matches!(&other.state, ContainerState::Exited(exit) if exit.code == 0);
        if *runs_to_its_end {
            prop_assert!(seen(name).into_iter().any(done), "{} began before {name} was done", reference.container);
        } else {
            prop_assert!(!seen(name).is_empty(), "{} began before {name} had", reference.container);
        }
    }
    Ok(())
}

/// Executes decisions until there is nothing to do; returns whether the pod was deleted.
fn rest(bench: &mut Bench) -> Result<bool, TestCaseError> {
    for _ in 0..60 {
        let decision = bench.decide();
        let now = bench.now;
        bench.observed.ending.retain(|uid, _| decision.ending.contains(uid));
        for uid in decision.ending {
            bench.observed.ending.entry(uid).or_insert(now);
        }
        let mut changed = false;
        for action in decision.actions {
            changed |= !matches!(
                action,
                Action::Event(_)
                    | Action::PrepareImage { .. }
                    | Action::PullImage(_)
                    | Action::MakeVolumes { .. }
                    | Action::RemoveVolumes { .. }
            );
            match action {
                Action::Start(spec) => {
                    check_start(bench, &spec.reference)?;
                    let state = ContainerState::Running { started: now, pid: 1 };
                    let started =
                        ObservedContainer { reference: spec.reference, image: spec.image, state, devices: Vec::new() };
                    bench.observed.containers.push(started);
                }
                Action::Hook(hook) => {
                    let key = (hook.reference, hook.kind);
                    prop_assert!(!bench.observed.hooks.contains_key(&key), "a hook twice");
                    bench.observed.hooks.insert(key, HookRun { begun: now, outcome: Some(Ok(())) });
                }
                Action::Stop { reference, .. } => {
                    bench.observed.asked.insert(reference.clone(), now);
                    let found = bench.observed.containers.iter_mut().find(|own| own.reference == reference).unwrap();
                    let exit = Exit { started: Some(now), finished: now, ..exit(143, 0, 0) };
                    found.state = ContainerState::Exited(exit);
                }
                Action::Remove(reference) => bench.observed.containers.retain(|own| own.reference != reference),
                Action::Report { object, .. } => {
                    bench.target.pods[0].pod = serde_json::from_slice(&serde_json::to_vec(&object).unwrap()).unwrap();
                }
                Action::MakeSandbox { .. } => {
                    prop_assert!(bench.observed.sandboxes.is_empty());
                    bench.observed.sandboxes.push(shelter(None));
                }
                Action::RemoveSandbox(_) => {
                    let alive = |own: &ObservedContainer| !matches!(own.state, ContainerState::Exited(_));
                    prop_assert!(!bench.observed.containers.iter().any(alive), "taken from under a container");
                    bench.observed.sandboxes.clear();
                }
                Action::DeletePod { .. } => return Ok(true),
                Action::PrepareImage { .. }
                | Action::PullImage(_)
                | Action::MakeVolumes { .. }
                | Action::RemoveVolumes { .. }
                | Action::Event(_) => {}
            }
        }
        if !changed {
            return Ok(false);
        }
    }
    Err(TestCaseError::fail(format!("no end: {:#?}", bench.words())))
}

fn befall(bench: &mut Bench, turn: &Turn) {
    let all = order(bench);
    let running = |bench: &Bench, place: usize| {
        let name = &all[place % all.len()].0;
        let mut own = bench.observed.containers.iter();
        own.find(|own| own.reference.container == *name && matches!(own.state, ContainerState::Running { .. }))
            .map(|own| own.reference.clone())
    };
    let now = bench.now;
    match turn {
        Turn::End(place, code) => {
            let Some(reference) = running(bench, *place) else { return };
            let found = bench.observed.containers.iter_mut().find(|own| own.reference == reference).unwrap();
            found.state = ContainerState::Exited(Exit { started: Some(now), finished: now, ..exit(*code, 0, 0) });
        }
        Turn::Probe(place, ready) => {
            if let Some(reference) = running(bench, *place) {
                let health = bench.observed.health.entry(reference).or_default();
                health.started = true;
                health.ready = Some(*ready);
            }
        }
        Turn::Unhealthy(place) => {
            if let Some(reference) = running(bench, *place) {
                bench.observed.health.entry(reference).or_default().failed = Some(ProbeKind::Liveness);
            }
        }
        Turn::Pass(seconds) => bench.now = now.plus(Duration::from_secs(*seconds)),
        Turn::ClockBack(seconds) => bench.now = Timestamp(now.0 - seconds * 1000),
        Turn::Delete => bench.target.pods[0].pod.metadata.deletion_timestamp = Some(now.to_kubernetes()),
        Turn::Reboot => bench.observed = Observed::default(),
        Turn::Forget => {
            let Observed { containers, sandboxes, .. } = std::mem::take(&mut bench.observed);
            bench.observed = Observed { containers, sandboxes, ..Observed::default() };
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// No container starts before those before it, none twice at once, none of a pod that is deleted or
    /// over; and decisions come to an end whatever happens.
    #[test]
    fn the_order_of_a_pod_holds_whatever_happens(pod in pod(), turns in prop::collection::vec(turn(), 1..25)) {
        let mut bench = Bench::with(&pod);
        rest(&mut bench)?;
        for turn in turns {
            befall(&mut bench, &turn);
            let over = bench.target.pods[0].pod.status.as_ref().and_then(|status| status.phase.clone());
            let over = over.filter(|phase| phase == "Succeeded" || phase == "Failed");
            let before = bench.observed.containers.len();
            if rest(&mut bench)? {
                prop_assert_eq!(&bench.observed.containers, &vec![]);
                return Ok(());
            }
            if let Some(phase) = over {
                let now = bench.target.pods[0].pod.status.as_ref().and_then(|status| status.phase.clone());
                prop_assert_eq!(now, Some(phase), "what is over stays over");
                prop_assert!(bench.observed.containers.len() <= before);
            }
        }
    }
}
