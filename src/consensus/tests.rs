//! Real engines with real storage in one runtime, on a wire in memory that can be cut.

#![expect(clippy::disallowed_methods, reason = "the tests fill disks")]

mod contact;
mod disk;
mod fleet;
mod handover;
mod identity;
mod mirrors;
mod storm;
mod wire;

use std::time::Duration;

use fleet::{Fleet, doc, member, put};

use super::*;
use crate::identity::Member;
use crate::store::{Check, Precondition};

#[tokio::test]
async fn a_single_device_writes_and_reads() {
    let mut fleet = Fleet::new();
    let one = fleet.bootstrap().await;
    let outcome = one.propose(put("a", "1")).await.unwrap();
    assert_eq!(outcome, Outcome::Applied { revision: 1 });
    assert_eq!(one.barrier().await, Freshness::Current);
    assert_eq!(one.get(&doc("a")).unwrap().unwrap().body, b"1");
    fleet.stop_all().await;
}

#[tokio::test]
async fn three_devices_replicate_and_vote() {
    let mut fleet = Fleet::new();
    let one = fleet.bootstrap().await;
    let two = fleet.join().await;
    let three = fleet.join().await;
    fleet.voters(&[1, 2, 3]).await;
    assert_eq!(one.propose(put("a", "1")).await.unwrap(), Outcome::Applied { revision: 1 });
    assert_eq!(two.propose(put("b", "2")).await.unwrap(), Outcome::Applied { revision: 2 });
    // Read-your-writes on the device that wrote, and freshness on the one that did not.
    assert_eq!(two.get(&doc("b")).unwrap().unwrap().body, b"2");
    assert_eq!(three.barrier().await, Freshness::Current);
    assert_eq!(three.get(&doc("b")).unwrap().unwrap().body, b"2");
    fleet.same_state(&[1, 2, 3], Duration::from_secs(5)).await;
    fleet.stop_all().await;
}

#[tokio::test]
async fn the_lead_passes_on_and_a_stopped_device_catches_up_from_its_disk() {
    let mut fleet = Fleet::new();
    fleet.bootstrap().await;
    fleet.join().await;
    let three = fleet.join().await;
    fleet.voters(&[1, 2, 3]).await;
    three.propose(put("a", "1")).await.unwrap();
    fleet.stop(1).await;
    let leader = fleet.leader_among(&[2, 3]).await;
    let outcome = fleet.engine(leader).propose(put("b", "2")).await.unwrap();
    assert_eq!(outcome, Outcome::Applied { revision: 2 });

    let one = fleet.start(1).await;
    fleet.reaches(1, 2).await;
    assert_eq!(one.get(&doc("a")).unwrap().unwrap().body, b"1");
    fleet.same_state(&[1, 2, 3], Duration::from_secs(5)).await;
    fleet.stop_all().await;
}

#[tokio::test]
async fn all_devices_stopped_and_one_booted_alone_serves_stale_reads_and_refuses_writes() {
    let mut fleet = Fleet::new();
    let one = fleet.bootstrap().await;
    fleet.join().await;
    fleet.join().await;
    fleet.voters(&[1, 2, 3]).await;
    one.propose(put("a", "1")).await.unwrap();
    fleet.reaches(2, 1).await;
    drop(one);
    fleet.stop_all().await;

    fleet.now = fleet.now.plus(Duration::from_hours(5));
    let two = fleet.start(2).await;
    assert_eq!(two.get(&doc("a")).unwrap().unwrap().body, b"1");
    match two.barrier().await {
        Freshness::Stale { age, why } => {
            assert_eq!(age, Duration::from_hours(5));
            assert!(why.contains("1 of 3 votes") && why.contains("silent: lamp-1, lamp-3"), "{why}");
        }
        Freshness::Current => panic!("one of three can not be current"),
    }
    match two.propose(put("b", "2")).await {
        Err(ProposeError::Unavailable { waited, why }) => {
            assert_eq!(waited, Duration::from_secs(2));
            assert!(why.contains("2 are needed") && why.contains("lamp-2 (this device)"), "{why}");
        }
        other => panic!("one of three can not write: {other:?}"),
    }
    // The others come back, and what timed out was either applied once or not at all.
    fleet.start(1).await;
    fleet.leader_among(&[1, 2]).await;
    two.propose(put("c", "3")).await.unwrap();
    assert_eq!(two.barrier().await, Freshness::Current);
    fleet.stop_all().await;
}

