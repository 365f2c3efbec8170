use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// Members as `id: voter/learner, lost, behind, new, never/prefer, witness, zone=x`.
fn view(members: &[(u64, &str)]) -> View {
    let standing = |text: &str| Standing {
        voter: text.contains("voter"),
        silence: if text.contains("lost") { 60 * SECOND } else { Duration::ZERO },
        caught_up: !text.contains("behind"),
        steady: if text.contains("new") {
            Steady::For { so_far: Duration::ZERO, needed: SECOND }
        } else {
            Steady::Enough
        },
        preference: match text {
            _ if text.contains("never") => Preference::Never,
            _ if text.contains("prefer") => Preference::Prefer,
            _ => Preference::Auto,
        },
        zone: text.split_once("zone=").map_or_else(String::new, |(_, zone)| zone.to_owned()),
        witness: text.contains("witness"),
    };
    View {
        me: 1,
        members: members.iter().map(|&(id, text)| (id, standing(text))).collect(),
        changing: false,
        joint: None,
        alive_within: SECOND,
        lost_after: 6 * SECOND,
    }
}

fn voters(view: &View) -> Option<Vec<u64>> {
    match decide(view) {
        Decision::Change { voters, .. } => Some(voters.into_iter().collect()),
        Decision::Settled | Decision::Wait { .. } => None,
    }
}

fn waits(view: &View) -> bool {
    matches!(decide(view), Decision::Wait { .. })
}

#[test]
fn one_or_two_members_have_one_voter() {
    assert_eq!(decide(&view(&[(1, "voter")])), Decision::Settled);
    assert_eq!(decide(&view(&[(1, "voter"), (2, "learner")])), Decision::Settled);
    assert_eq!(voters(&view(&[(1, "voter"), (2, "voter")])), Some(vec![1]));
    assert_eq!(decide(&view(&[(1, "voter"), (2, "learner lost")])), Decision::Settled);
}

#[test]
fn three_members_vote_once_all_are_there_steady_and_up_to_date() {
    assert_eq!(voters(&view(&[(1, "voter"), (2, "learner"), (3, "learner")])), Some(vec![1, 2, 3]));
    for third in ["learner lost", "learner behind", "learner new"] {
        assert!(waits(&view(&[(1, "voter"), (2, "learner"), (3, third)])), "{third}");
    }
    assert_eq!(voters(&view(&[(1, "voter"), (2, "voter"), (3, "learner lost")])), Some(vec![1]));
    assert_eq!(voters(&view(&[(1, "voter"), (2, "voter"), (3, "learner")])), Some(vec![1, 2, 3]));
}

#[test]
fn a_second_voter_without_which_nothing_is_decided_can_not_be_dropped() {
    // Two votes, one of them lost: the leader alone can not change anything.
    assert!(waits(&view(&[(1, "voter"), (2, "voter lost")])));
}

#[test]
fn a_lost_voter_is_replaced_while_quorum_holds() {
    let mut fleet = view(&[(1, "voter"), (2, "voter lost"), (3, "voter"), (4, "learner behind"), (5, "learner")]);
    assert_eq!(voters(&fleet), Some(vec![1, 3, 5]));
    fleet.members.remove(&5);
    assert!(waits(&fleet));
    assert!(waits(&view(&[(1, "voter"), (2, "voter lost"), (3, "voter lost"), (4, "learner")])));
}

#[test]
fn a_voter_that_is_only_late_stays() {
    let mut fleet = view(&[(1, "voter"), (2, "voter"), (3, "voter"), (4, "learner")]);
    if let Some(late) = fleet.members.get_mut(&2) {
        late.silence = 3 * SECOND;
    }
    assert_eq!(decide(&fleet), Decision::Settled);
}

#[test]
fn one_change_at_a_time_and_a_begun_one_is_ended() {
    let mut fleet = view(&[(1, "voter"), (2, "learner"), (3, "learner")]);
    fleet.changing = true;
    assert!(waits(&fleet));
    fleet.changing = false;
    fleet.joint = Some([1, 3].into());
    assert_eq!(voters(&fleet), Some(vec![1, 3]));
}

#[test]
fn an_even_number_shrinks_and_the_lost_go_first() {
    let fleet = view(&[(1, "voter"), (2, "voter lost"), (3, "voter"), (4, "voter"), (5, "learner behind")]);
    assert_eq!(voters(&fleet), Some(vec![1, 3, 4]));
}

#[test]
fn five_vote_from_seven_steady_devices_on_and_while_four_of_them_are_left() {
    let of = |count: u64, votes: u64, lost: &[u64]| {
        let text = |id: u64| {
            format!(
                "{} {}",
                if id <= votes { "voter" } else { "learner" },
                if lost.contains(&id) { "lost" } else { "" }
            )
        };
        let members: Vec<(u64, String)> = (1..=count).map(|id| (id, text(id))).collect();
        view(&members.iter().map(|(id, text)| (*id, text.as_str())).collect::<Vec<_>>())
    };
    assert_eq!(decide(&of(6, 3, &[])), Decision::Settled);
    assert_eq!(voters(&of(7, 3, &[])), Some(vec![1, 2, 3, 4, 5]));
    assert_eq!(decide(&of(7, 3, &[7])), Decision::Settled, "seven must be there");
    assert_eq!(decide(&of(5, 5, &[])), Decision::Settled, "five stay");
    assert_eq!(voters(&of(7, 5, &[2])), Some(vec![1, 3, 4, 5, 6]));
    assert!(waits(&of(5, 5, &[2])), "four of five are as good as three");
    assert_eq!(voters(&of(5, 5, &[2, 3])), Some(vec![1, 4, 5]), "three of three can lose one, three of five none");
    assert!(waits(&of(5, 5, &[2, 3, 4])));
}

