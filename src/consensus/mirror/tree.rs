//! Who serves whom: every device works it out from the replicated membership, and asks nobody. The
//! standbys stand on top (the voters, while there are none); below them come the mirrors in the
//! order of their ids, level by level, no device with more than `FAN_OUT` below it. Pure.

use std::collections::BTreeSet;

/// Mirrors that one device serves while everyone is where the rule puts it.
pub const FAN_OUT: usize = 32;

/// Other devices of the parent's level that are tried when the parent does not answer.
const SIBLINGS: usize = 2;

/// The fleet as the rule sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fleet {
    /// Members that vote.
    pub voters: BTreeSet<u64>,
    /// Standbys: members of openraft's membership that do not vote.
    pub learners: BTreeSet<u64>,
    /// Everyone else.
    pub mirrors: BTreeSet<u64>,
    /// Who leads: it serves a mirror only when nobody else can.
    pub leader: Option<u64>,
}

/// Where a mirror stands: its level, counted from 0 below the top, and its place there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seat {
    level: usize,
    place: usize,
}

/// The fleet in the order of the tree.
#[derive(Clone, Debug)]
pub struct Tree {
    top: Vec<u64>,
    mirrors: Vec<u64>,
    /// Voters that follow.
    followers: Vec<u64>,
    leader: Option<u64>,
}

impl From<&Fleet> for Tree {
    fn from(fleet: &Fleet) -> Self {
        let followers: Vec<u64> = fleet.voters.iter().copied().filter(|&id| Some(id) != fleet.leader).collect();
        let top = match (fleet.learners.is_empty(), followers.is_empty()) {
            (false, _) => fleet.learners.iter().copied().collect(),
            (true, false) => followers.clone(),
            (true, true) => fleet.voters.iter().copied().collect(),
        };
        Self { top, mirrors: fleet.mirrors.iter().copied().collect(), followers, leader: fleet.leader }
    }
}

impl Tree {
    /// Who stands on a level at a place; level `None` is the top.
    fn at(&self, level: Option<usize>, place: usize) -> Option<u64> {
        match level {
            Some(level) => self.mirrors.get(first(level, self.top.len()) + place).copied(),
            None => self.top.get(place).copied(),
        }
    }

    /// The devices that a mirror may pull from, best first: the parent, others of its level, the
    /// grandparent, then the top, the voters, and the leader last. All of them stand nearer to the
    /// leader than the mirror itself, so that no two devices ever wait for each other.
    pub fn upstreams(&self, mirror: u64) -> Vec<u64> {
        // Who is not listed yet comes below everyone who is.
        let rank = self.mirrors.partition_point(|&id| id < mirror);
        let mut found: Vec<u64> = Vec::new();
        if !self.top.is_empty() {
            let seat = seat(rank, self.top.len());
            let above = seat.level.checked_sub(1);
            let size = width(above, self.top.len());
            let parent = seat.place % size;
            found.extend(self.at(above, parent));
            // The children of one silent parent spread over its siblings.
            let child = seat.place / size;
            let sibling = |more: usize| (parent + 1 + (child + more) % (size - 1)) % size;
            found.extend((0..SIBLINGS.min(size - 1)).filter_map(|more| self.at(above, sibling(more))));
            if let Some(above) = above {
                let higher = above.checked_sub(1);
                found.extend(self.at(higher, parent % width(higher, self.top.len())));
            }
            found.extend((0..SIBLINGS).map(|more| self.top[(rank + more) % self.top.len()]));
        }
        found.extend((0..self.followers.len()).map(|more| self.followers[(rank + more) % self.followers.len()]));
        found.extend(self.leader);
        let mut seen = BTreeSet::from([mirror]);
        found.retain(|&id| seen.insert(id));
        found
    }
}

/// How many stand on a level; `None` is the top.
fn width(level: Option<usize>, top: usize) -> usize {
    let exponent = level.map_or(0, |level| level + 1);
    (0..exponent).fold(top, |width, _| width.saturating_mul(FAN_OUT))
}

/// The rank of the first mirror of a level.
fn first(level: usize, top: usize) -> usize {
    (0..level).map(|above| width(Some(above), top)).fold(0, usize::saturating_add)
}

