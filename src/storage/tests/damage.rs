//! Bytes that change on the disk: found, or harmless; never wrong, never a panic.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::super::simdisk::SimDisk;
use super::super::wal::{Done, OpenError, Sizes, Wal};
use super::*;

const DIR: &str = "/device";
const SIZES: Sizes = Sizes { segment: 4 << 10, ahead: 1 << 10 };

fn wal(disk: &SimDisk) -> Result<Arc<Wal>, OpenError> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    Wal::open(&disk, Path::new(DIR), SIZES)
}

/// Batches of entries, a vote, a truncation and a purge. The last batch is entry 29.
async fn full_log() -> SimDisk {
    let disk = SimDisk::new(1);
    disk.make_dir(Path::new(DIR)).unwrap();
    let wal = wal(&disk).unwrap_or_else(|error| panic!("{error:?}"));
    let vote = openraft::Vote { leader_id: openraft::vote::RaftLeaderId::new(1, 1), committed: true };
    wal.save_vote(vote).await.unwrap();
    for index in 0..30 {
        if index == 12 {
            wal.truncate_after(Some(log_id(10))).await.unwrap();
            write(&wal, 11).await;
        }
        write(&wal, index).await;
        if index == 20 {
            wal.purge(log_id(8)).await.unwrap();
        }
    }
    disk
}

async fn write(wal: &Arc<Wal>, index: u64) {
    let (done, waiting) = TypeConfig::oneshot();
    let payload = vec![b'a' + u8::try_from(index % 26).unwrap(); 100 + usize::try_from(index).unwrap() * 17];
    let done = Done::Entries {
        flushed: IOFlushed::signal(done),
        since: tokio::time::Instant::now(),
        times: SyncTimes::default(),
    };
    wal.append(vec![(log_id(index), payload)], done).unwrap();
    waiting.await.unwrap().unwrap();
}

type Contents = (Vec<(LogId, Vec<u8>)>, Option<Vote>, (Option<LogId>, Option<LogId>));

fn contents(wal: &Wal) -> std::io::Result<Contents> {
    let entries = wal.read(0, u64::MAX, usize::MAX)?;
    Ok((entries.into_iter().map(|(id, payload)| (id, payload.to_vec())).collect(), wal.vote(), wal.bounds()))
}

fn segments(disk: &SimDisk) -> Vec<PathBuf> {
    disk.paths().into_iter().filter(|path| path.extension().is_some_and(|end| end == "wal")).collect()
}

#[tokio::test]
async fn a_changed_bit_anywhere_in_the_log_is_found() {
    let disk = full_log().await;
    let whole = contents(&wal(&disk).unwrap_or_else(|error| panic!("{error:?}"))).unwrap();
    assert_eq!(whole.0.len(), 21);
    assert!(segments(&disk).len() > 2);
    let (mut found, mut harmless) = (0, 0);
    for path in segments(&disk) {
        let length = disk.contents(&path).unwrap().len();
        for at in 0..length {
            let harmed = disk.fork();
            harmed.harm(&path, |bytes| bytes[at] ^= 1 << (at % 8)).unwrap();
            match wal(&harmed) {
                Ok(wal) => {
                    assert_eq!(contents(&wal).unwrap(), whole, "byte {at} of {}", path.display());
                    let padding = disk.contents(&path).unwrap()[at..].iter().all(|&byte| byte == 0);
                    assert!(padding, "byte {at} of {} counts, and is not checked", path.display());
                    harmless += 1;
                }
                Err(OpenError::Damaged { .. }) => found += 1,
                Err(error) => panic!("byte {at} of {}: {error:?}", path.display()),
            }
        }
    }
    println!("{found} of {} changed bits were found, {harmless} changed nothing", found + harmless);
    assert!(harmless < found, "{harmless}");
}

#[tokio::test]
async fn lost_sectors_and_ends_of_the_log_cost_no_more_than_the_last_batch() {
    let disk = full_log().await;
    let whole = contents(&wal(&disk).unwrap_or_else(|error| panic!("{error:?}"))).unwrap();
    let paths = segments(&disk);
    for (path, cut) in paths.iter().flat_map(|path| [(path, false), (path, true)]) {
        let length = disk.contents(path).unwrap().len();
        for at in (0..length).step_by(512) {
            let harmed = disk.fork();
            harmed
                .harm(path, |bytes| if cut { bytes.truncate(at) } else { bytes[at..(at + 512).min(length)].fill(0) })
                .unwrap();
            let Ok(wal) = wal(&harmed) else { continue };
            let left = contents(&wal).unwrap();
            if left == whole {
                continue;
            }
            // What a torn write of the last batch looks like too.
            assert_eq!(Some(path), paths.last(), "{} at {at}, cut {cut}", path.display());
            assert_eq!(left.0[..], whole.0[..left.0.len()], "{} at {at}, cut {cut}", path.display());
            assert!(cut || left.0.len() + 1 >= whole.0.len(), "{} at {at}: {}", path.display(), left.0.len());
            assert_eq!(left.1, whole.1);
        }
    }
}

#[tokio::test]
async fn a_segment_that_is_missing_is_found() {
    let disk = full_log().await;
    for path in &segments(&disk)[..segments(&disk).len() - 1] {
        let harmed = disk.fork();
        harmed.remove(path).unwrap();
        assert!(matches!(wal(&harmed), Err(OpenError::Damaged { .. })), "{}", path.display());
    }
}

