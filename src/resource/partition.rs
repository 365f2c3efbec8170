//! The partition contract of a workload, as the annotations of its pods say it: what should happen to a
//! pod while its device is cut off. It reads; planner and reconciler act.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;

/// Annotation: `keep` (default) or `stop-after=<duration>`.
pub const ON_PARTITION: &str = "kith.dev/on-partition";
/// Annotation: silence of its device after which a pod is replaced, such as `30s`.
pub const LOST_AFTER: &str = "kith.dev/lost-after";

/// The longest time that an annotation may name: ten years.
const LONGEST: Duration = Duration::from_hours(10 * 366 * 24);

/// The shortest `stop-after`: a change of leaders must not look like a partition.
const SHORTEST_STOP: Duration = Duration::from_secs(2);

/// Seconds between asking and killing when a pod does not say.
const DEFAULT_GRACE_SECONDS: i64 = 30;

/// What a device may need beyond a pod's own grace to see that the time is over and to kill what did not
/// end by itself.
const MARGIN: Duration = Duration::from_secs(15);

/// Two boot clocks differ by less than one part in so many.
const DRIFT: u32 = 200;

type Annotations<'a> = Option<&'a BTreeMap<String, String>>;

/// The time without a quorum after which a device stops a pod; `None` where it keeps it.
pub fn stop_after(annotations: Annotations<'_>) -> Result<Option<Duration>, String> {
    let Some(text) = annotations.and_then(|all| all.get(ON_PARTITION)) else { return Ok(None) };
    if text == "keep" {
        return Ok(None);
    }
    let span = text.strip_prefix("stop-after=").and_then(duration);
    match span {
        Some(span) if span >= SHORTEST_STOP => Ok(Some(span)),
        Some(_) => Err(format!("must be at least stop-after={}s", SHORTEST_STOP.as_secs())),
        None => Err("must be keep, or stop-after= and a duration, such as stop-after=1m30s".into()),
    }
}

/// The silence of its device after which a pod is replaced, where it says so itself.
pub fn lost_after(annotations: Annotations<'_>) -> Result<Option<Duration>, String> {
    let Some(text) = annotations.and_then(|all| all.get(LOST_AFTER)) else { return Ok(None) };
    match duration(text) {
        Some(span) if !span.is_zero() => Ok(Some(span)),
        _ => Err("must be a duration, such as 30s or 1m30s".into()),
    }
}

/// How long after its device last spoke with a quorum a pod with this `stop-after` surely does not run
/// any more: its grace included, and clocks that do not run alike.
pub fn surely_over_after(pod: &Pod, stop_after: Duration) -> Duration {
    let of_spec = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    let grace = Duration::from_secs(of_spec.unwrap_or(DEFAULT_GRACE_SECONDS).max(0).unsigned_abs());
    let needed = stop_after + grace;
    needed + needed / DRIFT + MARGIN
}

/// `500ms`, `30s`, `1m30s`, `2h`, `1d`.
pub fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, tail) = rest.split_at(digits);
        let unit = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit);
        let number: u64 = number.parse().ok()?;
        let millis = number.checked_mul(match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        })?;
        total = total.checked_add(Duration::from_millis(millis))?;
        rest = tail;
    }
    (!text.is_empty() && total <= LONGEST).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(duration("1m30s"), Some(Duration::from_secs(90)));
        assert_eq!(duration("500ms"), Some(Duration::from_millis(500)));
        for bad in ["", "5", "s", "1x", "-1s", "1s2", "99999999999999999999s", "100000d"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn annotations_are_read_or_refused() {
        let say = |name: &str, text: &str| BTreeMap::from([(name.to_owned(), text.to_owned())]);
        let stop = |text: &str| stop_after(Some(&say(ON_PARTITION, text)));
        assert_eq!((stop_after(None), stop("keep")), (Ok(None), Ok(None)));
        assert_eq!(stop("stop-after=1m"), Ok(Some(Duration::from_mins(1))));
        for bad in ["", "stop", "stop-after", "stop-after=", "stop-after=1", "stop-after=0s", "stop-after=999ms"] {
            assert!(stop(bad).is_err(), "{bad}");
        }
        let lost = |text: &str| lost_after(Some(&say(LOST_AFTER, text)));
        assert_eq!((lost_after(None), lost("30s")), (Ok(None), Ok(Some(Duration::from_secs(30)))));
        assert!(lost("soon").is_err() && lost("0s").is_err());
    }

    #[test]
    fn a_pod_is_surely_over_after_its_grace_and_more() {
        let pod: Pod = serde_json::from_value(serde_json::json!({"metadata": {}, "spec":
            {"containers": [], "terminationGracePeriodSeconds": 40}}))
        .unwrap();
        let minute = Duration::from_mins(1);
        assert_eq!(surely_over_after(&pod, minute), Duration::from_millis(115_500));
        assert!(surely_over_after(&Pod::default(), minute) > Duration::from_secs(90));
    }
}
