//! The volumes of a pod: which to make before its first container, what each container sees of
//! them, when to fill them anew, and when to remove them.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use k8s_openapi::api::core::v1::{Container, Pod, Volume, VolumeMount};
use sha2::{Digest, Sha256};

use super::container::{Below, Mount, Propagation};
use super::files::Maker;
use super::lifecycle::Case;
use super::spec::SpecError;
use super::target::Target;
use super::volume::{Group, HostKind, HostPath, Places, VolumeFile, VolumeKind, VolumeSpec};
use super::{Action, Decision};
use crate::resource::quantity::Quantity;

/// How a message begins that says why a volume could not be made: as kubelet says it.
pub(super) const FAILED_MOUNT: &str = "MountVolume.SetUp failed";

/// Versions of volumes that never change: what the room of volumes reads back of them.
const ON_DISK: &str = "disk";
const IN_MEMORY: &str = "memory";
const SEEN: &str = "seen";

impl Case<'_> {
    /// Has the pod's volumes made. Returns what its containers wait for, if they do; empty while it is
    /// being done.
    pub(super) fn waits_for_volumes(&self, decision: &mut Decision) -> Option<String> {
        let specs = match specs(self.target, &self.pod.pod) {
            Ok(specs) => specs,
            Err(why) => return Some(why),
        };
        let made = self.observed.volumes.get(&self.reference.uid);
        let missing = |spec: &VolumeSpec| made.and_then(|made| made.get(&spec.name)) != Some(&spec.version);
        let wanted: Vec<VolumeSpec> = specs.into_iter().filter(missing).collect();
        if wanted.is_empty() {
            return None;
        }
        self.make_volumes(decision, wanted);
        Some(self.observed.volume_failures.get(&self.reference.uid).cloned().unwrap_or_default())
    }

    /// Fills the volumes of running containers anew where what they are made from has changed.
    pub(super) fn refresh_volumes(&self, decision: &mut Decision) {
        let Some(made) = self.observed.volumes.get(&self.reference.uid) else { return };
        // What can not be read any more stays as it is.
        let Ok(specs) = specs(self.target, &self.pod.pod) else { return };
        let stale = |spec: &VolumeSpec| {
            matches!(spec.kind, VolumeKind::Files { .. })
                && made.get(&spec.name).is_some_and(|version| *version != spec.version)
        };
        let wanted: Vec<VolumeSpec> = specs.into_iter().filter(stale).collect();
        if !wanted.is_empty() {
            self.make_volumes(decision, wanted);
        }
    }

    fn make_volumes(&self, decision: &mut Decision, volumes: Vec<VolumeSpec>) {
        let same = |action: &Action| matches!(action, Action::MakeVolumes { pod, .. } if *pod == self.reference);
        if !decision.actions.iter().any(same) {
            decision.push(Action::MakeVolumes { pod: self.reference.clone(), volumes });
        }
    }

    /// Removes the pod's volumes once none of its containers is left. Returns whether any were there.
    pub(super) fn remove_volumes(&self, decision: &mut Decision) -> bool {
        let there = self.observed.volumes.contains_key(&self.reference.uid);
        if there {
            decision.push(Action::RemoveVolumes { uid: self.reference.uid.clone() });
        }
        there
    }

    /// Whether the only thing that happens to the pod is that its volumes are made for the first time.
    pub(super) fn makes_first_volumes(&self, decision: &Decision) -> bool {
        let fresh = self.own.is_empty() && !self.observed.volume_failures.contains_key(&self.reference.uid);
        let makes = |action: &Action| matches!(action, Action::MakeVolumes { pod, .. } if *pod == self.reference);
        fresh && decision.actions.iter().any(makes)
    }
}

/// Every volume of a pod as it is to be, or why one can not be.
pub(super) fn specs(target: &Target, pod: &Pod) -> Result<Vec<VolumeSpec>, String> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.map(|volume| spec(target, pod, volume).map_err(|why| failed_mount(&volume.name, &why))).collect()
}

/// Why a volume could not be made, as users of Kubernetes know it.
pub fn failed_mount(volume: &str, why: &str) -> String {
    format!("{FAILED_MOUNT} for volume {volume:?} : {why}")
}

