//! Users of their own: a user namespace for a container, and what of the device it is shown under the
//! ids that it has there.
//!
//! libcontainer enters the namespace before any other, and what it mounts it mounts as the container's
//! root. So everything that only the device's root may do is done here, before: entering the pod's
//! namespaces, and mounting what belongs to them. All sources of mounts are brought to one place that
//! the container's root may walk to, in the private mount namespace of the shim.

#![expect(clippy::disallowed_methods, reason = "writes id maps and makes mount points")]

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::AT_FDCWD;
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, fchmodat, makedev, mknod};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, chown, fork};
use serde_json::{Value, json};

use crate::reconciler::container::{DeviceNode, Namespace, Namespaces, UserRange};

/// Where the shim collects what the container gets. Every kernel with devices has the folder, and
/// nothing else of it is needed once the mount namespace is private.
const STAGE: &str = "/dev/shm";

/// A container's user namespace, its pod's if it has one, and the place of its mounts.
pub(super) struct Users {
    namespace: File,
    pub(super) range: UserRange,
}

impl Users {
    /// The pod's namespace, or a new one that nobody is in yet.
    pub(super) fn of(range: UserRange, namespaces: &Namespaces) -> Result<Self, String> {
        let at = |step: &'static str| move |error: io::Error| format!("{step}: {error}");
        if range.count == 0 || range.first == 0 {
            return Err("a user namespace needs ids of its own".into());
        }
        let namespace = match &namespaces.user_at {
            Some(path) => File::open(path).map_err(at("open the pod's user namespace"))?,
            None => namespace(range).map_err(at("make a user namespace"))?,
        };
        fs::create_dir_all(STAGE).map_err(at("make /dev/shm"))?;
        // Device nodes for the container are made here too.
        mount(Some("tmpfs"), STAGE, Some("tmpfs"), MsFlags::MS_NOSUID, Some("mode=755,size=1m"))
            .map_err(|error| format!("mount a place for the container's mounts: {error}"))?;
        Ok(Self { namespace, range })
    }

    /// The path by which libcontainer enters it.
    pub(super) fn path(&self) -> String {
        format!("/proc/self/fd/{}", self.namespace.as_raw_fd())
    }

    /// A folder of the stage.
    pub(super) fn folder(name: &str) -> Result<PathBuf, String> {
        let path = Path::new(STAGE).join(name);
        fs::create_dir_all(&path).map_err(|error| format!("make {}: {error}", path.display()))?;
        Ok(path)
    }

    /// Where a volume is made ready. The container's root, who is nobody here, has to get to it when
    /// libcontainer binds it below `/dev`.
    pub(super) fn place(number: usize) -> Result<PathBuf, String> {
        Ok(Self::folder("volumes")?.join(number.to_string()))
    }

    /// Makes device nodes for the container's own users, as mounts to be bound below its `/dev`: the
    /// device's own nodes belong to users that it does not have.
    pub(super) fn nodes(&self, devices: &[DeviceNode]) -> Result<Vec<Value>, String> {
        let folder = Self::folder("nodes")?;
        let make = |(number, device): (usize, &DeviceNode)| {
            let path = folder.join(number.to_string());
            let kind = if device.block { SFlag::S_IFBLK } else { SFlag::S_IFCHR };
            let device_number = makedev(u64::from(device.major), u64::from(device.minor));
            mknod(&path, kind, Mode::from_bits_truncate(0o666), device_number)
                .and_then(|()| chown(&path, Some(self.range.first.into()), Some(self.range.first.into())))
                .and_then(|()| fchmodat(AT_FDCWD, &path, Mode::from_bits_truncate(0o666), FchmodatFlags::FollowSymlink))
                .map_err(|error| format!("make the device node {}: {error}", device.path.display()))?;
            Ok(
                json!({"destination": device.path, "type": "bind", "source": path, "options": ["bind", "nosuid", "noexec"]}),
            )
        };
        devices.iter().enumerate().map(make).collect()
    }

    /// Shows a tree of the device on the stage, with the container's ids in place of the device's.
    pub(super) fn show(&self, source: &impl AsFd, target: &Path) -> Result<(), String> {
        let failed = |error: io::Error| match error.raw_os_error() {
            Some(libc::EINVAL | libc::EPERM | libc::ENOSYS) => {
                "this kernel or file system can not show files under other ids (hostUsers: false needs Linux 5.19, \
                 and a file system that supports idmapped mounts)"
                    .to_owned()
            }
            _ => format!("show {} under other ids: {error}", target.display()),
        };
        let tree = clone_tree(source).map_err(failed)?;
        map_ids(&tree, &self.namespace).map_err(failed)?;
        attach(&tree, target).map_err(failed)
    }

    /// Enters those namespaces of the pod that the device made, and mounts what is theirs: in the
    /// container's own user namespace neither could be done. The list of mounts is changed to match.
    pub(super) fn enter(&self, namespaces: &Namespaces, mounts: &mut [Value]) -> Result<(), String> {
        let given = [
            ("network", &namespaces.network, CloneFlags::CLONE_NEWNET),
            ("ipc", &namespaces.ipc, CloneFlags::CLONE_NEWIPC),
            ("uts", &namespaces.uts, CloneFlags::CLONE_NEWUTS),
        ];
        for (name, namespace, flag) in given {
            if let Namespace::At(path) = namespace {
                let file = File::open(path).map_err(|error| format!("open {}: {error}", path.display()))?;
                setns(&file, flag).map_err(|error| format!("enter the pod's {name} namespace: {error}"))?;
            }
        }
        if matches!(namespaces.network, Namespace::At(_)) && namespaces.user_at.is_none() {
            // The container's root has no power over a namespace of the device's, ports below 1024 included.
            let _ = fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0");
        }
        for (index, entry) in mounts.iter_mut().enumerate() {
            self.stage(index, entry, namespaces)?;
        }
        Ok(())
    }

