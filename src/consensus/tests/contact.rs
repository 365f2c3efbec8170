//! Contact that a device and its leader count from, on real engines.

use std::time::Duration;

use super::fleet::{Fleet, put, within};
use crate::consensus::Replica;

const PATIENCE: Duration = Duration::from_secs(3);

#[tokio::test]
async fn a_device_speaks_with_a_leader_that_a_quorum_follows_and_with_no_other() {
    let mut fleet = Fleet::new();
    let one = fleet.bootstrap().await;
    let two = fleet.join().await;
    let three = fleet.join().await;
    fleet.voters(&[1, 2, 3]).await;
    one.propose(put("a", "1")).await.unwrap();
    assert!(one.speak(PATIENCE).await, "a leader speaks with itself");
    assert!(two.speak(PATIENCE).await && three.speak(PATIENCE).await);
    let before = one.asked()[&2];
    assert!(before < PATIENCE && one.asked().contains_key(&3), "{:?}", one.asked());
    assert!(!two.asked().contains_key(&1), "nobody asked one that does not lead");

    // Others are asked for what is current too; what the leader counts from is the question.
    let asked = || one.asked()[&2];
    tokio::time::sleep(before.max(Duration::from_millis(50))).await;
    let earlier = asked();
    assert!(two.speak(PATIENCE).await);
    assert!(asked() < earlier, "a question moves it");

    fleet.cut(2);
    assert!(!two.speak(Duration::from_millis(500)).await);
    let silent = asked();
    assert!(!two.speak(Duration::from_millis(200)).await);
    assert!(asked() > silent, "a question that did not come moves nothing");

    // A leader without a quorum answers, but gives nothing to count from: nor to itself.
    fleet.cut(3);
    assert!(!one.speak(Duration::from_millis(500)).await);
    fleet.heal(2);
    fleet.heal(3);
    within(20, async { while !two.speak(PATIENCE).await {} }).await;
    fleet.stop_all().await;
}
