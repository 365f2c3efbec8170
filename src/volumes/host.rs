//! What a pod may have of the device: whether it is what the pod expects, below the path that the
//! device's settings allow. Links that a pod left there lead nowhere else.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, SFlag, fchmod, fstat};

use super::beneath;
use crate::reconciler::volume::HostKind;

/// Checks what is at a path, and makes it where that is asked for.
pub(super) fn check(root: &Path, path: &str, kind: HostKind) -> io::Result<()> {
    let shown = if path.is_empty() { root.to_owned() } else { root.join(path) };
    let failed = |why: String| io::Error::other(format!("hostPath {}: {why}", shown.display()));
    let top = open(root, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).map_err(|error| failed(error.to_string()))?;
    if path.is_empty() {
        return suits(&top, kind).map_err(failed);
    }
    let wanted = Path::new(path);
    let made = match (beneath::open(&top, wanted), kind) {
        (Err(Errno::ENOENT), HostKind::FolderOrCreate) => beneath::make(&top, wanted),
        (Err(Errno::ENOENT), HostKind::FileOrCreate) => make_file(&top, wanted),
        (found, _) => found.map(drop),
    };
    let found = made.and_then(|()| beneath::open(&top, wanted)).map_err(|error| match error {
        Errno::EXDEV | Errno::ELOOP => failed(format!("a link leads out of {}: refused", root.display())),
        Errno::ENOENT => failed("it does not exist".into()),
        other => failed(other.to_string()),
    })?;
    suits(&found, kind).map_err(failed)
}

fn make_file(top: &OwnedFd, path: &Path) -> nix::Result<()> {
    let parent = path.parent().unwrap_or(Path::new(""));
    let inner = if parent.as_os_str().is_empty() { None } else { Some(beneath::open(top, parent)?) };
    let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let name = path.file_name().unwrap_or_default();
    let mode = Mode::from_bits_truncate(0o644);
    let made = nix::fcntl::openat(inner.as_ref().unwrap_or(top), name, flags, mode)?;
    // Whatever the agent's umask says.
    fchmod(&made, mode)
}

fn suits(found: &OwnedFd, kind: HostKind) -> Result<(), String> {
    let mode = fstat(found).map_err(|error| error.to_string())?.st_mode;
    let is = SFlag::from_bits_truncate(mode & SFlag::S_IFMT.bits());
    let (wanted, what) = match kind {
        HostKind::Any => return Ok(()),
        HostKind::Folder | HostKind::FolderOrCreate => (SFlag::S_IFDIR, "a directory"),
        HostKind::File | HostKind::FileOrCreate => (SFlag::S_IFREG, "a file"),
        HostKind::Socket => (SFlag::S_IFSOCK, "a socket file"),
        HostKind::CharDevice => (SFlag::S_IFCHR, "a character device"),
        HostKind::BlockDevice => (SFlag::S_IFBLK, "a block device"),
    };
    if is == wanted { Ok(()) } else { Err(format!("type check failed: it is not {what}")) }
}
