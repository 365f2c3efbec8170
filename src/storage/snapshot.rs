//! Snapshots: the whole state as one file. The state file itself is what a device keeps; a snapshot
//! file exists only while it travels. It is written from one consistent view, carries a SHA-256 of
//! everything before it, and is installed whole or not at all.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use redb::ReadableTable;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use super::raft::SnapshotMeta;
use super::state::{State, View};
use super::table::{self, CLIENTS, DOCUMENTS, Fault, OUTCOMES, Progress, WriteTable};
use super::{StorageError, keys};
use crate::store::{Client, Document, Outcome, Table, codec};

const MAGIC: [u8; 8] = *b"kithsnap";
const DIGEST_BYTES: usize = 32;
/// Bytes of one record; the largest write and its frame fit with room to spare.
const MAX_RECORD_BYTES: u32 = 16 << 20;

#[derive(Debug, Serialize, Deserialize)]
enum Record {
    Start(Progress),
    Document(Document),
    Client(u64, Client),
    Outcome(u64, u64, Outcome),
    End { records: u64 },
}

/// Where the bytes of a snapshot come from.
pub enum SnapshotSource {
    /// A view of this device's state, not yet written to a file.
    View(Box<ViewSource>),
    /// A file that arrived from a peer; removed when dropped.
    File(NamedTempFile),
}

/// A view of this device's state.
pub struct ViewSource(View);

impl From<View> for SnapshotSource {
    fn from(view: View) -> Self {
        Self::View(Box::new(ViewSource(view)))
    }
}

/// A snapshot that is arriving, piece by piece.
#[derive(Debug)]
pub struct Incoming {
    file: NamedTempFile,
    bytes: u64,
}

impl State {
    /// Writes a snapshot to a file that can be sent; it is removed when dropped. Blocks on the disk.
    pub fn spool(&self, source: SnapshotSource) -> Result<NamedTempFile, StorageError> {
        match source {
            SnapshotSource::File(file) => Ok(file),
            SnapshotSource::View(view) => {
                let file = scratch(self.dir())?;
                let path = file.path().to_owned();
                write(&view.0, file.as_file()).map_err(|error| error.at(&path))?;
                Ok(file)
            }
        }
    }

    /// Starts to receive a snapshot.
    pub fn receive(&self) -> Result<Incoming, StorageError> {
        Ok(Incoming { file: scratch(self.dir())?, bytes: 0 })
    }
}

impl Incoming {
    /// Bytes received so far: the offset of the next piece.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes in the next piece.
    pub fn push(&mut self, piece: &[u8]) -> Result<(), StorageError> {
        self.file.as_file_mut().write_all(piece).map_err(|source| StorageError::File {
            action: "write the arriving snapshot",
            path: self.file.path().to_owned(),
            source,
        })?;
        self.bytes += piece.len() as u64;
        Ok(())
    }

    /// Checks that all of it arrived unharmed. Blocks on the disk.
    pub fn finish(self) -> Result<SnapshotSource, StorageError> {
        let path = self.file.path().to_owned();
        verify(self.file.as_file()).map_err(|error| error.at(&path))?;
        Ok(SnapshotSource::File(self.file))
    }
}

impl SnapshotSource {
    /// Replaces the state with the snapshot. Blocks on the disk.
    pub(super) fn install(self, state: &State, meta: &SnapshotMeta) -> Result<(), StorageError> {
        let file = state.spool(self)?;
        let path = file.path().to_owned();
        verify(file.as_file()).map_err(|error| error.at(&path))?;
        state.replace(|table| read_into(table, file.as_file(), meta).map_err(|error| error.at(&path)))
    }
}

/// What can go wrong with a snapshot file, before its name is known.
enum Trouble {
    Io(io::Error),
    Table(Fault),
    Unusable(String),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Unusable("it ends too early".into()),
            _ => Self::Io(error),
        }
    }
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Self {
        Self::Table(fault)
    }
}

impl Trouble {
    fn at(self, path: &Path) -> StorageError {
        let path = PathBuf::from(path);
        match self {
            Self::Io(source) => StorageError::File { action: "read or write the snapshot", path, source },
            Self::Table(fault) => super::state::fault("copy the snapshot and", &path, fault),
            Self::Unusable(reason) => StorageError::Snapshot { path, reason },
        }
    }
}

/// A file in the data folder that is gone when dropped, and that a restart sweeps away.
fn scratch(dir: &Path) -> Result<NamedTempFile, StorageError> {
    let dir = dir.join("snapshot");
    let failed = |source| StorageError::File { action: "make a snapshot file in", path: dir.clone(), source };
    std::fs::create_dir_all(&dir).map_err(failed)?;
    tempfile::Builder::new().prefix("state-").tempfile_in(&dir).map_err(failed)
}

/// Removes what an earlier process left half way.
pub(super) fn sweep(dir: &Path) -> Result<(), StorageError> {
    let dir = dir.join("snapshot");
    match std::fs::remove_dir_all(&dir) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(StorageError::File { action: "empty the snapshot folder", path: dir, source })
        }
        _ => Ok(()),
    }
}

