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

use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag, fstat, mkdirat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, unlinkat};

use super::mounts;
use super::users::Users;
use crate::runtime::folder::{Folder, Order};

/// Longest user database of an image that is read, in bytes.
const PASSWD_LIMIT: u64 = 1 << 20;

/// Groups that an image may give one user.
const MAX_GROUPS: usize = 256;

/// Most layers of one image: the kernel takes one page of mount options.
const MAX_LAYERS: usize = 128;

/// Folders that libcontainer mounts to or writes into.
const REAL_FOLDERS: [&str; 4] = ["dev", "proc", "sys", "etc"];

/// A root that is ready.
pub(super) struct Prepared {
    pub(super) root: PathBuf,
    /// The home of the container's user, from the image's own user database.
    pub(super) home: String,
    /// The groups that the image gives the container's user.
    pub(super) groups: Vec<u32>,
    /// What libcontainer is to mount below `/dev`, in the form of its configuration.
    pub(super) mounts: Vec<serde_json::Value>,
}

/// Mounts and completes the root. The calling process has a mount namespace of its own.
pub(super) fn prepare(folder: &Folder, order: &Order, users: Option<&Users>) -> Result<Prepared, String> {
    let root = mount_overlay(folder, order, users)?;
    let inside = open(&root, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(|error| format!("open the root: {error}"))?;
    let owner = users.map(|users| users.range.first);
    for name in REAL_FOLDERS {
        require_folder(&inside, name, owner)?;
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
        replace_file(&etc, name, &content, owner)
            .map_err(|error| format!("write /etc/{name} of the container: {error}"))?;
    }
    let mounts = mounts::attach(&inside, order, users)?;
    if !spec.working_dir.is_empty() {
        make_folders(&inside, Path::new(&spec.working_dir), owner)
            .map_err(|error| format!("make the working folder {} in the container: {error}", spec.working_dir))?;
    }
    let (name, home) = entry_of(&inside, spec.uid);
    let groups = if spec.confinement.image_groups { groups_of(&inside, &name, spec.gid) } else { Vec::new() };
    Ok(Prepared { root, home, groups, mounts })
}

/// The folders of one overlay, opened.
struct Parts {
    root: PathBuf,
    layers: Vec<OwnedFd>,
    upper: OwnedFd,
    work: OwnedFd,
}

fn mount_overlay(folder: &Folder, order: &Order, users: Option<&Users>) -> Result<PathBuf, String> {
    let parts = open_parts(folder, order, users)?;
    let name = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
    let lowers: Vec<String> = parts.layers.iter().map(name).collect();
    let options =
        format!("lowerdir={},upperdir={},workdir={}", lowers.join(":"), name(&parts.upper), name(&parts.work));
    let mut flags = MsFlags::MS_NODEV | MsFlags::MS_NOSUID;
    if !order.spec.confinement.no_new_privileges {
        // Programs that gain privileges do so by their set-user-id bit.
        flags -= MsFlags::MS_NOSUID;
    }
    if order.spec.confinement.privileged {
        flags -= MsFlags::MS_NODEV;
    }
    let try_mount = |options: &str| mount(Some("overlay"), &parts.root, Some("overlay"), flags, Some(options));
    // Nothing in the writable layer outlives the container, so it is never worth a sync; kernels
    // before 5.10 do not know that.
    let mounted = try_mount(&format!("{options},volatile")).or_else(|_| try_mount(&options));
    mounted.map_err(|error| format!("mount the root on {}: {error}", parts.root.display()))?;
    Ok(parts.root)
}

fn open_parts(folder: &Folder, order: &Order, users: Option<&Users>) -> Result<Parts, String> {
    let at = |step: &'static str| move |error: io::Error| format!("{step}: {error}");
    if order.layers.is_empty() || order.layers.len() > MAX_LAYERS {
        return Err(format!("the image has {} layers: it must have 1 to {MAX_LAYERS}", order.layers.len()));
    }
    // Where it is mounted is in memory: each folder of the writable layer is a write to the device's flash.
    let (root, upper, work) = (folder.path().join("root"), order.scratch.join("upper"), order.scratch.join("work"));
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
    let Some(users) = users else { return Ok(Parts { root, layers, upper, work }) };
    // The writable layer belongs to the container's root; layers are shared, and shown under its ids.
    let (uid, gid) = (Uid::from_raw(users.range.first), Gid::from_raw(users.range.first));
    fchownat(&upper, "", Some(uid), Some(gid), AtFlags::AT_EMPTY_PATH)
        .map_err(|error| format!("give the writable layer to the container's users: {error}"))?;
    let mut shown = Vec::with_capacity(layers.len());
    for (index, layer) in layers.iter().enumerate() {
        let place = Users::folder(&format!("layer-{index}"))?;
        users.show(layer, &place)?;
        shown.push(handle(&place).map_err(|error| format!("open the image's layers: {error}"))?);
    }
    Ok(Parts { root: Users::folder("root")?, layers: shown, upper, work })
}

/// Makes sure that a name right below the root is a folder and not a link to anywhere.
fn require_folder(root: &OwnedFd, name: &str, owner: Option<u32>) -> Result<(), String> {
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
                .and_then(|()| give(root, Path::new(name), owner))
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
fn replace_file(folder: &OwnedFd, name: &str, content: &str, owner: Option<u32>) -> io::Result<()> {
    match unlinkat(folder, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(nix::errno::Errno::ENOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut file = File::from(nix::fcntl::openat(folder, name, flags, Mode::from_bits_truncate(0o644))?);
    file.write_all(content.as_bytes())?;
    Ok(give(folder, Path::new(name), owner)?)
}

/// Gives what was made in a container's root to its own root user.
fn give(folder: &OwnedFd, name: &Path, owner: Option<u32>) -> nix::Result<()> {
    let Some(owner) = owner else { return Ok(()) };
    let (uid, gid) = (Uid::from_raw(owner), Gid::from_raw(owner));
    fchownat(folder, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)
}

/// Makes a folder and its parents inside the root, as far as they are missing.
pub(super) fn make_folders(root: &OwnedFd, path: &Path, owner: Option<u32>) -> io::Result<()> {
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
            Ok(()) => {
                give(&parent, Path::new(name), owner)?;
                made.push(name);
            }
            Err(nix::errno::Errno::EEXIST) => made.push(name),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Name and home of a user as the image's own `/etc/passwd` has them. Never asks the system's name
/// service: in a container's root that would load the container's libraries.
fn entry_of(root: &OwnedFd, uid: u32) -> (String, String) {
    let text = database(root, "etc/passwd");
    let mut lines = text.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let entry = lines.find(|fields| fields.get(2).is_some_and(|id| id.parse() == Ok(uid))).unwrap_or_default();
    let field = |index: usize| entry.get(index).map(|text| (*text).to_owned());
    let fallback = if uid == 0 { "/root" } else { "/" };
    let home = field(5).filter(|home| home.starts_with('/')).unwrap_or_else(|| fallback.to_owned());
    (field(0).unwrap_or_default(), home)
}

/// The groups that the image's `/etc/group` counts a user to, beside its own.
fn groups_of(root: &OwnedFd, user: &str, own: u32) -> Vec<u32> {
    if user.is_empty() {
        return Vec::new();
    }
    let text = database(root, "etc/group");
    let entries = text.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let member = |fields: &Vec<&str>| fields.get(3).is_some_and(|members| members.split(',').any(|name| name == user));
    let ids = entries.filter(member).filter_map(|fields| fields.get(2)?.parse::<u32>().ok());
    ids.filter(|id| *id != own).take(MAX_GROUPS).collect()
}

/// A user database of the image; empty when it can not be read.
fn database(root: &OwnedFd, path: &str) -> String {
    let Ok(fd) = resolve(root, Path::new(path), OFlag::O_RDONLY | OFlag::O_NONBLOCK) else { return String::new() };
    let mut text = Vec::new();
    match File::from(fd).take(PASSWD_LIMIT).read_to_end(&mut text) {
        Ok(_) => String::from_utf8_lossy(&text).into_owned(),
        Err(_) => String::new(),
    }
}
