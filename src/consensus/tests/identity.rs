//! Epochs, runs, fences, and being let in again.

use super::fleet::{Fleet, doc, member, put, within};
use crate::consensus::{Engine, Presence, Record, Replica, Roll, Verdict};
use crate::identity::{Epoch, Run, Stamp};
use crate::storage::Seat;

fn run(starts: u64, nonce: u64) -> Run {
    Run { starts, nonce }
}

fn presence(epoch: u64, run: Run) -> Presence {
    Presence { stamp: Stamp { epoch: Epoch(epoch << 32), run }, verdict: Verdict::Clear }
}

async fn three(fleet: &mut Fleet) -> Engine {
    for id in 1..=3 {
        fleet.presence.insert(id, presence(1, run(1, id)));
    }
    let one = fleet.bootstrap().await;
    fleet.join().await;
    fleet.join().await;
    fleet.voters(&[1, 2, 3]).await;
    one
}

async fn becomes(engine: &Engine, what: &str, wanted: impl Fn(&Verdict) -> bool) {
    let mut verdict = engine.verdict();
    let reached = within(20, verdict.wait_for(|now| wanted(now))).await;
    assert!(reached.is_ok(), "{what}");
}

#[tokio::test]
async fn a_survivor_goes_on_alone_with_its_whole_log_and_the_others_are_fenced() {
    let mut fleet = Fleet::new();
    let one = three(&mut fleet).await;
    one.propose(put("a", "1")).await.unwrap();
    fleet.reaches(2, 1).await;
    drop(one);
    fleet.stop(1).await;
    fleet.stop(3).await;

    // Two has one more entry that no quorum acknowledged: the others might have promised it.
    let two = fleet.engine(2);
    two.shutdown().await.unwrap();
    let alone = tempfile::tempdir().unwrap();
    let seat = Seat { id: Some(2), member: member(2) };
    assert_eq!(two.reseat(alone.path(), seat).await.unwrap(), 2);
    let before = two.status();
    drop(two);
    fleet.forget(2);
    fleet.place(2, alone.path());
    fleet.presence.insert(2, presence(2, run(2, 2)));
    let two = fleet.start(2).await;
    fleet.leader_among(&[2]).await;
    assert!(two.status().last_log >= before.last_log && two.status().term > before.term);
    assert_eq!(two.get(&doc("a")).unwrap().unwrap().body, b"1");
    two.propose(put("b", "2")).await.unwrap();

    // The others come back together, and could outvote it in the old epoch.
    for id in [1, 3] {
        fleet.presence.insert(id, presence(1, run(2, id)));
    }
    let one = fleet.start(1).await;
    let three = fleet.start(3).await;
    for old in [&one, &three] {
        becomes(old, "it learns of the new epoch", |now| *now == Verdict::OldEpoch { current: Epoch(2 << 32) }).await;
        assert!(old.propose(put("old", "1")).await.is_err());
    }
    two.propose(put("c", "3")).await.unwrap();
    assert_eq!(*two.verdict().borrow(), Verdict::Clear);
    assert!(two.status().voters.keys().eq([&2]));
    assert!(one.get(&doc("b")).unwrap().is_none(), "nothing of the new epoch reaches the old one");
    fleet.stop_all().await;
}

#[tokio::test]
async fn a_device_without_its_log_comes_back_as_a_new_member_in_one_change() {
    let mut fleet = Fleet::new();
    let one = three(&mut fleet).await;
    one.propose(put("a", "1")).await.unwrap();
    fleet.stop(3).await;
    let again = one.readmit(None, member(3)).await.unwrap();
    assert_eq!(again, 4, "ids are never handed out twice");
    let members = one.members().borrow().clone();
    assert!(members.keys().eq([&1, &2, &4]) && members[&4] == member(3));
    fleet.stand_in(4, 3);
    fleet.presence.insert(4, presence(1, run(2, 3)));
    let back = fleet.start(4).await;
    fleet.reaches(4, 1).await;
    fleet.voters(&[1, 2, 4]).await;
    assert_eq!(back.get(&doc("a")).unwrap().unwrap().body, b"1");

    // Its place can also be taken by a device with another key, and by name only then.
    fleet.stop(4).await;
    let other = crate::identity::Member { name: member(3).name, ..member(9) };
    assert!(one.readmit(None, other.clone()).await.is_err());
    assert_eq!(one.readmit(Some(4), other).await.unwrap(), 5);
    assert!(one.members().borrow().keys().eq([&1, &2, &5]));
    fleet.stop_all().await;
}

#[tokio::test]
async fn an_older_image_neither_votes_nor_acknowledges() {
    let mut fleet = Fleet::new();
    let one = three(&mut fleet).await;
    let old = tempfile::tempdir().unwrap();
    fleet.stop(3).await;
    crate::storage::tests::copy(&fleet.dir(3), old.path());
    fleet.presence.insert(3, presence(1, run(5, 55)));
    fleet.start(3).await;
    for number in 0..5 {
        one.propose(put("a", &number.to_string())).await.unwrap();
    }
    fleet.reaches(3, 5).await;
    let roll: Roll = (1..=3)
        .map(|id| (id, Record { run: run(if id == 3 { 5 } else { 1 }, if id == 3 { 55 } else { id }), fenced: None }))
        .collect();
    for id in 1..=3 {
        fleet.engine(id).set_roll(roll.clone());
    }
    fleet.stop(3).await;

    fleet.place(3, old.path());
    fleet.presence.insert(3, presence(1, run(4, 44)));
    let image = fleet.start(3).await;
    becomes(&image, "it hears of the later run", |now| *now == Verdict::OldRun { recorded: run(5, 55) }).await;
    one.propose(put("b", "1")).await.unwrap();
    assert!(*image.revision().borrow() < 5, "the leader wrote to an older image");

    // Without its vote there is no quorum.
    fleet.stop(2).await;
    assert!(one.propose(put("c", "1")).await.is_err(), "an older image acknowledged a write");
    assert!(!image.leadership().borrow().is_leader);
    fleet.stop_all().await;
}

#[tokio::test]
async fn a_fenced_leader_stops_at_once_and_the_others_go_on() {
    let mut fleet = Fleet::new();
    let one = three(&mut fleet).await;
    one.propose(put("a", "1")).await.unwrap();
    let fence = Record { run: run(1, 1), fenced: Some("two of it".into()) };
    for id in 1..=3 {
        fleet.engine(id).set_roll([(1, fence.clone())].into());
    }
    assert!(one.propose(put("b", "1")).await.is_err());
    let leader = fleet.leader_among(&[2, 3]).await;
    fleet.engine(leader).propose(put("c", "1")).await.unwrap();
    assert!(one.get(&doc("c")).unwrap().is_none());
    fleet.stop_all().await;
}

#[tokio::test]
async fn a_device_that_nobody_reaches_any_more_says_hello_and_is_told_who_belongs() {
    let mut fleet = Fleet::new();
    three(&mut fleet).await;
    let three = fleet.engine(3);
    // Its own packets alone arrive, and nobody asks it or tells it anything for them: as after years.
    fleet.weather.lock().unwrap().strangers.insert(member(3).key);
    let known = within(20, async {
        let mut vouched = three.vouched();
        vouched.wait_for(|members| members.len() == 3).await.map(|members| members.clone())
    });
    assert!(known.await.is_ok());
    fleet.weather.lock().unwrap().strangers.clear();
    fleet.stop_all().await;
}
