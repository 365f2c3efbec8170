//! The container's root: an overlay of the image's layers under a fresh writable one, checked and
//! completed before libcontainer sees it.
//!
//! The image is hostile until shown otherwise. Nothing here follows a symbolic link of the image out
//! of the root, and the folders that mounts go to must be real ones.

#![expect(clippy::disallowed_methods, reason = "reads the device's own names")]

use std::fs::{DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag, fstat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::mounts;
use crate::runtime::folder::Order;

/// Longest user database of an image that is read, in bytes.
const PASSWD_LIMIT: u64 = 1 << 20;

/// Most layers of one image: the kernel takes one page of mount options.
const MAX_LAYERS: usize = 128;

/// Folders that libcontainer mounts to or writes into.
const REAL_FOLDERS: [&str; 4] = ["dev", "proc", "sys", "etc"];

/// A root that is ready.
pub(super) struct Prepared {
    pub(super) root: PathBuf,
    /// The home of the container's user, from the image's own user database.
    pub(super) home: String,
    /// What libcontainer is to mount below `/dev`, in the form of its configuration.
    pub(super) mounts: Vec<serde_json::Value>,
}

/// Mounts and completes the root. The calling process has a mount namespace of its own.
pub(super) fn prepare(order: &Order) -> Result<Prepared, String> {
    let root = mount_overlay(order)?;
    let inside = open(&root, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(|error| format!("open the root: {error}"))?;
    for name in REAL_FOLDERS {
        require_folder(&inside, name)?;
    }
    let spec = &order.spec;
    let hosts = match &spec.sandbox {
        Some(sandbox) => std::fs::read_to_string(sandbox.join("hosts"))
            .map_err(|error| format!("read the names of the pod in {}: {error}", sandbox.display()))?,
        None => format!("127.0.0.1\tlocalhost\n127.0.1.1\t{}\n", spec.hostname),
    };
    let etc = resolve(&inside, Path::new("etc"), OFlag::O_PATH | OFlag::O_DIRECTORY)
        .map_err(|error| format!("open /etc of the image: {error}"))?;
    for (name, content) in
        [("hosts", hosts), ("hostname", format!("{}\n", spec.hostname)), ("resolv.conf", String::new())]
    {
        replace_file(&etc, name, &content).map_err(|error| format!("write /etc/{name} of the container: {error}"))?;
    }
    let mounts = mounts::attach(&inside, order)?;
    if !spec.working_dir.is_empty() {
        make_folders(&inside, Path::new(&spec.working_dir))
            .map_err(|error| format!("make the working folder {} in the container: {error}", spec.working_dir))?;
    }
    Ok(Prepared { home: home(&inside, spec.uid), root, mounts })
}

fn mount_overlay(order: &Order) -> Result<PathBuf, String> {
    let at = |step: &'static str| move |error: io::Error| format!("{step}: {error}");
    if order.layers.is_empty() || order.layers.len() > MAX_LAYERS {
        return Err(format!("the image has {} layers: it must have 1 to {MAX_LAYERS}", order.layers.len()));
    }
    let (root, upper, work) = (order.scratch.join("root"), order.scratch.join("upper"), order.scratch.join("work"));
    for (folder, mode) in [(&order.scratch, 0o700), (&root, 0o755), (&upper, 0o755), (&work, 0o700)] {
        DirBuilder::new().recursive(true).mode(mode).create(folder).map_err(at("make the writable layer"))?;
    }
    // Named by descriptor: short, so that many layers fit, and free of characters that mean something.
    let handle = |path: &Path| open(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty());
    let layers = order.layers.iter().rev().map(|layer| handle(layer)).collect::<nix::Result<Vec<OwnedFd>>>();
    let layers = layers.map_err(|error| format!("open the image's layers: {error}"))?;
    let (upper, work) = handle(&upper)
        .and_then(|upper| Ok((upper, handle(&work)?)))
        .map_err(|error| format!("open the writable layer: {error}"))?;
    let name = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
    let lowers: Vec<String> = layers.iter().map(name).collect();
    let options = format!("lowerdir={},upperdir={},workdir={}", lowers.join(":"), name(&upper), name(&work));
    let flags = MsFlags::MS_NODEV | MsFlags::MS_NOSUID;
    let try_mount = |options: &str| mount(Some("overlay"), &root, Some("overlay"), flags, Some(options));
    // Nothing in the writable layer outlives the container, so it is never worth a sync; kernels
    // before 5.10 do not know that.
    let mounted = try_mount(&format!("{options},volatile")).or_else(|_| try_mount(&options));
    mounted.map_err(|error| format!("mount the root on {}: {error}", root.display()))?;
    Ok(root)
}

/// Makes sure that a name right below the root is a folder and not a link to anywhere.
fn require_folder(root: &OwnedFd, name: &str) -> Result<(), String> {
    let refused = |what: &str| format!("the image has {what} at /{name}, where a folder must be: refused");
    loop {
        let how = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        match nix::fcntl::openat(root, name, how, Mode::empty()) {
            Ok(found) => {
                let mode = fstat(&found).map_err(|error| format!("look at /{name} of the image: {error}"))?.st_mode;
                return match SFlag::from_bits_truncate(mode & SFlag::S_IFMT.bits()) {
                    SFlag::S_IFDIR => Ok(()),
                    SFlag::S_IFLNK => Err(refused("a symbolic link")),
                    _ => Err(refused("a file")),
                };
            }
            Err(nix::errno::Errno::ENOENT) => mkdirat(root, name, Mode::from_bits_truncate(0o755))
                .map_err(|error| format!("make /{name} in the container: {error}"))?,
            Err(error) => return Err(format!("look at /{name} of the image: {error}")),
        }
    }
}

/// Resolves a path as the container would: links are followed, but never out of the root.
pub(super) fn resolve(root: &OwnedFd, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(root, path, how)
}

/// Puts a regular file in place of whatever the image has under the name.
fn replace_file(folder: &OwnedFd, name: &str, content: &str) -> io::Result<()> {
    match unlinkat(folder, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(nix::errno::Errno::ENOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    File::from(nix::fcntl::openat(folder, name, flags, Mode::from_bits_truncate(0o644))?).write_all(content.as_bytes())
}

/// Makes a folder and its parents inside the root, as far as they are missing.
pub(super) fn make_folders(root: &OwnedFd, path: &Path) -> io::Result<()> {
    let mut made = PathBuf::new();
    for part in path.components() {
        let Component::Normal(name) = part else {
            if part == Component::RootDir || part == Component::CurDir {
                continue;
            }
            return Err(io::Error::other("the path must not contain .."));
        };
        let parent = if made.as_os_str().is_empty() {
            root.try_clone()?
        } else {
            resolve(root, &made, OFlag::O_PATH | OFlag::O_DIRECTORY)?
        };
        match mkdirat(&parent, name, Mode::from_bits_truncate(0o755)) {
            Ok(()) | Err(nix::errno::Errno::EEXIST) => made.push(name),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The user's home as the image's own `/etc/passwd` has it. Never asks the system's name service: in
/// a container's root that would load the container's libraries.
fn home(root: &OwnedFd, uid: u32) -> String {
    let fallback = || if uid == 0 { "/root".to_owned() } else { "/".to_owned() };
    let Ok(fd) = resolve(root, Path::new("etc/passwd"), OFlag::O_RDONLY | OFlag::O_NONBLOCK) else { return fallback() };
    let mut text = Vec::new();
    if File::from(fd).take(PASSWD_LIMIT).read_to_end(&mut text).is_err() {
        return fallback();
    }
    let text = String::from_utf8_lossy(&text);
    let of_user = text
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.get(2).is_some_and(|id| id.parse() == Ok(uid)));
    of_user
        .and_then(|fields| fields.get(5).map(|home| (*home).to_owned()))
        .filter(|home| home.starts_with('/'))
        .unwrap_or_else(fallback)
}
