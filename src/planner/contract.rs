//! The partition contract of a workload: what should happen to a pod while its device is cut off.
//! It reads annotations; the device lifecycle acts on them.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;

use super::fleet::Settings;

/// Annotation: `keep` (default) or `stop-after=<duration>`.
pub const ON_PARTITION: &str = "kith.dev/on-partition";
/// Annotation: silence of its device after which a pod is replaced, such as `30s`.
pub const LOST_AFTER: &str = "kith.dev/lost-after";

/// The longest time that an annotation may name: ten years.
const LONGEST: Duration = Duration::from_hours(10 * 366 * 24);

/// What a pod's annotations ask for, and what of it is not honoured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Contract {
    pub(super) lost_after: Duration,
    pub(super) remarks: Vec<String>,
}

pub(super) fn of(pod: &Pod, settings: &Settings) -> Contract {
    let annotation = |name: &str| pod.metadata.annotations.as_ref().and_then(|all| all.get(name)).map(String::as_str);
    let mut contract = Contract { lost_after: settings.lost_after, remarks: Vec::new() };
    if let Some(text) = annotation(LOST_AFTER) {
        match duration(text) {
            Some(asked) if !asked.is_zero() => {
                // A device that is well and quiet must not look lost.
                let least = settings.sign_of_life * 2;
                contract.lost_after = asked.max(least);
                if asked < least {
                    contract.remarks.push(format!(
                        "annotation {LOST_AFTER}={text} is too short for the fleet's profile: {least:?} holds"
                    ));
                }
            }
            _ => contract.remarks.push(format!(
                "annotation {LOST_AFTER}={text} is not a duration such as 30s: the fleet's {:?} holds",
                settings.lost_after
            )),
        }
    }
    match annotation(ON_PARTITION) {
        None | Some("keep") => {}
        Some(text) if text.strip_prefix("stop-after=").and_then(duration).is_some() => contract.remarks.push(format!(
            "annotation {ON_PARTITION}={text} is not honoured yet: the pod is kept running while its device is cut off"
        )),
        Some(text) => contract.remarks.push(format!(
            "annotation {ON_PARTITION}={text} is neither keep nor stop-after=<duration>: the pod is kept running"
        )),
    }
    contract
}

/// `500ms`, `30s`, `1m30s`, `2h`, `1d`.
pub(super) fn duration(text: &str) -> Option<Duration> {
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
    fn what_is_not_honoured_is_said() {
        let mut pod = Pod::default();
        let pairs = [(ON_PARTITION, "stop-after=1m"), (LOST_AFTER, "soon")];
        pod.metadata.annotations = Some(pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect());
        let contract = of(&pod, &Settings::default());
        assert_eq!(contract.lost_after, Duration::from_secs(10));
        assert_eq!(contract.remarks.len(), 2);
    }

    #[test]
    fn no_pod_is_less_patient_than_its_device_is_talkative() {
        let mut pod = Pod::default();
        pod.metadata.annotations = Some([(LOST_AFTER.into(), "30s".into())].into());
        assert_eq!(of(&pod, &Settings::default()).lost_after, Duration::from_secs(30));
        let metered = Settings { lost_after: Duration::from_mins(20), sign_of_life: Duration::from_mins(5) };
        let contract = of(&pod, &metered);
        assert_eq!((contract.lost_after, contract.remarks.len()), (Duration::from_mins(10), 1));
    }
}
