//! Mounts below a folder: found and taken away, newest first.

use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, umount2};

use crate::cli::failure::{Code, Failure};

/// Rounds of unmounting: one mount may uncover another.
const ROUNDS: u32 = 100;

/// A mount as `/proc/self/mountinfo` has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    /// Where.
    pub(super) point: PathBuf,
    /// Of which file system.
    pub(super) kind: String,
}

/// All mounts of this program's mount namespace, oldest first.
pub(super) fn all() -> Vec<Mount> {
    fs::read_to_string("/proc/self/mountinfo").unwrap_or_default().lines().filter_map(parse).collect()
}

fn parse(line: &str) -> Option<Mount> {
    let (before, after) = line.split_once(" - ")?;
    let point = unescape(before.split(' ').nth(4)?);
    Some(Mount { point, kind: after.split(' ').next()?.to_owned() })
}

/// `\040` and its kind stand for letters that would break the line.
fn unescape(text: &str) -> PathBuf {
    let bytes = text.as_bytes();
    let mut path = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let octal = text.get(at + 1..at + 4).filter(|_| bytes[at] == b'\\');
        let letter = octal.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        path.push(letter.unwrap_or(bytes[at]));
        at += if letter.is_some() { 4 } else { 1 };
    }
    PathBuf::from(std::ffi::OsString::from_vec(path))
}

/// The mounts at or below a folder, newest first.
pub(super) fn below(folder: &Path) -> Vec<PathBuf> {
    all().into_iter().rev().map(|mount| mount.point).filter(|point| point.starts_with(folder)).collect()
}

/// Unmounts everything at or below a folder; returns how many there were.
pub(super) fn remove(folder: &Path) -> Result<usize, Failure> {
    let mut count = 0;
    for _ in 0..ROUNDS {
        let found = below(folder);
        if found.is_empty() {
            return Ok(count);
        }
        for point in found {
            match umount2(&point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
                Ok(()) => count += 1,
                // It went with the one above it.
                Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => {}
                Err(error) => {
                    return Err(Failure::of(Code::Failed, &error).during(format!("unmount {}", point.display())));
                }
            }
        }
    }
    Err(Failure::failed(format!("something keeps mounting below {}", folder.display())))
}

#[cfg(test)]
mod tests {
    use nix::mount::{MsFlags, mount};

    use super::*;

    #[test]
    fn a_line_is_parsed_with_its_escapes() {
        let line = r"36 35 98:0 /mnt1 /mnt\040a\134b rw,noatime master:1 - ext3 /dev/root rw,errors=continue";
        assert_eq!(parse(line), Some(Mount { point: r"/mnt a\b".into(), kind: "ext3".into() }));
    }

    #[test]
    fn stacked_mounts_go_and_others_stay() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let (ours, sibling) = (root.join("d 1"), root.join("d 12"));
        let tmpfs = |path: &Path| {
            fs::create_dir_all(path).unwrap();
            mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), None::<&str>).expect("this test needs root");
        };
        tmpfs(&ours);
        tmpfs(&ours.join("inner"));
        tmpfs(&ours.join("inner"));
        tmpfs(&sibling);
        assert_eq!(remove(&ours).unwrap(), 3);
        assert!(below(&ours).is_empty());
        assert_eq!(below(&root), [sibling]);
        assert_eq!(remove(&root).unwrap(), 1);
    }
}
