//! Which members stand in openraft's membership without voting: a few tens of standbys that can be
//! promoted at once. Everyone else is a mirror. Pure: it decides one step at a time; the leader
//! carries it out.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Standbys of a fleet, if its settings say nothing else.
pub const STANDBYS: usize = 16;

/// Votes that a fleet has once it is large enough: seats for them are kept besides the standbys.
const VOTES: usize = 3;

/// The fleet as its leader sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Members that vote.
    pub voters: BTreeSet<u64>,
    /// Standbys, and how long each has been silent.
    pub learners: BTreeMap<u64, Duration>,
    /// Mirrors, and how long each has been silent. One that stands among the learners too is on its
    /// way from there.
    pub mirrors: BTreeMap<u64, Duration>,
    /// How many standbys there should be.
    pub standbys: usize,
    /// A mirror that was silent longer is not made a standby.
    pub alive_within: Duration,
    /// A standby that was silent longer is replaced.
    pub lost_after: Duration,
}

/// The next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// All is as it should be, or nothing better can be had.
    Settled,
    /// Make this mirror a standby.
    Promote(u64),
    /// Make this standby a mirror.
    Demote(u64),
}

/// How many members openraft's membership should have.
pub fn seats(voters: usize, standbys: usize) -> usize {
    voters.max(VOTES) + standbys
}

/// The next step towards the right standbys.
pub fn decide(view: &View) -> Step {
    // Begun by an earlier leader, or by one whose second half failed.
    if let Some(&leaving) = view.learners.keys().find(|id| view.mirrors.contains_key(id)) {
        return Step::Demote(leaving);
    }
    let seats = seats(view.voters.len(), view.standbys);
    let taken = view.voters.len() + view.learners.len();
    let lost = view.learners.iter().filter(|&(_, &silence)| silence > view.lost_after);
    let lost: Vec<u64> = lost.map(|(&id, _)| id).collect();
    if taken > seats {
        // The lost first, then those who came last.
        let surplus = lost.first().or_else(|| view.learners.keys().next_back());
        return surplus.map_or(Step::Settled, |&id| Step::Demote(id));
    }
    if taken - lost.len() < seats {
        let able = view.mirrors.iter().find(|&(_, &silence)| silence <= view.alive_within);
        return able.map_or(Step::Settled, |(&id, _)| Step::Promote(id));
    }
    Step::Settled
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn view(voters: &[u64], learners: &[(u64, u64)], mirrors: &[(u64, u64)]) -> View {
        let silent =
            |members: &[(u64, u64)]| members.iter().map(|&(id, silent)| (id, Duration::from_secs(silent))).collect();
        View {
            voters: voters.iter().copied().collect(),
            learners: silent(learners),
            mirrors: silent(mirrors),
            standbys: 2,
            alive_within: 4 * SECOND,
            lost_after: 10 * SECOND,
        }
    }

    #[test]
    fn a_missing_standby_comes_from_the_mirrors_that_are_heard() {
        assert_eq!(decide(&view(&[1, 2, 3], &[(4, 0), (5, 0)], &[(6, 0)])), Step::Settled);
        assert_eq!(decide(&view(&[1, 2, 3], &[(4, 0)], &[(6, 60), (7, 1)])), Step::Promote(7));
        assert_eq!(decide(&view(&[1, 2, 3], &[(4, 0)], &[(6, 60)])), Step::Settled);
        // One voter for lack of others keeps the seats of three.
        assert_eq!(decide(&view(&[1], &[(4, 0), (5, 0), (6, 0), (7, 0)], &[(8, 0)])), Step::Settled);
    }

    #[test]
    fn a_lost_standby_is_replaced_and_then_mirrors() {
        let mut fleet = view(&[1, 2, 3], &[(4, 60), (5, 0)], &[(6, 0)]);
        assert_eq!(decide(&fleet), Step::Promote(6));
        fleet.mirrors.clear();
        assert_eq!(decide(&fleet), Step::Settled, "nobody is better than nothing");
        fleet.learners.insert(6, Duration::ZERO);
        assert_eq!(decide(&fleet), Step::Demote(4));
        let surplus = view(&[1, 2, 3], &[(4, 0), (5, 0), (6, 0)], &[]);
        assert_eq!(decide(&surplus), Step::Demote(6));
    }

    #[test]
    fn a_demotion_that_was_begun_is_ended() {
        assert_eq!(decide(&view(&[1, 2, 3], &[(4, 0), (5, 0)], &[(4, 0)])), Step::Demote(4));
    }

    #[test]
    fn every_fleet_comes_to_rest() {
        for (learners, mirrors) in [(0, 9), (9, 0), (3, 3), (1, 1), (0, 0)] {
            let mut fleet = view(&[1, 2, 3], &[], &[]);
            fleet.learners = (10..10 + learners).map(|id| (id, Duration::ZERO)).collect();
            fleet.mirrors = (30..30 + mirrors).map(|id| (id, Duration::ZERO)).collect();
            for _ in 0..20 {
                match decide(&fleet) {
                    Step::Settled => break,
                    Step::Promote(id) => {
                        assert!(fleet.mirrors.remove(&id).is_some());
                        fleet.learners.insert(id, Duration::ZERO);
                    }
                    Step::Demote(id) => {
                        assert!(fleet.learners.remove(&id).is_some());
                        fleet.mirrors.insert(id, Duration::ZERO);
                    }
                }
            }
            assert_eq!(decide(&fleet), Step::Settled);
            assert_eq!(fleet.learners.len() as u64, 2.min(learners + mirrors), "{learners} and {mirrors}");
        }
    }
}
