//! Who votes. One voter while the fleet has one or two members (two can not outvote each other, so
//! a second voter would only add a way to stop), three from three members on. A voter that is lost
//! is replaced by a learner that is there and up to date. Pure: it decides one step at a time and
//! says why it does nothing; the engine on the leader carries the step out.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Voters of a fleet of three or more members.
const VOTERS: usize = 3;

/// A member as the leader sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Whether it votes.
    pub voter: bool,
    /// How long the leader has not heard from it.
    pub silence: Duration,
    /// Whether it has nearly all of the log.
    pub caught_up: bool,
}

/// The fleet as its leader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// The leader.
    pub me: u64,
    /// Everyone, the leader included.
    pub members: BTreeMap<u64, Standing>,
    /// The last membership change is not committed yet.
    pub changing: bool,
    /// A change from one set of voters to this one was begun and not ended.
    pub joint: Option<BTreeSet<u64>>,
    /// A member that was silent longer is not promoted.
    pub alive_within: Duration,
    /// A voter that was silent longer is replaced.
    pub lost_after: Duration,
}

/// What to do about the voters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// They are as they should be.
    Settled,
    /// They are not, and this is in the way.
    Wait {
        /// What is in the way.
        why: String,
    },
    /// Make these the voters.
    Change {
        /// All of them.
        voters: BTreeSet<u64>,
        /// What it is good for.
        why: String,
    },
}

impl View {
    fn alive(&self, id: u64) -> bool {
        id == self.me || self.members.get(&id).is_some_and(|member| member.silence <= self.alive_within)
    }

    fn lost(&self, id: u64) -> bool {
        id != self.me && self.members.get(&id).is_none_or(|member| member.silence > self.lost_after)
    }

    fn voters(&self) -> BTreeSet<u64> {
        self.members.iter().filter(|(_, member)| member.voter).map(|(&id, _)| id).collect()
    }

    /// Learners that could vote now, lowest id first.
    fn candidates(&self) -> impl Iterator<Item = u64> {
        self.members
            .iter()
            .filter(|&(&id, member)| !member.voter && member.caught_up && self.alive(id))
            .map(|(&id, _)| id)
    }
}

/// The next step towards the right voters.
pub fn decide(view: &View) -> Decision {
    if view.changing {
        return wait("a change of the members is under way");
    }
    if let Some(voters) = &view.joint {
        return change(voters.clone(), "end a change of voters that an earlier leader began");
    }
    let voters = view.voters();
    if !voters.contains(&view.me) {
        return wait("this leader is leaving");
    }
    if view.members.len() < VOTERS {
        if voters.len() == 1 {
            return Decision::Settled;
        }
        return change([view.me].into(), "two devices can not outvote each other: one votes");
    }
    match voters.len() {
        VOTERS => replace_lost(view, &voters),
        few if few < VOTERS => grow(view, voters),
        _ => shrink(view, voters),
    }
}

fn grow(view: &View, mut voters: BTreeSet<u64>) -> Decision {
    let missing = VOTERS - voters.len();
    let promoted: Vec<u64> = view.candidates().take(missing).collect();
    if promoted.len() == missing {
        voters.extend(promoted);
        return change(voters, "three votes survive the loss of any one device");
    }
    if voters.len() > 1 {
        return change([view.me].into(), "no third device is able to vote, and two can not outvote each other");
    }
    wait("three devices must be connected and up to date before three can vote")
}

fn replace_lost(view: &View, voters: &BTreeSet<u64>) -> Decision {
    let Some(lost) = voters.iter().copied().find(|&id| view.lost(id)) else { return Decision::Settled };
    let present = voters.iter().filter(|&&id| view.alive(id)).count();
    if present * 2 <= voters.len() {
        return wait("too few voters answer to change the voters");
    }
    let Some(successor) = view.candidates().next() else {
        return wait("a voter is lost, and no other device is connected and up to date to take its place");
    };
    let mut next = voters.clone();
    next.remove(&lost);
    next.insert(successor);
    change(next, "a voter is lost, and another device takes its place")
}