/// Writes records and counts and digests them.
struct Writer<W> {
    to: W,
    digest: Sha256,
    records: u64,
}

impl<W: Write> Writer<W> {
    fn bytes(&mut self, bytes: &[u8]) -> Result<(), Trouble> {
        self.digest.update(bytes);
        Ok(self.to.write_all(bytes)?)
    }

    fn record(&mut self, record: &Record) -> Result<(), Trouble> {
        let bytes = table::encode("a snapshot record", record)?;
        let length = u32::try_from(bytes.len()).ok().filter(|&length| length <= MAX_RECORD_BYTES);
        let length = length.ok_or_else(|| Trouble::Unusable(format!("a record has {} bytes", bytes.len())))?;
        self.bytes(&length.to_be_bytes())?;
        self.bytes(&bytes)?;
        self.records += 1;
        Ok(())
    }
}

fn write(view: &View, file: &File) -> Result<(), Trouble> {
    let mut writer = Writer { to: BufWriter::new(file), digest: Sha256::new(), records: 0 };
    writer.bytes(&MAGIC)?;
    writer.record(&Record::Start(view.progress))?;
    for entry in view.txn.open_table(DOCUMENTS).map_err(Fault::from)?.iter().map_err(Fault::from)? {
        let (key, bytes) = entry.map_err(Fault::from)?;
        let key = keys::decode(key.value()).ok_or(Fault::Damaged("a key", codec::CodecError::Empty))?;
        writer.record(&Record::Document(table::document(key, bytes.value())?))?;
    }
    for entry in view.txn.open_table(CLIENTS).map_err(Fault::from)?.iter().map_err(Fault::from)? {
        let (id, record) = entry.map_err(Fault::from)?;
        let (settled, turn) = record.value();
        writer.record(&Record::Client(id.value(), Client { settled, turn }))?;
    }
    for entry in view.txn.open_table(OUTCOMES).map_err(Fault::from)?.iter().map_err(Fault::from)? {
        let (id, bytes) = entry.map_err(Fault::from)?;
        let (client, sequence) = id.value();
        writer.record(&Record::Outcome(client, sequence, table::decode("an outcome", bytes.value())?))?;
    }
    let records = writer.records;
    writer.record(&Record::End { records })?;
    let digest = writer.digest.finalize();
    writer.to.write_all(&digest)?;
    writer.to.flush()?;
    Ok(())
}

/// Checks the digest over the whole file.
fn verify(mut file: &File) -> Result<(), Trouble> {
    let length = file.metadata()?.len();
    let Some(covered) = length.checked_sub(DIGEST_BYTES as u64).filter(|&covered| covered >= MAGIC.len() as u64) else {
        return Err(Trouble::Unusable(format!("it has only {length} bytes")));
    };
    file.seek(SeekFrom::Start(0))?;
    let mut magic = [0; MAGIC.len()];
    file.read_exact(&mut magic)?;
    if magic != MAGIC {
        return Err(Trouble::Unusable("it is not a snapshot of this release".into()));
    }
    let mut digest = Sha256::new();
    digest.update(magic);
    io::copy(&mut file.take(covered - MAGIC.len() as u64), &mut digest)?;
    let mut expected = [0; DIGEST_BYTES];
    file.read_exact(&mut expected)?;
    if digest.finalize()[..] != expected {
        return Err(Trouble::Unusable("its checksum does not match its contents".into()));
    }
    Ok(())
}

fn read_into(table: &mut WriteTable<'_>, mut file: &File, meta: &SnapshotMeta) -> Result<(), Trouble> {
    file.seek(SeekFrom::Start(MAGIC.len() as u64))?;
    let mut from = BufReader::new(file);
    let mut progress = None;
    let mut records = 0;
    loop {
        match next(&mut from)? {
            Record::Start(found) if records == 0 => {
                if found.applied != meta.last_log_id {
                    return Err(Trouble::Unusable("it covers another part of the log than its sender said".into()));
                }
                progress = Some(found);
            }
            Record::Document(document) => table.put_document(&document)?,
            Record::Client(id, client) => table.put_client(id, client)?,
            Record::Outcome(client, sequence, outcome) => table.put_outcome(client, sequence, &outcome)?,
            Record::End { records: expected } if expected == records => break,
            Record::Start(_) | Record::End { .. } => {
                return Err(Trouble::Unusable("its records are out of order".into()));
            }
        }
        records += 1;
    }
    table.progress = progress.ok_or_else(|| Trouble::Unusable("it has no start".into()))?;
    table.set_membership(&meta.last_membership)?;
    table.set_snapshot(meta.last_log_id)?;
    Ok(())
}

fn next(from: &mut impl Read) -> Result<Record, Trouble> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length);
    if length > MAX_RECORD_BYTES {
        return Err(Trouble::Unusable(format!("a record claims {length} bytes")));
    }
    let mut bytes = vec![0; length as usize];
    from.read_exact(&mut bytes)?;
    codec::decode(&bytes).map_err(|error| Trouble::Unusable(format!("a record does not decode: {error}")))
}
