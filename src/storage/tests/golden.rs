//! Bytes that a release wrote and the next ones must read. A file under `tests/golden/` never
//! changes; a format that changes gets a new version and a new file. `KITH_GOLDEN=write` makes those that are
//! missing.

use std::net::SocketAddr;

use super::super::simdisk::SimDisk;
use super::super::wal::{Done, Sizes, Wal};
use super::*;
use crate::identity::{DeviceKey, Member};
use crate::store::{Check, Document, Outcome, Precondition, codec};

fn golden(name: &str, bytes: &[u8]) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if !path.exists() && std::env::var("KITH_GOLDEN").is_ok_and(|how| how == "write") {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
    }
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}: KITH_GOLDEN=write makes it", path.display()))
}

#[allow(clippy::needless_update, reason = "fields that come later have a default")]
fn member() -> Member {
    Member {
        name: "lamp-1".into(),
        key: DeviceKey([7; 32]),
        sealing_key: [9; 32],
        addresses: vec![SocketAddr::from(([192, 0, 2, 1], 7440)), "[2001:db8::1]:7440".parse().unwrap()],
        api_port: 6443,
        ..Member::default()
    }
}

fn commands() -> Vec<Command> {
    let key = Key::new("Test", "home", "one");
    let checks = [Precondition::Absent, Precondition::Present, Precondition::AtRevision(300)];
    let batch = Batch {
        checks: checks.map(|expect| Check { key: key.clone(), expect }).to_vec(),
        writes: vec![Write::Put { key: key.clone(), body: b"{}".to_vec() }, Write::Delete { key }],
    };
    vec![
        Command::Txn(Txn { client: 1 << 40, sequence: 2, settled: 1, at: Timestamp(1_700_000_000_000), batch }),
        Command::NextMemberId,
    ]
}

#[test]
fn values_are_read_and_written_as_before() {
    let commands = codec::encode(&commands()).unwrap();
    assert_eq!(golden("commands.bin", &commands), commands);
    assert_eq!(codec::decode::<Vec<Command>>(&commands).unwrap(), self::commands());

    let members = codec::encode(&member()).unwrap();
    assert_eq!(golden("member.bin", &members), members);
    assert_eq!(codec::decode::<Member>(&members).unwrap(), member());

    let replies = vec![Reply::Nothing, Reply::MemberId(9), Reply::Outcome(Outcome::Applied { revision: 77 })];
    let bytes = codec::encode(&replies).unwrap();
    assert_eq!(golden("replies.bin", &bytes), bytes);

    let document =
        Document { key: Key::new("Test", "home", "one"), body: b"{\"a\":1}".to_vec(), created: 3, modified: 9 };
    let value = super::super::keys::encode_value(&document);
    assert_eq!(golden("document.bin", &value), value);
    assert_eq!(super::super::keys::decode_value(document.key.clone(), &value), Some(document));
}

#[tokio::test]
async fn a_log_is_read_and_written_as_before() {
    seed_randomness(1);
    let sim = SimDisk::new(1);
    let disk: Arc<dyn Disk> = Arc::new(sim.clone());
    let dir = Path::new("/log");
    disk.make_dir(dir).unwrap();
    let sizes = Sizes { segment: 8192, ahead: 512 };
    let open = |disk: &Arc<dyn Disk>| Wal::open(disk, dir, sizes).unwrap_or_else(|error| panic!("{error:?}"));
    let wal = open(&disk);
    let vote = openraft::Vote { leader_id: openraft::vote::RaftLeaderId::new(3, 1), committed: true };
    wal.save_vote(vote).await.unwrap();
    for index in 0..4 {
        let (done, waiting) = TypeConfig::oneshot();
        let (since, times) = (tokio::time::Instant::now(), SyncTimes::default());
        let entries = vec![(log_id(index), vec![u8::try_from(index).unwrap(); 20])];
        wal.append(entries, Done::Entries { flushed: IOFlushed::signal(done), since, times }).unwrap();
        waiting.await.unwrap().unwrap();
    }
    wal.commit(log_id(2));
    wal.truncate_after(Some(log_id(2))).await.unwrap();
    wal.purge(log_id(0)).await.unwrap();
    let path = dir.join("0000000001.wal");
    let written = sim.contents(&path).unwrap();
    let known = golden("log-1.wal", &written);
    assert!(known == written, "the bytes of a log changed: a new version and a new file");

    let other = SimDisk::new(2);
    other.make_dir(dir).unwrap();
    other.create(&path).unwrap();
    other.harm(&path, |bytes| *bytes = known).unwrap();
    let disk: Arc<dyn Disk> = Arc::new(other);
    let wal = open(&disk);
    assert_eq!(wal.vote(), Some(vote));
    assert_eq!(wal.committed(), Some(log_id(2)));
    assert_eq!(wal.bounds(), (Some(log_id(2)), Some(log_id(0))));
    let entries = wal.read(0, 9, usize::MAX).unwrap();
    assert_eq!(entries.iter().map(|(id, bytes)| (id.index, bytes[0])).collect::<Vec<_>>(), [(1, 1), (2, 2)]);
}

#[tokio::test]
async fn a_snapshot_is_read_and_written_as_before() {
    let folder = tempfile::tempdir().unwrap();
    let (_log, mut machine) = open(folder.path()).unwrap();
    machine.state().apply(&(0..5).map(entry).collect::<Vec<_>>()).await.unwrap();
    let (meta, bytes) = spooled(&mut machine).await;
    let known = golden("snapshot.bin", &bytes);
    assert!(known == bytes, "the bytes of a snapshot changed: a new version and a new file");
    let other = tempfile::tempdir().unwrap();
    let (_log, mut to) = open(other.path()).unwrap();
    to.install_snapshot(&meta, incoming(&to, &known).await.unwrap()).await.unwrap();
    assert_eq!(to.state().hash().unwrap(), model(5).hash());
}
