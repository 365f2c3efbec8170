//! The partition contract of a workload: what should happen to a pod while its device is cut off.
//! It reads annotations; the device lifecycle acts on them.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;

use super::fleet::Settings;
use crate::resource::partition::{self, LOST_AFTER, ON_PARTITION};

/// What a pod's annotations ask for, and what of it is not honoured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Contract {
    pub(super) lost_after: Duration,
    /// Time since its device last spoke with a quorum after which the pod surely does not run any more;
    /// `None` when its device keeps it however long that is.
    pub(super) over_after: Option<Duration>,
    pub(super) remarks: Vec<String>,
}

pub(super) fn of(pod: &Pod, settings: &Settings) -> Contract {
    let annotations = pod.metadata.annotations.as_ref();
    let said = |name: &str| annotations.and_then(|all| all.get(name)).map(String::as_str).unwrap_or_default();
    let mut contract = Contract { lost_after: settings.lost_after, over_after: None, remarks: Vec::new() };
    match partition::lost_after(annotations) {
        Ok(None) => {}
        Ok(Some(asked)) => {
            // A device that is well and quiet must not look lost.
            let least = settings.sign_of_life * 2;
            contract.lost_after = asked.max(least);
            if asked < least {
                let text = said(LOST_AFTER);
                contract.remarks.push(format!(
                    "annotation {LOST_AFTER}={text} is too short for the fleet's profile: {least:?} holds"
                ));
            }
        }
        Err(why) => contract.remarks.push(format!(
            "annotation {LOST_AFTER}={} {why}: the fleet's {:?} holds",
            said(LOST_AFTER),
            settings.lost_after
        )),
    }
    match partition::stop_after(annotations) {
        Ok(span) => contract.over_after = span.map(|span| partition::surely_over_after(pod, span)),
        Err(why) => contract
            .remarks
            .push(format!("annotation {ON_PARTITION}={} {why}: the pod is kept running", said(ON_PARTITION))),
    }
    contract
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_honoured_is_said() {
        let mut pod = Pod::default();
        let pairs = [(ON_PARTITION, "stop"), (LOST_AFTER, "soon")];
        pod.metadata.annotations = Some(pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect());
        let contract = of(&pod, &Settings::default());
        assert_eq!(contract.lost_after, Duration::from_secs(10));
        assert_eq!((contract.over_after, contract.remarks.len()), (None, 2));
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
