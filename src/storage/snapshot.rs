//! Snapshots: the whole state as one file. The state file itself is what a device keeps; a snapshot
//! file exists only while it travels. It is written from one consistent view, carries a SHA-256 of
//! everything before it, and is installed whole or not at all.

use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use redb::ReadableTable;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::disk::run_on;
use super::raft::SnapshotMeta;
use super::scratch::Scratch;
use super::state::{State, View};
use super::table::{self, CLIENTS, DOCUMENTS, Fault, MIRRORS, OUTCOMES, Progress, WriteTable};
use super::{StorageError, keys};
use crate::identity::Member;
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
    Mirror(u64, Member),
    End { records: u64 },
}

/// Where the bytes of a snapshot come from.
pub enum SnapshotSource {
    /// A view of this device's state, not yet written to a file.
    View(Box<ViewSource>),
    /// A file that arrived from a peer; removed when dropped.
    File(Scratch),
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
    state: State,
    file: Scratch,
}

impl State {
    /// Writes a snapshot to a file that can be sent; it is removed when dropped.
    pub async fn spool(&self, source: SnapshotSource) -> Result<Scratch, StorageError> {
        self.off_thread("write a snapshot of", move |state| state.spool_here(source)).await
    }

    fn spool_here(&self, source: SnapshotSource) -> Result<Scratch, StorageError> {
        match source {
            SnapshotSource::File(file) => Ok(file),
            SnapshotSource::View(view) => {
                let mut file = self.scratch()?;
                let path = file.path().to_owned();
                write(&view.0, &mut file).map_err(|error| error.at(&path))?;
                Ok(file)
            }
        }
    }

    /// Writes the state as it is now to a file that can be sent; it is removed when dropped.
    pub async fn spool_now(&self) -> Result<(SnapshotMeta, Scratch), StorageError> {
        let writing = self.lock_writer().await;
        let spool = move |state: &Self| {
            let view = state.whole_view()?;
            drop(writing);
            let meta = view.meta.clone();
            Ok((meta, state.spool_here(view.into())?))
        };
        self.off_thread("write a snapshot of", spool).await
    }

    /// Starts to receive a snapshot.
    pub fn receive(&self) -> Result<Incoming, StorageError> {
        Ok(Incoming { state: self.clone(), file: self.scratch()? })
    }
}

impl Incoming {
    /// Bytes received so far: the offset of the next piece.
    pub fn bytes(&self) -> u64 {
        self.file.bytes()
    }

    /// Takes in the next piece.
    pub fn push(&mut self, piece: &[u8]) -> Result<(), StorageError> {
        self.file.write_all(piece).map_err(|source| StorageError::File {
            action: "write the arriving snapshot",
            path: self.file.path().to_owned(),
            source,
        })
    }

    /// Checks that all of it arrived unharmed.
    pub async fn finish(self) -> Result<SnapshotSource, StorageError> {
        let Self { state, file } = self;
        let path = file.path().to_owned();
        let check = move || verify(&file).map(|()| file).map_err(|error| error.at(&path));
        match run_on(state.disk().as_ref(), check).await {
            Ok(checked) => Ok(SnapshotSource::File(checked?)),
            Err(source) => Err(StorageError::File {
                action: "check the arriving snapshot in",
                path: state.dir().to_owned(),
                source,
            }),
        }
    }
}

