//! The private folder and its files: whole or absent, readable by their owner alone.
#![expect(clippy::disallowed_methods, reason = "keys are files")]

use std::fs::{DirBuilder, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::IdentityError;

const DIR_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// The low bits of a mode that give rights to anybody but the owner.
const OTHERS_BITS: u32 = 6;

/// The largest file that is read: enrolment of thousands of members.
const READ_LIMIT: u64 = 16 << 20;

/// The folder of keys inside the data folder.
pub(super) fn dir(data_dir: &Path) -> PathBuf {
    data_dir.join("identity")
}

/// Makes the private folder, or checks the one that is there.
pub(super) fn ensure_dir(dir: &Path) -> Result<(), IdentityError> {
    let mut builder = DirBuilder::new();
    builder.mode(DIR_MODE).recursive(true);
    builder.create(dir).map_err(disk("create folder", dir))?;
    check_mode(dir, DIR_MODE)
}

/// Reads a private file, or `None` when it is not there.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, IdentityError> {
    let size = match std::fs::metadata(path) {
        Ok(found) => found.len(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(disk("read", path)(source)),
    };
    if let Some(parent) = path.parent() {
        check_mode(parent, DIR_MODE)?;
    }
    check_mode(path, FILE_MODE)?;
    if size > READ_LIMIT {
        return Err(IdentityError::Corrupt {
            path: path.to_owned(),
            reason: format!("{size} bytes, more than {READ_LIMIT}"),
            remedy: "restore it from a backup",
        });
    }
    std::fs::read(path).map(Some).map_err(disk("read", path))
}

/// Writes a private file: either all of it is on disk under its name, or nothing changed.
/// With `replace` unset, an existing file is kept and reported.
pub(super) fn write(path: &Path, bytes: &[u8], replace: bool) -> Result<(), IdentityError> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    ensure_dir(parent)?;
    // Made with mode 0600.
    let mut temp = tempfile::Builder::new().prefix(".new-").tempfile_in(parent).map_err(disk("write", path))?;
    temp.write_all(bytes).and_then(|()| temp.as_file().sync_all()).map_err(disk("write", path))?;
    let kept = if replace { temp.persist(path) } else { temp.persist_noclobber(path) };
    match kept {
        Ok(_) => {}
        Err(error) if !replace && error.error.kind() == ErrorKind::AlreadyExists => {
            return Err(IdentityError::Exists { path: path.to_owned() });
        }
        Err(error) => return Err(disk("write", path)(error.error)),
    }
    // The name must be as durable as the bytes; so must the folder's own name.
    for folder in [Some(parent), parent.parent()].into_iter().flatten() {
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(disk("write", folder))?;
    }
    Ok(())
}

/// Writes a private file that is there already into the block that it has, for a disk with no room
/// for a second one. A power cut may leave a mix of old and new: only for what can do without.
pub(super) fn overwrite(path: &Path, bytes: &[u8]) -> Result<(), IdentityError> {
    let file = File::options().write(true).open(path).map_err(disk("open", path))?;
    let length = bytes.len() as u64;
    let done = file.write_all_at(bytes, 0).and_then(|()| file.set_len(length)).and_then(|()| file.sync_all());
    done.map_err(disk("write", path))
}

/// Whether the disk had no room.
pub(super) fn is_full(error: &IdentityError) -> bool {
    let IdentityError::Disk { source, .. } = error else { return false };
    matches!(source.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

fn check_mode(path: &Path, want: u32) -> Result<(), IdentityError> {
    let mode = std::fs::metadata(path).map_err(disk("read", path))?.mode() & 0o7777;
    if mode.trailing_zeros() >= OTHERS_BITS {
        Ok(())
    } else {
        Err(IdentityError::Permissions { path: path.to_owned(), mode, want })
    }
}

fn disk(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> IdentityError {
    let path = path.to_owned();
    move |source| IdentityError::Disk { action, path, source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn private_whole_and_never_overwritten_unasked() {
        let temp = tempfile::tempdir().unwrap();
        let path = dir(temp.path()).join("key");
        assert_eq!(read(&path).unwrap(), None);
        write(&path, b"one", false).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, FILE_MODE);
        assert_eq!(std::fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o7777, DIR_MODE);
        assert!(matches!(write(&path, b"two", false), Err(IdentityError::Exists { .. })));
        assert_eq!(read(&path).unwrap().unwrap(), b"one");
        write(&path, b"two", true).unwrap();
        assert_eq!(read(&path).unwrap().unwrap(), b"two");
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "a temporary file was left");
    }

    #[test]
    fn overwriting_leaves_nothing_of_the_longer_past() {
        let temp = tempfile::tempdir().unwrap();
        let path = dir(temp.path()).join("run");
        assert!(overwrite(&path, b"one").is_err(), "it makes no file");
        write(&path, b"a longer one", false).unwrap();
        overwrite(&path, b"two").unwrap();
        assert_eq!(read(&path).unwrap().unwrap(), b"two");
    }

    #[test]
    fn what_others_can_read_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let path = dir(temp.path()).join("key");
        write(&path, b"one", false).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("0640") && error.contains("chmod 0600"), "{error}");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::set_permissions(path.parent().unwrap(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("0755") && error.contains("chmod 0700"), "{error}");
    }
}