fn spec(target: &Target, pod: &Pod, volume: &Volume) -> Result<VolumeSpec, String> {
    let maker = Maker { target, pod };
    let kind = if let Some(empty) = &volume.empty_dir {
        let size = empty.size_limit.as_ref().and_then(|size| size.0.parse::<Quantity>().ok()).map(Quantity::units);
        if empty.medium.as_deref() == Some("Memory") { VolumeKind::Memory { size } } else { VolumeKind::Disk }
    } else if let Some(source) = &volume.config_map {
        VolumeKind::Files { memory: false, files: maker.config_map(source)? }
    } else if let Some(source) = &volume.secret {
        VolumeKind::Files { memory: true, files: maker.secret(source)? }
    } else if let Some(source) = &volume.downward_api {
        let items = source.items.as_deref().unwrap_or_default();
        VolumeKind::Files { memory: false, files: maker.downward(items, source.default_mode)? }
    } else if let Some(source) = &volume.projected {
        VolumeKind::Files { memory: true, files: maker.projected(source)? }
    } else if let Some(source) = &volume.host_path {
        let (allowed, below) = allowed(&target.places, &source.path)?;
        let kind = host_kind(source.type_.as_deref().unwrap_or_default())?;
        VolumeKind::Host { root: allowed.path.clone(), path: below, kind }
    } else if let Some(source) = &volume.persistent_volume_claim {
        claim(target, pod, &source.claim_name)?
    } else {
        return Err("it is of no kind that this device can make".into());
    };
    let version = match &kind {
        VolumeKind::Files { files, .. } => version(files),
        VolumeKind::Disk => ON_DISK.to_owned(),
        VolumeKind::Memory { .. } => IN_MEMORY.to_owned(),
        VolumeKind::Host { .. } | VolumeKind::Claim { .. } => SEEN.to_owned(),
    };
    let group = match kind {
        VolumeKind::Host { .. } => None,
        _ => group(pod)?,
    };
    Ok(VolumeSpec { name: volume.name.clone(), kind, group, version })
}

fn claim(target: &Target, pod: &Pod, name: &str) -> Result<VolumeKind, String> {
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    match target.claims.get(&(namespace.clone(), name.to_owned())) {
        None => Err(format!("persistentvolumeclaim {name:?} not found")),
        Some(Some(device)) if *device != target.node.name => {
            Err(format!("the volume of persistentvolumeclaim {name:?} is on device {device}, not on this one"))
        }
        // A claim is bound before it is used, or two devices would each have a volume of it.
        Some(None) => Err(format!("persistentvolumeclaim {name:?} is not bound to a device yet")),
        Some(Some(_)) => Ok(VolumeKind::Claim { namespace, name: name.to_owned() }),
    }
}

fn group(pod: &Pod) -> Result<Option<Group>, String> {
    let Some(security) = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref()) else { return Ok(None) };
    let Some(id) = security.fs_group else { return Ok(None) };
    let id = u32::try_from(id).map_err(|_| format!("fsGroup is {id}, but must be between 0 and 4294967295"))?;
    Ok(Some(Group { id, on_root_mismatch: security.fs_group_change_policy.as_deref() == Some("OnRootMismatch") }))
}

fn version(files: &[VolumeFile]) -> String {
    let mut digest = Sha256::new();
    for file in files {
        digest.update(file.path.as_bytes());
        digest.update([0]);
        digest.update(file.mode.to_le_bytes());
        digest.update(file.content.0.len().to_le_bytes());
        digest.update(&file.content.0);
    }
    hex::encode(&digest.finalize()[..12])
}

/// The allowed path that a path of the device lies below, and the rest of it.
fn allowed<'a>(places: &'a Places, path: &str) -> Result<(&'a HostPath, String), String> {
    let refused = |why: &str| format!("hostPath {path} {why}");
    let wanted = Path::new(path);
    if !wanted.is_absolute() || wanted.components().any(|part| part == Component::ParentDir) {
        return Err(refused("must be an absolute path without .."));
    }
    let best = places.host_paths.iter().filter(|allowed| wanted.starts_with(&allowed.path));
    let best = best.max_by_key(|allowed| allowed.path.components().count());
    let Some(best) = best else {
        return Err(refused("is not allowed on this device: add it to host_paths in its agent.toml"));
    };
    let rest = wanted.strip_prefix(&best.path).unwrap_or(Path::new(""));
    Ok((best, rest.to_string_lossy().into_owned()))
}

