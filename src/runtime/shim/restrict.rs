//! The flags of a volume, for a mount and everything mounted below it.

#![expect(clippy::disallowed_methods, reason = "reads the list of mounts")]

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sys::stat::Mode;

use crate::reconciler::container::{Mount, Propagation};

/// `struct mount_attr` of the kernel.
#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

const READ_ONLY: u64 = 1;
const NO_SETUID: u64 = 2;
const NO_DEVICES: u64 = 4;

/// The number of `mount_setattr` on every architecture.
const MOUNT_SETATTR: libc::c_long = 442;
const RECURSIVE: libc::c_uint = 0x8000;

const NOTHING: Option<&str> = None;

/// Gives a mount that nobody else can reach, and all below it, the flags of a volume.
pub(super) fn restrict(aside: &Path, wanted: &Mount) -> io::Result<()> {
    match at_once(aside, wanted) {
        // Before Linux 5.12.
        Err(Errno::ENOSYS) => one_by_one(aside, wanted),
        done => Ok(done?),
    }
}

fn propagation(wanted: &Mount) -> MsFlags {
    match wanted.propagation {
        Propagation::Private => MsFlags::MS_PRIVATE,
        // The namespace of the shim hears of the device's mounts and never tells: so does this.
        Propagation::FromHost | Propagation::Both => MsFlags::MS_SLAVE,
    }
}

