//! Puts the members of a layer into its folder, and nowhere else.
//!
//! Paths are resolved by the kernel beneath the folder (`RESOLVE_BENEATH`): a member that would leave
//! it, by `..`, an absolute path or a link, is refused with its name, and so is a device node.
//! Owners, modes (setuid bits too: the store is closed to other users, and containers run without new
//! privileges), times, `user.*` attributes and file capabilities are kept; other attributes are not.
//! Whiteouts become overlay's own: a `0/0` character device, an opaque mark on the folder.

use std::ffi::{CString, OsStr};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::libc;
use nix::sys::stat::{
    FchmodatFlags, FileStat, Mode, SFlag, UtimensatFlags, fchmodat, fstat, fstatat, mkdirat, mknodat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, linkat, mkfifoat, symlinkat, unlinkat};

use super::ImageError;
use super::members::{Member, lossy};

/// Longest path and longest single name, in bytes.
const PATH_MAX: usize = 4096;
const NAME_MAX: usize = 255;

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
const RESERVED: &[u8] = b".wh..wh.";

/// Fills one folder.
pub(super) struct Placer {
    root: OwnedFd,
    /// The folder that the last member went to: most go to the same one.
    last: Option<(PathBuf, OwnedFd)>,
    /// Folders get their times at the end, as filling them changes these.
    times: Vec<(PathBuf, u64)>,
}

impl Placer {
    pub(super) fn new(root: OwnedFd) -> Self {
        Self { root, last: None, times: Vec::new() }
    }

    /// Puts one member in its place.
    pub(super) fn place(&mut self, member: &Member, content: &mut dyn Read) -> Result<(), ImageError> {
        let path = relative(&member.path)?;
        let failed =
            |error: io::Error| ImageError::Io { step: format!("unpack {:?}", lossy(&member.path)), source: error };
        let Some(name) = path.file_name() else {
            return match member.kind {
                tar::EntryType::Directory => self.dress_root(member).map_err(failed),
                _ => Err(refused(member, "only a folder can be the root")),
            };
        };
        let parent = self.parent(path.parent().unwrap_or(Path::new("")), member)?;
        let bytes = name.as_bytes();
        if bytes == OPAQUE {
            let folder = format!("/proc/self/fd/{}", parent.as_raw_fd());
            return set_xattr(Path::new(&folder), b"trusted.overlay.opaque", b"y").map_err(failed);
        }
        if bytes.starts_with(RESERVED) {
            return Ok(());
        }
        if let Some(hidden) = bytes.strip_prefix(WHITEOUT) {
            return whiteout(&parent, hidden, member);
        }
        self.make(&parent, name, member, content)?;
        dress(&parent, name, member).map_err(failed)?;
        if member.kind == tar::EntryType::Directory {
            self.times.push((path, member.mtime));
        }
        Ok(())
    }

    /// Sets the times of folders, the deepest first.
    pub(super) fn finish(mut self) {
        self.times.sort();
        while let Some((path, mtime)) = self.times.pop() {
            let times = TimeSpec::new(mtime.try_into().unwrap_or(0), 0);
            // It may have been replaced by a later member.
            let _ = utimensat(&self.root, &path, &times, &times, UtimensatFlags::NoFollowSymlink);
        }
    }

    fn dress_root(&mut self, member: &Member) -> io::Result<()> {
        nix::unistd::fchown(&self.root, Some(Uid::from_raw(member.uid)), Some(Gid::from_raw(member.gid)))?;
        nix::sys::stat::fchmod(&self.root, Mode::from_bits_truncate(member.mode))?;
        Ok(())
    }

    /// Opens the folder of a member, and makes it where the layer has no member for it.
    fn parent(&mut self, path: &Path, member: &Member) -> Result<OwnedFd, ImageError> {
        let failed =
            |error: io::Error| ImageError::Io { step: format!("unpack {:?}", lossy(&member.path)), source: error };
        if let Some((last, fd)) = &self.last
            && last == path
        {
            return fd.try_clone().map_err(failed);
        }
        let fd = match self.beneath(path, OFlag::O_DIRECTORY) {
            Err(Errno::ENOENT) => {
                self.make_parents(path, member)?;
                self.beneath(path, OFlag::O_DIRECTORY)
            }
            result => result,
        };
        let fd = fd.map_err(|error| escape(member, error))?;
        self.last = Some((path.to_owned(), fd.try_clone().map_err(failed)?));
        Ok(fd)
    }

