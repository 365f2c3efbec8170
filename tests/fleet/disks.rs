//! Disks that are full, and disks that are slow: real file systems on loop devices.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::harness::{Fleet, succeed, wait_for};
use crate::ledger::{self, CONFIGMAPS, Writer};

const DEVICES: [&str; 3] = ["d1", "d2", "d3"];

/// Puts a device's data on an ext4 of its own, with its agent stopped meanwhile. `kith dev down`
/// unmounts it, and the loop device goes with the mount.
fn on_loop_disk(fleet: &Fleet, device: &str) {
    on_disk_of(fleet, device, 64);
    fleet.wait_same_hash(&DEVICES);
}

/// The same with so many MiB, on a device of any fleet.
pub fn on_disk_of(fleet: &Fleet, device: &str, mib: u64) {
    let image = fleet.dir.join(format!("{device}.ext4"));
    fleet.dev(&["kill", device]);
    let (data, aside) = (fleet.file(device, "data"), fleet.file(device, "aside"));
    std::fs::File::create(&image).unwrap().set_len(mib << 20).unwrap();
    succeed(Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(&image));
    std::fs::rename(&data, &aside).unwrap();
    std::fs::create_dir(&data).unwrap();
    succeed(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&data));
    succeed(Command::new("cp").arg("-aT").arg(&aside).arg(&data));
    fleet.dev(&["start", device]);
}

/// Takes every byte of a disk.
fn fill(ballast: &Path) {
    let mut file = std::fs::File::create(ballast).unwrap();
    for piece in [1 << 20, 4096, 1] {
        while std::io::Write::write_all(&mut file, &vec![0; piece]).is_ok() {}
    }
    // The file system gives out what it promised only now.
    let _ = file.sync_all();
}

#[test]
fn a_leader_with_a_full_disk_says_so_or_hands_over_and_all_recovers_when_there_is_room() {
    let seed = ledger::seed("a_leader_with_a_full_disk");
    let fleet = Fleet::up("t-fulldisk", 3);
    let full = fleet.leader("d1").unwrap();
    on_loop_disk(&fleet, &full);
    // Lead again if the stop of a moment ago cost the lead.
    let others = || DEVICES.into_iter().filter(|device| *device != full);
    others().for_each(|other| drop(fleet.kith(&full, &["cordon", other])));
    wait_for("the device to lead", || fleet.leader(&full).filter(|leader| *leader == full));
    others().for_each(|other| drop(fleet.kith(&full, &["uncordon", other])));
    let mut writer = Writer::new(&fleet, 0, &DEVICES, seed);
    writer.step();
    let ballast = fleet.file(&full, "data/ballast");
    fill(&ballast);
    let other = DEVICES.into_iter().find(|device| *device != full).unwrap();
    for number in 0..20 {
        let name = format!("full-{number}");
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"v": "x".repeat(2000)}});
        let answer = fleet.request(other, "POST", CONFIGMAPS, Some(&object)).unwrap();
        let message = answer.body["message"].as_str().unwrap_or_default();
        let said = message.contains("disk") && message.contains(&full);
        assert!(answer.status == 201 || said || message.contains("leader"), "{}: {message}", answer.status);
        writer.look(&full);
    }
    let problems = fleet.status(&full)["problems"].to_string();
    assert!(problems.contains("disk") && problems.contains(&full), "{problems}");
    // Killed and started on a full disk, twice: nothing is lost, and reads are served.
    for _ in 0..2 {
        fleet.dev(&["kill", &full]);
        fleet.dev(&["start", &full]);
        wait_for("reads on the full disk", || {
            fleet.request(&full, "GET", CONFIGMAPS, None).ok().filter(|answer| answer.status == 200)
        });
    }
    std::fs::remove_file(&ballast).unwrap();
    for _ in 0..5 {
        writer.step();
    }
    ledger::settle(&fleet, &DEVICES, &[writer]);
}

/// A limit on how many writes a second a process may send to one disk.
struct Slow(PathBuf);

impl Slow {
    fn of(fleet: &Fleet, device: &str, writes_a_second: u32) -> Self {
        let mount = succeed(Command::new("findmnt").args(["-no", "SOURCE"]).arg(fleet.file(device, "data")));
        let disk = Path::new(mount.trim()).file_name().unwrap().to_owned();
        let number = std::fs::read_to_string(Path::new("/sys/block").join(disk).join("dev")).unwrap();
        let group = PathBuf::from(format!("/sys/fs/cgroup/blkio/kith/slow-{device}-{}", std::process::id()));
        std::fs::create_dir_all(&group).expect("the blkio cgroup (v1)");
        let slow = Self(group);
        let limit = format!("{} {writes_a_second}", number.trim());
        std::fs::write(slow.0.join("blkio.throttle.write_iops_device"), limit).unwrap();
        slow.add(fleet, device);
        slow
    }

    fn add(&self, fleet: &Fleet, device: &str) {
        std::fs::write(self.0.join("cgroup.procs"), fleet.pid(device).to_string()).unwrap();
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        for pid in std::fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default().lines() {
            let _ = std::fs::write("/sys/fs/cgroup/blkio/cgroup.procs", pid);
        }
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[test]
fn a_slow_disk_delays_its_own_device_and_nobody_else() {
    let seed = ledger::seed("a_slow_disk");
    let fleet = Fleet::up("t-slowdisk", 3);
    let leader = fleet.leader("d1").unwrap();
    let slow = DEVICES.into_iter().find(|device| *device != leader).unwrap();
    on_loop_disk(&fleet, slow);
    let others: Vec<&str> = DEVICES.into_iter().filter(|device| *device != slow).collect();
    let mut writer = Writer::new(&fleet, 0, &others, seed);
    let term = |device: &str| fleet.status(device)["term"].as_u64().unwrap();
    let before = term(others[0]);
    {
        let limit = Slow::of(&fleet, slow, 4);
        for _ in 0..3 {
            let since = std::time::Instant::now();
            while since.elapsed() < std::time::Duration::from_secs(5) {
                writer.step();
            }
            // Killed while it waits for its disk, it goes when the disk lets it; then it starts again.
            fleet.dev(&["kill", slow]);
            fleet.dev(&["start", slow]);
            limit.add(&fleet, slow);
        }
        println!("{} writes with one disk of three at 4 writes a second", writer.written());
        writer.look(slow);
    }
    // If it unseated the leader, it would each of the three times; once, the whole machine may stall.
    let changes = term(others[0]) - before;
    assert!(changes <= 1, "a slow follower unseated the leader: {changes} terms in three rounds");
    ledger::settle(&fleet, &DEVICES, &[writer]);
}