#[expect(unsafe_code, reason = "no library has mount_setattr yet")]
fn at_once(aside: &Path, wanted: &Mount) -> nix::Result<()> {
    let folder = open(aside, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
    #[allow(clippy::useless_conversion, reason = "a c_ulong has 32 bits on armv7")]
    let propagation = u64::from(propagation(wanted).bits());
    let attributes = MountAttributes {
        set: NO_SETUID | NO_DEVICES | if wanted.read_only { READ_ONLY } else { 0 },
        clear: 0,
        propagation,
        user_namespace: 0,
    };
    let flags = RECURSIVE | libc::AT_EMPTY_PATH.unsigned_abs();
    // SAFETY: an open descriptor, an empty path, and a structure of the size that is given with it;
    // the kernel reads and keeps nothing.
    let done = unsafe {
        libc::syscall(
            MOUNT_SETATTR,
            folder.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(&attributes),
            size_of::<MountAttributes>(),
        )
    };
    Errno::result(done).map(drop)
}

/// The same where only one mount at a time gets flags.
fn one_by_one(aside: &Path, wanted: &Mount) -> io::Result<()> {
    mount(NOTHING, aside, NOTHING, propagation(wanted) | MsFlags::MS_REC, NOTHING)?;
    // As the kernel has its name: the list of mounts knows no links.
    let whole = fs::canonicalize(aside)?;
    let mounts = fs::read("/proc/thread-self/mountinfo")?;
    let mut done = false;
    for (point, has) in listed(&mounts).filter(|(point, _)| point.starts_with(&whole)) {
        let mut flags = has | MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        flags.set(MsFlags::MS_RDONLY, wanted.read_only || has.contains(MsFlags::MS_RDONLY));
        mount(NOTHING, &point, NOTHING, flags, NOTHING)
            .map_err(|error| io::Error::other(format!("restrict what is mounted at {}: {error}", point.display())))?;
        done |= point == whole;
    }
    if done { Ok(()) } else { Err(io::Error::other("it is not in the list of mounts")) }
}

/// Where something is mounted, from the list of mounts, with the flags that a new setting would take away
/// if it did not name them.
fn listed(mounts: &[u8]) -> impl Iterator<Item = (PathBuf, MsFlags)> {
    mounts.split(|byte| *byte == b'\n').filter_map(|line| {
        let mut fields = line.split(|byte| *byte == b' ').skip(4);
        let (point, options) = (fields.next()?, fields.next()?);
        let flags = options.split(|byte| *byte == b',').map(|option| match option {
            b"ro" => MsFlags::MS_RDONLY,
            b"noexec" => MsFlags::MS_NOEXEC,
            b"noatime" => MsFlags::MS_NOATIME,
            b"nodiratime" => MsFlags::MS_NODIRATIME,
            _ => MsFlags::empty(),
        });
        Some((unescape(point), flags.collect()))
    })
}

/// `\040` and its kind stand for bytes that would break a line of the list.
fn unescape(text: &[u8]) -> PathBuf {
    let mut whole = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, others)) = rest.split_first() {
        let number = others.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match number.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if *first == b'\\' => {
                whole.push(byte);
                rest = &others[3..];
            }
            _ => {
                whole.push(*first);
                rest = others;
            }
        }
    }
    OsString::from_vec(whole).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sched::{CloneFlags, unshare};
    use nix::sys::statvfs::{FsFlags, statvfs};
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    /// Flags of the mount that a path lies on.
    fn flags(path: &Path) -> FsFlags {
        statvfs(path).unwrap().flags()
    }

    /// Runs with mounts of its own, on a thread that takes them along.
    fn apart(run: impl FnOnce() + Send) {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FS).expect("this test needs root");
                mount(NOTHING, "/", NOTHING, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NOTHING).unwrap();
                run();
            });
            thread.join().unwrap();
        });
    }

    #[test]
    fn what_is_mounted_below_is_restricted_too_on_new_kernels_and_old() {
        let mut wanted = Mount {
            source: "/".into(),
            below: Vec::new(),
            destination: "/v".into(),
            read_only: true,
            propagation: Propagation::Private,
        };
        for (number, way) in [at_once_io as fn(&Path, &Mount) -> io::Result<()>, one_by_one].into_iter().enumerate() {
            for read_only in [true, false] {
                wanted.read_only = read_only;
                let folder = tempfile::Builder::new().prefix("a place\\ ").tempdir().unwrap();
                let (source, aside) = (folder.path().join("source"), folder.path().join("aside"));
                fs::create_dir_all(source.join("be low")).unwrap();
                fs::create_dir(&aside).unwrap();
                let wanted = &wanted;
                apart(move || {
                    let tmpfs = |at: &Path, flags| mount(Some("x"), at, Some("tmpfs"), flags, NOTHING).unwrap();
                    tmpfs(&source.join("be low"), MsFlags::MS_NOEXEC | MsFlags::MS_NOATIME);
                    mount(Some(&source), &aside, NOTHING, MsFlags::MS_BIND | MsFlags::MS_REC, NOTHING).unwrap();
                    way(&aside, wanted).unwrap();
                    let both = FsFlags::ST_NOSUID | FsFlags::ST_NODEV;
                    for place in [aside.clone(), aside.join("be low")] {
                        let has = flags(&place);
                        assert!(has.contains(both), "{number}: {place:?} {has:?}");
                        assert_eq!(has.contains(FsFlags::ST_RDONLY), read_only, "{number}: {place:?}");
                    }
                    let below = flags(&aside.join("be low"));
                    assert!(below.contains(FsFlags::ST_NOEXEC | FsFlags::ST_NOATIME), "{number}: {below:?}");
                    // The device's own are as they were.
                    assert!(!flags(&source.join("be low")).contains(FsFlags::ST_NODEV));
                    assert!(!flags(&source).contains(FsFlags::ST_RDONLY));
                });
            }
        }
    }

    fn at_once_io(aside: &Path, wanted: &Mount) -> io::Result<()> {
        Ok(at_once(aside, wanted)?)
    }

    #[test]
    fn names_in_the_list_of_mounts_are_read_as_they_are() {
        let list = b"1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 0:4 /x /a\\040b\\134c ro,nosuid,noexec,relatime master:1 - tmpfs x rw\n\n";
        let read: Vec<_> = listed(list).collect();
        let expected = [("/", MsFlags::empty()), ("/a b\\c", MsFlags::MS_RDONLY | MsFlags::MS_NOEXEC)];
        assert_eq!(read, expected.map(|(point, flags)| (PathBuf::from(point), flags)));
        assert_eq!(unescape(b"\\04"), PathBuf::from("\\04"));
        assert_eq!(unescape(b"\\999\\"), PathBuf::from("\\999\\"));
        assert_eq!(unescape(b"caf\xc3\\040"), PathBuf::from(OsStr::from_bytes(b"caf\xc3 ")));
    }
}
