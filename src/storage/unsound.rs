//! A log or a state that is not what was written. It decides whether the two fit each other, says
//! what is left of them, and sets them aside with the evidence when it is told to. It never
//! repairs by leaving something out.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::Disk;
use super::guarded::SUSPECT;
use super::raft::LogId;
use super::{FILE, LOG, StorageError};

/// Folders of evidence that are kept.
const KEPT: usize = 3;
/// What a folder of evidence is called, before its number.
const PREFIX: &str = "damaged-";
/// Why, in such a folder.
const WHY: &str = "why.txt";
/// Evidence is kept only with so many times its bytes free on the disk.
const FREE_FACTOR: u64 = 4;

/// What can still be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// Index of the last entry of the log before the damage.
    pub last_entry: Option<u64>,
    /// Index of the last entry in the state.
    pub applied: Option<u64>,
    /// Revision of the state.
    pub revision: Option<u64>,
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.revision, self.applied) {
            (Some(revision), Some(applied)) => write!(f, "the state up to entry {applied}, revision {revision}")?,
            (Some(_), None) => f.write_str("an empty state")?,
            (None, _) => f.write_str("no state")?,
        }
        match self.last_entry {
            Some(last) => write!(f, ", and the log up to entry {last}"),
            None => f.write_str(", and nothing of the log"),
        }
    }
}

/// Where the evidence went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetAside {
    /// The folder; `None` when the disk had no room for it and the files were removed.
    pub folder: Option<PathBuf>,
}

/// What a state that opened says of itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reached {
    pub(super) applied: Option<LogId>,
    pub(super) revision: u64,
}

/// Checks that a log, or its absence, fits the state.
pub(super) fn fits(
    state: Reached,
    log_was_there: bool,
    last: Option<LogId>,
    purged: Option<LogId>,
) -> Result<(), String> {
    let Some(applied) = state.applied else {
        return match purged {
            Some(purged) => Err(format!("the log begins after entry {}, and the state has none", purged.index)),
            None => Ok(()),
        };
    };
    if !log_was_there {
        return Err(format!("there is no log, and the state has entries up to {}", applied.index));
    }
    match purged {
        Some(purged) if purged.index > applied.index => {
            Err(format!("the log begins after entry {}, and the state ends at {}", purged.index, applied.index))
        }
        // A snapshot was installed, and the power went before the log behind it was purged: then
        // the state is ahead. It is never ahead within a term that the log has gone past.
        _ => match last {
            Some(last) if last.index >= applied.index || last <= applied => Ok(()),
            None => Ok(()),
            Some(last) => Err(format!("the log ends at entry {}, and the state at {}", last.index, applied.index)),
        },
    }
}

/// Moves the log and the state of a data folder to a folder of evidence, from where nobody starts.
/// The caller sees to it first that this device takes no part as the member it was: what it voted
/// and acknowledged is not known any more.
pub fn set_aside(disk: &Arc<dyn Disk>, dir: &Path, why: &StorageError) -> Result<SetAside, StorageError> {
    let failed = |source| StorageError::File { action: "set aside the log and the state in", path: dir.into(), source };
    let why = crate::resource::chain(why);
    move_aside(disk.as_ref(), dir, &why).map_err(failed)
}

fn move_aside(disk: &dyn Disk, dir: &Path, why: &str) -> io::Result<SetAside> {
    let log_dir = dir.join(LOG);
    let mut files = Vec::new();
    if disk.exists(&log_dir)? {
        files.extend(disk.list(&log_dir)?.into_iter().map(|name| (log_dir.join(&name), name)));
    }
    if disk.exists(&dir.join(FILE))? {
        files.push((dir.join(FILE), FILE.to_owned()));
    }
    if disk.exists(&dir.join(SUSPECT))? {
        files.push((dir.join(SUSPECT), SUSPECT.to_owned()));
    }
    let mut evidence = numbers(disk, dir)?;
    while evidence.len() >= KEPT {
        remove_folder(disk, &dir.join(format!("{PREFIX}{}", evidence.remove(0))))?;
    }
    let mut bytes = 0;
    for (path, _) in &files {
        bytes += disk.open(path)?.len()?;
    }
    if disk.free_bytes(dir)? < bytes.saturating_mul(FREE_FACTOR) {
        for (path, _) in &files {
            disk.remove(path)?;
        }
        sync(disk, dir, &log_dir)?;
        return Ok(SetAside { folder: None });
    }
    let number = evidence.last().map_or(1, |last| last + 1);
    let folder = dir.join(format!("{PREFIX}{number}"));
    disk.make_dir(&folder)?;
    let note = disk.create(&folder.join(WHY))?;
    note.write_at(0, format!("{why}\n").as_bytes())?;
    note.sync()?;
    disk.sync_dir(dir)?;
    disk.sync_dir(&folder)?;
    // The state last: without it the log would look like that of a new device.
    for (path, name) in &files {
        disk.rename(path, &folder.join(name))?;
    }
    disk.sync_dir(&folder)?;
    sync(disk, dir, &log_dir)?;
    Ok(SetAside { folder: Some(folder) })
}

fn sync(disk: &dyn Disk, dir: &Path, log_dir: &Path) -> io::Result<()> {
    if disk.exists(log_dir)? {
        disk.sync_dir(log_dir)?;
    }
    disk.sync_dir(dir)
}

/// The numbers of the folders of evidence, oldest first.
fn numbers(disk: &dyn Disk, dir: &Path) -> io::Result<Vec<u64>> {
    let names = disk.list(dir)?;
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| name.strip_prefix(PREFIX)?.parse().ok()).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

fn remove_folder(disk: &dyn Disk, folder: &Path) -> io::Result<()> {
    for name in disk.list(folder)? {
        disk.remove(&folder.join(name))?;
    }
    disk.remove_dir(folder)
}
