//! What every decision keeps, whatever the fleet looks like.

use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn standing() -> impl Strategy<Value = Standing> {
    let silence = prop_oneof![6 => Just(0u64), 1 => Just(3), 2 => Just(60)];
    let steady = prop_oneof![
        4 => Just(Steady::Enough),
        1 => Just(Steady::For { so_far: Duration::ZERO, needed: SECOND }),
    ];
    let preference =
        prop_oneof![6 => Just(Preference::Auto), 2 => Just(Preference::Prefer), 2 => Just(Preference::Never)];
    let zone = prop_oneof![Just(""), Just("a"), Just("b"), Just("c")];
    let flags = (any::<bool>(), prop::bool::weighted(0.8), prop::bool::weighted(0.15));
    (silence, steady, preference, zone, flags).prop_map(
        |(silence, steady, preference, zone, (voter, caught_up, witness))| Standing {
            voter,
            silence: SECOND * u32::try_from(silence).unwrap(),
            caught_up,
            steady,
            preference,
            zone: zone.to_owned(),
            witness,
        },
    )
}

prop_compose! {
    fn fleets()(members in prop::collection::vec(standing(), 1..14)) -> View {
        let mut members: BTreeMap<u64, Standing> = (1..).zip(members).collect();
        // A leader votes and is heard: the first one that votes, or the first.
        let me = members.iter().find(|(_, member)| member.voter).map_or(1, |(&id, _)| id);
        if let Some(leader) = members.get_mut(&me) {
            leader.voter = true;
            leader.silence = Duration::ZERO;
            leader.caught_up = true;
        }
        View { me, members, changing: false, joint: None, alive_within: SECOND, lost_after: 6 * SECOND }
    }
}

fn apply(view: &mut View, voters: &BTreeSet<u64>) {
    for (id, member) in &mut view.members {
        member.voter = voters.contains(id);
    }
}

/// Lets another device lead that could, as an election or a hand-over would.
fn elect(view: &mut View, pick: usize) {
    let able: Vec<u64> =
        view.voters().into_iter().filter(|&id| view.alive(id) && view.members[&id].caught_up).collect();
    let moves = !able.contains(&view.me) || pick.is_multiple_of(2);
    if let Some(&next) = able.get(pick / 2 % able.len().max(1)).filter(|_| moves) {
        view.me = next;
    }
}

fn checked(view: &View) -> Result<Decision, TestCaseError> {
    let decision = decide(view);
    prop_assert_eq!(&decision, &decide(&view.clone()), "the same fleet, another decision");
    let Decision::Change { voters: new, .. } = &decision else { return Ok(decision) };
    let old = view.voters();
    prop_assert!(new.len() % 2 == 1 && new.len() <= 5, "{:?}", new);
    for voters in [&old, new] {
        let alive = voters.iter().filter(|&&id| view.alive(id)).count();
        prop_assert!(alive * 2 > voters.len(), "{:?} -> {:?}: {} alive of {:?}", old, new, alive, voters);
    }
    for id in new.difference(&old) {
        let member = &view.members[id];
        prop_assert!(view.alive(*id) && member.caught_up && member.steady == Steady::Enough, "{} is not ready", id);
        prop_assert!(member.preference != Preference::Never, "{} should never vote", id);
    }
    let witnesses = new.iter().filter(|id| view.members[id].witness).count();
    prop_assert!(witnesses * 2 < new.len(), "witnesses are in the majority: {:?}", new);
    let leader = &view.members[&view.me];
    let unwilling = leader.preference == Preference::Never || leader.witness;
    prop_assert!(new.contains(&view.me) || (unwilling && new.len() == 1), "the leader is voted out: {:?}", new);
    Ok(decision)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn every_step_is_safe_and_the_steps_come_to_an_end(fleet in fleets(), leaders in prop::collection::vec(0usize..10, 24)) {
        let mut fleet = fleet;
        let mut changes = Vec::new();
        for &pick in &leaders {
            match checked(&fleet)? {
                Decision::Change { voters, .. } => {
                    changes.push(voters.clone());
                    apply(&mut fleet, &voters);
                    if !voters.contains(&fleet.me) {
                        fleet.me = *voters.first().unwrap();
                    }
                }
                Decision::Settled | Decision::Wait { .. } => {}
            }
            elect(&mut fleet, pick);
        }
        // Whoever leads by turns, the same voters are never chosen twice, and it ends.
        let distinct: BTreeSet<_> = changes.iter().collect();
        prop_assert_eq!(distinct.len(), changes.len(), "back and forth: {:?}", changes);
        prop_assert!(changes.len() <= 8, "no end: {:?}", changes);
    }

    #[test]
    fn who_leaves_does_not_vote_and_the_rest_can_decide(fleet in fleets(), pick in 0usize..14) {
        let ids: Vec<u64> = fleet.members.keys().copied().collect();
        let leaving = ids[pick % ids.len()];
        if let Some(voters) = without(&fleet, leaving) {
            prop_assert!(!voters.contains(&leaving) && voters.len() % 2 == 1, "{:?}", voters);
            prop_assert!(fleet.works(&voters), "{:?}", voters);
        }
    }
}
