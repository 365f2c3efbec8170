//! Volumes on this device: makes them below `<data_dir>/pods/<uid>/volumes`, fills them anew, removes
//! them. It decides nothing: which pod has which volume, and what is in it, comes as a `VolumeSpec`.
//!
//! What is made is read back from the disk and from what is mounted, so that an agent that starts
//! again finds the volumes of the one before, and a power cut leaves nothing half made: a folder
//! comes by rename, a memory volume by its mount, files by one link that is exchanged.
//!
//! ```text
//! <data_dir>/pods/<uid>/volumes/<name>/           an emptyDir, or memory mounted on it
//! <data_dir>/pods/<uid>/files/<name>/..data    -> ..v-<version>
//!                                    /key      -> ..data/key
//! <data_dir>/volumes/<namespace>/<claim>/         outlives every pod
//! ```

#![expect(clippy::disallowed_methods, reason = "these are the files of volumes")]

pub(crate) mod beneath;
mod files;
mod host;
mod owner;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::reconciler::container::PodRef;
use crate::reconciler::failed_mount;
use crate::reconciler::volume::{Group, Places, VolumeKind, VolumeSpec};

/// How the folder of a volume is named while it is made.
const DRAFT: &str = ".new-";
/// How the folder of a pod is named while it goes.
const GOING: &str = ".gone-";

/// What is said of a folder on the disk and of one in memory that are made.
const ON_DISK: &str = "disk";
const IN_MEMORY: &str = "memory";

/// Everybody may write to an empty volume: the pod decides who is in it.
const OPEN: u32 = 0o777;

/// Versions of volumes by name.
type Made = BTreeMap<String, String>;

/// The volumes of this device.
#[derive(Debug)]
pub struct Volumes {
    places: Places,
    /// Volumes of which nothing is made for a pod, but that were seen to be as they should, by uid.
    seen: Mutex<BTreeMap<String, Made>>,
}

