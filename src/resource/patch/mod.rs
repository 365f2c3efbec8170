//! Patches: a change to an object as a client describes it. It computes the changed object and
//! never judges whether that may be stored.

mod strategic;

use serde_json::Value;

pub use strategic::merge as strategic_merge;

/// The most operations of one JSON patch.
const OPERATIONS_LIMIT: usize = 10_000;

/// The most bytes that the operations of one JSON patch may copy: 3 MiB.
const COPY_LIMIT: usize = 3 << 20;

/// How a patch describes the change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchKind {
    /// RFC 6902: a list of operations.
    Json,
    /// RFC 7396: a part of the object, null removes.
    Merge,
    /// As merge, but lists of objects are merged by their keys.
    Strategic,
    /// Server-side apply: the fields that the applier wants.
    Apply,
}

impl PatchKind {
    /// The kind named by a content type.
    pub fn of(content_type: &str) -> Option<Self> {
        match content_type.split(';').next().unwrap_or_default().trim() {
            "application/json-patch+json" => Some(Self::Json),
            "application/merge-patch+json" => Some(Self::Merge),
            "application/strategic-merge-patch+json" => Some(Self::Strategic),
            "application/apply-patch+yaml" => Some(Self::Apply),
            _ => None,
        }
    }
}

/// A patch that can not be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// It is not a patch of its kind.
    #[error("the patch can not be read: {0}")]
    Malformed(String),
    /// It does not fit the object.
    #[error("the patch does not fit the object: {0}")]
    Misfit(String),
}

/// The object with the patch applied.
pub fn apply(kind: PatchKind, object: &Value, patch: Value) -> Result<Value, PatchError> {
    let mut patched = object.clone();
    match kind {
        PatchKind::Json => {
            let operations: json_patch::Patch =
                serde_json::from_value(patch).map_err(|error| PatchError::Malformed(error.to_string()))?;
            if operations.0.len() > OPERATIONS_LIMIT {
                return Err(PatchError::Malformed(format!("it has more than {OPERATIONS_LIMIT} operations")));
            }
            operate(&mut patched, &operations)?;
        }
        PatchKind::Merge => {
            expect_object(&patch)?;
            json_patch::merge(&mut patched, &patch);
        }
        PatchKind::Strategic | PatchKind::Apply => {
            expect_object(&patch)?;
            strategic::merge(&mut patched, patch)?;
        }
    }
    if patched.is_object() { Ok(patched) } else { Err(PatchError::Misfit("the result is not an object".into())) }
}

/// Applies operations one by one: what they copy is counted, as copies of copies double each time.
fn operate(object: &mut Value, operations: &[json_patch::PatchOperation]) -> Result<(), PatchError> {
    let mut copied = 0;
    for operation in operations {
        if let json_patch::PatchOperation::Copy(copy) = operation {
            copied += object.pointer(copy.from.as_str()).map_or(0, |value| value.to_string().len());
            if copied > COPY_LIMIT {
                return Err(PatchError::Misfit(format!("it copies more than {COPY_LIMIT} bytes")));
            }
        }
        json_patch::patch(object, std::slice::from_ref(operation))
            .map_err(|error| PatchError::Misfit(error.to_string()))?;
    }
    Ok(())
}

fn expect_object(patch: &Value) -> Result<(), PatchError> {
    if patch.is_object() { Ok(()) } else { Err(PatchError::Malformed("it is not an object".into())) }
}

#[cfg(test)]
mod tests;