    fn make_parents(&self, path: &Path, member: &Member) -> Result<(), ImageError> {
        let mut made = PathBuf::new();
        for part in path.components() {
            let folder = self.beneath(&made, OFlag::O_DIRECTORY).map_err(|error| escape(member, error))?;
            match mkdirat(&folder, part.as_os_str(), Mode::from_bits_truncate(0o755)) {
                Ok(()) | Err(Errno::EEXIST) => made.push(part),
                Err(error) => return Err(escape(member, error)),
            }
        }
        Ok(())
    }

    /// Opens a path that stays beneath the root, whatever links are on the way.
    fn beneath(&self, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        openat2(&self.root, path, OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC | flags).resolve(resolve))
    }

    fn make(
        &mut self,
        parent: &OwnedFd,
        name: &OsStr,
        member: &Member,
        content: &mut dyn Read,
    ) -> Result<(), ImageError> {
        use tar::EntryType as Kind;
        let failed =
            |error: io::Error| ImageError::Io { step: format!("unpack {:?}", lossy(&member.path)), source: error };
        // Found before what is in the way goes: a link to itself keeps its file.
        let linked = if member.kind == Kind::Link { Some(self.link_target(member)?) } else { None };
        if let Some(found) = look(parent, name).map_err(failed)? {
            let is_folder = kind_of(&found) == SFlag::S_IFDIR;
            if is_folder && member.kind == Kind::Directory {
                return Ok(());
            }
            if let Some(linked) = &linked
                && fstat(linked).is_ok_and(|target| (target.st_dev, target.st_ino) == (found.st_dev, found.st_ino))
            {
                return Ok(());
            }
            self.last = None;
            clear(parent, name, is_folder).map_err(failed)?;
        }
        let made = match member.kind {
            Kind::Directory => mkdirat(parent, name, Mode::from_bits_truncate(0o700)).map_err(io::Error::from),
            Kind::Regular | Kind::Continuous => write_file(parent, name, content),
            Kind::Symlink => symlinkat(OsStr::from_bytes(&member.link), parent, name).map_err(io::Error::from),
            Kind::Fifo => mkfifoat(parent, name, Mode::from_bits_truncate(0o600)).map_err(io::Error::from),
            Kind::Link => match &linked {
                Some(linked) => linkat(linked, "", parent, name, AtFlags::AT_EMPTY_PATH).map_err(io::Error::from),
                None => Ok(()),
            },
            Kind::Char | Kind::Block => return Err(refused(member, "device nodes are not unpacked")),
            kind => {
                return Err(refused(
                    member,
                    &format!("members of type {:?} are not known", char::from(kind.as_byte())),
                ));
            }
        };
        made.map_err(failed)
    }

    fn link_target(&self, member: &Member) -> Result<OwnedFd, ImageError> {
        let path = relative(&member.link).map_err(|_| refused(member, "it links to a path outside of the layer"))?;
        let target = self.beneath(&path, OFlag::O_NOFOLLOW).map_err(|error| escape(member, error))?;
        let kind = fstat(&target).map(|found| kind_of(&found)).map_err(|error| escape(member, error))?;
        match kind {
            SFlag::S_IFREG | SFlag::S_IFLNK | SFlag::S_IFIFO => Ok(target),
            _ => Err(refused(member, "it links to something that is not a file")),
        }
    }
}

fn refused(member: &Member, reason: &str) -> ImageError {
    ImageError::Refused { entry: lossy(&member.path), reason: reason.into() }
}

/// What a failed resolution means for the member.
fn escape(member: &Member, error: Errno) -> ImageError {
    match error {
        Errno::EXDEV => refused(member, "its path or link leads out of the layer"),
        Errno::ELOOP => refused(member, "its path goes through too many links"),
        Errno::ENOTDIR => refused(member, "its path goes through something that is not a folder"),
        Errno::ENOENT => refused(member, "its path or link leads to nothing in the layer"),
        error => ImageError::Io { step: format!("unpack {:?}", lossy(&member.path)), source: error.into() },
    }
}