#[tokio::test]
async fn a_leader_that_is_cut_off_refuses_writes_while_the_majority_goes_on() {
    let mut fleet = Fleet::new();
    let one = fleet.bootstrap().await;
    fleet.join().await;
    fleet.join().await;
    fleet.voters(&[1, 2, 3]).await;
    fleet.cut(1);
    let refused = one.propose(put("lost", "1"));
    let (refused, leader) = tokio::join!(refused, fleet.leader_among(&[2, 3]));
    assert!(matches!(refused, Err(ProposeError::Unavailable { .. })), "{refused:?}");
    fleet.engine(leader).propose(put("kept", "1")).await.unwrap();
    assert!(matches!(one.barrier().await, Freshness::Stale { .. }));

    fleet.heal(1);
    fleet.reaches(1, 1).await;
    one.propose(put("after", "1")).await.unwrap();
    assert_eq!(one.barrier().await, Freshness::Current);
    let hash = fleet.same_state(&[1, 2, 3], Duration::from_secs(5)).await;
    assert!(one.get(&doc("kept")).unwrap().is_some());
    assert_eq!(hash.revision, *one.revision().borrow());
    fleet.stop_all().await;
}

#[tokio::test]
async fn lost_answers_do_not_apply_a_write_twice() {
    let mut fleet = Fleet::new();
    fleet.bootstrap().await;
    let two = fleet.join().await;
    for round in 1..=20u64 {
        fleet.weather.lock().unwrap().lose_answers = 3;
        let counted = Batch {
            checks: vec![Check { key: doc("count"), expect: expected(&two, "count") }],
            writes: put("count", &round.to_string()).writes,
        };
        // Applied twice it would be refused, for the count has moved on.
        assert_eq!(two.propose(counted).await.unwrap(), Outcome::Applied { revision: round });
    }
    fleet.stop_all().await;
}

fn expected(engine: &Engine, name: &str) -> Precondition {
    match engine.get(&doc(name)).unwrap() {
        Some(document) => Precondition::AtRevision(document.modified),
        None => Precondition::Absent,
    }
}

#[tokio::test]
async fn a_new_learner_behind_the_purged_log_gets_a_snapshot() {
    let mut fleet = Fleet::new();
    let one = fleet.bootstrap().await;
    let big = "x".repeat(40_000);
    for number in 0..40 {
        one.propose(put(&format!("big-{number}"), &big)).await.unwrap();
    }
    fleet.purge(1).await;
    let two = fleet.join().await;
    fleet.reaches(2, 40).await;
    assert_eq!(two.list("Test", Some("default")).unwrap().documents.len(), 40);
    // The ring of a device that was filled by a snapshot knows nothing from before.
    assert!(two.events_since(0, None).is_err());
    two.propose(put("after", "1")).await.unwrap();
    fleet.same_state(&[1, 2], Duration::from_secs(5)).await;

    // Its log starts behind the snapshot: it must restart from there.
    drop(two);
    fleet.stop(2).await;
    let two = fleet.start(2).await;
    fleet.same_state(&[1, 2], Duration::from_secs(5)).await;
    assert_eq!(two.events_since(41, None).unwrap(), Vec::new());
    fleet.stop_all().await;
}

#[tokio::test]
async fn a_lost_voter_is_replaced_and_two_devices_go_back_to_one_voter() {
    let mut fleet = Fleet::new();
    let one = fleet.bootstrap().await;
    for _ in 2..=4 {
        fleet.join().await;
    }
    fleet.voters(&[1, 2, 3]).await;
    fleet.stop(2).await;
    fleet.voters(&[1, 3, 4]).await;
    one.remove_member(2).await.unwrap();
    one.remove_member(3).await.unwrap();
    fleet.voters(&[1]).await;
    assert!(one.status().learners.keys().eq([&4]));
    // Ids are never handed out again.
    assert_eq!(one.add_member(member(9)).await.unwrap(), 5);
    one.propose(put("a", "1")).await.unwrap();
    fleet.stop_all().await;
}

#[tokio::test]
async fn members_are_added_changed_and_removed_through_any_device() {
    let mut fleet = Fleet::new();
    let one = fleet.bootstrap().await;
    let two = fleet.join().await;
    assert_eq!(two.add_member(member(3)).await.unwrap(), 3);
    assert_eq!(two.add_member(member(3)).await.unwrap(), 3, "the same key keeps its id");
    let impostor = Member { key: crate::identity::DeviceKey([7; 32]), ..member(3) };
    assert!(matches!(two.add_member(impostor).await, Err(EngineError::Refused(Refusal::NameTaken { .. }))));
    let moved = Member { api_port: 7, ..member(2) };
    two.update_member(2, moved.clone()).await.unwrap();
    one.members().wait_for(|members| members.get(&2) == Some(&moved)).await.unwrap();
    let meddling = two.update_member(3, Member { api_port: 7, ..member(3) }).await;
    assert!(matches!(meddling, Err(EngineError::Refused(Refusal::NotAllowed { .. }))), "{meddling:?}");
    two.remove_member(3).await.unwrap();
    two.remove_member(3).await.unwrap();
    let unknown = one.update_member(3, member(3)).await;
    assert!(matches!(unknown, Err(EngineError::Refused(Refusal::Unknown { id: 3 }))), "{unknown:?}");
    fleet.stop_all().await;
}

