//! Which of this device's devices a container gets. Those of a container that runs are its own, unless
//! the rule that found them says that they are shared; one that starts again gets the same ones if it
//! can. It finds none and makes none.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use k8s_openapi::api::core::v1::Container;

use super::container::{ContainerRef, ContainerSpec, DeviceNode};
use super::{Action, Decision};
use crate::resource::footprint;

/// Containers that may have a shared device at once.
pub const SHARES: u64 = 100;

/// A device that pods can ask for, as it is plugged in now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostDevice {
    /// The resource: `kith.dev/ttyUSB`.
    pub resource: String,
    /// Its node.
    pub node: DeviceNode,
    /// Whether several containers may have it at once.
    pub shared: bool,
}

/// How many of each resource this device offers.
pub fn capacity(found: &[HostDevice]) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for device in found {
        *counts.entry(device.resource.clone()).or_default() += if device.shared { SHARES } else { 1 };
    }
    counts
}

/// Nodes that containers have, by container.
pub type Held = BTreeMap<ContainerRef, Vec<PathBuf>>;

/// Chooses devices for a container; says which there are too few of.
pub(super) fn assign(
    found: &[HostDevice],
    held: &Held,
    decision: &Decision,
    reference: &ContainerRef,
    container: &Container,
) -> Result<Vec<DeviceNode>, String> {
    let wanted = footprint::devices(container);
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let same = |other: &ContainerRef| other.pod == reference.pod && other.container == reference.container;
    let starting = decision.actions.iter().filter_map(|action| match action {
        Action::Start(spec) => Some(spec.as_ref()),
        _ => None,
    });
    let of_others = held.iter().filter(|(other, _)| !same(other)).flat_map(|(_, paths)| paths.clone());
    let mut taken: BTreeSet<PathBuf> = of_others.chain(starting.flat_map(paths)).collect();
    let before: BTreeSet<&PathBuf> = held.iter().filter(|(other, _)| same(other)).flat_map(|(_, all)| all).collect();
    let mut chosen = Vec::new();
    for (resource, count) in wanted {
        let all: Vec<&HostDevice> = found.iter().filter(|device| device.resource == resource).collect();
        let mut free: Vec<&&HostDevice> =
            all.iter().filter(|device| device.shared || !taken.contains(&device.node.path)).collect();
        free.sort_by_key(|device| (!before.contains(&device.node.path), device.node.path.clone()));
        let own = usize::try_from(count).unwrap_or(usize::MAX);
        if free.len() < own {
            return Err(match all.len() {
                0 => format!("no {resource} is plugged in: the container waits for it"),
                all => format!("{} of {all} {resource} are free, and the container needs {count}", free.len()),
            });
        }
        for device in &free[..own] {
            taken.insert(device.node.path.clone());
            chosen.push(device.node.clone());
        }
    }
    Ok(chosen)
}

fn paths(spec: &ContainerSpec) -> Vec<PathBuf> {
    spec.devices.iter().map(|device| device.path.clone()).collect()
}

/// Devices that containers have and that were there before but are not any more.
pub fn lost(before: &[HostDevice], now: &[HostDevice], held: &Held) -> Vec<(ContainerRef, PathBuf)> {
    let has = |list: &[HostDevice], path: &PathBuf| list.iter().any(|device| device.node.path == *path);
    let gone = |path: &PathBuf| has(before, path) && !has(now, path);
    let all = held.iter().flat_map(|(reference, paths)| paths.iter().map(move |path| (reference, path)));
    all.filter(|(_, path)| gone(path)).map(|(reference, path)| (reference.clone(), path.clone())).collect()
}