/// A member's path, relative and without `.`; refused when it is absolute or has `..`.
fn relative(bytes: &[u8]) -> Result<PathBuf, ImageError> {
    let refused = |reason: &str| ImageError::Refused { entry: lossy(bytes), reason: reason.into() };
    if bytes.starts_with(b"/") {
        return Err(refused("its path is absolute"));
    }
    if bytes.is_empty() || bytes.len() > PATH_MAX || bytes.contains(&0) {
        return Err(refused("its path is empty, longer than 4096 bytes, or has a zero byte"));
    }
    let mut path = PathBuf::new();
    for part in bytes.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err(refused("its path has ..")),
            part if part.len() > NAME_MAX => return Err(refused("a name in its path is longer than 255 bytes")),
            part => path.push(OsStr::from_bytes(part)),
        }
    }
    Ok(path)
}

/// Hides a name of lower layers.
fn whiteout(parent: &OwnedFd, hidden: &[u8], member: &Member) -> Result<(), ImageError> {
    if matches!(hidden, b"" | b"." | b"..") {
        return Err(refused(member, "it hides no name"));
    }
    match mknodat(parent, OsStr::from_bytes(hidden), SFlag::S_IFCHR, Mode::empty(), 0) {
        // A whiteout hides what lower layers have; what this layer has stays.
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(error) => Err(escape(member, error)),
    }
}

fn look(parent: &OwnedFd, name: &OsStr) -> io::Result<Option<FileStat>> {
    match fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::ENOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn kind_of(found: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(found.st_mode & SFlag::S_IFMT.bits())
}

fn clear(parent: &OwnedFd, name: &OsStr, is_folder: bool) -> io::Result<()> {
    if is_folder {
        // Does not follow links on its way down.
        return fs::remove_dir_all(Path::new(&format!("/proc/self/fd/{}", parent.as_raw_fd())).join(name));
    }
    Ok(unlinkat(parent, name, UnlinkatFlags::NoRemoveDir)?)
}

fn write_file(parent: &OwnedFd, name: &OsStr, content: &mut dyn Read) -> io::Result<()> {
    let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut file = File::from(openat(parent, name, flags, Mode::from_bits_truncate(0o600))?);
    io::copy(content, &mut file).map(drop)
}

/// Gives a member its owner, attributes, mode and time.
fn dress(parent: &OwnedFd, name: &OsStr, member: &Member) -> io::Result<()> {
    if member.kind == tar::EntryType::Link {
        return Ok(());
    }
    let (owner, group) = (Some(Uid::from_raw(member.uid)), Some(Gid::from_raw(member.gid)));
    fchownat(parent, name, owner, group, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    let is_link = member.kind == tar::EntryType::Symlink;
    if !is_link {
        // After the owner: changing that clears setuid bits and file capabilities.
        fchmodat(parent, name, Mode::from_bits_truncate(member.mode), FchmodatFlags::FollowSymlink)?;
        let path = Path::new(&format!("/proc/self/fd/{}", parent.as_raw_fd())).join(name);
        for (key, value) in &member.xattrs {
            if key == b"security.capability" || key.starts_with(b"user.") {
                set_xattr(&path, key, value)?;
            }
        }
    }
    let times = TimeSpec::new(member.mtime.try_into().unwrap_or(0), 0);
    Ok(utimensat(parent, name, &times, &times, UtimensatFlags::NoFollowSymlink)?)
}

#[expect(unsafe_code, reason = "setxattr has no safe wrapper")]
fn set_xattr(path: &Path, name: &[u8], value: &[u8]) -> io::Result<()> {
    let (path, name) = (CString::new(path.as_os_str().as_bytes())?, CString::new(name)?);
    // SAFETY: two terminated strings and a slice with its length, all outliving the call.
    let result = unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    match io::Error::last_os_error() {
        _ if result == 0 => Ok(()),
        // Nice to have: the file system of the store may not keep the user's attributes.
        error if error.raw_os_error() == Some(libc::ENOTSUP) && name.as_bytes().starts_with(b"user.") => Ok(()),
        error => Err(error),
    }
}