#[test]
fn votes_are_spread_over_zones() {
    let fleet = [
        (1, "voter zone=a"),
        (2, "learner zone=a"),
        (3, "learner zone=a"),
        (4, "learner zone=b"),
        (5, "learner zone=c"),
    ];
    assert_eq!(voters(&view(&fleet)), Some(vec![1, 4, 5]));
    let crowded = [(1, "voter zone=a"), (2, "voter zone=a"), (3, "voter zone=b"), (4, "learner zone=c")];
    assert_eq!(voters(&view(&crowded)), Some(vec![1, 3, 4]));
    let spread = [(1, "voter zone=a"), (3, "voter zone=b"), (4, "voter zone=c"), (2, "learner zone=a")];
    assert_eq!(decide(&view(&spread)), Decision::Settled);
    let two_zones = [(1, "voter zone=a"), (2, "voter zone=a"), (3, "voter zone=b"), (4, "learner zone=b")];
    assert_eq!(decide(&view(&two_zones)), Decision::Settled, "another two to one is no better");
}

#[test]
fn labels_decide_before_zones() {
    let fleet = [(1, "voter"), (2, "voter"), (3, "voter never"), (4, "learner new")];
    assert!(waits(&view(&fleet)), "nobody can take its place yet");
    let fleet = [(1, "voter"), (2, "voter"), (3, "voter never"), (4, "learner")];
    assert_eq!(voters(&view(&fleet)), Some(vec![1, 2, 4]));
    assert!(waits(&view(&[(1, "voter"), (2, "voter"), (3, "voter never")])), "three votes are not given up for it");
    assert_eq!(decide(&view(&[(1, "voter"), (2, "learner"), (3, "learner never")])), Decision::Settled);
    assert_eq!(voters(&view(&[(1, "voter never"), (2, "learner")])), Some(vec![2]));
    let fleet = [(1, "voter zone=a"), (2, "voter zone=b"), (3, "voter zone=c"), (4, "learner prefer zone=a")];
    let Some(better) = voters(&view(&fleet)) else { panic!("a preferred device does not vote") };
    assert!(better.contains(&4) && better.contains(&1));
}

#[test]
fn two_devices_and_a_witness_have_three_votes_and_a_witness_never_one_alone() {
    assert_eq!(voters(&view(&[(1, "voter"), (2, "learner"), (3, "learner witness")])), Some(vec![1, 2, 3]));
    assert_eq!(decide(&view(&[(1, "voter"), (2, "learner witness"), (3, "learner witness")])), Decision::Settled);
    assert_eq!(decide(&view(&[(1, "voter"), (2, "voter"), (3, "voter witness")])), Decision::Settled);
    // With three full devices nobody needs the witness, unless it stands elsewhere.
    let three = [(1, "voter"), (2, "voter"), (3, "voter witness"), (4, "learner")];
    assert_eq!(voters(&view(&three)), Some(vec![1, 2, 4]));
    let elsewhere = [(1, "voter zone=a"), (2, "voter zone=b"), (3, "voter witness zone=c"), (4, "learner zone=b")];
    assert_eq!(decide(&view(&elsewhere)), Decision::Settled);
    // Not two witnesses of three.
    let mut fleet = view(&[(1, "voter"), (2, "voter lost"), (3, "voter witness"), (4, "learner witness")]);
    assert!(waits(&fleet));
    fleet.me = 3;
    assert!(waits(&fleet));
    assert_eq!(without(&view(&[(1, "voter"), (2, "voter"), (3, "voter witness")]), 2), Some([1].into()));
    assert_eq!(without(&view(&[(1, "voter"), (2, "learner witness")]), 1), None);
}

#[test]
fn leaving_keeps_the_number_of_voters_odd() {
    let four = view(&[(1, "voter"), (2, "voter"), (3, "voter"), (4, "learner")]);
    assert_eq!(without(&four, 2), Some([1, 3, 4].into()));
    assert_eq!(without(&four, 4), Some([1, 2, 3].into()));
    assert_eq!(without(&four, 1), Some([2, 3, 4].into()));
    let three = view(&[(1, "voter"), (2, "voter"), (3, "voter")]);
    assert_eq!(without(&three, 3), Some([1].into()));
    assert_eq!(without(&three, 1), Some([2].into()));
    let two = view(&[(1, "voter"), (2, "learner")]);
    assert_eq!(without(&two, 1), Some([2].into()));
    assert_eq!(without(&view(&[(1, "voter"), (2, "learner lost")]), 1), None);
}

#[test]
fn everyone_without_a_vote_is_told_why() {
    let fleet = view(&[
        (1, "voter"),
        (2, "voter"),
        (3, "voter"),
        (4, "learner never"),
        (5, "learner lost"),
        (6, "learner behind"),
        (7, "learner new"),
        (8, "learner"),
    ]);
    let told: Vec<String> = (4..=8).map(|id| bench(&fleet, id).unwrap()).collect();
    let parts = ["kith.dev/voter=never", "not heard for 60 s", "catching up", "a voter must stay 1 s", "ready to take"];
    for (text, part) in told.iter().zip(parts) {
        assert!(text.contains(part), "{text}");
    }
    assert_eq!(bench(&fleet, 1), None);
}
