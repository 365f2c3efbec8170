//! Fleets that are larger than the leader's followers: three voters, a few standbys, and mirrors.

use std::collections::BTreeSet;
use std::time::Duration;

use super::fleet::{Fleet, doc, member, put, within};
use crate::consensus::{Engine, Freshness, Replica};
use crate::store::Outcome;

/// Three voters and one standby; everyone else is a mirror, 32 on the first level.
async fn fleet_of(devices: u64) -> Fleet {
    let mut fleet = Fleet::new();
    fleet.standbys = 1;
    if devices > 6 {
        // So many on one thread are slow: nobody is to be elected because of that.
        fleet.profile = crate::config::Profile::Wan;
    }
    fleet.bootstrap().await;
    for _ in 1..devices {
        fleet.join().await;
    }
    fleet.voters(&[1, 2, 3]).await;
    fleet
}

fn ids(devices: u64) -> Vec<u64> {
    (1..=devices).collect()
}

/// Waits until a device reads what is current.
async fn current(engine: &Engine) {
    while engine.barrier().await != Freshness::Current {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn two_levels_of_mirrors_come_to_the_leaders_state_and_outlive_their_parents() {
    let mut fleet = fleet_of(44).await;
    let one = fleet.engine(1);
    assert!(one.status().learners.keys().eq([&4]));
    assert_eq!(one.status().mirrors.len(), 40);
    one.propose(put("a", "1")).await.unwrap();
    // A mirror of the second level writes, reads what it wrote, and reads what others wrote.
    let low = fleet.engine(44);
    assert!(low.is_mirror() && low.members().borrow().len() == 44);
    assert_eq!(low.propose(put("b", "2")).await.unwrap(), Outcome::Applied { revision: 2 });
    // The proposer waits for its own copy, but not for longer than a second.
    fleet.reaches(44, 2).await;
    assert_eq!(low.get(&doc("b")).unwrap().unwrap().body, b"2");
    one.propose(put("c", "3")).await.unwrap();
    within(10, current(&low)).await;
    assert_eq!(low.get(&doc("c")).unwrap().unwrap().body, b"3");
    assert_eq!(low.events_since(2, None).unwrap().len(), 1);
    let hash = fleet.same_state(&ids(44), Duration::from_secs(20)).await;
    assert_eq!(hash.revision, 3);

    // The parent of two of the second level, by the rule of the tree, and the standby above all.
    let placed = async {
        let parents = || (37..=44).filter_map(|id| fleet.engine(id).status().upstream).collect::<BTreeSet<u64>>();
        while parents() != (5..=12).collect() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    within(30, placed).await;
    for gone in [12, 4] {
        fleet.stop(gone).await;
        one.propose(put("after", &gone.to_string())).await.unwrap();
        let staying: Vec<u64> = ids(44).into_iter().filter(|&id| fleet.is_running(id)).collect();
        fleet.same_state(&staying, Duration::from_mins(1)).await;
    }
    fleet.stop_all().await;
}

#[tokio::test]
async fn the_leader_knows_who_below_is_silent() {
    let mut fleet = fleet_of(8).await;
    let one = fleet.engine(1);
    let silence = |id: u64| one.status().last_heard.get(&id).copied().unwrap();
    let limit = Duration::from_secs(3);
    fleet.cut(7);
    let gone = async {
        while silence(7) < limit {
            tokio::time::sleep(Duration::from_millis(50)).await;
            for id in [5, 6, 8] {
                assert!(silence(id) < limit, "mirror {id} was heard {:?} ago", silence(id));
            }
        }
    };
    within(30, gone).await;
    assert_eq!(one.status().lag.get(&8), Some(&0));
    // Cut off, it says so; back again, it is heard.
    let seven = fleet.engine(7);
    let stale = async {
        while seven.barrier().await == Freshness::Current {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    within(20, stale).await;
    fleet.heal(7);
    within(30, async {
        while silence(7) >= limit || seven.barrier().await != Freshness::Current {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    fleet.stop_all().await;
}

#[tokio::test]
async fn a_mirror_that_comes_back_takes_a_snapshot_or_goes_on_from_its_disk() {
    let mut fleet = fleet_of(8).await;
    let one = fleet.engine(1);
    let big = "x".repeat(40_000);
    fleet.stop(8).await;
    fleet.lose_power(7).await;
    one.propose(put("small", "1")).await.unwrap();
    fleet.reaches(4, 1).await;
    fleet.start(7).await;
    fleet.reaches(7, 1).await;
    for number in 0..40 {
        one.propose(put(&format!("big-{number}"), &big)).await.unwrap();
    }
    for id in 1..=7 {
        fleet.reaches(id, 41).await;
        fleet.purge(id).await;
    }
    // One has an old state, one has none at all.
    let eight = fleet.start(8).await;
    let nine = fleet.join().await;
    fleet.same_state(&ids(9), Duration::from_secs(30)).await;
    assert!(nine.events_since(0, None).is_err(), "the ring knows nothing from before a snapshot");
    let mut members = eight.members();
    within(10, async { members.wait_for(|members| members.len() == 9).await.map(drop).unwrap() }).await;
    assert!(eight.is_mirror() && nine.is_mirror());
    one.propose(put("after", "1")).await.unwrap();
    within(10, current(&nine)).await;
    fleet.same_state(&ids(9), Duration::from_secs(30)).await;
    fleet.stop_all().await;
}

#[tokio::test]
async fn mirrors_become_standbys_and_voters_and_go_back() {
    let mut fleet = fleet_of(6).await;
    let one = fleet.engine(1);
    assert!(one.status().mirrors.keys().eq([&5, &6]));
    fleet.stop(2).await;
    // The standby votes, a mirror is the standby, and the lost one waits to come back as a mirror.
    fleet.voters(&[1, 3, 4]).await;
    let settled = |learners: &'static [u64], mirrors: &'static [u64]| {
        let one = one.clone();
        async move {
            loop {
                let status = one.status();
                if status.learners.keys().eq(learners) && status.mirrors.keys().eq(mirrors) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    };
    within(30, settled(&[5], &[2, 6])).await;
    one.propose(put("a", "1")).await.unwrap();
    let two = fleet.start(2).await;
    fleet.same_state(&[1, 2, 3, 4, 5, 6], Duration::from_secs(30)).await;
    within(10, async {
        while !two.is_mirror() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(two.propose(put("b", "1")).await.unwrap(), Outcome::Applied { revision: 2 });
    // The other standby and both mirrors are needed now.
    fleet.stop(3).await;
    fleet.voters(&[1, 4, 5]).await;
    within(30, settled(&[2], &[3, 6])).await;
    fleet.same_state(&[1, 2, 4, 5, 6], Duration::from_secs(30)).await;
    fleet.stop_all().await;
}

#[tokio::test]
async fn mirrors_are_changed_and_removed_like_every_member() {
    let mut fleet = fleet_of(6).await;
    let one = fleet.engine(1);
    let five = fleet.engine(5);
    let moved = crate::identity::Member { api_port: 7, ..member(5) };
    five.update_member(5, moved.clone()).await.unwrap();
    for id in ids(6) {
        let mut members = fleet.engine(id).members();
        within(10, members.wait_for(|members| members.get(&5) == Some(&moved))).await.unwrap();
    }
    assert_eq!(five.add_member(member(6)).await.unwrap(), 6, "the same key keeps its id");
    let impostor = crate::identity::Member { key: crate::identity::DeviceKey([7; 32]), ..member(6) };
    assert!(five.add_member(impostor).await.is_err());
    one.remove_member(6).await.unwrap();
    for id in 1..=5 {
        let mut members = fleet.engine(id).members();
        within(10, members.wait_for(|members| !members.contains_key(&6))).await.unwrap();
    }
    // Nobody serves it any more.
    one.propose(put("a", "1")).await.unwrap();
    fleet.same_state(&ids(5), Duration::from_secs(10)).await;
    assert_eq!(fleet.engine(6).get(&doc("a")).unwrap(), None);
    assert_eq!(one.add_member(member(9)).await.unwrap(), 7, "ids are never handed out again");
    fleet.stop_all().await;
}

#[tokio::test]
async fn many_that_are_a_snapshot_behind_share_one() {
    let mut fleet = fleet_of(16).await;
    let one = fleet.engine(1);
    for id in 5..=16 {
        fleet.cut(id);
    }
    let big = "x".repeat(40_000);
    for number in 0..20 {
        one.propose(put(&format!("big-{number}"), &big)).await.unwrap();
    }
    for id in 1..=4 {
        fleet.reaches(id, 20).await;
        fleet.purge(id).await;
    }
    for id in 5..=16 {
        fleet.heal(id);
    }
    fleet.same_state(&ids(16), Duration::from_mins(1)).await;
    let written = |id: u64| fleet.engine(id).inner.mirroring.spool.written();
    let all: u64 = (1..=16).map(written).sum();
    assert!((1..=4).contains(&all), "{all} snapshots were written for twelve mirrors");
    // The leader is asked last: by one of them, when the others took too long on a busy machine.
    assert!(written(1) <= 1, "the leader wrote {}", written(1));
    fleet.stop_all().await;
}