fn seat(rank: usize, top: usize) -> Seat {
    let mut seat = Seat { level: 0, place: rank };
    while seat.place >= width(Some(seat.level), top) {
        seat.place -= width(Some(seat.level), top);
        seat.level += 1;
    }
    seat
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn level(tree: &Tree, id: u64) -> isize {
        match tree.mirrors.binary_search(&id) {
            Ok(rank) => isize::try_from(seat(rank, tree.top.len()).level).unwrap(),
            Err(_) => -1,
        }
    }

    fn upstreams(fleet: &Fleet, mirror: u64) -> Vec<u64> {
        Tree::from(fleet).upstreams(mirror)
    }

    fn fleet() -> impl Strategy<Value = Fleet> {
        let ids = proptest::collection::btree_set(1..9000u64, 2..1200);
        (ids, 1..6usize, 0..20usize).prop_map(|(ids, voters, learners)| {
            let ids: Vec<u64> = ids.into_iter().collect();
            let part = |from: usize, to: usize| ids[from.min(ids.len())..to.min(ids.len())].iter().copied().collect();
            Fleet {
                voters: part(0, voters),
                learners: part(voters, voters + learners),
                mirrors: part(voters + learners, ids.len()),
                leader: ids.first().copied(),
            }
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 200, ..ProptestConfig::default() })]

        #[test]
        fn everyone_hangs_below_someone_nearer_and_nobody_carries_too_many(fleet in fleet()) {
            let tree = Tree::from(&fleet);
            let mut children: BTreeMap<u64, usize> = BTreeMap::new();
            for &mirror in &fleet.mirrors {
                let upstreams = tree.upstreams(mirror);
                let distinct: BTreeSet<u64> = upstreams.iter().copied().collect();
                prop_assert_eq!(distinct.len(), upstreams.len());
                for &upstream in &upstreams {
                    prop_assert!(level(&tree, upstream) < level(&tree, mirror), "{} below {}", mirror, upstream);
                }
                prop_assert_eq!(upstreams.last(), fleet.leader.as_ref());
                *children.entry(upstreams[0]).or_default() += 1;
            }
            for (parent, count) in children {
                prop_assert!(count <= FAN_OUT, "{} carries {}", parent, count);
            }
        }

        #[test]
        fn the_children_of_a_silent_device_spread(fleet in fleet(), which in any::<prop::sample::Index>()) {
            prop_assume!(!fleet.mirrors.is_empty());
            let tree = Tree::from(&fleet);
            let silent = tree.upstreams(tree.mirrors[which.index(tree.mirrors.len())])[0];
            let mut more: BTreeMap<u64, usize> = BTreeMap::new();
            for &mirror in &tree.mirrors {
                let upstreams = tree.upstreams(mirror);
                if upstreams[0] == silent && upstreams.len() > 1 {
                    *more.entry(upstreams[1]).or_default() += 1;
                }
            }
            let peers = width(usize::try_from(level(&tree, silent)).ok(), tree.top.len());
            let most = if peers > 1 { FAN_OUT.div_ceil(peers - 1) } else { FAN_OUT };
            prop_assert!(more.values().all(|&count| count <= most), "{:?} of {} peers", more, peers);
        }
    }

    #[test]
    fn three_voters_and_forty_mirrors_have_two_levels_below_one_standby() {
        let fleet =
            Fleet { voters: [1, 2, 3].into(), learners: [4].into(), mirrors: (5..45).collect(), leader: Some(1) };
        assert_eq!(upstreams(&fleet, 5), [4, 2, 3, 1]);
        assert_eq!(upstreams(&fleet, 36)[0], 4);
        assert_eq!(upstreams(&fleet, 37), [5, 6, 7, 4, 2, 3, 1]);
        assert_eq!(upstreams(&fleet, 44)[0], 12);
        // One that joins is not in the membership of those whom it asks first.
        assert_eq!(upstreams(&fleet, 45)[0], 13);
    }

    #[test]
    fn a_fleet_without_standbys_hangs_below_its_followers() {
        let mut fleet = Fleet { voters: [1, 2, 3].into(), mirrors: [4, 5].into(), leader: Some(2), ..Fleet::default() };
        assert_eq!((upstreams(&fleet, 4)[0], upstreams(&fleet, 5)[0]), (1, 3));
        fleet.voters = [2].into();
        assert_eq!(upstreams(&fleet, 4), [2]);
        assert_eq!(upstreams(&Fleet::default(), 4), Vec::<u64>::new());
    }
}
