//! Paths beneath a folder in which programs may write while it is looked at: no link, and no rename
//! at the wrong moment, leads out of it.

use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, fchmod, fstat, mkdirat};
use nix::unistd::{Gid, Uid, fchown};

/// Looks at a path that somebody renames meanwhile.
const TRIES: usize = 16;

/// Opens what is beneath a folder, as a handle. `EXDEV` says that the path leads out.
pub(crate) fn open(folder: &OwnedFd, path: &Path) -> nix::Result<OwnedFd> {
    open_with(folder, path, OFlag::O_PATH)
}

/// Opens what is beneath a folder.
pub(crate) fn open_with(folder: &OwnedFd, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let mut tries = TRIES;
    loop {
        match openat2(folder, path, how) {
            // Something was renamed on the way.
            Err(Errno::EAGAIN) if tries > 1 => tries -= 1,
            found => return found,
        }
    }
}

/// Makes the folders of a path as far as they are missing, with owner and permissions of the one
/// that they are made in.
pub(crate) fn make(folder: &OwnedFd, path: &Path) -> nix::Result<()> {
    let like = fstat(folder)?;
    let mut made = PathBuf::new();
    for part in path.components() {
        let Component::Normal(name) = part else {
            if part == Component::CurDir {
                continue;
            }
            return Err(Errno::EXDEV);
        };
        let parent = if made.as_os_str().is_empty() { None } else { Some(open(folder, &made)?) };
        let parent = parent.as_ref().unwrap_or(folder);
        match mkdirat(parent, name, Mode::from_bits_truncate(0o700)) {
            Ok(()) => {
                let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
                let fresh = open_with(parent, Path::new(name), flags)?;
                fchown(&fresh, Some(Uid::from_raw(like.st_uid)), Some(Gid::from_raw(like.st_gid)))?;
                fchmod(&fresh, Mode::from_bits_truncate(like.st_mode & 0o7777))?;
            }
            Err(Errno::EEXIST) => {}
            Err(error) => return Err(error),
        }
        made.push(name);
    }
    Ok(())
}