#[tokio::test]
async fn the_leader_leaves_and_the_last_member_stays() {
    let mut fleet = Fleet::new();
    let one = fleet.bootstrap().await;
    let two = fleet.join().await;
    one.propose(put("a", "1")).await.unwrap();
    fleet.reaches(2, 1).await;
    one.remove_member(1).await.unwrap();
    fleet.leader_among(&[2]).await;
    assert!(two.status().voters.keys().eq([&2]) && two.status().learners.is_empty());
    let last = two.remove_member(2).await;
    assert!(matches!(last, Err(EngineError::Refused(Refusal::LastMember))), "{last:?}");
    two.propose(put("b", "1")).await.unwrap();
    fleet.stop_all().await;
}

#[tokio::test]
async fn the_lead_is_handed_over_on_request() {
    let mut fleet = Fleet::new();
    let one = fleet.bootstrap().await;
    fleet.join().await;
    let three = fleet.join().await;
    fleet.voters(&[1, 2, 3]).await;
    one.transfer_leader(3).await.unwrap();
    fleet.leader_among(&[3]).await;
    one.propose(put("a", "1")).await.unwrap();
    three.transfer_leader(3).await.unwrap();
    let unknown = three.transfer_leader(8).await;
    assert!(matches!(unknown, Err(EngineError::Refused(Refusal::Unknown { id: 8 }))), "{unknown:?}");
    fleet.stop_all().await;
}

#[tokio::test]
async fn other_rooms_ask_members_and_the_leader() {
    let mut fleet = Fleet::new();
    let one = fleet.bootstrap().await;
    let two = fleet.join().await;
    let second = Duration::from_secs(1);
    assert!(two.ask(1, vec![1], second).await.is_err(), "nobody handles requests yet");
    for engine in [&one, &two] {
        let id = engine.member_id();
        engine.set_app_handler(std::sync::Arc::new(move |from, mut request| {
            request.extend([u8::try_from(id).unwrap(), from.0[7]]);
            Box::pin(async move { request })
        }));
    }
    assert_eq!(two.ask_leader(vec![9], second).await.unwrap(), [9, 1, 2]);
    assert_eq!(one.ask_leader(vec![9], second).await.unwrap(), [9, 1, 1]);
    assert_eq!(one.ask(2, vec![9], second).await.unwrap(), [9, 2, 1]);
    assert!(one.ask(8, vec![9], second).await.is_err());
    fleet.stop_all().await;
}

#[tokio::test]
async fn many_writers_on_all_devices_count_every_write_once() {
    let mut fleet = Fleet::new();
    fleet.bootstrap().await;
    fleet.join().await;
    fleet.join().await;
    fleet.voters(&[1, 2, 3]).await;
    let writers = (0..60u64).map(|writer| {
        let engine = fleet.engine(writer % 3 + 1);
        async move {
            for round in 0..5 {
                let name = format!("w-{writer}");
                let outcome = engine.propose(put(&name, &round.to_string())).await.unwrap();
                assert!(matches!(outcome, Outcome::Applied { .. }), "{outcome:?}");
                assert_eq!(engine.get(&doc(&name)).unwrap().unwrap().body, round.to_string().as_bytes());
            }
        }
    });
    fleet::within(60, futures_util::future::join_all(writers)).await;
    let hash = fleet.same_state(&[1, 2, 3], Duration::from_secs(5)).await;
    assert_eq!(hash.revision, 300);
    fleet.stop_all().await;
}

#[tokio::test]
async fn a_write_that_is_too_large_and_bytes_that_are_no_request_are_refused() {
    let mut fleet = Fleet::new();
    let one = fleet.bootstrap().await;
    let huge = one.propose(put("a", &"x".repeat(MAX_WRITE_BYTES))).await;
    assert!(matches!(huge, Err(ProposeError::TooLarge { .. })), "{huge:?}");
    one.propose(put("a", &"x".repeat(MAX_WRITE_BYTES - 1000))).await.unwrap();
    for garbage in [Vec::new(), vec![1], vec![1; 300], vec![0xff; 70_000]] {
        let answer = one.handle(member(2).key, garbage).await;
        let response = crate::store::codec::decode::<message::Answer>(&answer).unwrap().response;
        assert!(matches!(response, message::Response::Failed(_)), "{response:?}");
    }
    fleet.stop_all().await;
}

