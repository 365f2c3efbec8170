//! The nouns of volumes between the reconciler and the room that makes them.

use std::fmt;
use std::path::PathBuf;

/// A volume of a pod, as it is to be: no decision is left to who makes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeSpec {
    /// Its name in the pod, and the name of its folder.
    pub name: String,
    /// What it is.
    pub kind: VolumeKind,
    /// The group that owns what is in it (`fsGroup`).
    pub group: Option<Group>,
    /// Changes when the volume is to be made again or filled anew.
    pub version: String,
}

/// The group of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its id.
    pub id: u32,
    /// Whether nothing is done where the root of the volume has it already.
    pub on_root_mismatch: bool,
}

/// What a volume is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeKind {
    /// An empty folder on the device's disk.
    Disk,
    /// An empty folder in memory.
    Memory {
        /// Bytes that fit.
        size: Option<u64>,
    },
    /// Files that are exchanged at once when they change.
    Files {
        /// Whether they lie in memory and never on the disk.
        memory: bool,
        /// The files.
        files: Vec<VolumeFile>,
    },
    /// Something that the device has.
    Host {
        /// The allowed path that it lies below.
        root: PathBuf,
        /// Where below; empty for the root itself.
        path: String,
        /// What must be there, or is made.
        kind: HostKind,
    },
    /// A volume that outlives the pod.
    Claim {
        /// The claim's namespace.
        namespace: String,
        /// The claim's name.
        name: String,
    },
}

/// What a `hostPath` must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostKind {
    /// Anything that is there.
    Any,
    /// A folder, made if it is missing.
    FolderOrCreate,
    /// A folder.
    Folder,
    /// A file, made empty if it is missing.
    FileOrCreate,
    /// A file.
    File,
    /// A unix socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

/// One file of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeFile {
    /// Relative path without `..`.
    pub path: String,
    /// Permissions.
    pub mode: u32,
    /// What it holds.
    pub content: Bytes,
}

/// Bytes that no log shows.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// Where volumes lie on this device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// A folder for each pod, by uid.
    pub pods: PathBuf,
    /// A folder for each claim, by namespace and name.
    pub claims: PathBuf,
    /// What of the device a pod may have.
    pub host_paths: Vec<HostPath>,
}

/// A path of the device that pods may mount, with all below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPath {
    /// Absolute.
    pub path: PathBuf,
    /// Whether it is for reading only.
    pub read_only: bool,
}

impl Places {
    /// The folder of a pod's volume.
    pub fn volume(&self, uid: &str, volume: &str) -> PathBuf {
        self.pods.join(uid).join("volumes").join(volume)
    }

    /// The folder of a pod's volume of files. Apart from the others: what a program writes into those
    /// is never taken for a sign of this device's own.
    pub fn files(&self, uid: &str, volume: &str) -> PathBuf {
        self.pods.join(uid).join("files").join(volume)
    }

    /// The folder of a claim.
    pub fn claim(&self, namespace: &str, name: &str) -> PathBuf {
        self.claims.join(namespace).join(name)
    }
}
