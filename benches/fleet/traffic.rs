//! What an idle fleet sends over each device's link and writes to each device's disk, in every
//! profile: three voters and a learner, each with its data on a file system of its own.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::fleet::{self, Fleet, run, wait_within};

/// A month, in seconds.
const MONTH: f64 = 30.0 * 24.0 * 3600.0;

/// The profiles, how long each is watched, and settings that it needs. The learner of a metered
/// fleet is heard every five minutes: two words are awaited.
const PROFILES: [(&str, Duration, &str); 3] = [
    ("lan", Duration::from_mins(1), "lost_after_seconds=10"),
    ("wan", Duration::from_mins(1), "lost_after_seconds=10"),
    ("metered", Duration::from_mins(10), "lost_after_seconds=900"),
];

/// Devices of the fleet: the last one does not vote.
const DEVICES: [&str; 4] = ["d1", "d2", "d3", "d4"];

#[derive(Clone, Copy, Default)]
struct Seen {
    /// Bytes over the link in both directions, Ethernet and ARP included.
    bytes: u64,
    /// Packets of the agents, and their bytes with UDP and IP headers.
    packets: u64,
    agents: u64,
    /// Bytes that the agent caused to be written.
    written: u64,
    /// Sectors of 512 bytes that reached the disk.
    sectors: u64,
}

/// Watches a fleet in each profile, or in one of them.
pub fn traffic(only: Option<&str>) {
    println!("\n### Traffic and wear of an idle fleet: three voters and a learner\n");
    println!(
        "| profile | device | watched | the agent's packets | their bytes, IP headers included | MB a month | all bytes of the link | MB a month | written by the agent | written to the disk |\n|---|---|---|---|---|---|---|---|---|---|"
    );
    for (profile, span, lost_after) in PROFILES {
        if only.is_none_or(|only| only == profile) {
            watch(profile, span, lost_after);
        }
    }
}

fn watch(profile: &str, span: Duration, lost_after: &str) {
    let set = format!("profile={profile:?}");
    let fleet =
        Fleet::made("traffic", &["up", "--devices", "4", "--timeout", "15m", "--set", &set, "--set", lost_after]);
    // All at once: a metered fleet takes minutes to elect a leader.
    for device in DEVICES {
        fleet.dev(&["kill", device]);
    }
    for device in DEVICES {
        on_own_disk(&fleet, device);
    }
    for device in DEVICES {
        fleet.dev(&["start", device]);
    }
    wait_within(Duration::from_mins(10), "every device to be heard again", || {
        let status = fleet.status("d1")?;
        let voters = status["voters"].as_array()?.len();
        let ready = status["devices"].as_array()?.iter().all(|device| device["ready"] == true);
        (voters == 3 && ready && status["quorum"] == true).then_some(())
    });
    for device in DEVICES {
        count(&fleet, device);
    }
    // The elections, the state made durable in the background, and the file systems' own journals.
    std::thread::sleep(Duration::from_secs(90));
    let roles = fleet.status("d1").expect("the fleet's status");
    // The question itself was a message to the leader.
    std::thread::sleep(Duration::from_secs(5));
    let before = DEVICES.map(|device| look(&fleet, device));
    std::thread::sleep(span);
    let after = DEVICES.map(|device| look(&fleet, device));
    for ((device, before), after) in DEVICES.into_iter().zip(before).zip(after) {
        let role = roles["devices"].as_array().into_iter().flatten().find(|known| known["name"] == device);
        let role = role.and_then(|known| known["role"].as_str()).unwrap_or("?").to_lowercase();
        let (bytes, agents) = (after.bytes - before.bytes, after.agents - before.agents);
        let month = |bytes: u64| bytes as f64 / span.as_secs_f64() * MONTH / 1e6;
        println!(
            "| {profile} | {role} | {} s | {} | {agents} | {:.2} | {bytes} | {:.2} | {} | {} |",
            span.as_secs(),
            after.packets - before.packets,
            month(agents),
            month(bytes),
            after.written - before.written,
            (after.sectors - before.sectors) * 512,
        );
    }
}

/// Moves a device's data to an ext4 on a loop device, so that what reaches the disk can be counted.
fn on_own_disk(fleet: &Fleet, device: &str) {
    let image = fleet.dir.join(format!("{device}.ext4"));
    let (data, aside) = (fleet.dir.join(device).join("data"), fleet.dir.join(device).join("aside"));
    std::fs::File::create(&image).and_then(|file| file.set_len(96 << 20)).expect("make a disk");
    run(Command::new("mkfs.ext4").args(["-q", "-m", "0", "-E", "lazy_itable_init=0"]).arg(&image));
    std::fs::rename(&data, &aside).expect("move the data");
    std::fs::create_dir(&data).expect("make the folder");
    run(Command::new("mount").args(["-o", "loop,noatime"]).arg(&image).arg(&data));
    run(Command::new("cp").arg("-aT").arg(&aside).arg(&data));
}

/// Counts the agent's packets, and keeps the kernel's own IPv6 chatter off the link.
fn count(fleet: &Fleet, device: &str) {
    fleet.dev(&["exec", device, "--", "sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6"]);
    let rules = "add table ip seen; add counter ip seen in; add counter ip seen out; \
         add chain ip seen input { type filter hook input priority 0; }; \
         add rule ip seen input udp dport 7443 counter name in; \
         add chain ip seen output { type filter hook output priority 0; }; \
         add rule ip seen output udp sport 7443 counter name out";
    fleet.dev(&["exec", device, "--", "nft", rules]);
}

fn look(fleet: &Fleet, device: &str) -> Seen {
    let counters = fleet.dev(&["exec", device, "--", "cat", "/proc/net/dev"]);
    let line = counters.lines().find_map(|line| line.trim().strip_prefix("eth0:")).expect("the link of a device");
    let field: Vec<u64> = line.split_whitespace().filter_map(|text| text.parse().ok()).collect();
    let pid = std::fs::read_to_string(fleet.dir.join(device).join("agent.pid")).expect("the agent's pid");
    let pid = pid.split_whitespace().next().and_then(|pid| pid.parse().ok()).expect("a pid");
    let data = fleet.dir.join(device).join("data");
    let source = run(Command::new("findmnt").args(["-no", "SOURCE"]).arg(data));
    let disk = Path::new(source.trim()).file_name().expect("a disk").to_owned();
    let stat = std::fs::read_to_string(Path::new("/sys/block").join(disk).join("stat")).expect("the disk's counters");
    let sectors = stat.split_whitespace().nth(6).and_then(|text| text.parse().ok()).expect("sectors written");
    let listed = fleet.dev(&["exec", device, "--", "nft", "-j", "list counters table ip seen"]);
    let listed: serde_json::Value = serde_json::from_str(&listed).expect("counters");
    let counters = || listed["nftables"].as_array().into_iter().flatten().map(|item| &item["counter"]);
    let sum = |field: &str| counters().filter_map(|counter| counter[field].as_u64()).sum();
    let (packets, agents) = (sum("packets"), sum("bytes"));
    Seen { bytes: field[0] + field[8], packets, agents, written: fleet::disk_writes(pid), sectors }
}
