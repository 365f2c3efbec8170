//! Who leads, on real engines.

use std::time::Duration;

use super::super::Replica;
use super::fleet::{Fleet, put};
use crate::identity::{Member, Preference};

#[tokio::test]
async fn a_device_that_stops_hands_over_and_is_not_asked_again() {
    let mut fleet = Fleet::new();
    let one = fleet.bootstrap().await;
    fleet.join().await;
    fleet.join().await;
    fleet.voters(&[1, 2, 3]).await;
    let term = one.leadership().borrow().term;
    assert!(one.step_aside(Duration::from_secs(10)).await);
    let next = fleet.leader_among(&[2, 3]).await;
    assert_eq!(fleet.engine(next).leadership().borrow().term, term + 1, "one election, that nobody contested");
    // The only other one is about to stop too, so this one keeps the lead until it is gone.
    let last = if next == 2 { 3 } else { 2 };
    fleet.engine(last).set_reluctance(Some("it is cordoned".into()));
    assert!(!fleet.engine(next).step_aside(Duration::from_secs(10)).await);
    fleet.engine(last).propose(put("a", "1")).await.unwrap();
    fleet.stop_all().await;
}

#[tokio::test]
async fn a_witness_votes_carries_no_writes_and_does_not_keep_the_lead() {
    let mut fleet = Fleet::new();
    let one = fleet.bootstrap().await;
    fleet.join().await;
    let witness = fleet.join_as(|member| Member { witness: true, ..member }).await;
    fleet.voters(&[1, 2, 3]).await;
    let refused = witness.propose(put("a", "1")).await;
    assert!(matches!(refused, Err(super::ProposeError::Forbidden(_))), "{refused:?}");
    let expelled = witness.remove_member(2).await;
    assert!(matches!(expelled, Err(super::EngineError::Refused(super::Refusal::NotAllowed { .. }))), "{expelled:?}");
    one.transfer_leader(3).await.unwrap();
    fleet.leader_among(&[1, 2]).await;
    one.propose(put("a", "1")).await.unwrap();
    assert_eq!(witness.barrier().await, super::Freshness::Current);
    fleet.stop_all().await;
}

#[tokio::test]
async fn a_device_that_should_not_vote_gives_up_lead_and_vote_once_another_can_take_them() {
    let mut fleet = Fleet::new();
    let one = fleet.bootstrap().await;
    fleet.join().await;
    fleet.join().await;
    fleet.voters(&[1, 2, 3]).await;
    one.update_member(1, Member { voter: Preference::Never, ..super::member(1) }).await.unwrap();
    fleet.leader_among(&[2, 3]).await;
    fleet.join().await;
    fleet.voters(&[2, 3, 4]).await;
    let told = async {
        while one.observe(Duration::from_secs(1)).await.bench.get(&1).is_none_or(|why| !why.contains("never")) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    super::fleet::within(10, told).await;
    fleet.stop_all().await;
}

#[tokio::test]
async fn a_slow_disk_is_noticed_and_forgotten() {
    let mut fleet = Fleet::new();
    let one = fleet.bootstrap().await;
    let limit = one.inner.timing.slow_disk();
    let feel = |took: Duration| (0..64).for_each(|_| one.inner.log.sync_times().record(took));
    assert_eq!(one.willing().reluctant, None);
    feel(limit * 2);
    assert!(one.willing().reluctant.unwrap().contains("its disk takes"));
    feel(limit * 3 / 4);
    assert!(one.willing().reluctant.is_some(), "a little faster is not fast");
    feel(limit / 4);
    assert_eq!(one.willing().reluctant, None);
    feel(limit * 3 / 4);
    assert_eq!(one.willing().reluctant, None);
    fleet.stop_all().await;
}
