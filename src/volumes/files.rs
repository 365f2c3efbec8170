//! Volumes of files: a new set is written beside the old one, and one link is exchanged, so that a
//! program sees all of the old or all of the new. The form is the one of Kubernetes.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::Path;

use super::name_of;
use crate::reconciler::volume::{Group, VolumeFile};

/// The link that says which set counts.
const DATA: &str = "..data";
/// The link that takes its place.
const NEXT: &str = "..data_next";
/// How the folder of a set is named, before its version.
const SET: &str = "..v-";

/// Sets that lie beside each other for a moment, and what a file system needs for itself.
const ROOM_FACTOR: u64 = 4;
const ROOM_LEAST: u64 = 1 << 20;
const PAGE: u64 = 4096;

/// Bytes of memory in which the files and their successors fit.
pub(super) fn room_for(files: &[VolumeFile]) -> u64 {
    let pages = |file: &VolumeFile| (file.content.0.len() as u64).div_ceil(PAGE) * PAGE;
    files.iter().map(pages).sum::<u64>() * ROOM_FACTOR + 2 * ROOM_LEAST
}

/// The version of the set that counts in a folder; `None` when there is none.
pub(super) fn version(folder: &Path) -> io::Result<Option<String>> {
    match fs::read_link(folder.join(DATA)) {
        Ok(target) => Ok(target.to_string_lossy().strip_prefix(SET).map(str::to_owned)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidInput) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes these files the content of a folder.
pub(super) fn fill(
    folder: &Path,
    version: &str,
    files: &[VolumeFile],
    group: Option<Group>,
    durable: bool,
) -> io::Result<()> {
    let set = format!("{SET}{version}");
    let fresh = folder.join(&set);
    let old = fs::read_link(folder.join(DATA)).ok();
    if old.as_deref() != Some(Path::new(&set)) {
        absent(fs::remove_dir_all(&fresh))?;
        if let Err(error) = write_set(&fresh, files, group, durable) {
            // What was there stays; half of a set helps nobody and takes room.
            absent(fs::remove_dir_all(&fresh))?;
            return Err(error);
        }
    }
    let names: BTreeSet<&str> = files.iter().filter_map(|file| file.path.split('/').next()).collect();
    for name in &names {
        match symlink(Path::new(DATA).join(name), folder.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    absent(fs::remove_file(folder.join(NEXT)))?;
    symlink(&set, folder.join(NEXT))?;
    fs::rename(folder.join(NEXT), folder.join(DATA))?;
    if durable {
        File::open(folder)?.sync_all()?;
    }
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = name_of(&path);
        if name.starts_with(SET) && name != set {
            fs::remove_dir_all(&path)?;
        } else if !name.starts_with("..") && !names.contains(name.as_str()) {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

fn write_set(set: &Path, files: &[VolumeFile], group: Option<Group>, durable: bool) -> io::Result<()> {
    make(set, group)?;
    for file in files {
        let path = set.join(&file.path);
        let mut folder = set.to_owned();
        for part in Path::new(&file.path).parent().into_iter().flat_map(Path::components) {
            folder.push(part);
            if !folder.exists() {
                make(&folder, group)?;
            }
        }
        let mut open = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        open.write_all(&file.content.0)?;
        if let Some(group) = group {
            chown(&path, None, Some(group.id))?;
        }
        // Whoever is in the group may read what the volume is for.
        let mode = if group.is_some() { file.mode | 0o440 } else { file.mode };
        open.set_permissions(fs::Permissions::from_mode(mode))?;
        if durable {
            open.sync_all()?;
        }
    }
    if durable { File::open(set)?.sync_all() } else { Ok(()) }
}

fn make(folder: &Path, group: Option<Group>) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(folder)?;
    // Whatever the agent's umask says: users in the container read it.
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    if let Some(group) = group {
        chown(folder, None, Some(group.id))?;
    }
    Ok(())
}

fn absent(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
