//! What the device's loop does about devices that are plugged in and about ids of users: it tells of
//! devices that went while a container had them, and hands ids out.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use k8s_openapi::api::core::v1::ObjectReference;

use super::device::{Device, Memory};
use crate::reconciler::container::{ContainerState, ObservedContainer, UserRange};
use crate::reconciler::devices::{self, Held, HostDevice};
use crate::reconciler::{COMPONENT, TargetPod};
use crate::resource::occurrence::Occurrence;

impl Device {
    /// Tells of devices that were pulled out while a container had them.
    pub(super) fn plugged(&self, memory: &mut Memory, now: &[HostDevice]) {
        for (reference, path) in devices::lost(&memory.devices, now, &memory.held) {
            let pod = &reference.pod;
            let involved = ObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Pod".into()),
                namespace: Some(pod.namespace.clone()),
                name: Some(pod.name.clone()),
                uid: Some(pod.uid.clone()),
                field_path: Some(format!("spec.containers{{{}}}", reference.container)),
                ..ObjectReference::default()
            };
            let message = format!("Device {} of container {} is gone", path.display(), reference.container);
            self.reports.event(Occurrence {
                involved,
                warning: true,
                reason: "DeviceGone",
                message,
                component: COMPONENT,
                host: self.node.name.clone(),
            });
        }
        memory.devices = now.to_vec();
    }

    /// Ids for the users of the pods that have their own.
    pub(super) fn users(&self, pods: &[TargetPod]) -> BTreeMap<String, UserRange> {
        let own = pods.iter().filter(|pod| pod.pod.spec.as_ref().and_then(|spec| spec.host_users) == Some(false));
        let uids = own.filter_map(|pod| pod.pod.metadata.uid.as_deref());
        self.ranges.lock().unwrap_or_else(PoisonError::into_inner).settle(uids)
    }
}

/// Who has which devices: containers that are over have none.
pub(super) fn held(containers: &[ObservedContainer]) -> Held {
    let living = containers.iter().filter(|container| !matches!(container.state, ContainerState::Exited(_)));
    living.map(|container| (container.reference.clone(), container.devices.clone())).collect()
}
