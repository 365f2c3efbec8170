//! The pod that logs and streams are about, and the device that has it.

use serde_json::Value;

use super::Api;
use super::failure::Failure;
use super::read::{key, object};
use super::route::Target;
use crate::consensus::Freshness;
use crate::resource::meta;

impl Api {
    /// The pod of a path. Such requests are also made in the dark: what this device knows is good enough.
    pub(super) async fn pod(&self, target: &Target) -> Result<Value, Failure> {
        let key = key(target);
        if let Some(document) = self.replica().get(&key)? {
            return object(&document);
        }
        let _: Freshness = self.replica().barrier().await;
        let document = self.replica().get(&key)?;
        object(&document.ok_or_else(|| Failure::not_found(target.kind, &target.name))?)
    }

    /// The other device that runs a pod and has to be asked; `None` when it is this one. `what` is wanted
    /// of it.
    pub(super) fn elsewhere<'a>(
        &self,
        pod: &'a Value,
        what: &str,
        forwarded_by: Option<&str>,
    ) -> Result<Option<&'a str>, Failure> {
        let node = meta::text_at(pod, "spec.nodeName");
        if node.is_empty() {
            let name = meta::name(pod);
            let message = format!("pod {name} does not have a host assigned: it waits to be scheduled");
            return Err(Failure::bad_request(message));
        }
        if node == self.inner.config.node_name {
            return Ok(None);
        }
        match forwarded_by {
            Some(by) => Err(Failure::internal(format!("{by} asked for {what} of device {node} here"))),
            None => Ok(Some(node)),
        }
    }
}
