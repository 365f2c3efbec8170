//! The `eviction` subresource: a pod is asked to go, as `kubectl drain` does it. No PodDisruptionBudget is
//! known here that could object, so it is what a delete with the same options is, and answers as an eviction.

use hyper::Method;
use serde_json::{Value, json};

use super::Api;
use super::answer::{self, Answer};
use super::ask::Ask;
use super::delete::Options;
use super::failure::Failure;
use super::route::Target;
use crate::resource::meta;

/// The subresource.
pub(super) const EVICTION: &str = "eviction";
/// The group of its kind. It is not discovered, as nothing is in it: `kubectl` before 1.22, which looks for
/// it, deletes pods instead.
pub(super) const GROUP: &str = "policy";
/// The versions of its kind that are understood, the newest first.
pub(super) const VERSIONS: [&str; 2] = ["v1", "v1beta1"];

impl Api {
    /// `POST` of an eviction.
    pub(super) async fn evict(
        &self,
        target: &Target,
        ask: &Ask,
        warnings: &mut Vec<String>,
    ) -> Result<Answer, Failure> {
        if ask.method != Method::POST {
            return Err(Failure::wrong_method());
        }
        let eviction = ask.value()?;
        fits(&eviction, target)?;
        let options = eviction.get("deleteOptions").unwrap_or(&Value::Null);
        self.delete_by(target, &Options::new(options, ask)?, warnings).await?;
        let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
        Ok(answer::json(201, &status))
    }
}

/// Refuses what is no eviction, or one of another pod than the path says.
fn fits(eviction: &Value, target: &Target) -> Result<(), Failure> {
    let (version, kind) = (meta::text_at(eviction, "apiVersion"), meta::text_at(eviction, "kind"));
    let known = version.strip_prefix(GROUP).and_then(|rest| rest.strip_prefix('/'));
    if kind != "Eviction" || !known.is_some_and(|version| VERSIONS.contains(&version)) {
        return Err(Failure::bad_request(format!(
            "the body is {kind:?} of {version:?}: an Eviction of {GROUP}/{} is wanted here",
            VERSIONS.join(&format!(" or {GROUP}/"))
        )));
    }
    let (name, namespace) = (meta::name(eviction), meta::namespace(eviction));
    for (what, wanted, said) in [("name", &target.name, name), ("namespace", &target.namespace, namespace)] {
        if !said.is_empty() && said != wanted {
            let message = format!("the eviction is of the {what} {said:?}, and the path says {wanted:?}");
            return Err(Failure::bad_request(message));
        }
    }
    Ok(())
}
