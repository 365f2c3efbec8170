//! For fuzzers: segments of a log.

use std::path::Path;

use super::record::{self, BATCH_HEADER_BYTES, HEADER_BYTES, Header, Marks};
use super::replay::{self, Trouble};
use crate::storage::Disk;

const SALT: u64 = 7;

/// Opens a log with one segment: these bytes after its header, or as the records of its first batch.
pub(in crate::storage) fn open(disk: &dyn Disk, folder: &Path, sealed: bool, bytes: &[u8]) {
    let header = Header { segment: 1, salt: SALT, first_batch: 1, marks: Marks::default() };
    let mut file = header.encode();
    if sealed {
        let mut batch = vec![0; BATCH_HEADER_BYTES];
        batch.extend_from_slice(bytes);
        record::seal_batch(&mut batch, SALT, 1);
        file.extend_from_slice(&batch);
    } else {
        file.extend_from_slice(bytes);
    }
    // The header too, when that is what the bytes are.
    for content in [&file[..], if bytes.len() > HEADER_BYTES { bytes } else { &[] }] {
        let Ok(segment) = disk.create(&folder.join(replay::name(1))) else { return };
        if segment.write_at(0, content).is_err() {
            return;
        }
        // The log takes the file for itself.
        drop(segment);
        match replay::replay(disk, folder, &[1]) {
            Ok(replayed) => {
                let next = replayed.marks.next_index();
                let places = replayed.places.len() as u64;
                assert!(
                    places == 0 || replayed.first + places == next,
                    "{places} places from {}, next {next}",
                    replayed.first
                );
            }
            Err(Trouble::Io(path, error)) => panic!("{}: {error}", path.display()),
            Err(Trouble::Damage(..)) => {}
        }
    }
}

/// Records as a leader writes them.
#[cfg(test)]
pub(in crate::storage) fn seed() -> Vec<u8> {
    use super::record::Record;
    use crate::storage::{LogId, Vote};

    let id = |index| LogId::new(openraft::vote::RaftLeaderId::new(2, 1), index);
    let mut bytes = vec![1];
    let records = [
        Record::Vote(Vote::new(2, 1)),
        Record::Entry(id(0), b"first"),
        Record::Entry(id(1), b"second"),
        Record::Commit(id(1)),
        Record::Truncate(Some(id(0))),
        Record::Purge(id(0)),
    ];
    for record in records {
        record.put(&mut bytes);
    }
    bytes
}