impl Volumes {
    /// Opens the folders, and removes what an earlier agent had begun to remove.
    pub fn open(places: Places) -> io::Result<Self> {
        for folder in [&places.pods, &places.claims] {
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        for entry in fs::read_dir(&places.pods)? {
            let path = entry?.path();
            if name_of(&path).starts_with(GOING) {
                clear(&path)?;
            }
        }
        Ok(Self { places, seen: Mutex::default() })
    }

    /// Where volumes lie.
    pub fn places(&self) -> &Places {
        &self.places
    }

    /// The versions of all volumes that are made, by uid of the pod.
    pub fn observe(&self) -> io::Result<BTreeMap<String, Made>> {
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(&self.places.pods)? {
            let pod = entry?.path();
            let uid = name_of(&pod);
            if uid.starts_with('.') {
                continue;
            }
            let mut made = self.seen().get(&uid).cloned().unwrap_or_default();
            for path in visible(&pod.join("volumes"))? {
                let version = if is_mounted(&path)? { IN_MEMORY } else { ON_DISK };
                made.insert(name_of(&path), version.to_owned());
            }
            for path in visible(&pod.join("files"))? {
                made.insert(name_of(&path), files::version(&path)?.unwrap_or_default());
            }
            found.insert(uid, made);
        }
        Ok(found)
    }

    /// Makes volumes of a pod, or fills them anew. The first that fails is told, in the words of a
    /// pod's status; the others are tried all the same.
    pub fn make(&self, pod: &PodRef, volumes: &[VolumeSpec]) -> Result<(), String> {
        let mut failure = Ok(());
        for volume in volumes {
            if let Err(error) = self.make_one(pod, volume) {
                let why = failed_mount(&volume.name, &error.to_string());
                failure = failure.and(Err(why));
            }
        }
        failure
    }

    fn make_one(&self, pod: &PodRef, spec: &VolumeSpec) -> io::Result<()> {
        let folder = match spec.kind {
            VolumeKind::Files { .. } => self.places.files(&pod.uid, &spec.name),
            _ => self.places.volume(&pod.uid, &spec.name),
        };
        let parent = folder.parent().unwrap_or(&folder);
        DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        match &spec.kind {
            VolumeKind::Disk => make_folder(&folder, OPEN, spec.group)?,
            VolumeKind::Memory { size } => make_memory(&folder, OPEN, *size, spec.group)?,
            VolumeKind::Files { memory, files } => {
                if *memory {
                    let room = files::room_for(files);
                    make_memory(&folder, 0o755, Some(room), spec.group)?;
                    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
                    let options = format!("size={room}");
                    mount(None::<&str>, &folder, None::<&str>, flags, Some(options.as_str()))?;
                } else {
                    make_folder(&folder, 0o755, spec.group)?;
                }
                files::fill(&folder, &spec.version, files, spec.group, !memory)?;
            }
            VolumeKind::Host { root, path, kind } => host::check(root, path, *kind)?,
            VolumeKind::Claim { namespace, name } => self.make_claim(namespace, name, spec.group)?,
        }
        if matches!(spec.kind, VolumeKind::Host { .. } | VolumeKind::Claim { .. }) {
            let mut seen = self.seen();
            seen.entry(pod.uid.clone()).or_default().insert(spec.name.clone(), spec.version.clone());
        }
        Ok(())
    }

    fn make_claim(&self, namespace: &str, name: &str, group: Option<Group>) -> io::Result<()> {
        let folder = self.places.claim(namespace, name);
        DirBuilder::new().recursive(true).mode(0o700).create(self.places.claims.join(namespace))?;
        if !folder.exists() {
            make_folder(&folder, OPEN, group)?;
            // What outlives pods outlives a power cut that follows at once.
            for parent in [&self.places.claims, &self.places.claims.join(namespace)] {
                fs::File::open(parent)?.sync_all()?;
            }
        }
        match group {
            Some(group) => owner::hand_over(&folder, group),
            None => Ok(()),
        }
    }

    /// Removes everything that was made for a pod. May be repeated.
    pub fn remove(&self, uid: &str) -> io::Result<()> {
        let (pod, going) = (self.places.pods.join(uid), self.places.pods.join(format!("{GOING}{uid}")));
        self.seen().remove(uid);
        if going.exists() {
            clear(&going)?;
        }
        match fs::rename(&pod, &going) {
            Ok(()) => clear(&going),
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Bytes on the disk that a pod's volume takes.
    pub fn usage(&self, uid: &str, volume: &str) -> io::Result<u64> {
        owner::usage(&self.places.volume(uid, volume))
    }

    fn seen(&self) -> MutexGuard<'_, BTreeMap<String, Made>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes the volumes of all pods: nobody uses them any more.
pub fn remove_all(pods: &Path) -> io::Result<()> {
    match fs::read_dir(pods) {
        Ok(entries) => entries.into_iter().try_for_each(|entry| clear(&entry?.path())),
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// What is in a folder, without what is being made; nothing when there is no such folder.
fn visible(folder: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Ok(entries) => {
            let paths = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
            Ok(paths.into_iter().filter(|path| !name_of(path).starts_with('.')).collect())
        }
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Whether something is mounted on a folder.
fn is_mounted(folder: &Path) -> io::Result<bool> {
    let parent = folder.parent().unwrap_or(Path::new("/"));
    Ok(fs::symlink_metadata(folder)?.dev() != fs::symlink_metadata(parent)?.dev())
}

/// Makes a folder whole, or leaves the one that is there.
fn make_folder(folder: &Path, mode: u32, group: Option<Group>) -> io::Result<()> {
    if folder.exists() {
        return Ok(());
    }
    let draft = folder.with_file_name(format!("{DRAFT}{}", name_of(folder)));
    match fs::remove_dir_all(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    DirBuilder::new().mode(0o700).create(&draft)?;
    open_to(&draft, mode, group)?;
    fs::rename(&draft, folder)
}

/// Mounts memory on a folder, or leaves what is mounted there.
fn make_memory(folder: &Path, mode: u32, size: Option<u64>, group: Option<Group>) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    if is_mounted(folder)? {
        return Ok(());
    }
    let size = size.map(|size| format!(",size={size}")).unwrap_or_default();
    let gid = group.map(|group| format!(",gid={}", group.id)).unwrap_or_default();
    let options = format!("mode={:o}{size}{gid}", mode_with(mode, group));
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    Ok(mount(Some("tmpfs"), folder, Some("tmpfs"), flags, Some(options.as_str()))?)
}

/// What is made in a volume with a group belongs to that group too.
fn mode_with(mode: u32, group: Option<Group>) -> u32 {
    if group.is_some() { mode | 0o2070 } else { mode }
}

fn open_to(folder: &Path, mode: u32, group: Option<Group>) -> io::Result<()> {
    std::os::unix::fs::chown(folder, None, group.map(|group| group.id))?;
    fs::set_permissions(folder, fs::Permissions::from_mode(mode_with(mode, group)))
}

/// Unmounts and removes the folder of a pod that is gone.
fn clear(pod: &Path) -> io::Result<()> {
    for volume in [visible(&pod.join("volumes"))?, visible(&pod.join("files"))?].concat() {
        while is_mounted(&volume)? {
            umount2(&volume, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)?;
        }
    }
    fs::remove_dir_all(pod)
}
