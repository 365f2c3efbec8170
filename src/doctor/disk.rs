//! Whether the disk holds what it is given, how fast, and for how long.

use super::agent::log;
use super::facts::Version;
use super::{Check, Facts, Verdict, percent, size};

/// A leader takes no writes with less free than this.
const LEAST_FREE: u64 = 16 << 20;

/// Less than this is soon full.
const LITTLE_FREE: u64 = 512 << 20;

/// Microseconds in which a write should be safe, and in which it must be for elections to be calm.
const SYNC_SLOW: u64 = 50_000;
const SYNC_BAD: u64 = 400_000;

/// Bytes written a day above which a card does not last: about 2,000 times 16 GiB in five years.
const WRITES_A_DAY: u64 = 16 << 30;

/// Seconds before which writes of a start say nothing of a day.
const ENOUGH_UPTIME: u64 = 3600;

pub(super) const CHECKS: &[Check] = &[
    Check { id: "disk-writable", title: "data_dir can be written", judge: writable },
    Check { id: "disk-kind", title: "data_dir lies on a disk that keeps it", judge: kind },
    Check { id: "run-dir", title: "run_dir is emptied by a reboot", judge: run_dir },
    Check { id: "disk-free", title: "there is room on the disk", judge: free },
    Check { id: "disk-inodes", title: "there is room for more files", judge: inodes },
    Check { id: "log-free", title: "there is room for containers' logs", judge: log_free },
    Check { id: "disk-speed", title: "writes are safe soon", judge: speed },
    Check { id: "disk-health", title: "the card or chip is well", judge: health },
    Check { id: "disk-errors", title: "the file system noted no errors", judge: errors },
    Check { id: "disk-wear", title: "the disk is not worn down by writes", judge: wear },
    Check { id: "store", title: "log and state are there together", judge: store },
    Check { id: "store-damage", title: "nothing was found damaged", judge: damage },
    Check { id: "images", title: "every image is whole", judge: images },
    Check { id: "left-overs", title: "nothing was left behind", judge: left_overs },
];

fn writable(facts: &Facts) -> Verdict {
    let disk = &facts.disk;
    match disk.read_only {
        None => Verdict::unseen(facts, "how data_dir is mounted"),
        Some(true) if disk.errors.is_some_and(|count| count > 0) => Verdict::problem(
            format!("{} is mounted for reading only, after errors of the disk", disk.folder),
            "dmesg | tail tells which; save what matters, then fsck from another system",
        ),
        Some(true) => Verdict::problem(
            format!("{} is mounted for reading only", disk.folder),
            format!("set data_dir to a disk that can be written, or mount -o remount,rw {}", disk.folder),
        ),
        Some(false) if disk.root_read_only == Some(true) => {
            Verdict::ok(format!("{} can be, and the root of the system is for reading only", disk.folder))
        }
        Some(false) => Verdict::ok(disk.folder.clone()),
    }
}

fn kind(facts: &Facts) -> Verdict {
    let disk = &facts.disk;
    let seen = format!("{} is {} on {}", disk.folder, disk.kind, disk.device);
    match disk.kind.as_str() {
        "" => Verdict::unseen(facts, "the kind of the file system"),
        "ext4" | "xfs" | "btrfs" | "f2fs" | "ext3" | "bcachefs" | "zfs" => Verdict::ok(seen),
        "tmpfs" | "ramfs" => Verdict::problem(
            format!("{seen}: a reboot empties it, and this device forgets its keys and its fleet"),
            "set data_dir in agent.toml to a folder on a disk",
        ),
        "nfs" | "nfs4" | "cifs" | "9p" | "vfat" | "exfat" | "msdos" => Verdict::problem(
            format!("{seen}: it has no owners and locks as Kith needs them, or is gone when the network is"),
            "set data_dir in agent.toml to a folder on ext4, xfs, btrfs or f2fs",
        ),
        "overlay" => Verdict::warning(
            format!("{seen}: images are overlays, and one does not lie on another; it may be emptied by a reboot"),
            "set data_dir in agent.toml to a folder on a real disk, or mount one there",
        ),
        _ => {
            Verdict::note(format!("{seen}: nobody has tried Kith on it"), "ext4, xfs, btrfs and f2fs are known to work")
        }
    }
}

