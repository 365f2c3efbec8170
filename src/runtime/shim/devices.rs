//! The devices that a container may open: their nodes, and what the kernel lets through. On version 1
//! of cgroups the devices controller holds it, on version 2 a program of ours that is attached to the
//! container's cgroup. A container whose devices could not be held back is not started.

#![expect(clippy::disallowed_methods, reason = "lists the device's nodes and opens cgroups")]

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use nix::sys::stat::{major, minor};
use serde_json::{Value, json};

use super::devices_bpf::{self, Kind, Permit};
use crate::reconciler::container::{ContainerSpec, DeviceNode};
use crate::runtime::cgroup::Hierarchies;

/// Character devices that every container may use: null, zero, full, random, urandom, tty, ptmx, and
/// the terminals of its own devpts.
const COMMON: [(u32, Option<u32>); 8] =
    [(1, Some(3)), (1, Some(5)), (1, Some(7)), (1, Some(8)), (1, Some(9)), (5, Some(0)), (5, Some(2)), (136, None)];

/// Most nodes of the device that a privileged container gets.
const MAX_NODES: usize = 1024;

/// Folders of `/dev` that are file systems of their own, or links.
const SKIPPED: [&str; 5] = ["pts", "shm", "mqueue", "fd", "hugepages"];

/// Nodes to make besides the common ones.
pub(super) fn of(spec: &ContainerSpec) -> Result<Vec<DeviceNode>, String> {
    let mut nodes = spec.devices.clone();
    if spec.confinement.privileged {
        collect(Path::new("/dev"), &mut nodes).map_err(|error| format!("list /dev: {error}"))?;
    }
    for node in &nodes {
        let fine = node.path.starts_with("/dev") && node.path.components().all(|part| part.as_os_str() != "..");
        if !fine {
            return Err(format!("device {} is not below /dev", node.path.display()));
        }
    }
    Ok(nodes)
}

/// Every node of the device, for a container that may do everything.
fn collect(folder: &Path, nodes: &mut Vec<DeviceNode>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        // Gone since it was listed: hot plug.
        let Ok(found) = fs::symlink_metadata(&path) else { continue };
        let kind = found.file_type();
        let skipped = folder == Path::new("/dev") && entry.file_name().to_str().is_some_and(|n| SKIPPED.contains(&n));
        if kind.is_dir() && !skipped {
            collect(&path, nodes)?;
        } else if kind.is_char_device() || kind.is_block_device() {
            let known = nodes.iter().any(|node| node.path == path);
            if !known && nodes.len() < MAX_NODES && !is_common(&path) {
                let number = found.rdev();
                nodes.push(DeviceNode {
                    path,
                    block: kind.is_block_device(),
                    major: u32::try_from(major(number)).unwrap_or(u32::MAX),
                    minor: u32::try_from(minor(number)).unwrap_or(u32::MAX),
                    access: "rwm".into(),
                });
            }
        }
    }
    Ok(())
}

/// What libcontainer makes itself.
fn is_common(path: &Path) -> bool {
    let names = ["null", "zero", "full", "random", "urandom", "tty", "ptmx", "console"];
    path.parent() == Some(Path::new("/dev"))
        && path.file_name().is_some_and(|name| names.iter().any(|one| name == *one))
}

/// A node as libcontainer makes it.
pub(super) fn node(device: &DeviceNode) -> Value {
    json!({
        "path": device.path,
        "type": if device.block { "b" } else { "c" },
        "major": device.major,
        "minor": device.minor,
        "fileMode": 0o666,
        "uid": 0,
        "gid": 0,
    })
}

/// What the configuration says of them; it is ours to keep, see [`confine`].
pub(super) fn rules(spec: &ContainerSpec, devices: &[DeviceNode]) -> Vec<Value> {
    if spec.confinement.privileged {
        return vec![json!({"allow": true, "access": "rwm"})];
    }
    let mut rules = vec![json!({"allow": false, "access": "rwm"})];
    rules.extend(devices.iter().map(|device| {
        json!({
            "allow": true,
            "type": if device.block { "b" } else { "c" },
            "major": device.major,
            "minor": device.minor,
            "access": device.access,
        })
    }));
    rules
}

/// Tells the devices controller of version 1, which takes one rule at a time.
fn tell_controller(spec: &ContainerSpec, folder: &Path) -> std::io::Result<()> {
    if spec.confinement.privileged {
        return fs::write(folder.join("devices.allow"), "a");
    }
    fs::write(folder.join("devices.deny"), "a")?;
    let mut allow = fs::OpenOptions::new().write(true).open(folder.join("devices.allow"))?;
    for rule in allowed(spec) {
        allow.write_all(rule.as_bytes())?;
    }
    Ok(())
}

/// What a container may do with devices, in the controller's words. Making a node is harmless where no
/// file system has working ones, and opening it is asked for again.
fn allowed(spec: &ContainerSpec) -> Vec<String> {
    let mut rules = vec!["c *:* m".to_owned(), "b *:* m".to_owned()];
    rules.extend(COMMON.iter().map(|(major, minor)| match minor {
        Some(minor) => format!("c {major}:{minor} rwm"),
        None => format!("c {major}:* rwm"),
    }));
    rules.extend(spec.devices.iter().map(|device| {
        let kind = if device.block { 'b' } else { 'c' };
        format!("{kind} {}:{} {}", device.major, device.minor, device.access)
    }));
    rules
}

/// Holds a container that does not run yet to its devices.
pub(super) fn confine(spec: &ContainerSpec, hierarchies: &Hierarchies, cgroup: &str) -> Result<(), String> {
    if !hierarchies.is_unified() {
        let folder = hierarchies.folder("devices", cgroup);
        let folder = folder.ok_or("this kernel has no devices controller, so devices could not be held back")?;
        return tell_controller(spec, &folder)
            .map_err(|error| format!("hold the container to its devices in {}: {error}", folder.display()));
    }
    if spec.confinement.privileged {
        return Ok(());
    }
    let common = COMMON.iter().map(|(major, minor)| Permit {
        kind: Kind::Character,
        major: *major,
        minor: *minor,
        access: devices_bpf::access("rwm"),
    });
    let own = spec.devices.iter().map(|device| Permit {
        kind: if device.block { Kind::Block } else { Kind::Character },
        major: device.major,
        minor: Some(device.minor),
        access: devices_bpf::access(&device.access),
    });
    let folder = hierarchies.folder("", cgroup).ok_or("version 2 of cgroups is not mounted")?;
    devices_bpf::attach(&folder, &common.chain(own).collect::<Vec<_>>()).map_err(|error| {
        format!("hold the container to its devices: attach a program to {}: {error}", folder.display())
    })
}
