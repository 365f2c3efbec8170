//! A backup: the whole replicated state at one revision in one file, with what is needed to found
//! the fleet again, under one checksum. Private keys of devices are not in it; the fleet's
//! authority is in it as the state has it, sealed to the voters.
//!
//! ```text
//! "kithback", version (1 byte), length of the header (4 bytes), header (JSON), snapshot, SHA-256 of all before
//! ```

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::identity::Epoch;
use crate::storage::SnapshotMeta;

const MAGIC: &[u8; 8] = b"kithback";
const VERSION: u8 = 1;
const DIGEST_BYTES: usize = 32;
/// The most bytes of a header: it lists all members.
const HEADER_LIMIT: u32 = 16 << 20;

/// What a backup says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Header {
    /// When it was made, RFC 3339.
    pub(crate) made: String,
    /// The device that made it.
    pub(crate) device: String,
    /// Its release of Kith.
    pub(crate) release: String,
    /// The fleet's id.
    pub(crate) fleet: String,
    /// The fleet's epoch.
    pub(crate) epoch: Epoch,
    /// Certificate of the fleet's authority, PEM.
    pub(crate) authority: String,
    /// The revision of the state.
    pub(crate) revision: u64,
    /// Its hash at that revision, if the device was at it.
    pub(crate) state_hash: String,
    /// Documents by kind.
    pub(crate) documents: BTreeMap<String, u64>,
    /// What the snapshot covers, and the membership.
    pub(crate) meta: SnapshotMeta,
}

/// A file that is not a whole backup.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BackupError {
    #[error("it is not a backup of a kith fleet")]
    NotABackup,
    #[error("it was made by another release of kith (format {0}, and this one reads {VERSION})")]
    Format(u8),
    #[error("it is not whole: its checksum does not match its contents")]
    Checksum,
    #[error("its header does not parse: {0}")]
    Header(String),
    #[error("read or write it")]
    Disk(#[from] io::Error),
}

/// The bytes in front of the snapshot.
pub(crate) fn preamble(header: &Header) -> Result<Vec<u8>, BackupError> {
    let text = serde_json::to_vec(header).map_err(|error| BackupError::Header(error.to_string()))?;
    let length = u32::try_from(text.len()).map_err(|_| BackupError::Header("it is too long".into()))?;
    let mut bytes = MAGIC.to_vec();
    bytes.push(VERSION);
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(&text);
    Ok(bytes)
}

/// Checks a whole file, and returns what it says of itself and where its snapshot lies.
pub(crate) fn check(file: &mut File) -> Result<(Header, std::ops::Range<u64>), BackupError> {
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(0))?;
    let mut start = [0; 13];
    file.read_exact(&mut start).map_err(|_| BackupError::NotABackup)?;
    if &start[..8] != MAGIC {
        return Err(BackupError::NotABackup);
    }
    if start[8] != VERSION {
        return Err(BackupError::Format(start[8]));
    }
    let covered = length.checked_sub(DIGEST_BYTES as u64).ok_or(BackupError::Checksum)?;
    file.seek(SeekFrom::Start(0))?;
    let mut digest = Sha256::new();
    io::copy(&mut Read::by_ref(file).take(covered), &mut digest)?;
    let mut expected = [0; DIGEST_BYTES];
    file.read_exact(&mut expected).map_err(|_| BackupError::Checksum)?;
    if digest.finalize()[..] != expected {
        return Err(BackupError::Checksum);
    }
    let size = u32::from_be_bytes([start[9], start[10], start[11], start[12]]);
    if size > HEADER_LIMIT || u64::from(size) + 13 > covered {
        return Err(BackupError::Header(format!("it claims {size} bytes")));
    }
    file.seek(SeekFrom::Start(13))?;
    let mut text = vec![0; size as usize];
    file.read_exact(&mut text)?;
    let header = serde_json::from_slice(&text).map_err(|error| BackupError::Header(error.to_string()))?;
    Ok((header, 13 + u64::from(size)..covered))
}

/// The snapshot inside a checked file.
pub(crate) fn snapshot(file: &mut File, range: std::ops::Range<u64>) -> Result<io::Take<&mut File>, BackupError> {
    file.seek(SeekFrom::Start(range.start))?;
    Ok(file.take(range.end - range.start))
}

/// Takes in a backup as it comes, and puts it in place whole and checked, or not at all.
pub(crate) struct Incoming {
    file: tempfile::NamedTempFile,
    bytes: u64,
}

impl Incoming {
    /// Begins beside the place where the file goes.
    pub(crate) fn begin(path: &Path) -> io::Result<Self> {
        let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Ok(Self { file: tempfile::Builder::new().prefix(".backup-").tempfile_in(folder)?, bytes: 0 })
    }

    /// Takes in the next bytes.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.bytes += bytes.len() as u64;
        self.file.write_all(bytes)
    }

    /// Checks it and puts it in place; returns its header and its size in bytes.
    pub(crate) fn finish(mut self, path: &Path) -> Result<(Header, u64), BackupError> {
        let (header, _) = check(self.file.as_file_mut())?;
        self.file.as_file().sync_all()?;
        self.file.persist(path).map_err(|error| error.error)?;
        let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()?;
        Ok((header, self.bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(path: &Path) -> Vec<u8> {
        let header = Header {
            made: "now".into(),
            device: "d1".into(),
            release: "0".into(),
            fleet: "f".into(),
            epoch: Epoch::FIRST,
            authority: String::new(),
            revision: 7,
            state_hash: String::new(),
            documents: BTreeMap::from([("Pod".into(), 3)]),
            meta: SnapshotMeta::default(),
        };
        let mut bytes = preamble(&header).unwrap();
        bytes.extend_from_slice(b"the snapshot");
        let digest = Sha256::digest(&bytes);
        bytes.extend_from_slice(&digest);
        let mut incoming = Incoming::begin(path).unwrap();
        bytes.chunks(5).for_each(|chunk| incoming.push(chunk).unwrap());
        let (read, size) = incoming.finish(path).unwrap();
        assert_eq!((read, size), (header, bytes.len() as u64));
        bytes
    }

    #[test]
    fn a_backup_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("b");
        made(&path);
        let mut file = File::open(&path).unwrap();
        let (header, range) = check(&mut file).unwrap();
        assert_eq!((header.revision, header.documents["Pod"]), (7, 3));
        let mut bytes = Vec::new();
        snapshot(&mut file, range).unwrap().read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, b"the snapshot");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn every_cut_and_every_changed_byte_is_found_and_an_older_backup_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("b");
        let bytes = made(&path);
        let harmed = (0..bytes.len()).map(|at| {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            changed
        });
        for harmed in harmed.chain((0..bytes.len()).map(|cut| bytes[..cut].to_vec())) {
            let mut incoming = Incoming::begin(&path).unwrap();
            incoming.push(&harmed).unwrap();
            assert!(incoming.finish(&path).is_err());
        }
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
    }
}