fn shrink(view: &View, mut voters: BTreeSet<u64>) -> Decision {
    let surplus = voters.len() - VOTERS;
    let mut going: Vec<u64> = voters.iter().copied().filter(|&id| id != view.me).collect();
    going.sort_by_key(|&id| (!view.lost(id), std::cmp::Reverse(id)));
    for id in going.into_iter().take(surplus) {
        voters.remove(&id);
    }
    change(voters, "three votes are enough")
}

/// The voters after a member has left; `None` when nobody could vote in its place.
pub fn without(view: &View, leaving: u64) -> Option<BTreeSet<u64>> {
    let mut voters = view.voters();
    voters.remove(&leaving);
    let anchor = if leaving == view.me {
        let staying = voters.iter().copied().filter(|&id| view.alive(id) && view.members[&id].caught_up);
        staying.chain(view.candidates().filter(|&id| id != leaving)).next()?
    } else {
        view.me
    };
    if view.members.len() - usize::from(view.members.contains_key(&leaving)) < VOTERS {
        return Some([anchor].into());
    }
    if voters.len() < VOTERS {
        let more: Vec<u64> = view.candidates().filter(|&id| id != leaving).take(VOTERS - voters.len()).collect();
        voters.extend(more);
    }
    if voters.len() < VOTERS { Some([anchor].into()) } else { Some(voters) }
}

fn wait(why: &str) -> Decision {
    Decision::Wait { why: why.into() }
}

fn change(voters: BTreeSet<u64>, why: &str) -> Decision {
    Decision::Change { voters, why: why.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Members as `id: voter/learner, present/lost, up to date or behind`.
    fn view(members: &[(u64, &str)]) -> View {
        let standing = |text: &str| Standing {
            voter: text.contains("voter"),
            silence: if text.contains("lost") { 60 * SECOND } else { Duration::ZERO },
            caught_up: !text.contains("behind"),
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

    #[test]
    fn one_or_two_members_have_one_voter() {
        assert_eq!(decide(&view(&[(1, "voter")])), Decision::Settled);
        assert_eq!(decide(&view(&[(1, "voter"), (2, "learner")])), Decision::Settled);
        assert_eq!(voters(&view(&[(1, "voter"), (2, "voter")])), Some(vec![1]));
        assert_eq!(voters(&view(&[(1, "voter"), (2, "voter lost")])), Some(vec![1]));
    }

    #[test]
    fn three_members_vote_once_all_are_there_and_up_to_date() {
        assert_eq!(voters(&view(&[(1, "voter"), (2, "learner"), (3, "learner")])), Some(vec![1, 2, 3]));
        for third in ["learner lost", "learner behind"] {
            let waiting = decide(&view(&[(1, "voter"), (2, "learner"), (3, third)]));
            assert!(matches!(waiting, Decision::Wait { .. }), "{third}: {waiting:?}");
        }
        assert_eq!(voters(&view(&[(1, "voter"), (2, "voter"), (3, "learner lost")])), Some(vec![1]));
        assert_eq!(voters(&view(&[(1, "voter"), (2, "voter"), (3, "learner")])), Some(vec![1, 2, 3]));
    }

    #[test]
    fn a_lost_voter_is_replaced_while_quorum_holds() {
        let mut fleet = view(&[(1, "voter"), (2, "voter lost"), (3, "voter"), (4, "learner behind"), (5, "learner")]);
        assert_eq!(voters(&fleet), Some(vec![1, 3, 5]));
        fleet.members.remove(&5);
        assert!(matches!(decide(&fleet), Decision::Wait { .. }));
        let no_quorum = view(&[(1, "voter"), (2, "voter lost"), (3, "voter lost"), (4, "learner")]);
        assert!(matches!(decide(&no_quorum), Decision::Wait { .. }));
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
        assert!(matches!(decide(&fleet), Decision::Wait { .. }));
        fleet.changing = false;
        fleet.joint = Some([1, 3].into());
        assert_eq!(voters(&fleet), Some(vec![1, 3]));
    }

    #[test]
    fn more_than_three_shrink_and_the_lost_go_first() {
        let fleet = view(&[(1, "voter"), (2, "voter lost"), (3, "voter"), (4, "voter")]);
        assert_eq!(voters(&fleet), Some(vec![1, 3, 4]));
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
}
