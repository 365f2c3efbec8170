//! Memory, heat and current.

use super::{Check, Facts, Verdict, percent, size};

/// The least memory that Kith was measured with.
const LEAST: u64 = 180 << 20;

/// Boards that want smaller caches.
const SMALL: u64 = 600 << 20;

/// Thousandths of a degree: warm, and too hot.
const WARM: i64 = 75_000;
const HOT: i64 = 85_000;

pub(super) const CHECKS: &[Check] = &[
    Check { id: "memory-free", title: "there is memory", judge: memory },
    Check { id: "memory-pressure", title: "nothing waits for memory", judge: pressure },
    Check { id: "memory-kills", title: "nothing was killed for want of memory", judge: kills },
    Check { id: "swap", title: "swap does no harm", judge: swap },
    Check { id: "temperature", title: "the device is cool enough", judge: temperature },
    Check { id: "power-supply", title: "the power supply holds", judge: supply },
];

fn memory(facts: &Facts) -> Verdict {
    let memory = &facts.memory;
    let Some(total) = memory.total else { return Verdict::unseen(facts, "/proc/meminfo") };
    let seen = format!("{} of {} can be had", size(memory.available), size(total));
    if total < LEAST {
        return Verdict::warning(
            format!("{seen}: less than Kith was measured with"),
            "device_profiles = [\"tiny\"] in agent.toml",
        );
    }
    if percent(memory.available, total) < 5 || memory.available < 32 << 20 {
        return Verdict::warning(format!("{seen}: pods are evicted below 32 MiB"), "kith top pods shows who takes it");
    }
    if total < SMALL {
        return Verdict::note(seen, "device_profiles = [\"tiny\"] in agent.toml leaves more for pods");
    }
    Verdict::ok(seen)
}

fn pressure(facts: &Facts) -> Verdict {
    match facts.memory.waiting {
        None => Verdict::skipped("the kernel does not measure it"),
        Some(share) if share >= 1000 => Verdict::warning(
            format!("programs waited for memory in {} % of the last minute", share / 100),
            "kith top pods shows who takes it; give pods limits of memory",
        ),
        Some(share) => Verdict::ok(format!("{}.{:02} % of the last minute", share / 100, share % 100)),
    }
}

fn kills(facts: &Facts) -> Verdict {
    match facts.memory.killed {
        None => Verdict::unseen(facts, "/proc/vmstat"),
        Some(0) => Verdict::ok("nothing since the device started"),
        Some(count) => Verdict::note(
            format!("{count} programs since the device started, those of limited containers included"),
            "journalctl -k | grep -i 'killed process' tells which",
        ),
    }
}

fn swap(facts: &Facts) -> Verdict {
    let memory = &facts.memory;
    if memory.swap == 0 {
        return Verdict::ok("there is none");
    }
    let devices = memory.swap_devices.join(", ");
    let seen = format!(
        "{} of {} are used, on {devices}",
        size(memory.swap - memory.swap_free.min(memory.swap)),
        size(memory.swap)
    );
    let on_card = facts.disk.card.is_some() && !memory.swap_devices.iter().all(|device| device.contains("zram"));
    if on_card {
        return Verdict::warning(
            format!("{seen}: it wears the card out, and stalls everything"),
            "apt install zram-tools swaps to compressed memory; swapoff -a ends the other (dphys-swapfile on Raspberry Pi OS: systemctl disable --now dphys-swapfile)",
        );
    }
    Verdict::ok(seen)
}

fn temperature(facts: &Facts) -> Verdict {
    let hottest = facts.power.temperatures.iter().max_by_key(|(_, degrees)| **degrees);
    let Some((sensor, degrees)) = hottest else { return Verdict::skipped("there is no sensor in sysfs") };
    let seen = format!("{} °C ({sensor})", degrees / 1000);
    match *degrees {
        HOT.. => Verdict::warning(format!("{seen}: it slows itself down"), "give it air or a heat sink"),
        WARM.. => Verdict::note(format!("{seen}: warm"), "it slows itself down from about 80 °C on"),
        _ => Verdict::ok(seen),
    }
}

fn supply(facts: &Facts) -> Verdict {
    let todo = "use the board's own power supply and a short, thick cable; nothing that draws much on its USB ports";
    match (facts.power.throttled, facts.power.low_voltage) {
        (None, None) => Verdict::skipped("the board does not tell"),
        (Some(bits), _) if bits & 1 != 0 => {
            Verdict::problem("the voltage is too low at this moment: cards get damaged by that", todo)
        }
        (_, Some(true)) => Verdict::problem("the voltage was too low: cards get damaged by that", todo),
        (Some(bits), _) if bits & 0x1_0000 != 0 => {
            Verdict::warning("the voltage was too low since the device started: cards get damaged by that", todo)
        }
        (Some(bits), _) if bits & 0xe != 0 => {
            Verdict::warning("it is slowed down at this moment, by heat or by the supply", "give it air")
        }
        (Some(bits), _) if bits & 0xe_0000 != 0 => Verdict::note("it was slowed down since it started", "give it air"),
        _ => Verdict::ok("no complaint of the board"),
    }
}
