use proptest::prelude::*;

use super::*;

/// What happens to a fleet in a property test.
#[derive(Clone, Debug)]
enum Turn {
    Scale(u32),
    Image(u8),
    Silence(u8, u64),
    Hear(u8),
    Cordon(u8, bool),
    DropPod(u8),
    FailPod(u8),
    Later(u64),
    Delete,
}

fn turn() -> impl Strategy<Value = Turn> {
    prop_oneof![
        (0u32..8).prop_map(Turn::Scale),
        (0u8..3).prop_map(Turn::Image),
        (0u8..4, 0u64..30).prop_map(|(node, seconds)| Turn::Silence(node, seconds)),
        (0u8..4).prop_map(Turn::Hear),
        (0u8..4, any::<bool>()).prop_map(|(node, on)| Turn::Cordon(node, on)),
        any::<u8>().prop_map(Turn::DropPod),
        any::<u8>().prop_map(Turn::FailPod),
        (0u64..4000).prop_map(Turn::Later),
        Just(Turn::Delete),
    ]
}

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

fn play(stage: &mut Stage, turn: &Turn) {
    let key = Key::new(DEPLOYMENT, "default", "web");
    let name = |index: &u8| NAMES[usize::from(*index)];
    let some_pod = |stage: &Stage, index: u8| {
        let all: Vec<Key> = stage.rehearsal.fleet.pods.keys().cloned().collect();
        (!all.is_empty()).then(|| all[usize::from(index) % all.len()].clone())
    };
    let exists = stage.rehearsal.fleet.deployments.contains_key(&key);
    match turn {
        Turn::Scale(size) if exists => stage.edit(&key, |object| object["spec"]["replicas"] = json!(size)),
        Turn::Scale(size) => drop(stage.put(&deployment(*size, &template("web:0")))),
        Turn::Image(version) if exists => stage.edit(&key, |object| {
            object["spec"]["template"]["spec"]["containers"][0]["image"] = json!(format!("web:{version}"));
        }),
        Turn::Silence(node, seconds) => stage.silence(name(node), *seconds),
        Turn::Hear(node) => stage.hear(name(node)),
        Turn::Cordon(node, on) => {
            stage.edit(&Key::new(NODE, "", name(node)), |node| node["spec"] = json!({"unschedulable": on}));
        }
        Turn::DropPod(index) => {
            if let Some(pod) = some_pod(stage, *index) {
                stage.delete(&pod);
            }
        }
        Turn::FailPod(index) => {
            if let Some(pod) = some_pod(stage, *index) {
                stage.edit(&pod, |pod| pod["status"]["phase"] = json!("Failed"));
            }
        }
        Turn::Later(seconds) => stage.now = stage.now.plus(Duration::from_secs(*seconds)),
        Turn::Delete if exists => stage.delete(&key),
        Turn::Image(_) | Turn::Delete => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever happens: same view, same plan; plans come to an end; and the end is what was asked for.
    #[test]
    fn plans_repeat_and_converge(turns in prop::collection::vec(turn(), 1..12)) {
        let mut stage = Stage::with_nodes(&NAMES);
        stage.put(&deployment(3, &template("web:0")));
        for turn in &turns {
            play(&mut stage, turn);
            prop_assert_eq!(stage.plan(), stage.plan());
            let (last, steps, settled) = stage.rehearsal.settle(stage.now, true);
            prop_assert!(settled, "no end: {:#?}", steps);
            prop_assert_eq!(last.batches, vec![]);
        }
        for name in NAMES {
            stage.hear(name);
            play(&mut stage, &Turn::Cordon(u8::try_from(NAMES.iter().position(|n| *n == name).unwrap()).unwrap(), false));
        }
        stage.settle();
        let key = Key::new(DEPLOYMENT, "default", "web");
        let wanted = stage.rehearsal.fleet.deployments.get(&key)
            .map_or(0, |found| found.object.spec.as_ref().unwrap().replicas.unwrap());
        prop_assert_eq!(stage.pods().len(), usize::try_from(wanted).unwrap());
        prop_assert!(stage.pods().iter().all(|(_, pod)| pods::is_ready(pod)));
        if let Some(found) = stage.rehearsal.fleet.deployments.get(&key) {
            prop_assert_eq!(found.object.status.as_ref().unwrap().available_replicas, Some(wanted));
        }
    }

    /// No document makes the view or the plan fail.
    #[test]
    fn any_document_is_survived(body in prop::collection::vec(any::<u8>(), 0..64), kind in 0usize..7) {
        let kind = Fleet::kinds()[kind].clone();
        let document = Document { key: Key::new(kind, "default", "x"), body, created: 1, modified: 1 };
        let (fleet, _) = Fleet::from_documents([&document]);
        let _ = plan(&fleet, NOW);
    }
}
