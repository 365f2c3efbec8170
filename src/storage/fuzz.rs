//! For fuzzers: log entries and snapshot files.

use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::{Disk, Entry, RealDisk};
use crate::store::codec;

pub(crate) fn entry(bytes: &[u8]) {
    let Ok(entry) = codec::decode::<Entry>(bytes) else { return };
    let once = codec::encode(&entry).unwrap_or_default();
    let again = codec::decode::<Entry>(&once).map(|entry| codec::encode(&entry).unwrap_or_default());
    assert_eq!(again.ok(), Some(once));
}

/// A snapshot file of these bytes, and one whose checksum holds: a damaged one is refused, and what
/// is accepted can be read to its end.
pub(crate) fn snapshot(bytes: &[u8]) {
    let mut signed = bytes.to_vec();
    signed.extend_from_slice(&Sha256::digest(bytes));
    for file in [bytes, &signed] {
        with_folder(|disk, folder| super::snapshot::read_any(disk, folder, file));
    }
}

/// A segment of a log. The first byte says whether the rest stands in it as it is, or as the
/// records of a batch whose checksum holds. A log either opens or is refused.
pub(crate) fn wal(bytes: &[u8]) {
    let Some((&form, rest)) = bytes.split_first() else { return };
    with_folder(|disk, folder| super::wal::fuzz::open(disk.as_ref(), folder, form % 2 == 1, rest));
}

/// Runs with a folder of its own, in memory where there is such a place.
fn with_folder(run: impl FnOnce(&Arc<dyn Disk>, &Path)) {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    let Ok(folder) = made else { return };
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    run(&disk, folder.path());
}

/// A log entry with a transaction, and the transaction.
#[cfg(test)]
pub(crate) fn seeds() -> [Vec<u8>; 2] {
    use super::Command;
    use crate::store::{Batch, Check, Key, Precondition, Txn, Write};

    let key = Key::new("ConfigMap", "default", "a");
    let checks = vec![Check { key: key.clone(), expect: Precondition::Absent }];
    let writes = vec![Write::Put { key: key.clone(), body: b"{}".to_vec() }, Write::Delete { key }];
    let txn =
        Txn { client: 7, sequence: 1, settled: 1, at: crate::resource::Timestamp(5), batch: Batch { checks, writes } };
    let log_id = openraft::LogId::new(openraft::vote::RaftLeaderId::new(2, 1), 3);
    let entry = Entry { log_id, payload: openraft::EntryPayload::Normal(Command::Txn(txn.clone())) };
    [codec::encode(&entry).unwrap_or_default(), codec::encode(&vec![txn]).unwrap_or_default()]
}

/// The records of a batch.
#[cfg(test)]
pub(crate) fn wal_seed() -> Vec<u8> {
    super::wal::fuzz::seed()
}

/// A snapshot file without its checksum.
#[cfg(test)]
pub(crate) fn small_snapshot() -> Vec<u8> {
    super::snapshot::small()
}
