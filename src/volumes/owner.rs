//! Walks over what programs left in a volume, without following any link: who owns it, how much it is.

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat};
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, SFlag, fchmodat, fstatat};
use nix::unistd::{Gid, fchownat};

use crate::reconciler::volume::Group;

/// How deep folders may lie in each other.
const DEPTH_LIMIT: usize = 256;

/// Gives everything in a volume to a group, which may read and write it.
pub(super) fn hand_over(folder: &Path, group: Group) -> io::Result<()> {
    let root = std::fs::symlink_metadata(folder)?;
    let (has, mode) = (std::os::unix::fs::MetadataExt::gid(&root), std::os::unix::fs::MetadataExt::mode(&root));
    if group.on_root_mismatch && has == group.id && mode & 0o2070 == 0o2070 {
        return Ok(());
    }
    std::os::unix::fs::chown(folder, None, Some(group.id))?;
    std::fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(mode & 0o7777 | 0o2070))?;
    walk(folder, &mut |parent, name, stat| {
        fchownat(parent, name, None, Some(Gid::from_raw(group.id)), AtFlags::AT_SYMLINK_NOFOLLOW)?;
        let more = match kind(stat) {
            SFlag::S_IFDIR => 0o2070,
            SFlag::S_IFREG => 0o060,
            _ => return Ok(()),
        };
        // Just seen to be no link; should it have become one, the kernel refuses.
        let mode = Mode::from_bits_truncate(stat.st_mode & 0o7777 | more);
        match fchmodat(parent, name, mode, FchmodatFlags::NoFollowSymlink) {
            Err(Errno::EOPNOTSUPP | Errno::ENOENT) => Ok(()),
            done => done,
        }
    })
}

/// Bytes on the disk of everything in a folder.
pub(super) fn usage(folder: &Path) -> io::Result<u64> {
    let mut blocks = 0u64;
    walk(folder, &mut |_, _, stat| {
        blocks = blocks.saturating_add(u64::try_from(stat.st_blocks).unwrap_or(0));
        Ok(())
    })?;
    Ok(blocks.saturating_mul(512))
}

type Visit<'a> = dyn FnMut(&OwnedFd, &std::ffi::CStr, &FileStat) -> nix::Result<()> + 'a;

fn walk(folder: &Path, visit: &mut Visit<'_>) -> io::Result<()> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let top = openat(AT_FDCWD, folder, flags, Mode::empty())?;
    Ok(walk_open(&top, visit, DEPTH_LIMIT)?)
}

fn walk_open(folder: &OwnedFd, visit: &mut Visit<'_>, depth: usize) -> nix::Result<()> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let names: Vec<CString> = Dir::from_fd(openat(folder, ".", flags, Mode::empty())?)?
        .iter()
        .map(|entry| entry.map(|entry| entry.file_name().to_owned()))
        .collect::<nix::Result<_>>()?;
    for name in names.iter().filter(|name| ![&b"."[..], b".."].contains(&name.as_bytes())) {
        let stat = match fstatat(folder, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Err(Errno::ENOENT) => continue,
            found => found?,
        };
        match visit(folder, name, &stat) {
            Err(Errno::ENOENT) => continue,
            done => done?,
        }
        if kind(&stat) == SFlag::S_IFDIR && depth > 0 {
            match openat(folder, name.as_c_str(), flags, Mode::empty()) {
                // It went, or became something else, meanwhile.
                Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => {}
                inner => walk_open(&inner?, visit, depth - 1)?,
            }
        }
    }
    Ok(())
}

fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())
}
