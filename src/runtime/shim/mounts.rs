//! What a container sees of the device besides its image: folders and files, bound into its root
//! before libcontainer sees it.
//!
//! Both ends are hostile. A path inside the image may be a link, so destinations are resolved as the
//! container would, never out of its root. A path inside a volume was written by a program, perhaps
//! while this runs, so each step below a source is resolved beneath it, and no link leads out. Each
//! mount is made aside first, where nobody else can reach it, and gets its flags there: at no moment
//! does a container have one that lets more through than it should.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};
use serde_json::{Value, json};

use super::restrict::restrict;
use super::rootfs::{make_folders, resolve};
use super::users::Users;
use crate::reconciler::container::{Below, Mount};
use crate::runtime::folder::Order;
use crate::volumes::beneath;

/// Folders that libcontainer mounts itself: what lies in them would be hidden.
const KERNELS_OWN: [&str; 2] = ["proc", "sys"];

const NOTHING: Option<&str> = None;

/// Binds every mount of a container into its root. Returns what is to be bound below `/dev`, which
/// libcontainer makes: as mounts of its configuration.
pub(super) fn attach(root: &OwnedFd, order: &Order, users: Option<&Users>) -> Result<Vec<Value>, String> {
    let mut later = Vec::new();
    for (number, wanted) in order.spec.mounts.iter().enumerate() {
        let at = &wanted.destination;
        let failed = |reason: String| format!("mount {} at {at}: {reason}", wanted.source.display());
        let parts = parts(at).map_err(failed)?;
        let first = parts.first().map(String::as_str).unwrap_or_default();
        if KERNELS_OWN.contains(&first) || parts.is_empty() || parts == ["dev"] {
            return Err(failed(format!("{at} is not a place where a container can have a volume")));
        }
        let source = source(wanted).map_err(failed)?;
        let aside = match users {
            Some(_) => Users::place(number).map_err(failed)?,
            None => order.scratch.join("mounts").join(number.to_string()),
        };
        make_aside(&aside, &source, wanted, users).map_err(|error| failed(error.to_string()))?;
        if first == "dev" {
            let mut options = vec!["rbind", "nosuid", "nodev"];
            options.extend(wanted.read_only.then_some("ro"));
            later.push(json!({"destination": at, "type": "bind", "source": aside, "options": options}));
            continue;
        }
        let folder = is_folder(&source).map_err(|error| failed(error.to_string()))?;
        let target = target(root, &parts, folder, users.map(|users| users.range.first));
        let target = target.map_err(|error| failed(format!("make {at} in the container: {error}")))?;
        mount(Some(&aside), &named(&target), NOTHING, MsFlags::MS_BIND | MsFlags::MS_REC, NOTHING)
            .map_err(|error| failed(not_alike(error)))?;
        umount2(&aside, MntFlags::MNT_DETACH).map_err(|error| failed(error.to_string()))?;
    }
    Ok(later)
}

/// The parts of an absolute path that stays where it says.
fn parts(path: &str) -> Result<Vec<String>, String> {
    let mut parts = Vec::new();
    for part in Path::new(path).components() {
        match part {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => parts.push(name.to_string_lossy().into_owned()),
            Component::ParentDir | Component::Prefix(_) => return Err("the path must not contain ..".into()),
        }
    }
    if path.starts_with('/') { Ok(parts) } else { Err("the path must be absolute".into()) }
}

/// Opens what is to be mounted: the source, then each step below it.
fn source(wanted: &Mount) -> Result<OwnedFd, String> {
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    let mut found = open(&wanted.source, flags, Mode::empty()).map_err(|error| error.to_string())?;
    for step in &wanted.below {
        found = below(&found, step).map_err(|error| match error {
            Errno::EXDEV | Errno::ELOOP => format!("{} leads out of it by a link: refused", step.path),
            Errno::ENOENT => format!("there is no {} in it", step.path),
            other => format!("open {} in it: {other}", step.path),
        })?;
    }
    Ok(found)
}

/// Opens a path beneath a folder, and makes what is missing of it if that is wanted.
fn below(folder: &OwnedFd, step: &Below) -> nix::Result<OwnedFd> {
    let path = Path::new(&step.path);
    match beneath::open(folder, path) {
        Err(Errno::ENOENT) if step.make => {
            beneath::make(folder, path)?;
            beneath::open(folder, path)
        }
        found => found,
    }
}

/// Mounts the source at a place of the device's own that only this process sees.
fn make_aside(aside: &Path, source: &OwnedFd, wanted: &Mount, users: Option<&Users>) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(aside.parent().unwrap_or(Path::new("/")))?;
    if is_folder(source)? {
        DirBuilder::new().mode(0o700).create(aside).or_else(exists)?;
    } else {
        make_file(aside)?;
    }
    let from = named(source);
    match users.map(|users| users.show(source, aside)) {
        Some(Ok(())) => {}
        Some(Err(reason)) if !wanted.read_only => return Err(io::Error::other(reason)),
        // What is only read can be read as anybody's.
        _ => mount(Some(&from), aside, NOTHING, MsFlags::MS_BIND | MsFlags::MS_REC, NOTHING)?,
    }
    restrict(aside, wanted)
}

#[expect(clippy::disallowed_methods, reason = "a file to mount on")]
fn make_file(path: &Path) -> io::Result<()> {
    File::create(path).map(drop)
}

fn exists(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(error) }
}

/// Opens the place in the container's root that is mounted on, and makes it if it is missing.
fn target(root: &OwnedFd, parts: &[String], folder: bool, owner: Option<u32>) -> io::Result<OwnedFd> {
    let path: PathBuf = parts.iter().collect();
    match resolve(root, &path, OFlag::O_PATH) {
        Err(Errno::ENOENT) => {}
        found => return Ok(found?),
    }
    if folder {
        make_folders(root, &path, owner)?;
    } else {
        let parent = path.parent().unwrap_or(Path::new(""));
        make_folders(root, parent, owner)?;
        let parent = if parent.as_os_str().is_empty() {
            root.try_clone()?
        } else {
            resolve(root, parent, OFlag::O_PATH | OFlag::O_DIRECTORY)?
        };
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let name = path.file_name().unwrap_or_default();
        nix::fcntl::openat(&parent, name, flags, Mode::from_bits_truncate(0o644))?;
    }
    Ok(resolve(root, &path, OFlag::O_PATH)?)
}

fn is_folder(found: &OwnedFd) -> nix::Result<bool> {
    let FileStat { st_mode, .. } = fstat(found)?;
    Ok(SFlag::from_bits_truncate(st_mode & SFlag::S_IFMT.bits()) == SFlag::S_IFDIR)
}

/// A path by which an open file can be mounted, whatever became of its name.
fn named(file: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

fn not_alike(error: Errno) -> String {
    match error {
        Errno::ENOTDIR => "one is a folder and the other a file: see what the image has there".into(),
        other => other.to_string(),
    }
}
