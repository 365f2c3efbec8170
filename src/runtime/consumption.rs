//! What containers use of memory and disk, read from their cgroups and counted in their folders.
//! Blocking. It judges nothing.

use std::os::fd::OwnedFd;
use std::path::Path;

use nix::dir::Dir;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{Mode, SFlag, fstatat};

use super::folder::Order;
use super::settle::remove_dir;
use super::usage;
use crate::reconciler::container::ContainerRef;
use crate::reconciler::eviction::ContainerUsage;

/// Folders in folders that are counted: deeper ones are as good as none, as opening one takes a handle.
const DEPTH: usize = 200;

/// Bytes in a block of `stat`.
const BLOCK: u64 = 512;

/// Bytes on disk and entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OnDisk {
    /// Bytes.
    pub bytes: u64,
    /// Files, folders and all else.
    pub entries: u64,
}

/// Counts a folder and all below, without following links or leaving its file system's folders.
pub fn on_disk(folder: &Path) -> OnDisk {
    let mut sum = OnDisk::default();
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    if let Ok(opened) = Dir::open(folder, flags, Mode::empty()) {
        count(opened, &mut sum, DEPTH);
    }
    sum
}

fn count(mut folder: Dir, sum: &mut OnDisk, depth: usize) {
    let mut below = Vec::new();
    let Ok(handle) = std::os::fd::AsFd::as_fd(&folder).try_clone_to_owned() else { return };
    for entry in folder.iter().flatten() {
        let name = entry.file_name().to_owned();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let Ok(found) = fstatat(&handle, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW) else { continue };
        sum.entries += 1;
        // A file with many names is counted once for each: at most too much.
        sum.bytes += u64::try_from(found.st_blocks).unwrap_or(0) * BLOCK;
        if SFlag::from_bits_truncate(found.st_mode & SFlag::S_IFMT.bits()) == SFlag::S_IFDIR && depth > 0 {
            below.push(name);
        }
    }
    drop(folder);
    for name in below {
        if let Some(next) = open_below(&handle, &name) {
            count(next, sum, depth - 1);
        }
    }
}

fn open_below(folder: &OwnedFd, name: &std::ffi::CStr) -> Option<Dir> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Dir::openat(folder, name, flags, Mode::empty()).ok()
}

impl super::Shims {
    /// The orders of all containers, and whether each is over.
    fn orders(&self) -> Vec<(Order, bool)> {
        let folders = self.folders().unwrap_or_default();
        folders.iter().filter_map(|folder| Some((folder.order().ok()?, folder.exit().ok()?.is_some()))).collect()
    }

    /// Removes what containers that are over wrote to their roots, and says how much that was. Their
    /// logs and last words stay. Another attempt has a root of its own, so nothing needs it again.
    pub fn reclaim(&self) -> OnDisk {
        let mut sum = OnDisk::default();
        for (order, _) in self.orders().into_iter().filter(|(_, over)| *over) {
            let upper = order.scratch.join("upper");
            let found = on_disk(&upper);
            match remove_dir(&upper) {
                Ok(()) => (sum.bytes, sum.entries) = (sum.bytes + found.bytes, sum.entries + found.entries),
                Err(error) => tracing::warn!(%error, "what a container left can not be removed"),
            }
        }
        sum
    }

    /// What every container uses: of memory, and of the disk with its logs.
    pub fn consumption(&self) -> Vec<(ContainerRef, ContainerUsage)> {
        let attempts = self.orders().into_iter().map(|(order, over)| {
            let written = on_disk(&order.scratch.join("upper"));
            let logged = order.log.path.parent().map(on_disk).unwrap_or_default();
            let memory = usage::of_cgroup(self.hierarchies(), &order.cgroup).filter(|_| !over);
            let memory = memory.map_or(0, |used| used.memory);
            let used = ContainerUsage { memory, disk: written.bytes + logged.bytes, inodes: written.entries };
            (order.spec.reference, used)
        });
        attempts.collect()
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a folder to count")]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_lies_in_a_folder_is_counted_and_links_are_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("a/b")).unwrap();
        fs::write(folder.path().join("a/b/large"), vec![1; 300_000]).unwrap();
        std::os::unix::fs::symlink("/usr", folder.path().join("link")).unwrap();
        let found = on_disk(folder.path());
        assert_eq!(found.entries, 4);
        assert!((300_000..400_000).contains(&found.bytes), "{found:?}");
        assert_eq!(on_disk(Path::new("/nowhere")), OnDisk::default());
    }
}
