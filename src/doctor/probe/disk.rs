//! The disk under `data_dir`: its kind, its room, its speed, and what it tells of its health.

#![allow(clippy::useless_conversion, reason = "the kernel's numbers have 32 bits on some machines")]

use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::statvfs::{Statvfs, statvfs};

use super::super::facts::{Card, Disk};
use super::System;
use crate::config::Config;

/// Writes that are timed, at most.
const WRITES: usize = 12;

/// A slow disk is slow after fewer.
const ENOUGH: Duration = Duration::from_millis(1500);

/// Bytes of a sector in `/sys/block/*/stat`, whatever the disk has.
const SECTOR: u64 = 512;

/// A line of `/proc/self/mountinfo`.
#[derive(Debug, Default, PartialEq, Eq)]
struct Mount {
    place: String,
    kind: String,
    source: String,
    read_only: bool,
}

pub(super) fn look(system: &System, config: &Config) -> Disk {
    let folder = existing(&config.data_dir);
    let mounts = system.text("/proc/self/mountinfo").unwrap_or_default();
    let mount = mount_of(&mounts, &folder).unwrap_or_default();
    let room = statvfs(&folder).ok();
    let device = std::fs::metadata(&folder).ok().and_then(|found| device(system, found.dev()));
    let (partition, whole) = device.unwrap_or_default();
    let run = config.run_dir.exists().then(|| mount_of(&mounts, &config.run_dir)).flatten();
    Disk {
        kind: mount.kind.clone(),
        device: if whole.is_empty() { mount.source } else { whole.clone() },
        read_only: (!mount.place.is_empty()).then_some(mount.read_only),
        root_read_only: mount_of(&mounts, Path::new("/")).map(|root| root.read_only),
        total: room.as_ref().map(|room| blocks(room, |room| room.blocks().into())),
        free: room.as_ref().map(|room| blocks(room, |room| room.blocks_available().into())),
        inodes: room.as_ref().map(|room| room.files().into()),
        inodes_free: room.as_ref().map(|room| room.files_free().into()),
        syncs: syncs(&folder, mount.read_only),
        card: card(system, &whole),
        errors: system.number(&format!("/sys/fs/ext4/{partition}/errors_count")),
        written: system.text(&format!("/sys/block/{whole}/stat")).and_then(|stat| written(&stat)),
        uptime: system.number::<f64>("/proc/uptime").map_or(0, seconds),
        run_kind: run.map(|mount| mount.kind).unwrap_or_default(),
        log_free: statvfs(&config.log_dir).ok().map(|room| blocks(&room, |room| room.blocks_available().into())),
        folder: folder.display().to_string(),
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "seconds since the start, cut to whole ones"
)]
fn seconds(uptime: f64) -> u64 {
    uptime.max(0.0) as u64
}

fn blocks(room: &Statvfs, count: impl Fn(&Statvfs) -> u64) -> u64 {
    let size = u64::from(room.fragment_size());
    count(room).saturating_mul(size)
}

/// The folder, or the first above it that exists.
fn existing(folder: &Path) -> PathBuf {
    folder.ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("/")).to_owned()
}

/// The mount in which a path lies: the last of those with the longest place.
fn mount_of(mounts: &str, path: &Path) -> Option<Mount> {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let mut best: Option<Mount> = None;
    for line in mounts.lines() {
        let Some((before, after)) = line.split_once(" - ") else { continue };
        let fields: Vec<&str> = before.split(' ').collect();
        let (Some(place), Some(options)) = (fields.get(4), fields.get(5)) else { continue };
        let mut after = after.split(' ');
        let (kind, source) = (after.next().unwrap_or_default(), after.next().unwrap_or_default());
        let of_whole = after.next().unwrap_or_default();
        let place = place.replace("\\040", " ");
        if path.starts_with(&place) && best.as_ref().is_none_or(|best| place.len() >= best.place.len()) {
            let read_only = options.split(',').chain(of_whole.split(',')).any(|option| option == "ro");
            best = Some(Mount { place, kind: kind.to_owned(), source: source.to_owned(), read_only });
        }
    }
    best
}

