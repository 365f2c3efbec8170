//! Followers whose disk is full.

use super::fleet::{Fleet, doc, put};
use super::*;
use crate::storage::tests::TinyDisk;

#[tokio::test]
async fn a_follower_without_room_falls_behind_and_catches_up_by_itself() {
    let disk = TinyDisk::new("40m");
    let mut fleet = Fleet::new();
    fleet.place(3, disk.0.path());
    let one = fleet.bootstrap().await;
    fleet.join().await;
    let three = fleet.join().await;
    fleet.voters(&[1, 2, 3]).await;
    let one =
        if one.leadership().borrow().is_leader { one } else { fleet.engine(fleet.leader_among(&[1, 2, 3]).await) };
    assert!(one.member_id() != 3, "the first device leads until something happens");
    one.propose(put("a", "1")).await.unwrap();
    fleet.same_state(&[1, 2, 3], Duration::from_secs(10)).await;

    // As full as a disk can be: what is kept free for the state is gone too.
    let ballast = disk.0.path().join("ballast");
    while std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&ballast)
        .and_then(|mut file| std::io::Write::write_all(&mut file, &[0; 4096]))
        .is_ok()
    {}
    for round in 0..50 {
        one.propose(put("b", &round.to_string())).await.unwrap();
    }
    assert_eq!(three.failure(), None);
    assert_eq!(three.get(&doc("a")).unwrap().unwrap().body, b"1");
    assert_eq!(three.get(&doc("b")).unwrap(), None);
    assert!(three.disk_trouble().is_some_and(|why| why.contains("lamp-3")));

    std::fs::remove_file(&ballast).unwrap();
    fleet.same_state(&[1, 2, 3], Duration::from_secs(20)).await;
    assert_eq!(three.get(&doc("b")).unwrap().unwrap().body, b"49");
    fleet.stop_all().await;
}
