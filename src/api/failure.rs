//! Refusals, as the `Status` objects that clients of Kubernetes know.

use serde_json::{Map, Value, json};

use crate::consensus::{ProposeError, ReadError};
use crate::resource::kind::Kind;
use crate::resource::validate::FieldError;

/// A request that was not done.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// HTTP status code.
    pub code: u16,
    /// The word that clients switch on.
    pub reason: &'static str,
    /// What happened and what to do.
    pub message: String,
    /// Which object, which fields.
    pub details: Map<String, Value>,
}

impl Failure {
    pub(super) fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: Map::new() }
    }

    fn about(mut self, kind: &Kind, name: &str) -> Self {
        self.details.insert("name".into(), name.into());
        self.details.insert("kind".into(), kind.plural.into());
        if !kind.group.is_empty() {
            self.details.insert("group".into(), kind.group.into());
        }
        self
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    pub(super) fn no_such_path() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource")
    }

    pub(super) fn not_found(kind: &Kind, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{} \"{name}\" not found", kind.qualified_plural())).about(kind, name)
    }

    pub(super) fn already_exists(kind: &Kind, name: &str) -> Self {
        let message = format!("{} \"{name}\" already exists", kind.qualified_plural());
        Self::new(409, "AlreadyExists", message).about(kind, name)
    }

    pub(super) fn conflict(kind: &Kind, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} \"{name}\": {why}", kind.qualified_plural());
        Self::new(409, "Conflict", message).about(kind, name)
    }

    pub(super) fn modified(kind: &Kind, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(kind, name, why)
    }

    pub(super) fn forbidden(kind: &Kind, name: &str, why: &str) -> Self {
        let message = format!("{} \"{name}\" is forbidden: {why}", kind.qualified_plural());
        Self::new(403, "Forbidden", message).about(kind, name)
    }

    pub(super) fn invalid(kind: &Kind, name: &str, errors: &[FieldError]) -> Self {
        let list = match errors {
            [one] => one.to_string(),
            many => format!("[{}]", many.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
        };
        let message = format!("{} \"{name}\" is invalid: {list}", kind.qualified_kind());
        let mut failure = Self::new(422, "Invalid", message).about(kind, name);
        failure.details.insert("kind".into(), kind.kind.into());
        let causes: Vec<Value> = errors
            .iter()
            .map(|error| json!({"reason": error.reason.as_str(), "message": error.message, "field": error.path}))
            .collect();
        failure.details.insert("causes".into(), causes.into());
        failure
    }

    pub(super) fn unavailable(message: impl Into<String>) -> Self {
        let mut failure = Self::new(503, "ServiceUnavailable", message);
        failure.details.insert("retryAfterSeconds".into(), 1.into());
        failure
    }

    pub(super) fn internal(message: impl Into<String>) -> Self {
        Self::new(500, "InternalError", message)
    }

    pub(super) fn too_large(limit: usize) -> Self {
        let message = format!("the request has more than the {limit} bytes that a request may have");
        Self::new(413, "RequestEntityTooLarge", message)
    }

    pub(super) fn wrong_method() -> Self {
        Self::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
    }

    pub(super) fn gone(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// The `Status` object.
    pub fn to_status(&self) -> Value {
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "details": self.details, "code": self.code})
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        Self::internal(error.to_string())
    }
}

impl From<ProposeError> for Failure {
    fn from(error: ProposeError) -> Self {
        match &error {
            ProposeError::Unavailable { .. } | ProposeError::Stopping => {
                Self::unavailable(format!("the write was not accepted: {error}"))
            }
            ProposeError::TooLarge { .. } => Self::new(413, "RequestEntityTooLarge", error.to_string()),
            ProposeError::Forbidden(_) => Self::new(403, "Forbidden", error.to_string()),
            ProposeError::Storage(_) => Self::internal(error.to_string()),
        }
    }
}