fn run_dir(facts: &Facts) -> Verdict {
    match facts.disk.run_kind.as_str() {
        "" => Verdict::skipped("it is not there yet"),
        "tmpfs" | "ramfs" => Verdict::ok("it is in memory"),
        other => Verdict::warning(
            format!("it is {other}: after a reboot, what it says of containers is taken for true"),
            "set run_dir in agent.toml to a folder below /run",
        ),
    }
}

fn free(facts: &Facts) -> Verdict {
    let (Some(total), Some(free)) = (facts.disk.total, facts.disk.free) else {
        return Verdict::unseen(facts, "how full the disk is");
    };
    let share = percent(free, total);
    let seen = format!("{} of {} ({share} %) are free", size(free), size(total));
    let todo = "kith image prune --dry-run shows what images could go; du -xh / | sort -h | tail what else is large";
    match free {
        0..LEAST_FREE => Verdict::problem(format!("{seen}: this device takes no writes"), todo),
        _ if free < LITTLE_FREE && share < 10 => Verdict::warning(format!("{seen}: pods are evicted soon"), todo),
        _ if share < 10 && free < 2 << 30 => Verdict::warning(format!("{seen}: pods are evicted below 10 %"), todo),
        _ => Verdict::ok(seen),
    }
}

fn inodes(facts: &Facts) -> Verdict {
    let (Some(total), Some(free)) = (facts.disk.inodes, facts.disk.inodes_free) else {
        return Verdict::unseen(facts, "how many inodes are free");
    };
    if total == 0 {
        return Verdict::ok("the file system makes them as they are wanted");
    }
    let share = percent(free, total);
    let seen = format!("{free} of {total} inodes ({share} %) are free");
    let todo = "many small files take them: du --inodes -x / | sort -n | tail";
    match share {
        0 => Verdict::problem(seen, todo),
        1..=5 => Verdict::warning(format!("{seen}: pods are evicted below 5 %"), todo),
        _ => Verdict::ok(seen),
    }
}

fn log_free(facts: &Facts) -> Verdict {
    match facts.disk.log_free {
        None => Verdict::skipped("log_dir is not there yet"),
        Some(free) if free < LEAST_FREE => Verdict::warning(
            format!("{} are free under log_dir: lines of containers are lost", size(free)),
            "log_max_bytes and log_max_files in agent.toml make logs smaller",
        ),
        Some(free) => Verdict::ok(format!("{} are free", size(free))),
    }
}

fn speed(facts: &Facts) -> Verdict {
    let times = match &facts.disk.syncs {
        None => return Verdict::unseen(facts, "how fast data_dir is"),
        Some(Err(why)) => {
            return Verdict::problem(format!("a write was not made safe: {why}"), "dmesg | tail; is the disk well?");
        }
        Some(Ok(times)) if times.is_empty() => return Verdict::skipped("nothing was written"),
        Some(Ok(times)) => times,
    };
    let mut sorted = times.clone();
    sorted.sort_unstable();
    let (middle, longest) = (sorted[sorted.len() / 2], sorted[sorted.len() - 1]);
    let millis = |micros: u64| format!("{}.{} ms", micros / 1000, micros % 1000 / 100);
    let seen = format!("4 KiB are safe after {} (at most {})", millis(middle), millis(longest));
    let todo = "let it not vote: \"kith.dev/voter\" = \"never\" under [labels]; a better card or an SSD; profile = \"wan\" for the whole fleet";
    if middle >= SYNC_BAD || longest >= 4 * SYNC_BAD {
        Verdict::warning(format!("{seen}: too slow for a voter, elections would not be calm"), todo)
    } else if middle >= SYNC_SLOW {
        Verdict::note(format!("{seen}: slow, as many SD cards are; another device leads rather than this one"), todo)
    } else {
        Verdict::ok(seen)
    }
}

fn health(facts: &Facts) -> Verdict {
    let Some(card) = &facts.disk.card else { return Verdict::skipped("the disk tells nothing of itself in sysfs") };
    let seen =
        format!("{} {} of {}", card.kind, card.name, if card.made.is_empty() { "unknown age" } else { &card.made });
    let life = card.life.iter().max().copied().filter(|life| *life > 0);
    let todo = "copy what matters now, and replace it: kith join TOKEN --replace --name NAME";
    match (card.spare, life) {
        (Some(3..), _) | (_, Some(11..)) => Verdict::problem(format!("{seen}: it is worn out"), todo),
        (Some(2), _) | (_, Some(9..)) => {
            Verdict::warning(format!("{seen}: {} of its life are used", tenths(life.unwrap_or(9))), todo)
        }
        (_, Some(life)) => Verdict::ok(format!("{seen}: {} of its life are used", tenths(life))),
        (Some(_), None) => Verdict::ok(format!("{seen}: its spare blocks are not used up")),
        (None, None) => Verdict::note(
            format!("{seen}: SD cards do not tell how worn they are"),
            "device_profiles = [\"sd-card\"] in agent.toml spares it",
        ),
    }
}

