//! The field table: every field of the served kinds, and whether it is honoured, warned about or
//! refused. It decides what an object may say; a field that is not in the table is a typo and is
//! never dropped in silence. `docs/compatibility.md` is printed from it.

mod document;
mod lifecycle;
mod pod;
mod protobuf;
mod volume;
mod walk;
mod wire;
mod wire_volumes;
mod workload;

pub use document::compatibility;
pub use protobuf::{ProtobufError, from_protobuf};
pub use walk::{Finding, Verdict, inspect};

use super::kind::Kind;

/// One field of an object.
#[derive(Debug)]
pub struct Field {
    /// Its name; `*` stands for every other name.
    pub name: &'static str,
    /// What it holds.
    pub form: Form,
    /// What is done with it.
    pub stance: Stance,
}

/// What a field holds.
#[derive(Clone, Copy, Debug)]
pub enum Form {
    /// A string.
    Text,
    /// A whole number.
    Integer,
    /// True or false.
    Boolean,
    /// `250m`, `64Mi`, or a number.
    Quantity,
    /// `25%` or a whole number.
    IntegerOrText,
    /// A moment in RFC 3339.
    Moment,
    /// Strings by name.
    TextMap,
    /// Bytes in base64 by name.
    BytesMap,
    /// Quantities by name.
    Amounts(&'static [Field]),
    /// Strings.
    Texts,
    /// Whole numbers.
    Integers,
    /// Fields.
    Object(&'static [Field]),
    /// A list of objects with fields.
    Objects(&'static [Field]),
    /// Not looked into.
    Any,
}

/// What is done with a field.
#[derive(Clone, Copy, Debug)]
pub enum Stance {
    /// It has its Kubernetes meaning.
    Honoured,
    /// It is kept but does nothing, and the writer is told why.
    Warned(&'static str),
    /// An object that sets it is refused, and the writer is told why.
    Refused(&'static str),
    /// Honoured for these values, warned about for others.
    WarnedUnless(&'static [&'static str], &'static str),
    /// Honoured for these values, refused for others.
    RefusedUnless(&'static [&'static str], &'static str),
}

const fn ok(name: &'static str, form: Form) -> Field {
    Field { name, form, stance: Stance::Honoured }
}

const fn warn(name: &'static str, why: &'static str) -> Field {
    Field { name, form: Form::Any, stance: Stance::Warned(why) }
}

const fn refuse(name: &'static str, why: &'static str) -> Field {
    Field { name, form: Form::Any, stance: Stance::Refused(why) }
}

const fn warn_unless(name: &'static str, form: Form, fine: &'static [&'static str], why: &'static str) -> Field {
    Field { name, form, stance: Stance::WarnedUnless(fine, why) }
}

const fn refuse_unless(name: &'static str, form: Form, fine: &'static [&'static str], why: &'static str) -> Field {
    Field { name, form, stance: Stance::RefusedUnless(fine, why) }
}

/// The fields of every object's metadata.
pub(super) static METADATA: [Field; 15] = [
    ok("name", Form::Text),
    ok("generateName", Form::Text),
    ok("namespace", Form::Text),
    ok("labels", Form::TextMap),
    ok("annotations", Form::TextMap),
    ok("ownerReferences", Form::Objects(&OWNER)),
    ok("uid", Form::Text),
    ok("resourceVersion", Form::Text),
    ok("generation", Form::Integer),
    ok("creationTimestamp", Form::Moment),
    ok("deletionTimestamp", Form::Moment),
    ok("deletionGracePeriodSeconds", Form::Integer),
    refuse("finalizers", "nothing waits for finalizers yet, so a deletion would not be held back"),
    warn("managedFields", "who set a field is not recorded yet"),
    warn("selfLink", "it is not used any more, in Kubernetes neither"),
];

pub(super) static OWNER: [Field; 6] = [
    ok("apiVersion", Form::Text),
    ok("kind", Form::Text),
    ok("name", Form::Text),
    ok("uid", Form::Text),
    ok("controller", Form::Boolean),
    ok("blockOwnerDeletion", Form::Boolean),
];

/// The fields of an object of this kind, from the top.
pub fn of(kind: &Kind) -> &'static [Field] {
    match kind.kind {
        "Namespace" => &workload::NAMESPACE,
        "Node" => &workload::NODE,
        "Pod" => &pod::POD,
        "ConfigMap" => &workload::CONFIG_MAP,
        "Secret" => &volume::SECRET,
        "PersistentVolumeClaim" => &volume::CLAIM,
        "Event" => &workload::EVENT,
        "Deployment" => &workload::DEPLOYMENT,
        "ReplicaSet" => &workload::REPLICA_SET,
        "PriorityClass" => &workload::PRIORITY_CLASS,
        _ => &[],
    }
}

#[cfg(test)]
mod tests;