/// The names of a partition and of the disk that it is on.
fn device(system: &System, number: u64) -> Option<(String, String)> {
    let (major, minor) = (nix::sys::stat::major(number), nix::sys::stat::minor(number));
    let target = std::fs::read_link(system.path(&format!("/sys/dev/block/{major}:{minor}"))).ok()?;
    let names: Vec<String> = target.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    let partition = names.last()?.clone();
    let above = names.get(names.len().checked_sub(2)?)?.clone();
    let whole = if system.path(&format!("/sys/block/{above}")).exists() { above } else { partition.clone() };
    Some((partition, whole))
}

/// What an SD card or eMMC tells of itself.
pub(super) fn card(system: &System, device: &str) -> Option<Card> {
    let at = |name: &str| system.text(&format!("/sys/block/{device}/device/{name}"));
    if !device.starts_with("mmcblk") {
        return None;
    }
    let hex = |text: &str| u32::from_str_radix(text.trim_start_matches("0x"), 16).ok();
    Some(Card {
        kind: at("type").unwrap_or_default(),
        name: at("name").unwrap_or_default(),
        made: at("date").unwrap_or_default(),
        life: at("life_time").iter().flat_map(|text| text.split_whitespace()).filter_map(hex).collect(),
        spare: at("pre_eol_info").as_deref().and_then(hex).filter(|info| *info > 0),
    })
}

/// Bytes that were written, of `/sys/block/*/stat`.
fn written(stat: &str) -> Option<u64> {
    Some(stat.split_whitespace().nth(6)?.parse::<u64>().ok()? * SECTOR)
}

/// How long writes took until they were safe, in microseconds; `None` where that can not be tried.
fn syncs(folder: &Path, read_only: bool) -> Option<Result<Vec<u64>, String>> {
    if read_only {
        return None;
    }
    let mut file = match tempfile::Builder::new().prefix(".kith-doctor-").tempfile_in(folder) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => return None,
        Err(error) => return Some(Err(error.to_string())),
    };
    let begun = Instant::now();
    let mut write = || -> std::io::Result<Vec<u64>> {
        let mut times = Vec::new();
        // As the log does it: into room that is there already. The first one makes the file.
        file.write_all(&[0; 4096])?;
        file.as_file().sync_all()?;
        while times.len() < WRITES && (times.len() < 2 || begun.elapsed() < ENOUGH) {
            let started = Instant::now();
            file.seek(SeekFrom::Start(0))?;
            file.write_all(&[u8::try_from(times.len()).unwrap_or(0) + 1; 4096])?;
            file.as_file().sync_data()?;
            times.push(u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX));
        }
        Ok(times)
    };
    Some(write().map_err(|error| error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_of_a_path_is_the_innermost_and_latest() {
        let mounts = "22 1 179:2 / / rw,noatime shared:1 - ext4 /dev/mmcblk0p2 rw\n\
                      30 22 0:26 / /var/lib rw shared:2 - tmpfs tmpfs rw\n\
                      31 22 8:1 / /var/lib rw shared:3 - xfs /dev/sda1 ro,attr2\n";
        let mount = mount_of(mounts, Path::new("/var/lib/kith-is-not-there")).unwrap();
        assert_eq!((mount.kind.as_str(), mount.source.as_str(), mount.read_only), ("xfs", "/dev/sda1", true));
        assert_eq!(mount_of(mounts, Path::new("/var/libx")).unwrap().kind, "ext4");
    }

    #[test]
    fn writes_of_this_disk_are_timed() {
        let folder = tempfile::tempdir().unwrap();
        let times = syncs(folder.path(), false).unwrap().unwrap();
        assert!(times.len() >= 2);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left");
    }

    #[test]
    fn sectors_are_512_bytes() {
        assert_eq!(written("    1000 2 3 4 500 6 2048 8 0 10 11"), Some(1 << 20));
    }
}
