//! Real engines with real storage in one runtime, on a wire in memory that can be cut.

mod fleet;

use std::time::Duration;

use fleet::{Fleet, doc, put};

use super::*;

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