#[tokio::test]
async fn a_leader_whose_disk_fills_up_refuses_writes_and_recovers_by_itself() {
    let disk = crate::storage::tests::TinyDisk::new("40m");
    let mut fleet = Fleet::on(disk.0.path());
    let one = fleet.bootstrap().await;
    one.propose(put("a", "1")).await.unwrap();
    let ballast = disk.0.path().join("ballast");
    std::fs::write(&ballast, vec![0; 28 << 20]).unwrap();
    match one.propose(put("b", "1")).await {
        Err(ProposeError::Storage(reason)) => {
            assert!(reason.contains("lamp-1") && reason.contains("free some space"), "{reason}");
        }
        other => panic!("the disk is nearly full: {other:?}"),
    }
    assert_eq!(one.barrier().await, Freshness::Current);
    assert_eq!(one.get(&doc("a")).unwrap().unwrap().body, b"1");
    std::fs::remove_file(&ballast).unwrap();
    one.propose(put("b", "1")).await.unwrap();
    fleet.stop_all().await;
}

#[tokio::test]
async fn a_device_that_can_not_write_says_so_and_can_be_read() {
    let disk = crate::storage::tests::TinyDisk::new("40m");
    let mut fleet = Fleet::on(disk.0.path());
    let one = fleet.bootstrap().await;
    one.propose(put("a", "1")).await.unwrap();
    std::fs::write(disk.0.path().join("ballast"), vec![0; 37 << 20]).unwrap();
    // What a follower would meet: entries that come whether it has room or not.
    let written = one.inner.raft.client_write(crate::storage::Command::NextMemberId).await;
    assert!(written.is_err(), "{written:?}");
    let reason = fleet::within(10, one.failed()).await;
    assert!(reason.contains("bytes left"), "{reason}");
    assert!(matches!(one.propose(put("b", "1")).await, Err(ProposeError::Storage(_))));
    assert!(matches!(one.barrier().await, Freshness::Stale { .. }));
    assert_eq!(one.get(&doc("a")).unwrap().unwrap().body, b"1");
    assert!(one.status().failure.is_some());
    fleet.abandon();
}

#[tokio::test]
async fn a_peer_that_never_answers_delays_nobody() {
    let mut fleet = Fleet::new();
    let one = fleet.bootstrap().await;
    let two = fleet.join().await;
    fleet.join().await;
    fleet.voters(&[1, 2, 3]).await;
    fleet.weather.lock().unwrap().hangs.insert(member(3).key);
    for round in 0..50 {
        one.propose(put("a", &round.to_string())).await.unwrap();
        two.propose(put("b", &round.to_string())).await.unwrap();
    }
    assert_eq!(two.barrier().await, Freshness::Current);
    fleet.weather.lock().unwrap().hangs.clear();
    fleet.same_state(&[1, 2, 3], Duration::from_secs(10)).await;
    fleet.stop_all().await;
}

#[tokio::test]
async fn a_single_device_leads_at_once_after_a_restart() {
    let mut fleet = Fleet::new();
    let one = fleet.bootstrap().await;
    one.propose(put("a", "1")).await.unwrap();
    assert!(matches!(one.bootstrap(1, member(1)).await, Err(EngineError::AlreadyFormed)));
    drop(one);
    fleet.lose_power(1).await;
    let one = fleet.start(1).await;
    assert_eq!(one.propose(put("b", "1")).await.unwrap(), Outcome::Applied { revision: 2 });
    assert_eq!(one.get(&doc("a")).unwrap().unwrap().created, 1);
    let status = serde_json::to_value(one.status()).unwrap();
    assert_eq!((&status["leader"], &status["revision"]), (&1.into(), &2.into()), "{status}");
    fleet.stop_all().await;
}

#[tokio::test]
async fn a_device_that_votes_alone_is_its_own_quorum_however_long_nothing_is_written() {
    let mut fleet = Fleet::new();
    let one = fleet.bootstrap().await;
    one.propose(put("a", "1")).await.unwrap();
    // Nothing happens, which no event tells: longer than it takes to give up on silent voters.
    tokio::time::sleep(one.inner.timing.given_up_after() * 2).await;
    assert_eq!(one.barrier().await, Freshness::Current);
    one.propose(put("b", "1")).await.unwrap();
    fleet.stop_all().await;
}