/// What the number of tenths means that a chip tells.
fn tenths(life: u32) -> String {
    format!("{} to {} %", life.saturating_sub(1) * 10, life * 10)
}

fn errors(facts: &Facts) -> Verdict {
    match facts.disk.errors {
        None => Verdict::skipped(format!("{} does not count them", facts.disk.kind)),
        Some(0) => Verdict::ok("none"),
        Some(count) => Verdict::problem(
            format!("{count} since it was last checked"),
            format!("dmesg | grep {}; fsck it from another system, and take a backup first", facts.disk.device),
        ),
    }
}

fn wear(facts: &Facts) -> Verdict {
    let disk = &facts.disk;
    let Some(written) = disk.written else { return Verdict::skipped("the device is not in sysfs") };
    if disk.uptime < ENOUGH_UPTIME {
        return Verdict::skipped(format!("{} written since the start, which is too short ago", size(written)));
    }
    let a_day = written / disk.uptime.max(1) * 86_400;
    let seen = format!("{} a day on {}, by all programs", size(a_day), disk.device);
    if disk.card.is_some() && a_day > WRITES_A_DAY {
        return Verdict::warning(
            format!("{seen}: a card does not last with that"),
            "kith top pods and iotop -a show who writes; device_profiles = [\"sd-card\"]",
        );
    }
    Verdict::ok(seen)
}

fn store(facts: &Facts) -> Verdict {
    let store = &facts.store;
    match (store.log, store.state) {
        (Some(true), Some(true)) => {
            Verdict::ok(format!("the log has {}, the state {}", size(store.log_bytes), size(store.state_bytes)))
        }
        (Some(false), Some(false)) => Verdict::ok("none yet: this device is in no fleet, or has not started"),
        (None, _) | (_, None) => Verdict::unseen(facts, "data_dir"),
        (log, _) => Verdict::problem(
            format!(
                "the {} is there without the {}",
                if log == Some(true) { "log" } else { "state" },
                if log == Some(true) { "state" } else { "log" }
            ),
            "with other devices in the fleet: start the agent, it enters as a new member. Alone: kith restore FILE",
        ),
    }
}

fn damage(facts: &Facts) -> Verdict {
    let store = &facts.store;
    if store.log.is_none() {
        return Verdict::unseen(facts, "data_dir");
    }
    if store.suspect {
        return Verdict::warning(
            "the last start did not come to the end of opening the state",
            format!("{}; kith status, once the agent runs", log(facts)),
        );
    }
    match store.damaged.last() {
        None => Verdict::ok("nothing"),
        Some(last) => Verdict::note(
            format!("it happened {} times; the last is kept in {last}", store.damaged.len()),
            format!("cat {last}/why.txt; if it happens again, replace the disk"),
        ),
    }
}

fn images(facts: &Facts) -> Verdict {
    match &facts.store.images {
        None => Verdict::unseen(facts, "the images"),
        Some((count, wrong)) if wrong.is_empty() => Verdict::ok(format!("{count} images")),
        Some((_, wrong)) => Verdict::problem(
            format!(
                "{}{}",
                wrong[0],
                if wrong.len() > 1 { format!(", and {} more", wrong.len() - 1) } else { String::new() }
            ),
            "kith image rm NAME, then kith image pull or load it again",
        ),
    }
}

fn left_overs(facts: &Facts) -> Verdict {
    let Some(found) = &facts.store.leftovers else { return Verdict::unseen(facts, "data_dir and run_dir") };
    let bytes: u64 = found.iter().map(|(_, bytes)| bytes).sum();
    let Some((first, _)) = found.first() else { return Verdict::ok("nothing") };
    let more = if found.len() > 1 { format!(" and {} more", found.len() - 1) } else { String::new() };
    let todo = if facts.cgroups.version == Version::None || facts.agent.pid.is_some() {
        "rm -r what you do not want to keep"
    } else {
        "the next start of the agent clears most away; kith agent --cleanup clears containers and networks"
    };
    Verdict::note(format!("{first}{more}: {}", size(bytes)), todo)
}
