//! Whether the clock can be right. Nothing in a fleet depends on it but the end of tokens, and what
//! people read.

use super::{Check, Facts, Verdict};

/// Milliseconds of a day.
const DAY: i64 = 86_400_000;

/// No device of today runs so many days after this release was made: 20 years.
const FAR: i64 = 20 * 365;

/// Microseconds of error above which a clock is told to be off.
const ERROR: i64 = 2_000_000;

pub(super) const CHECKS: &[Check] = &[
    Check { id: "clock-year", title: "the clock shows a time that can be", judge: year },
    Check { id: "clock-jump", title: "the clock did not go back", judge: jump },
    Check { id: "clock-synchronised", title: "the clock is synchronised", judge: synchronised },
    Check { id: "clock-hardware", title: "the clock runs on without power", judge: hardware },
    Check { id: "time-zone", title: "the time zone is one", judge: zone },
];

/// How to set it once.
const SET: &str = "timedatectl set-ntp true; without a network: date -s '2026-12-31 12:00'";

fn year(facts: &Facts) -> Verdict {
    let clock = &facts.clock;
    if clock.now == 0 {
        return Verdict::skipped("there is no clock");
    }
    let day = day(clock.now);
    if clock.now < clock.floor {
        return Verdict::warning(
            format!(
                "it shows {day}, before this release was made: Kith counts on from what it knows, and its log has wrong times"
            ),
            SET,
        );
    }
    if clock.now > clock.floor + FAR * DAY {
        return Verdict::warning(
            format!("it shows {day}: tokens expire at once, and certificates seem too old to others"),
            SET,
        );
    }
    Verdict::ok(format!("it shows {day}"))
}

/// The date of a moment.
fn day(millis: i64) -> String {
    let date = jiff::Timestamp::from_millisecond(millis);
    date.map_or_else(|_| format!("{millis} ms after 1970"), |date| date.strftime("%Y-%m-%d %H:%M UTC").to_string())
}

fn jump(facts: &Facts) -> Verdict {
    let clock = &facts.clock;
    let Some(latest) = clock.latest_file else { return Verdict::unseen(facts, "when Kith last wrote") };
    let back = (latest - clock.now) / DAY;
    if back >= 1 {
        return Verdict::warning(format!("Kith wrote files {back} days ahead of what the clock shows now"), SET);
    }
    Verdict::ok("no file of Kith is from the future")
}

fn synchronised(facts: &Facts) -> Verdict {
    let clock = &facts.clock;
    let by = if clock.services.is_empty() { String::new() } else { format!(" by {}", clock.services.join(", ")) };
    match (clock.synchronised, clock.error) {
        (None, _) => Verdict::unseen(facts, "the kernel's clock"),
        (Some(true), Some(error)) if error > ERROR => Verdict::warning(
            format!("it is synchronised{by}, but may be {} s off", error / 1_000_000),
            "chronyc tracking, or timedatectl timesync-status",
        ),
        (Some(true), _) => Verdict::ok(format!("it is{by}")),
        (Some(false), _) if facts.container.is_some() => Verdict::skipped("the clock is the host's"),
        (Some(false), _) if clock.services.is_empty() => Verdict::note(
            "nothing sets it: it drifts by seconds a day",
            "apt install systemd-timesyncd (or chrony), then timedatectl set-ntp true",
        ),
        (Some(false), _) => {
            Verdict::note(format!("not yet{by}"), "is a time server reachable? timedatectl timesync-status")
        }
    }
}

fn hardware(facts: &Facts) -> Verdict {
    match facts.clock.hardware {
        Some(true) => Verdict::ok("there is a clock with a battery"),
        Some(false) => Verdict::note(
            "there is none: after a loss of power the time is old until the network is there. Kith does without",
            "apt install fake-hwclock keeps the last time over a start",
        ),
        None => Verdict::skipped("it can not be told"),
    }
}

fn zone(facts: &Facts) -> Verdict {
    match &facts.clock.zone {
        Some(Ok(zone)) => Verdict::ok(zone.clone()),
        Some(Err(why)) => {
            Verdict::warning(why.clone(), "apt install tzdata, then timedatectl set-timezone Europe/Berlin")
        }
        None => Verdict::skipped("it can not be told"),
    }
}
