#![expect(clippy::disallowed_methods, reason = "the tests harm files on purpose")]

use std::fs;
use std::path::PathBuf;

use openraft::StorageError as RaftStorageError;
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, RaftLogStorage, RaftStateMachine};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::TypeConfigExt;
use openraft::{EntryPayload, RaftLogReader, RaftSnapshotBuilder};
use tempfile::TempDir;

use super::*;
use crate::resource::Timestamp;
use crate::store::memory::Memory;
use crate::store::{Batch, Key, Txn, Write};

/// Opens a folder of this machine's disk.
fn open(dir: &Path) -> Result<(Log, Machine), StorageError> {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    super::open(&disk, dir)
}

mod cuts;
mod damage;
mod golden;
mod wear;

struct RealStore;

impl StoreBuilder<TypeConfig, Log, Machine, TempDir> for RealStore {
    async fn build(&self) -> Result<(TempDir, Log, Machine), RaftStorageError<TypeConfig>> {
        let dir = tempfile::tempdir().unwrap();
        let (log, machine) = open(dir.path()).unwrap();
        Ok((dir, log, machine))
    }
}

#[tokio::test]
async fn openrafts_own_storage_suite_passes() {
    Suite::test_all(RealStore).await.unwrap();
}

fn log_id(index: u64) -> LogId {
    LogId::new(openraft::vote::RaftLeaderId::new(1, 1), index)
}

fn txn(number: u64) -> Txn {
    let put =
        |name: String| Write::Put { key: Key::new("Test", "", name), body: format!("{number:>600}").into_bytes() };
    Txn {
        client: number % 7,
        sequence: number,
        settled: number.saturating_sub(50),
        at: Timestamp(number),
        batch: Batch { checks: Vec::new(), writes: vec![put(format!("doc-{}", number % 100)), put("last".into())] },
    }
}

fn entry(index: u64) -> Entry {
    Entry::new(log_id(index), EntryPayload::Normal(Command::Txn(txn(index))))
}

async fn append(log: &mut Log, entries: impl IntoIterator<Item = Entry> + Send) -> std::io::Result<()> {
    let (done, waiting) = TypeConfig::oneshot();
    let entries: Vec<Entry> = entries.into_iter().collect();
    log.append(entries, IOFlushed::signal(done)).await?;
    waiting.await.map_err(std::io::Error::other)?
}

fn model(upto: u64) -> Memory {
    let mut memory = Memory::new();
    for number in 0..upto {
        let Ok(_) = crate::store::apply(&mut memory, &txn(number));
    }
    memory
}

/// What a device would find on its disk if the power failed now (and the disk kept what it had).
fn power_cut(from: &Path) -> TempDir {
    let image = tempfile::tempdir().unwrap();
    copy(from, image.path());
    image
}

pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

async fn replay(log: &mut Log, machine: &Machine) {
    let (applied, _) = machine.state().applied_state().unwrap();
    let next = applied.map_or(0, |id| id.index + 1);
    let entries = log.try_get_log_entries(next..).await.unwrap();
    machine.state().apply(&entries).await.unwrap();
}

#[tokio::test]
async fn the_log_replays_what_a_power_cut_took_from_the_state() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, machine) = open(dir.path()).unwrap();
    for start in (0..600).step_by(30) {
        append(&mut log, (start..start + 30).map(entry)).await.unwrap();
        let entries: Vec<Entry> = (start..start + 30).map(entry).collect();
        machine.state().apply(&entries).await.unwrap();
        if start == 300 {
            machine.state().make_durable().await.unwrap();
        }
    }
    let expected = model(600).hash();
    assert_eq!(machine.state().hash().unwrap(), expected);

    let image = power_cut(dir.path());
    let (mut log, machine) = open(image.path()).unwrap();
    assert_eq!(machine.state().durable_index(), Some(329), "the state is as of its last durable commit");
    replay(&mut log, &machine).await;
    assert_eq!(machine.state().hash().unwrap(), expected);
}

#[tokio::test]
async fn the_log_is_purged_only_behind_durable_state() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, machine) = open(dir.path()).unwrap();
    for start in (0..2000).step_by(50) {
        append(&mut log, (start..start + 50).map(entry)).await.unwrap();
    }
    let entries: Vec<Entry> = (0..2000).map(entry).collect();
    machine.state().apply(&entries).await.unwrap();
    assert_eq!(machine.state().durable_index(), None);
    let before = log.bytes();
    log.purge(log_id(1900)).await.unwrap();
    assert_eq!(machine.state().durable_index(), Some(1999));
    assert!(log.bytes() < before / 2, "{} of {before} bytes are left", log.bytes());

    let image = power_cut(dir.path());
    let (mut log, machine) = open(image.path()).unwrap();
    assert_eq!(log.get_log_state().await.unwrap().last_purged_log_id, Some(log_id(1900)));
    replay(&mut log, &machine).await;
    assert_eq!(machine.state().hash().unwrap(), model(2000).hash());
}