impl SnapshotSource {
    /// Replaces the state with the snapshot. Blocks on the disk.
    pub(super) fn install(self, state: &State, meta: &SnapshotMeta) -> Result<(), StorageError> {
        let file = state.spool_here(self)?;
        verify(&file).map_err(|error| error.at(file.path()))?;
        state.replace(|table| read_into(table, &file, meta).map_err(|error| error.at(file.path())))
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

fn write(view: &View, file: &mut Scratch) -> Result<(), Trouble> {
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
        writer.record(&Record::Client(id.value(), table::client(id.value(), record.value())?))?;
    }
    for entry in view.txn.open_table(OUTCOMES).map_err(Fault::from)?.iter().map_err(Fault::from)? {
        let (id, bytes) = entry.map_err(Fault::from)?;
        let (client, sequence) = id.value();
        writer.record(&Record::Outcome(client, sequence, table::outcome(client, sequence, bytes.value())?))?;
    }
    match view.txn.open_table(MIRRORS) {
        Ok(mirrors) => {
            for entry in mirrors.iter().map_err(Fault::from)? {
                let (id, bytes) = entry.map_err(Fault::from)?;
                writer.record(&Record::Mirror(id.value(), table::decode("a mirror", bytes.value())?))?;
            }
        }
        Err(redb::TableError::TableDoesNotExist(_)) => {}
        Err(error) => return Err(Fault::from(error).into()),
    }
    let records = writer.records;
    writer.record(&Record::End { records })?;
    let digest = writer.digest.finalize();
    writer.to.write_all(&digest)?;
    writer.to.flush()?;
    Ok(())
}

/// Checks the digest over the whole file.
fn verify(file: &Scratch) -> Result<(), Trouble> {
    let length = file.bytes();
    let Some(covered) = length.checked_sub(DIGEST_BYTES as u64).filter(|&covered| covered >= MAGIC.len() as u64) else {
        return Err(Trouble::Unusable(format!("it has only {length} bytes")));
    };
    let mut from = file.reader(0);
    let mut magic = [0; MAGIC.len()];
    from.read_exact(&mut magic)?;
    if magic != MAGIC {
        return Err(Trouble::Unusable("it is not a snapshot of this release".into()));
    }
    let mut digest = Sha256::new();
    digest.update(magic);
    io::copy(&mut from.by_ref().take(covered - MAGIC.len() as u64), &mut digest)?;
    let mut expected = [0; DIGEST_BYTES];
    from.read_exact(&mut expected)?;
    if digest.finalize()[..] != expected {
        return Err(Trouble::Unusable("its checksum does not match its contents".into()));
    }
    Ok(())
}

/// Checks a file of these bytes and reads what holds, for fuzzers.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn read_any(disk: &std::sync::Arc<dyn super::disk::Disk>, folder: &Path, bytes: &[u8]) {
    let Ok(mut file) = Scratch::create(disk, folder, 1) else { return };
    if file.write_all(bytes).is_err() || verify(&file).is_err() {
        return;
    }
    let records = &bytes[MAGIC.len()..bytes.len() - DIGEST_BYTES];
    let mut from = records;
    while let Ok(record) = next(&mut from) {
        let known = codec::encode(&record).unwrap_or_default();
        assert!(codec::decode::<Record>(&known).is_ok());
    }
}

/// The records of a small snapshot, without their checksum.
#[cfg(test)]
pub(super) fn small() -> Vec<u8> {
    let key = crate::store::Key::new("ConfigMap", "default", "a");
    let document = Document { key, body: b"{}".to_vec(), created: 1, modified: 2 };
    let records = [
        Record::Start(Progress::default()),
        Record::Document(document),
        Record::Client(7, Client { settled: 1, turn: 2 }),
        Record::Outcome(7, 1, Outcome::Applied { revision: 2 }),
        Record::End { records: 4 },
    ];
    let mut bytes = MAGIC.to_vec();
    for record in records {
        let record = codec::encode(&record).unwrap_or_default();
        bytes.extend_from_slice(&u32::try_from(record.len()).unwrap_or(0).to_be_bytes());
        bytes.extend_from_slice(&record);
    }
    bytes
}

fn read_into(table: &mut WriteTable<'_>, file: &Scratch, meta: &SnapshotMeta) -> Result<(), Trouble> {
    let mut from = BufReader::new(file.reader(MAGIC.len() as u64));
    let mut progress = None;
    let mut mirrors = Vec::new();
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
            Record::Mirror(id, member) => mirrors.push((id, member)),
            Record::End { records: expected } if expected == records => break,
            Record::Start(_) | Record::End { .. } => {
                return Err(Trouble::Unusable("its records are out of order".into()));
            }
        }
        records += 1;
    }
    table.progress = progress.ok_or_else(|| Trouble::Unusable("it has no start".into()))?;
    table.set_membership(&meta.last_membership)?;
    // After the membership: a member that is on its way out of it stands in both.
    for (id, member) in &mirrors {
        table.set_mirror(*id, member)?;
    }
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
