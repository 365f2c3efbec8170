//! The binary that shims run from can not be written through, whatever a container gets hold of.
//!
//! A container's first process starts as this binary, so `/proc/<pid>/exe` could lead a hostile
//! container to it (CVE-2019-5736). Shims are therefore executed from a detached read-only mount of
//! the binary: a file reached through it stays read-only, and unlike a copy in memory it costs none.

#![expect(clippy::disallowed_methods, reason = "opens the binary")]

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;
use nix::sys::statvfs::{FsFlags, fstatvfs};

/// A read-only view of the binary, to be executed.
#[derive(Debug)]
pub(super) struct SealedExe(OwnedFd);

impl SealedExe {
    /// Makes the view. Needs root.
    pub(super) fn open(exe: &Path) -> io::Result<Self> {
        match Self::detached(exe) {
            // Before Linux 5.12.
            Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => Self::apart(exe),
            made => made,
        }
    }

    /// A mount that is nowhere.
    #[expect(unsafe_code, reason = "open_tree and mount_setattr have no safe wrapper")]
    fn detached(exe: &Path) -> io::Result<Self> {
        let path = CString::new(exe.as_os_str().as_bytes()).map_err(io::Error::other)?;
        let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
        // SAFETY: a terminated path that outlives the call; the result is checked.
        let fd = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) };
        let fd = i32::try_from(fd).unwrap_or(-1);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just handed this descriptor to us alone.
        let tree = unsafe { OwnedFd::from_raw_fd(fd) };
        let read_only =
            libc::mount_attr { attr_set: libc::MOUNT_ATTR_RDONLY, attr_clr: 0, propagation: 0, userns_fd: 0 };
        // SAFETY: an open descriptor, an empty path, and a structure of the size that is passed.
        let result = unsafe {
            libc::syscall(
                libc::SYS_mount_setattr,
                tree.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_EMPTY_PATH,
                &raw const read_only,
                size_of::<libc::mount_attr>(),
            )
        };
        if result == 0 { Ok(Self(tree)) } else { Err(io::Error::last_os_error()) }
    }

    /// A mount of a namespace that ends at once, with the thread that made it: only the descriptor keeps it.
    fn apart(exe: &Path) -> io::Result<Self> {
        let exe = exe.to_owned();
        let make = move || -> nix::Result<OwnedFd> {
            let none = None::<&str>;
            unshare(CloneFlags::CLONE_NEWNS)?;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
            mount(Some(&exe), &exe, none, MsFlags::MS_BIND, none)?;
            mount(none, &exe, none, MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, none)?;
            open(&exe, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
        };
        let made = std::thread::Builder::new().name("seal".into()).spawn(make)?.join();
        let made = made.map_err(|_| io::Error::other("the thread that mounts the binary ended"))?;
        Ok(Self(made?))
    }

    /// The path under which this process, or a child it forks, executes the view.
    pub(super) fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }
}

/// Refuses to go on from a binary that could be written through.
pub(super) fn require() -> Result<(), String> {
    let sealed = File::open("/proc/self/exe").and_then(|exe| Ok(fstatvfs(&exe)?.flags().contains(FsFlags::ST_RDONLY)));
    match sealed {
        Ok(true) => Ok(()),
        Ok(false) => Err("the binary is not sealed: shims are started by the agent only".into()),
        Err(error) => Err(format!("check the seal of the binary: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_view_can_be_executed_and_not_written_on_new_kernels_and_old() {
        let folder = tempfile::tempdir().unwrap();
        let exe = folder.path().join("sh");
        std::fs::copy("/bin/sh", &exe).unwrap();
        for view in [SealedExe::detached(&exe), SealedExe::apart(&exe)] {
            let view = view.expect("this test needs root");
            let flags = nix::sys::statvfs::statvfs(&view.path()).unwrap().flags();
            assert!(flags.contains(FsFlags::ST_RDONLY));
            let written = std::fs::OpenOptions::new().write(true).open(view.path());
            assert_eq!(written.unwrap_err().raw_os_error(), Some(libc::EROFS));
            let output = Command::new(view.path()).args(["-c", "echo alive"]).output().unwrap();
            assert_eq!(output.stdout, b"alive\n");
        }
        // The binary itself is as it was, and its folder holds no mount.
        assert!(std::fs::OpenOptions::new().write(true).open(&exe).is_ok());
        assert!(!std::fs::read_to_string("/proc/self/mounts").unwrap().contains(&*folder.path().to_string_lossy()));
    }
}
