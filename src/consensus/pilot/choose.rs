//! Which members make the best voters, and how many of them. It ranks; whether a change to them is
//! safe now is decided elsewhere.

use std::collections::{BTreeMap, BTreeSet};

use super::View;
use crate::identity::Preference;

/// Members able to vote from which on three do.
const THREE_FROM: usize = 3;
/// Members able to vote, connected and steady from which on five do.
const FIVE_FROM: usize = 7;
/// With fewer usable ones left, five voters go back to three. Less than [`FIVE_FROM`], so that one
/// device that comes and goes changes nothing.
const FIVE_WHILE: usize = 4;

/// How good a set of voters is; less is better. It depends on the fleet alone and not on who
/// leads: a change that lowers it is never taken back.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Score {
    lost: usize,
    never: usize,
    not_preferred: usize,
    /// Sum of the squares of the votes in each zone: the least when they are spread.
    crowding: usize,
    witnesses: usize,
}

impl Score {
    pub(super) fn of(view: &View, voters: &BTreeSet<u64>) -> Self {
        let members = || voters.iter().filter_map(|id| view.members.get(id));
        let mut zones: BTreeMap<&str, usize> = BTreeMap::new();
        for member in members() {
            *zones.entry(member.zone.as_str()).or_default() += 1;
        }
        Self {
            lost: voters.iter().filter(|&&id| view.lost(id)).count(),
            never: members().filter(|member| member.preference == Preference::Never).count(),
            not_preferred: members().filter(|member| member.preference != Preference::Prefer).count(),
            crowding: zones.values().map(|votes| votes * votes).sum(),
            witnesses: members().filter(|member| member.witness).count(),
        }
    }
}

/// Who may be a voter after the next step: the voters, and the learners that could vote now.
pub(super) struct Pool<'a> {
    view: &'a View,
    voters: &'a BTreeSet<u64>,
    leaving: Option<u64>,
    members: BTreeSet<u64>,
}

impl<'a> Pool<'a> {
    pub(super) fn new(view: &'a View, voters: &'a BTreeSet<u64>, leaving: Option<u64>) -> Self {
        // Somebody must take the place of one that leaves: then the steady are not waited for.
        let ready =
            |id: u64| view.could_vote(id) && (leaving.is_some() || view.members[&id].steady == super::Steady::Enough);
        let may = |&id: &u64| Some(id) != leaving && (voters.contains(&id) || ready(id));
        let members = view.members.keys().copied().filter(may).collect();
        Self { view, voters, leaving, members }
    }

    /// How many should vote, if all that can came.
    pub(super) fn wished(&self) -> usize {
        // Who should not vote is not counted on for growing, but neither is its vote given up for
        // nothing.
        let kept = |id: u64| self.voters.len() >= THREE_FROM && self.voters.contains(&id);
        let able =
            self.view.members.iter().filter(|&(&id, member)| {
                Some(id) != self.leaving && (member.preference != Preference::Never || kept(id))
            });
        let (witnesses, others): (Vec<_>, Vec<_>) = able.partition(|(_, member)| member.witness);
        if others.len() < 2 || others.len() + witnesses.len() < THREE_FROM {
            return 1;
        }
        let usable = self.members.iter().filter(|&&id| !self.view.lost(id)).count();
        let grown = self.voters.len() > THREE_FROM && usable >= FIVE_WHILE;
        if usable >= FIVE_FROM || grown { 5 } else { 3 }
    }

    /// How many vote after the next step: as many as wished, if there are enough of them.
    pub(super) fn size(&self) -> usize {
        let wished = self.wished();
        let witnesses = self.members.iter().filter(|id| self.view.members[id].witness).count();
        let others = self.members.len() - witnesses;
        [5, 3].into_iter().find(|&size| size <= wished && others + witnesses.min(size / 2) >= size).unwrap_or(1)
    }

    /// The best voters of this number: the leader first, because a step must not take the lead
    /// away; then one after the other the one that fits best to those before it.
    pub(super) fn choose(&self, size: usize) -> Option<BTreeSet<u64>> {
        let mut chosen = BTreeSet::new();
        let me = self.view.me;
        let alone_against_its_will = size == 1
            && self
                .view
                .members
                .get(&me)
                .is_some_and(|member| member.preference == Preference::Never || member.witness);
        if self.members.contains(&me) && !alone_against_its_will {
            chosen.insert(me);
        }
        while chosen.len() < size {
            let next = self.members.difference(&chosen).copied().filter(|&id| self.fits(id, &chosen, size));
            chosen.insert(next.min_by_key(|&id| self.rank(id, &chosen))?);
        }
        Some(chosen)
    }

    fn fits(&self, id: u64, chosen: &BTreeSet<u64>, size: usize) -> bool {
        let witnesses = chosen.iter().filter(|id| self.view.members[id].witness).count();
        !self.view.members[&id].witness || (size > 1 && witnesses < size / 2)
    }

    fn rank(&self, id: u64, chosen: &BTreeSet<u64>) -> impl Ord + use<> {
        let member = &self.view.members[&id];
        let neighbours = chosen.iter().filter(|other| self.view.members[other].zone == member.zone).count();
        (
            self.view.lost(id),
            member.preference == Preference::Never,
            member.preference != Preference::Prefer,
            neighbours,
            member.witness,
            !self.voters.contains(&id),
            !(self.view.alive(id) && member.caught_up),
            member.steady != super::Steady::Enough,
            id,
        )
    }
}

/// The voters after a member has left; `None` when nobody could vote in its place.
pub fn without(view: &View, leaving: u64) -> Option<BTreeSet<u64>> {
    let voters = view.voters();
    let pool = Pool::new(view, &voters, Some(leaving));
    let chosen = pool.choose(pool.size())?;
    // One that is alone, or that nobody hears, can not decide anything: then nobody may go.
    let able = |id: &u64| view.alive(*id) && (*id == view.me || view.members[id].caught_up);
    let working = chosen.iter().filter(|id| able(id)).count() * 2 > chosen.len();
    if working {
        return Some(chosen);
    }
    let alone = pool.choose(1)?;
    alone.iter().all(able).then_some(alone)
}
