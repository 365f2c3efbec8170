//! Who votes. One voter while fewer than three members are able to vote (two can not outvote each
//! other, so a second voter would only add a way to stop), three from three on, five once seven
//! are there and steady. Which ones: those that prefer it, spread over zones, witnesses last. A
//! voter that is lost is replaced by a learner that is there, steady and up to date.
//!
//! Pure: it decides one step at a time and says why it does nothing; the engine on the leader
//! carries the step out. Each step keeps, of the voters before and of the voters after it, a
//! majority alive; and a change between equally many voters is only made when it makes them
//! better, so that the same fleet is never changed back and forth.

mod bench;
mod choose;
mod steady;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

pub use bench::bench;
pub use choose::without;
use choose::{Pool, Score};
pub use steady::{Steadiness, Steady};

use crate::identity::Preference;

/// A member as the leader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Whether it votes.
    pub voter: bool,
    /// How long the leader has not heard from it.
    pub silence: Duration,
    /// Whether it has nearly all of the log.
    pub caught_up: bool,
    /// Whether it was connected without a gap for as long as a new voter must be.
    pub steady: Steady,
    /// Whether it wants to vote.
    pub preference: Preference,
    /// Where it stands.
    pub zone: String,
    /// It only votes: it is never the only one, and never in the majority.
    pub witness: bool,
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

    fn alive_among(&self, voters: &BTreeSet<u64>) -> usize {
        voters.iter().filter(|&&id| self.alive(id)).count()
    }

    /// Whether these could decide something now.
    fn works(&self, voters: &BTreeSet<u64>) -> bool {
        self.alive_among(voters) * 2 > voters.len()
    }

    /// Whether a learner is there and up to date, and nobody said that it should not vote.
    fn could_vote(&self, id: u64) -> bool {
        let able = |member: &Standing| !member.voter && member.preference != Preference::Never && member.caught_up;
        self.alive(id) && self.members.get(&id).is_some_and(able)
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
    let pool = Pool::new(view, &voters, None);
    let size = pool.size();
    let Some(chosen) = pool.choose(size) else {
        return wait("no device is able to vote");
    };
    if chosen == voters {
        return idle(view, &voters, &pool);
    }
    if !view.works(&voters) {
        return wait("too few voters answer to change the voters");
    }
    if !view.works(&chosen) {
        return wait("too few of the devices that should vote answer");
    }
    let why = reason(view, &voters, &chosen);
    if chosen.len() == voters.len() {
        let better = Score::of(view, &chosen) < Score::of(view, &voters);
        if !better || view.alive_among(&chosen) < view.alive_among(&voters) {
            return idle(view, &voters, &pool);
        }
    }
    change(chosen, why)
}

/// Why nothing is changed.
fn idle(view: &View, voters: &BTreeSet<u64>, pool: &Pool<'_>) -> Decision {
    let lost = voters.iter().filter(|&&id| view.lost(id)).count();
    if lost > 0 && !view.works(voters) {
        return wait("too few voters answer to change the voters");
    }
    if lost > 0 {
        return wait("a voter is lost, and no other device is connected, steady and up to date to take its place");
    }
    if voters.iter().any(|id| view.members[id].preference == Preference::Never) && view.members.len() > 1 {
        return wait("a device that should not vote does, and nobody is able to take its place");
    }
    if voters.len() < pool.wished() {
        return wait("three devices must be connected, steady and up to date before three can vote");
    }
    Decision::Settled
}

fn reason(view: &View, old: &BTreeSet<u64>, new: &BTreeSet<u64>) -> &'static str {
    let going: Vec<u64> = old.difference(new).copied().collect();
    match (old.len(), new.len()) {
        (_, 1) if view.members.len() < 3 && old.len() > 1 => "two devices can not outvote each other: one votes",
        (2, 1) => "no third device is able to vote, and two can not outvote each other",
        (_, 3) if old.len() < 3 => "three votes survive the loss of any one device",
        (_, 5) if old.len() < 5 => "five votes survive the loss of any two devices",
        (before, after) if before > after => "fewer votes are enough for the devices that are there",
        _ if going.iter().any(|&id| view.lost(id)) => "a voter is lost, and another device takes its place",
        _ if going.iter().any(|id| view.members[id].preference == Preference::Never) => {
            "a device that should not vote makes room for another"
        }
        _ => "the votes are better placed",
    }
}

fn wait(why: &str) -> Decision {
    Decision::Wait { why: why.into() }
}

fn change(voters: BTreeSet<u64>, why: &str) -> Decision {
    Decision::Change { voters, why: why.into() }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