#[tokio::test]
async fn after_a_failed_fsync_nothing_is_safe_any_more() {
    use super::super::simdisk::Failing;
    let disk = full_log().await;
    let wal = wal(&disk).unwrap_or_else(|error| panic!("{error:?}"));
    disk.set_failing(Failing::Syncs);
    let vote = openraft::Vote { leader_id: openraft::vote::RaftLeaderId::new(9, 1), committed: false };
    wal.save_vote(vote).await.unwrap_err();
    disk.set_failing(Failing::Nothing);
    let error = wal.save_vote(vote).await.unwrap_err();
    assert!(error.to_string().contains("takes no more"), "{error}");
    assert!(wal.purge(log_id(10)).await.is_err());
}

/// A state of many pages, closed.
async fn full_state() -> (SimDisk, crate::store::StateHash) {
    let sim = SimDisk::new(2);
    let disk: Arc<dyn Disk> = Arc::new(sim.clone());
    let (_log, machine) = super::super::open(&disk, Path::new(DIR)).unwrap();
    let entries: Vec<Entry> = (0..300).map(entry).collect();
    machine.state().apply(&entries).await.unwrap();
    machine.state().make_durable().await.unwrap();
    (sim, machine.state().hash().unwrap())
}

#[tokio::test]
async fn a_changed_byte_in_any_page_of_the_state_is_found_or_harmless() {
    let (disk, hash) = full_state().await;
    let path = Path::new(DIR).join("state.redb");
    let length = disk.contents(&path).unwrap().len();
    let (mut found, mut harmless, mut panics) = (0, 0, Vec::new());
    let first = (0..320).step_by(5);
    let pages = (4096..length).step_by(4096).flat_map(|page| [page + 2, page + 300, page + 4000]);
    for at in first.chain(pages).filter(|&at| at < length) {
        let harmed = disk.fork();
        harmed.harm(&path, |bytes| bytes[at] ^= 1 << (at % 7)).unwrap();
        let opened = catch_unwind(AssertUnwindSafe(|| {
            let disk: Arc<dyn Disk> = Arc::new(harmed.clone());
            super::super::open(&disk, Path::new(DIR)).map(|(_, machine)| machine.state().hash())
        }));
        match opened {
            Ok(Ok(read)) => {
                assert_eq!(read.unwrap(), hash, "byte {at}");
                harmless += 1;
            }
            Ok(Err(StorageError::Unsound { .. })) => found += 1,
            Ok(Err(error)) => panic!("byte {at}: {}", chain(&error)),
            Err(_) => panics.push(at),
        }
    }
    println!("{found} changes were found, {harmless} changed nothing, {length} bytes");
    assert!(panics.is_empty(), "redb panics at {panics:?}");
    assert!(found > 80, "{found}");
}

#[tokio::test]
async fn a_state_that_made_an_earlier_start_panic_is_not_opened_again() {
    let (disk, _) = full_state().await;
    let dyn_disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let note = disk.create(&Path::new(DIR).join("state.suspect")).unwrap();
    note.write_at(0, b"panicked at page 7").unwrap();
    let error = super::super::open(&dyn_disk, Path::new(DIR)).err().expect("the note counts");
    assert!(matches!(&error, StorageError::Unsound { reason, .. } if reason.contains("page 7")), "{error}");
    set_aside(&dyn_disk, Path::new(DIR), &error).unwrap();
    super::super::open(&dyn_disk, Path::new(DIR)).map(drop).unwrap();
}

#[tokio::test]
async fn a_log_that_does_not_fit_its_state_is_found() {
    let (disk, _) = full_state().await;
    let dyn_disk: Arc<dyn Disk> = Arc::new(disk.clone());
    // The log had no entry, so what is missing is all of it.
    for path in segments(&disk) {
        disk.remove(&path).unwrap();
    }
    let error = super::super::open(&dyn_disk, Path::new(DIR)).err().expect("the log is gone");
    let StorageError::Unsound { left, .. } = &error else { panic!("{error}") };
    assert_eq!((left.applied, left.last_entry), (Some(299), None));
    assert!(error.to_string().contains("there is no log"), "{error}");

    let aside = set_aside(&dyn_disk, Path::new(DIR), &error).unwrap();
    let folder = aside.folder.expect("there is room");
    assert!(String::from_utf8(disk.contents(&folder.join("why.txt")).unwrap()).unwrap().contains("there is no log"));
    assert!(disk.exists(&folder.join("state.redb")).unwrap());
    let (log, machine) = super::super::open(&dyn_disk, Path::new(DIR)).unwrap();
    assert_eq!(machine.state().hash().unwrap().revision, 0, "the device begins again");
    drop((log, machine));
    for _ in 0..5 {
        set_aside(&dyn_disk, Path::new(DIR), &error).unwrap();
    }
    let kept = disk.list(Path::new(DIR)).unwrap().into_iter().filter(|name| name.starts_with("damaged-"));
    assert_eq!(kept.collect::<Vec<_>>(), ["damaged-4", "damaged-5", "damaged-6"]);

    super::super::open(&dyn_disk, Path::new(DIR)).map(drop).unwrap();
    disk.set_capacity(Some(disk.used() + 1000));
    let aside = set_aside(&dyn_disk, Path::new(DIR), &error).unwrap();
    assert_eq!(aside.folder, None, "evidence never takes the room that the device needs");
}
