//! The fields of the kinds around pods.

use super::{Field, Form, METADATA, ok, pod, refuse_unless, warn, warn_unless};

pub(super) static NAMESPACE: [Field; 5] = [
    ok("apiVersion", Form::Text),
    ok("kind", Form::Text),
    ok("metadata", Form::Object(&METADATA)),
    ok("spec", Form::Object(&NAMESPACE_SPEC)),
    ok("status", Form::Any),
];

pub(super) static NAMESPACE_SPEC: [Field; 1] = [warn("finalizers", "a namespace goes as soon as it is empty")];

pub(super) static NODE: [Field; 5] = [
    ok("apiVersion", Form::Text),
    ok("kind", Form::Text),
    ok("metadata", Form::Object(&METADATA)),
    ok("spec", Form::Object(&NODE_SPEC)),
    ok("status", Form::Any),
];

pub(super) static NODE_SPEC: [Field; 7] = [
    ok("unschedulable", Form::Boolean),
    ok("taints", Form::Objects(&TAINT)),
    warn("podCIDR", "each device takes its range from pod_network in agent.toml"),
    warn("podCIDRs", "each device takes its range from pod_network in agent.toml"),
    warn("providerID", "it is kept, and nothing reads it"),
    warn("configSource", "devices are configured by their agent.toml"),
    warn("externalID", "it is kept, and nothing reads it"),
];

pub(super) static TAINT: [Field; 4] = [
    ok("key", Form::Text),
    ok("value", Form::Text),
    warn_unless(
        "effect",
        Form::Text,
        &["NoSchedule"],
        "NoExecute keeps new pods away but moves none that runs already, and PreferNoSchedule does nothing in this release",
    ),
    ok("timeAdded", Form::Moment),
];

pub(super) static CONFIG_MAP: [Field; 6] = [
    ok("apiVersion", Form::Text),
    ok("kind", Form::Text),
    ok("metadata", Form::Object(&METADATA)),
    ok("data", Form::TextMap),
    ok("binaryData", Form::BytesMap),
    ok("immutable", Form::Boolean),
];

pub(super) static PRIORITY_CLASS: [Field; 7] = [
    ok("apiVersion", Form::Text),
    ok("kind", Form::Text),
    ok("metadata", Form::Object(&METADATA)),
    ok("value", Form::Integer),
    ok("globalDefault", Form::Boolean),
    ok("description", Form::Text),
    warn_unless(
        "preemptionPolicy",
        Form::Text,
        &["PreemptLowerPriority"],
        "no pod is ended to make room for a waiting one: priority decides who is placed first and evicted last",
    ),
];

pub(super) static EVENT: [Field; 17] = [
    ok("apiVersion", Form::Text),
    ok("kind", Form::Text),
    ok("metadata", Form::Object(&METADATA)),
    ok("involvedObject", Form::Object(&REFERENCE)),
    ok("related", Form::Object(&REFERENCE)),
    ok("reason", Form::Text),
    ok("message", Form::Text),
    ok("type", Form::Text),
    ok("action", Form::Text),
    ok("count", Form::Integer),
    ok("source", Form::Object(&SOURCE)),
    ok("series", Form::Object(&SERIES)),
    ok("firstTimestamp", Form::Moment),
    ok("lastTimestamp", Form::Moment),
    ok("eventTime", Form::Moment),
    ok("reportingComponent", Form::Text),
    ok("reportingInstance", Form::Text),
];

pub(super) static SOURCE: [Field; 2] = [ok("component", Form::Text), ok("host", Form::Text)];

pub(super) static SERIES: [Field; 2] = [ok("count", Form::Integer), ok("lastObservedTime", Form::Moment)];

pub(super) static REFERENCE: [Field; 7] = [
    ok("apiVersion", Form::Text),
    ok("kind", Form::Text),
    ok("namespace", Form::Text),
    ok("name", Form::Text),
    ok("uid", Form::Text),
    ok("resourceVersion", Form::Text),
    ok("fieldPath", Form::Text),
];

pub(super) static DEPLOYMENT: [Field; 5] = [
    ok("apiVersion", Form::Text),
    ok("kind", Form::Text),
    ok("metadata", Form::Object(&METADATA)),
    ok("spec", Form::Object(&DEPLOYMENT_SPEC)),
    ok("status", Form::Any),
];

pub(super) static DEPLOYMENT_SPEC: [Field; 8] = [
    ok("replicas", Form::Integer),
    ok("selector", Form::Object(&SELECTOR)),
    ok("template", Form::Object(&pod::TEMPLATE)),
    ok("strategy", Form::Object(&STRATEGY)),
    ok("minReadySeconds", Form::Integer),
    ok("revisionHistoryLimit", Form::Integer),
    ok("paused", Form::Boolean),
    ok("progressDeadlineSeconds", Form::Integer),
];

pub(super) static SELECTOR: [Field; 2] =
    [ok("matchLabels", Form::TextMap), ok("matchExpressions", Form::Objects(&EXPRESSION))];

pub(super) static EXPRESSION: [Field; 3] =
    [ok("key", Form::Text), ok("operator", Form::Text), ok("values", Form::Texts)];

pub(super) static STRATEGY: [Field; 2] = [
    refuse_unless("type", Form::Text, &["RollingUpdate", "Recreate"], "a strategy is RollingUpdate or Recreate"),
    ok("rollingUpdate", Form::Object(&ROLLING)),
];

pub(super) static ROLLING: [Field; 2] =
    [ok("maxSurge", Form::IntegerOrText), ok("maxUnavailable", Form::IntegerOrText)];

pub(super) static REPLICA_SET: [Field; 5] = [
    ok("apiVersion", Form::Text),
    ok("kind", Form::Text),
    ok("metadata", Form::Object(&METADATA)),
    ok("spec", Form::Object(&REPLICA_SET_SPEC)),
    ok("status", Form::Any),
];

pub(super) static REPLICA_SET_SPEC: [Field; 4] = [
    ok("replicas", Form::Integer),
    ok("selector", Form::Object(&SELECTOR)),
    ok("template", Form::Object(&pod::TEMPLATE)),
    ok("minReadySeconds", Form::Integer),
];
