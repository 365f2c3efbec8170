//! When a container that ended is started again. Everything follows from the two newest attempts:
//! the time that passed between them tells how long the last wait was, so nothing is remembered.

use super::container::Exit;
use super::target::Settings;
use crate::resource::Timestamp;

/// Whether and when the next attempt begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Restart {
    /// Never: the container is done.
    Never,
    /// At once.
    Now,
    /// Not before this moment.
    At(Timestamp),
}

/// Decides on the next attempt after `last`, the exit of attempt number `attempt`. `previous` is the exit
/// before it, if it is still there.
pub(super) fn restart(
    policy: &str,
    attempt: u32,
    last: &Exit,
    previous: Option<&Exit>,
    settings: &Settings,
    now: Timestamp,
) -> Restart {
    let wanted = match policy {
        "Never" => false,
        "OnFailure" => last.code != 0,
        _ => true,
    };
    if !wanted {
        return Restart::Never;
    }
    let ran = last.started.map_or(std::time::Duration::ZERO, |started| last.finished.since(started));
    // An end that lies ahead means that the clock was set back: its wait can not be told any more.
    if ran >= settings.backoff_reset || last.finished > now {
        return Restart::Now;
    }
    let wait = wait(attempt, last, previous, settings);
    let at = last.finished.plus(wait);
    if at <= now { Restart::Now } else { Restart::At(at) }
}

/// How long to wait after an exit: nothing after the first attempt, then the base, then twice the wait before.
pub(super) fn wait(attempt: u32, last: &Exit, previous: Option<&Exit>, settings: &Settings) -> std::time::Duration {
    let base = settings.backoff_base;
    if attempt == 0 || base.is_zero() {
        return std::time::Duration::ZERO;
    }
    let Some(previous) = previous else { return base.min(settings.backoff_cap) };
    let gap = last.started.unwrap_or(last.finished).since(previous.finished);
    let mut next = base;
    // Attempts bound the doubling too: a gap may have come from an agent that was down.
    for _ in 1..attempt.min(32) {
        if next > gap || next >= settings.backoff_cap {
            break;
        }
        next = next.saturating_mul(2);
    }
    next.min(settings.backoff_cap)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn exit(started: u64, finished: u64, code: i32) -> Exit {
        Exit {
            code,
            signal: None,
            oom_killed: false,
            started: Some(Timestamp(started * 1000)),
            finished: Timestamp(finished * 1000),
            message: String::new(),
        }
    }

    #[test]
    fn a_crash_loop_waits_ten_seconds_doubling_to_five_minutes() {
        let settings = Settings::default();
        let (mut previous, mut waits, mut clock) = (None, Vec::new(), 1_000);
        for attempt in 0..9 {
            let last = exit(clock, clock + 1, 1);
            let span = wait(attempt, &last, previous.as_ref(), &settings);
            waits.push(span.as_secs());
            clock = clock + 1 + span.as_secs();
            previous = Some(last);
        }
        assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300, 300]);
    }

    #[test]
    fn ten_minutes_of_running_start_over() {
        let settings = Settings::default();
        let previous = exit(0, 1, 1);
        let long = exit(301, 301 + 600, 1);
        assert_eq!(restart("Always", 7, &long, Some(&previous), &settings, Timestamp(901_000)), Restart::Now);
        let next = exit(901, 902, 1);
        assert_eq!(wait(8, &next, Some(&long), &settings), Duration::from_secs(10));
    }

    #[test]
    fn policies() {
        let settings = Settings::default();
        let at = |policy, code| restart(policy, 0, &exit(0, 1, code), None, &settings, Timestamp(5_000));
        assert_eq!(at("Always", 0), Restart::Now);
        assert_eq!(at("OnFailure", 0), Restart::Never);
        assert_eq!(at("OnFailure", 1), Restart::Now);
        assert_eq!(at("Never", 1), Restart::Never);
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_hold_a_container_back() {
        let settings = Settings::default();
        let last = exit(2_000_000, 2_000_001, 1);
        assert_eq!(restart("Always", 5, &last, None, &settings, Timestamp(7)), Restart::Now);
    }
}