    fn stage(&self, index: usize, entry: &mut Value, namespaces: &Namespaces) -> Result<(), String> {
        let kind = entry["type"].as_str().unwrap_or_default().to_owned();
        let target = Path::new(STAGE).join(format!("mount-{index}"));
        let make = |what: io::Result<()>| what.map_err(|error| format!("make {}: {error}", target.display()));
        match kind.as_str() {
            "sysfs" | "mqueue" => {
                let own = if kind == "sysfs" { &namespaces.network } else { &namespaces.ipc };
                if *own == Namespace::Own {
                    return Ok(());
                }
                make(fs::create_dir_all(&target))?;
                let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
                mount(Some(kind.as_str()), &target, Some(kind.as_str()), flags, None::<&str>)
                    .map_err(|error| format!("mount {kind}: {error}"))?;
                let mut options = vec![json!("bind"), json!("nosuid"), json!("noexec"), json!("nodev")];
                options.extend(entry["options"].as_array().into_iter().flatten().filter(|one| *one == "ro").cloned());
                entry["options"] = Value::Array(options);
            }
            "bind" => {
                let source = entry["source"].as_str().unwrap_or_default().to_owned();
                if source.starts_with(STAGE) {
                    return Ok(());
                }
                let opened = File::open(&source).map_err(|error| format!("open {source}: {error}"))?;
                let is_folder = opened.metadata().is_ok_and(|found| found.is_dir());
                make(if is_folder { fs::create_dir_all(&target) } else { File::create(&target).map(drop) })?;
                let read_only = entry["options"].as_array().is_some_and(|all| all.iter().any(|one| one == "ro"));
                match self.show(&opened, &target) {
                    Ok(()) => {}
                    // It can be read as anybody's.
                    Err(_) if read_only => clone_tree(&opened)
                        .and_then(|tree| attach(&tree, &target))
                        .map_err(|error| format!("mount {source}: {error}"))?,
                    Err(reason) => return Err(format!("mount {source}: {reason}")),
                }
            }
            _ => return Ok(()),
        }
        entry["type"] = json!("bind");
        entry["source"] = json!(target);
        Ok(())
    }
}

/// A user namespace with its ids mapped.
#[expect(unsafe_code, reason = "fork: the namespace is made by a process that then ends")]
fn namespace(range: UserRange) -> io::Result<File> {
    let ((mut made, made_writer), (held, mut hold)) = (io::pipe()?, io::pipe()?);
    // SAFETY: this process has one thread, so the child finds nothing half done; it only makes system calls.
    match unsafe { fork() }? {
        ForkResult::Child => {
            drop((made, hold));
            let mut done = made_writer;
            let told = match unshare(CloneFlags::CLONE_NEWUSER) {
                Ok(()) => done.write_all(&[1]),
                Err(error) => Err(error.into()),
            };
            let mut held = held;
            if told.is_ok() {
                let _ = held.read(&mut [0]);
            }
            // SAFETY: ends this process without running anything of its parent's.
            unsafe { libc::_exit(i32::from(told.is_err())) }
        }
        ForkResult::Parent { child } => {
            drop((made_writer, held));
            let opened = made.read_exact(&mut [0]).and_then(|()| {
                let map = format!("0 {} {}", range.first, range.count);
                fs::write(format!("/proc/{child}/uid_map"), &map)?;
                fs::write(format!("/proc/{child}/gid_map"), &map)?;
                File::open(format!("/proc/{child}/ns/user"))
            });
            let _ = hold.write_all(&[1]);
            drop(hold);
            waitpid(child, None)?;
            opened
        }
    }
}

/// A copy of a tree of mounts that is attached nowhere.
#[expect(unsafe_code, reason = "open_tree has no safe wrapper")]
fn clone_tree(source: &impl AsFd) -> io::Result<OwnedFd> {
    let flags = libc::OPEN_TREE_CLONE
        | libc::OPEN_TREE_CLOEXEC
        | libc::AT_EMPTY_PATH.unsigned_abs()
        | libc::AT_RECURSIVE.unsigned_abs();
    // SAFETY: an open descriptor and an empty path; the result is checked.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, source.as_fd().as_raw_fd(), c"".as_ptr(), flags) };
    let fd = i32::try_from(fd).unwrap_or(-1);
    // SAFETY: the kernel just handed this descriptor to us alone.
    if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(unsafe { OwnedFd::from_raw_fd(fd) }) }
}

#[expect(unsafe_code, reason = "mount_setattr has no safe wrapper")]
fn map_ids(tree: &OwnedFd, namespace: &File) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: u64::from(namespace.as_raw_fd().unsigned_abs()),
    };
    // SAFETY: an open descriptor, an empty path, and a structure of the size that is passed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[expect(unsafe_code, reason = "move_mount has no safe wrapper")]
fn attach(tree: &OwnedFd, target: &Path) -> io::Result<()> {
    let place = File::options().read(true).custom_flags(libc::O_PATH).open(target)?;
    let flags = libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH;
    // SAFETY: open descriptors and empty paths.
    let result = unsafe {
        libc::syscall(libc::SYS_move_mount, tree.as_raw_fd(), c"".as_ptr(), place.as_raw_fd(), c"".as_ptr(), flags)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
