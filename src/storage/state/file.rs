//! The state's file: made whole or not at all, and checked when it is opened.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use redb::{Builder, Database, ReadableDatabase, ReadableTable};

use super::super::StorageError;
use super::super::backend::Backend;
use super::super::disk::{Disk, DiskFile};
use super::super::table::{self, Fault, MIRRORS, Progress, WriteTable};
use super::{fault, progress_of, sync_parent};
use crate::identity::Member;

/// redb's page cache while a file is made, in bytes: it is empty.
const CACHE_BYTES: usize = 1 << 20;
/// Bytes of a state that is checked at each start; a larger one only after an unclean end.
const CHECKED_BYTES: u64 = 64 << 20;
/// Where redb keeps its flags in the file, and the one that says it was not closed.
const FLAGS: (u64, u8) = (9, 2);

pub(super) fn corrupted(what: &str) -> Fault {
    Fault::from(redb::Error::Corrupted(what.to_owned()))
}

/// Opens a database, and checks all of it unless that would take long. Its pages have checksums,
/// which redb itself looks at only after an unclean end.
pub(super) fn open_checked(file: &Arc<dyn DiskFile>, cache: usize) -> Result<Database, Fault> {
    let io = |error: std::io::Error| Fault::from(redb::Error::Io(error));
    let mut flags = [0];
    file.read_at(FLAGS.0, &mut flags).map_err(io)?;
    let unclean = flags[0] & FLAGS.1 != 0;
    let bytes = file.len().map_err(io)?;
    let mut database = Builder::new().set_cache_size(cache).create_with_backend(Backend(file.clone()))?;
    if unclean || bytes <= CHECKED_BYTES {
        database.check_integrity()?;
    }
    Ok(database)
}

pub(super) fn create(disk: &dyn Disk, path: &Path) -> Result<(), StorageError> {
    let aside = path.with_extension("redb.new");
    #[cfg(feature = "seeded-bugs")]
    let aside =
        if super::super::seeded::has(super::super::seeded::Bug::NonAtomicCreation) { path.to_owned() } else { aside };
    let failed = |action| {
        let path = aside.clone();
        move |source| StorageError::File { action, path, source }
    };
    let file = disk.create(&aside).map_err(failed("create"))?;
    let make = || -> Result<(), Fault> {
        let database = Builder::new().set_cache_size(CACHE_BYTES).create_with_backend(Backend(file.clone()))?;
        let txn = database.begin_write()?;
        WriteTable::open(&txn)?.finish()?;
        txn.commit()?;
        Ok(())
    };
    make().map_err(|error| fault("create", &aside, error))?;
    file.sync().map_err(failed("sync"))?;
    disk.rename(&aside, path).map_err(failed("move in place"))?;
    sync_parent(disk, path)
}

pub(super) fn read_progress(database: &Database) -> Result<Progress, Fault> {
    progress_of(&database.begin_read()?)
}

pub(super) fn read_mirrors(database: &Database) -> Result<BTreeMap<u64, Member>, Fault> {
    let txn = database.begin_read()?;
    let table = match txn.open_table(MIRRORS) {
        Ok(table) => table,
        // A state file of a release without mirrors; its next write makes the table.
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(BTreeMap::new()),
        Err(error) => return Err(error.into()),
    };
    let mut mirrors = BTreeMap::new();
    for entry in table.iter()? {
        let (id, bytes) = entry?;
        mirrors.insert(id.value(), table::decode("a mirror", bytes.value())?);
    }
    Ok(mirrors)
}