fn host_kind(name: &str) -> Result<HostKind, String> {
    Ok(match name {
        "" => HostKind::Any,
        "DirectoryOrCreate" => HostKind::FolderOrCreate,
        "Directory" => HostKind::Folder,
        "FileOrCreate" => HostKind::FileOrCreate,
        "File" => HostKind::File,
        "Socket" => HostKind::Socket,
        "CharDevice" => HostKind::CharDevice,
        "BlockDevice" => HostKind::BlockDevice,
        other => return Err(format!("{other:?} is not a type of hostPath")),
    })
}

/// What a container sees of its pod's volumes; parents come before what lies in them.
pub(super) fn mounts(
    pod: &Pod,
    container: &Container,
    places: &Places,
    variables: &BTreeMap<String, String>,
) -> Result<Vec<Mount>, SpecError> {
    let mut mounts = Vec::new();
    for wanted in container.volume_mounts.iter().flatten() {
        let failed = |why: String| SpecError::Mount { volume: wanted.name.clone(), why };
        let mut volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        let volume = volumes.find(|volume| volume.name == wanted.name);
        let volume = volume.ok_or_else(|| failed("the pod has no volume of this name".into()))?;
        mounts.push(one(pod, volume, wanted, places, variables).map_err(failed)?);
    }
    mounts.sort_by(|a, b| Path::new(&a.destination).cmp(Path::new(&b.destination)));
    Ok(mounts)
}

fn one(
    pod: &Pod,
    volume: &Volume,
    wanted: &VolumeMount,
    places: &Places,
    variables: &BTreeMap<String, String>,
) -> Result<Mount, String> {
    let mut below = Vec::new();
    let mut read_only = wanted.read_only == Some(true);
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let files = volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.downward_api.is_some()
        || volume.projected.is_some();
    let source = if let Some(host) = &volume.host_path {
        let (allowed, path) = allowed(places, &host.path)?;
        if allowed.read_only && !read_only {
            let shown = allowed.path.display();
            return Err(format!("hostPath {shown} is allowed for reading only here: set readOnly on the mount"));
        }
        if !path.is_empty() {
            below.push(Below { path, make: false });
        }
        allowed.path.clone()
    } else if let Some(claim) = &volume.persistent_volume_claim {
        read_only |= claim.read_only == Some(true);
        places.claim(pod.metadata.namespace.as_deref().unwrap_or_default(), &claim.claim_name)
    } else if files {
        read_only = true;
        places.files(uid, &volume.name)
    } else {
        places.volume(uid, &volume.name)
    };
    if let Some(path) = sub_path(wanted, variables)? {
        below.push(Below { path, make: !files && !read_only });
    }
    let propagation = match wanted.mount_propagation.as_deref() {
        Some("HostToContainer") => Propagation::FromHost,
        Some("Bidirectional") => return Err("mountPropagation Bidirectional is not possible here".into()),
        _ => Propagation::Private,
    };
    Ok(Mount { source, below, destination: wanted.mount_path.clone(), read_only, propagation })
}

fn sub_path(wanted: &VolumeMount, variables: &BTreeMap<String, String>) -> Result<Option<String>, String> {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let path = match (given(&wanted.sub_path), given(&wanted.sub_path_expr)) {
        (Some(path), _) => path,
        (None, Some(text)) => {
            let path = super::expand::expand(&text, variables);
            if path.contains("$(") {
                return Err(format!("subPathExpr {text:?} names a variable that the container does not have"));
            }
            path
        }
        (None, None) => return Ok(None),
    };
    let inside = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
    if path.is_empty() || !Path::new(&path).components().all(inside) {
        return Err(format!("subPath {path:?} must be a relative path without .."));
    }
    Ok(Some(path))
}
