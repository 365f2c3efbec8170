//! The pods that the fleet has bound to this device, from the local replica.

use k8s_openapi::api::core::v1::Pod;

use super::device::Device;
use crate::consensus::Replica;
use crate::reconciler::{TargetPod, mirrored};
use crate::resource::partition;

impl Device {
    /// All of them. Says too for how long one of them puts up with no contact to a quorum.
    pub(super) fn bound(&self) -> Result<Vec<TargetPod>, String> {
        let mut pods = Vec::new();
        let Some(engine) = &self.engine else { return Ok(pods) };
        let listing = engine.list("Pod", None).map_err(|error| error.to_string())?;
        let mut unreadable = None;
        for document in &listing.documents {
            if node_of(&document.body).is_none_or(|node| node != self.node.name) {
                continue;
            }
            match serde_json::from_slice::<Pod>(&document.body) {
                Ok(pod) => pods.push(TargetPod { pod, revision: document.modified }),
                Err(error) => unreadable = Some(format!("{}: {error}", document.key)),
            }
        }
        if let Some(unreadable) = unreadable {
            // Its containers would look like nobody's, and be stopped.
            return Err(format!("a pod of this device can not be read: {unreadable}"));
        }
        let own = pods.iter().filter(|pod| mirrored(&pod.pod).is_none());
        let limits = own.filter_map(|pod| partition::stop_after(pod.pod.metadata.annotations.as_ref()).ok().flatten());
        self.contact.want(limits.min());
        Ok(pods)
    }
}

/// The device that a pod is bound to, read without the rest of it.
pub(super) fn node_of(body: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Bound {
        spec: Spec,
    }
    #[derive(serde::Deserialize)]
    struct Spec {
        #[serde(rename = "nodeName")]
        node_name: Option<String>,
    }
    serde_json::from_slice::<Bound>(body).ok()?.spec.node_name
}
