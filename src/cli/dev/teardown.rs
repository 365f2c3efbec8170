//! The end of a fleet, or of one device's power. Everything is looked for where it must be by the
//! fleet's name, not where some record says it is: a fleet that was half made, or half removed,
//! goes too.

use std::fs;
use std::io;
use std::path::Path;

use super::fleet::{Device, Fleet};
use super::{agents, hierarchy, mounts, switch};
use crate::cli::failure::{Doing, Failure};
use crate::cli::output::{count, say};
use crate::network::netns;

/// Ends a device at once, as a power cut would: agent, shims, containers, mounts, and the folder
/// that a reboot empties. Its disk and its cable stay.
pub(super) fn cut_power(fleet: &Fleet, device: &Device) -> Result<(), Failure> {
    refuse_inside(fleet)?;
    agents::kill(device)?;
    agents::end_all_in(&device.namespace())?;
    hierarchy::remove(&device.cgroup())?;
    mounts::remove(&device.dir)?;
    let run = device.dir.join("run");
    let step = || format!("empty {}", run.display());
    remove_folder(&run)?;
    fs::create_dir_all(&run).doing(step)?;
    say!("{} has no power", device.name())
}

/// Removes everything of a fleet.
pub(super) fn down(fleet: &Fleet) -> Result<(), Failure> {
    refuse_inside(fleet)?;
    let devices = fleet.devices().len();
    let mut ended = 0;
    if fleet.is_claimed() {
        // First those who would start others again.
        for device in fleet.devices() {
            ended += usize::from(agents::kill(&device)?.is_some());
        }
    }
    let namespaces = fleet.namespaces();
    for namespace in &namespaces {
        ended += agents::end_all_in(namespace)?;
    }
    ended += hierarchy::remove(&fleet.cgroup())?;
    hierarchy::remove_empty_parents(&fleet.cgroup());
    for namespace in &namespaces {
        netns::remove(namespace)?;
    }
    let claimed = fleet.is_claimed();
    if claimed {
        mounts::remove(&fleet.dir)?;
        remove_folder(&fleet.dir)?;
        // The folder of all fleets goes with the last of them.
        if let Some(parent) = fleet.dir.parent().filter(|parent| parent.ends_with("kith-dev")) {
            _ = fs::remove_dir(parent);
        }
    }
    if !claimed && namespaces.is_empty() && ended == 0 {
        return say!("there is no fleet {}: nothing to do", fleet.name);
    }
    say!("fleet {} is gone: {}, {}", fleet.name, count(devices, "device"), count(ended, "program"))
}

/// Removes a device that never was of the fleet: its cable, its namespace and its folder.
pub(super) fn discard(fleet: &Fleet, device: &Device) -> Result<(), Failure> {
    switch::disconnect(fleet, device)?;
    netns::remove(&device.namespace())?;
    remove_folder(&device.dir)
}

/// Removes a folder with all that is in it, once nothing is mounted there: what is mounted is
/// somebody's, and would be emptied with it.
fn remove_folder(dir: &Path) -> Result<(), Failure> {
    let left = mounts::below(dir);
    if let Some(point) = left.first() {
        return Err(Failure::failed(format!("{} is still mounted", point.display())));
    }
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).doing(|| format!("remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

/// A command inside a device would end itself half way.
fn refuse_inside(fleet: &Fleet) -> Result<(), Failure> {
    use std::os::unix::fs::MetadataExt;
    let own = fs::metadata("/proc/self/ns/net").map(|found| found.ino()).ok();
    if own.is_some() && fleet.namespaces().iter().any(|name| netns::inode(name) == own) {
        return Err(Failure::usage("this runs inside a device of the fleet, and would end itself first")
            .hint("leave the device, then try again"));
    }
    Ok(())
}
