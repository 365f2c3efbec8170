//! What priority classes mean to those who make pods and classes: the class of a pod becomes its
//! priority, and there is one default.

use k8s_openapi::api::scheduling::v1::PriorityClass;
use serde_json::{Value, json};

use super::Api;
use super::failure::Failure;
use super::route::Target;
use crate::resource::kind::{self, Kind};
use crate::resource::meta;
use crate::resource::priority::{self, Class};
use crate::resource::validate::FieldError;

impl Api {
    /// Completes and checks what is made anew by what the fleet's classes say.
    pub(super) fn prioritise(&self, target: &Target, made: &mut Value) -> Result<(), Failure> {
        match target.kind.kind {
            "Pod" => self.priority_of(target.kind, made),
            "PriorityClass" => self.one_default(target.kind, made),
            _ => Ok(()),
        }
    }

    fn classes(&self) -> Result<Vec<PriorityClass>, Failure> {
        let listing = self.replica().list(&kind::PRIORITY_CLASS.store_kind(), None)?;
        Ok(listing.documents.iter().filter_map(|document| serde_json::from_slice(&document.body).ok()).collect())
    }

    fn priority_of(&self, kind: &Kind, pod: &mut Value) -> Result<(), Failure> {
        let named = meta::text_at(pod, "spec.priorityClassName").to_owned();
        let given = meta::integer_at(pod, "spec.priority");
        if named.is_empty() && given.is_some() {
            return Ok(());
        }
        let classes = self.classes()?;
        let found = priority::class(&named, classes.iter().map(class));
        let refused = |why: &str| Failure::forbidden(kind, meta::name(pod), why);
        let found = found.map_err(|why| refused(&why))?;
        let value = found.as_ref().map(|found| i64::from(found.value));
        if let (Some(given), Some(value)) = (given, value.filter(|value| given.is_some_and(|given| given != *value))) {
            let why = format!(
                "the integer value of priority ({given}) must not be provided in pod spec; priority \
                 class {named} computed {value}"
            );
            return Err(refused(&why));
        }
        if let (Some(found), Some(spec)) = (found, pod.get_mut("spec").and_then(Value::as_object_mut)) {
            spec.insert("priority".into(), json!(found.value));
            spec.insert("priorityClassName".into(), json!(found.name));
        }
        Ok(())
    }

    fn one_default(&self, kind: &Kind, made: &Value) -> Result<(), Failure> {
        if made.get("globalDefault") != Some(&Value::Bool(true)) {
            return Ok(());
        }
        let classes = self.classes()?;
        let own = meta::name(made);
        let other = classes.iter().map(class).find(|class| class.global_default && class.name != own);
        let Some(other) = other else { return Ok(()) };
        let detail = format!("PriorityClass {} is already marked as default: only one can be", other.name);
        Err(Failure::invalid(kind, own, &[FieldError::forbidden("globalDefault", &detail)]))
    }
}

fn class(found: &PriorityClass) -> Class<'_> {
    let name = found.metadata.name.as_deref().unwrap_or_default();
    Class { name, value: found.value, global_default: found.global_default == Some(true) }
}

/// The classes that every fleet has from the start.
pub(super) fn first_classes() -> impl Iterator<Item = (&'static str, Value)> {
    priority::SYSTEM.into_iter().map(|(name, value)| {
        let object = json!({"apiVersion": kind::PRIORITY_CLASS.api_version(), "kind": "PriorityClass",
            "metadata": {"name": name}, "value": value, "preemptionPolicy": "PreemptLowerPriority",
            "description": "Used for system critical pods."});
        (name, object)
    })
}