/// Bytes before the room for what is to come.
fn written(path: &Path) -> u64 {
    let bytes = fs::read(path).unwrap();
    bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last as u64 + 1)
}

fn newest_chunk(dir: &Path) -> PathBuf {
    let files = fs::read_dir(dir.join("log")).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|end| end == "wal")).max().unwrap()
}

#[tokio::test]
async fn a_torn_tail_is_cut_off_at_every_byte() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _machine) = open(dir.path()).unwrap();
    append(&mut log, (0..3).map(entry)).await.unwrap();
    let safe = written(&newest_chunk(dir.path()));
    append(&mut log, [entry(3)]).await.unwrap();
    let whole = written(&newest_chunk(dir.path()));
    for length in (safe..whole).step_by(37).chain([whole - 1]) {
        let image = power_cut(dir.path());
        fs::File::options().write(true).open(newest_chunk(image.path())).unwrap().set_len(length).unwrap();
        let (mut log, _machine) = open(image.path()).unwrap();
        assert_eq!(log.get_log_state().await.unwrap().last_log_id, Some(log_id(2)), "cut at {length}");
        append(&mut log, [entry(3)]).await.unwrap();
        assert_eq!(log.try_get_log_entries(0..).await.unwrap().len(), 4);
    }
}

#[tokio::test]
async fn damage_in_the_middle_of_the_log_is_a_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _machine) = open(dir.path()).unwrap();
    for index in 0..10 {
        append(&mut log, [entry(index)]).await.unwrap();
    }
    let image = power_cut(dir.path());
    let chunk = newest_chunk(image.path());
    let mut bytes = fs::read(&chunk).unwrap();
    bytes[2000] ^= 1;
    fs::write(&chunk, bytes).unwrap();
    let error = open(image.path()).err().expect("damage is found");
    assert!(matches!(&error, StorageError::Unsound { left, .. } if left.last_entry == Some(0)), "{}", chain(&error));
}

#[tokio::test]
async fn one_data_folder_has_one_owner() {
    let dir = tempfile::tempdir().unwrap();
    let (_log, _machine) = open(dir.path()).unwrap();
    let error = open(dir.path()).err().expect("the second is refused");
    assert!(chain(&error).contains("open the state in"), "{}", chain(&error));
}

#[tokio::test]
async fn a_creation_that_was_cut_short_is_started_again() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("state.redb.new"), [0; 4096]).unwrap();
    let (_log, machine) = open(dir.path()).unwrap();
    assert_eq!(machine.state().hash().unwrap().revision, 0);
    assert!(!dir.path().join("state.redb.new").exists());
}

#[tokio::test]
async fn a_state_file_that_is_none_is_a_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("state.redb"), b"not a database").unwrap();
    let error = open(dir.path()).err().expect("it does not open");
    assert!(matches!(error, StorageError::Unsound { .. }), "{}", chain(&error));
    assert!(chain(&error).contains("state.redb"), "{}", chain(&error));
}

async fn spooled(machine: &mut Machine) -> (SnapshotMeta, Vec<u8>) {
    let mut builder = machine.try_create_snapshot_builder(true).await.unwrap();
    let snapshot = builder.build_snapshot().await.unwrap();
    let file = machine.state().spool(snapshot.snapshot).await.unwrap();
    (snapshot.meta, fs::read(file.path()).unwrap())
}

async fn incoming(machine: &Machine, bytes: &[u8]) -> Result<SnapshotSource, StorageError> {
    let mut incoming = machine.state().receive().unwrap();
    for piece in bytes.chunks(1000) {
        incoming.push(piece).unwrap();
    }
    assert_eq!(incoming.bytes(), bytes.len() as u64);
    incoming.finish().await
}

#[tokio::test]
async fn a_snapshot_carries_everything_and_damage_is_found_before_it_counts() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (_log, mut from) = open(one.path()).unwrap();
    let entries: Vec<Entry> = (0..500).map(entry).collect();
    from.state().apply(&entries).await.unwrap();
    let (meta, bytes) = spooled(&mut from).await;

    let (_log, mut to) = open(other.path()).unwrap();
    for length in [0, 7, 8, 40, bytes.len() / 2, bytes.len() - 1] {
        let error = incoming(&to, &bytes[..length]).await.err().expect("it is too short");
        assert!(matches!(error, StorageError::Snapshot { .. }), "{error}");
    }
    for position in [0, 9, bytes.len() / 2, bytes.len() - 1] {
        let mut harmed = bytes.clone();
        harmed[position] ^= 0x40;
        let error = incoming(&to, &harmed).await.err().expect("it is harmed");
        assert!(matches!(error, StorageError::Snapshot { .. }), "{error}");
    }
    to.state().apply(&[entry(0)]).await.unwrap();
    to.install_snapshot(&meta, incoming(&to, &bytes).await.unwrap()).await.unwrap();
    assert_eq!(to.state().hash().unwrap(), from.state().hash().unwrap());
    assert_eq!(*to.state().revision().borrow(), 500);
    assert!(to.state().events_since(499, None).is_err(), "what was before the snapshot is not known here");
    // The sessions came along: a late repeat is recognized.
    let again = Entry::new(log_id(500), EntryPayload::Normal(Command::Txn(txn(499))));
    to.state().apply(&[again]).await.unwrap();
    assert_eq!(*to.state().revision().borrow(), 500);

    let image = power_cut(other.path());
    let (_log, machine) = open(image.path()).unwrap();
    assert_eq!(machine.state().hash().unwrap(), from.state().hash().unwrap(), "an installed snapshot is durable");
    assert!(fs::read_dir(other.path().join("snapshot")).unwrap().next().is_none(), "nothing is left behind");
}

/// A file system of a few pages, gone when dropped.
pub(crate) struct TinyDisk(pub(crate) TempDir);

impl TinyDisk {
    pub(crate) fn new(size: &str) -> Self {
        use nix::mount::{MsFlags, mount};
        let dir = tempfile::tempdir().unwrap();
        let options = format!("size={size}");
        mount(Some("tmpfs"), dir.path(), Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))
            .expect("mounting a tmpfs needs root");
        Self(dir)
    }
}

impl Drop for TinyDisk {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

#[tokio::test]
async fn a_full_disk_is_an_error_and_loses_nothing_that_was_acknowledged() {
    let disk = TinyDisk::new("4m");
    let (log, machine) = open(disk.0.path()).unwrap();
    let mut log = log.without_reserve();
    let mut safe = 0;
    let error = loop {
        match append(&mut log, [entry(safe)]).await {
            Ok(()) => safe += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull, "{error}");
    assert!(safe > 100);
    drop((log, machine));

    let image = power_cut(disk.0.path());
    let (mut log, _machine) = open(image.path()).unwrap();
    let entries = log.try_get_log_entries(0..).await.unwrap();
    assert_eq!(entries.len() as u64, safe);
}

#[tokio::test]
async fn the_log_stops_before_the_disk_is_full() {
    let disk = TinyDisk::new("5m");
    let (mut log, machine) = open(disk.0.path()).unwrap();
    let mut safe = 0;
    let error = loop {
        match append(&mut log, [entry(safe)]).await {
            Ok(()) => safe += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull, "{error}");
    let entries = log.try_get_log_entries(0..).await.unwrap();
    machine.state().apply(&entries).await.unwrap();
    machine.state().make_durable().await.unwrap();
    assert_eq!(machine.state().hash().unwrap(), model(safe).hash());
}

#[tokio::test]
async fn a_state_that_can_not_grow_is_a_clear_error() {
    let disk = TinyDisk::new("3m");
    let (_log, machine) = open(disk.0.path()).unwrap();
    let mut index = 0;
    let error = loop {
        let big = Txn {
            sequence: index,
            batch: Batch {
                checks: Vec::new(),
                writes: vec![Write::Put { key: Key::new("Test", "", index.to_string()), body: vec![7; 50_000] }],
            },
            ..txn(index)
        };
        let entry = Entry::new(log_id(index), EntryPayload::Normal(Command::Txn(big)));
        match machine.state().apply(&[entry]).await {
            Ok(_) => index += 1,
            Err(error) => break error,
        }
    };
    assert!(chain(&error).contains("write the state in"), "{}", chain(&error));
    assert_eq!(std::io::Error::from(error).kind(), std::io::ErrorKind::StorageFull);
}

#[tokio::test]
async fn reading_the_whole_state_holds_up_nobody() {
    use futures_util::FutureExt;
    let disk: Arc<dyn Disk> = Arc::new(super::simdisk::SimDisk::new(1));
    let (_log, machine) = super::open(&disk, Path::new("/device")).unwrap();
    machine.state().apply(&[entry(0), entry(1)]).await.unwrap();
    let mut hash = std::pin::pin!(machine.state().hash_apart());
    assert!(hash.as_mut().now_or_never().is_none(), "it was read on the caller's thread");
    assert_eq!(hash.await.unwrap(), model(2).hash());
}
