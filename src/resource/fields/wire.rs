//! The numbers that fields have in Kubernetes' protobuf messages: what Go clients since 1.32 send.

use super::lifecycle;
use super::pod::{
    APP_ARMOR, CAPABILITIES, CONTAINER, DNS_CONFIG, DNS_OPTION, ENV, ENV_FROM, ENV_SOURCE, FIELD_REF, HOST_ALIAS,
    KEY_REF, MAP_REF, OS, POD, POD_SECURITY, PORT, PULL_SECRET, RESOURCE_REF, RESOURCES, SECCOMP, SECURITY, SPEC,
    SYSCTL, TEMPLATE, TOLERATION,
};
use super::workload::{
    CONFIG_MAP, DEPLOYMENT, DEPLOYMENT_SPEC, EVENT, EXPRESSION, NAMESPACE, NAMESPACE_SPEC, NODE, NODE_SPEC,
    PRIORITY_CLASS, REFERENCE, REPLICA_SET, REPLICA_SET_SPEC, ROLLING, SELECTOR, SERIES, SOURCE, STRATEGY, TAINT,
};
use super::{Field, Form, METADATA, OWNER, ok, wire_volumes};

/// A message: the fields of an object with their numbers.
pub(super) struct Message {
    pub(super) fields: &'static [Field],
    pub(super) numbers: &'static [(u32, &'static str)],
}

/// Stands for a field that holds another message with the `name` of this one.
pub(super) const INLINE: &str = "(inline)";

/// Stands for a field that holds another message whose fields stand beside this one's.
pub(super) const INSIDE: &str = "(inside)";

/// Integers and switches that mean something when they are zero. All others are sent even when
/// they are not set.
pub(super) const ZEROS: [&str; 22] = [
    "allowPrivilegeEscalation",
    "automountServiceAccountToken",
    "blockOwnerDeletion",
    "controller",
    "defaultMode",
    "enableServiceLinks",
    "fsGroup",
    "gracePeriodSeconds",
    "hostUsers",
    "immutable",
    "mode",
    "optional",
    "orphanDependents",
    "progressDeadlineSeconds",
    "readOnlyRootFilesystem",
    "replicas",
    "revisionHistoryLimit",
    "runAsGroup",
    "runAsNonRoot",
    "runAsUser",
    "seconds",
    "terminationGracePeriodSeconds",
];

/// What is to be deleted, and how.
pub(super) static DELETE_OPTIONS: [Field; 5] = [
    ok("gracePeriodSeconds", Form::Integer),
    ok("preconditions", Form::Object(&PRECONDITIONS)),
    ok("orphanDependents", Form::Boolean),
    ok("propagationPolicy", Form::Text),
    ok("dryRun", Form::Texts),
];
static PRECONDITIONS: [Field; 2] = [ok("uid", Form::Text), ok("resourceVersion", Form::Text)];

/// A pod that is to go.
pub(super) static EVICTION: [Field; 2] =
    [ok("metadata", Form::Object(&METADATA)), ok("deleteOptions", Form::Object(&DELETE_OPTIONS))];

/// How many copies are wanted.
pub(super) static SCALE: [Field; 2] = [ok("metadata", Form::Object(&METADATA)), ok("spec", Form::Object(&SCALE_SPEC))];
static SCALE_SPEC: [Field; 1] = [ok("replicas", Form::Integer)];

pub(super) const OBJECT: &[(u32, &str)] = &[(1, "metadata"), (2, "spec"), (3, "status")];

pub(super) const fn message(fields: &'static [Field], numbers: &'static [(u32, &'static str)]) -> Message {
    Message { fields, numbers }
}

/// The message of an object's fields.
pub(super) fn of(fields: &'static [Field]) -> Option<&'static Message> {
    MESSAGES
        .iter()
        .chain(&lifecycle::MESSAGES)
        .chain(&wire_volumes::MESSAGES)
        .find(|message| std::ptr::eq(message.fields, fields))
}

/// The numbers of what stands beside the fields of an object, in the message that it holds.
pub(super) fn inside(fields: &'static [Field]) -> &'static [(u32, &'static str)] {
    if std::ptr::eq(fields, super::volume::VOLUME.as_slice()) {
        wire_volumes::SOURCES
    } else {
        lifecycle::inside(fields)
    }
}

static MESSAGES: [Message; 51] = [
    message(&NAMESPACE, OBJECT),
    message(&NODE, OBJECT),
    message(&POD, OBJECT),
    message(&DEPLOYMENT, OBJECT),
    message(&REPLICA_SET, OBJECT),
    message(&TEMPLATE, OBJECT),
    message(&SCALE, OBJECT),
    message(&SCALE_SPEC, &[(1, "replicas")]),
    message(
        &DELETE_OPTIONS,
        &[
            (1, "gracePeriodSeconds"),
            (2, "preconditions"),
            (3, "orphanDependents"),
            (4, "propagationPolicy"),
            (5, "dryRun"),
        ],
    ),
    message(&EVICTION, &[(1, "metadata"), (2, "deleteOptions")]),
    message(&PRECONDITIONS, &[(1, "uid"), (2, "resourceVersion")]),
    message(
        &METADATA,
        &[
            (1, "name"),
            (2, "generateName"),
            (3, "namespace"),
            (4, "selfLink"),
            (5, "uid"),
            (6, "resourceVersion"),
            (7, "generation"),
            (8, "creationTimestamp"),
            (9, "deletionTimestamp"),
            (10, "deletionGracePeriodSeconds"),
            (11, "labels"),
            (12, "annotations"),
            (13, "ownerReferences"),
            (14, "finalizers"),
            (17, "managedFields"),
        ],
    ),
    message(
        &OWNER,
        &[(1, "kind"), (3, "name"), (4, "uid"), (5, "apiVersion"), (6, "controller"), (7, "blockOwnerDeletion")],
    ),
    message(&NAMESPACE_SPEC, &[(1, "finalizers")]),
    message(
        &NODE_SPEC,
        &[
            (1, "podCIDR"),
            (2, "externalID"),
            (3, "providerID"),
            (4, "unschedulable"),
            (5, "taints"),
            (6, "configSource"),
            (7, "podCIDRs"),
        ],
    ),
    message(&TAINT, &[(1, "key"), (2, "value"), (3, "effect"), (4, "timeAdded")]),
    message(
        &PRIORITY_CLASS,
        &[(1, "metadata"), (2, "value"), (3, "globalDefault"), (4, "description"), (5, "preemptionPolicy")],
    ),
    message(&CONFIG_MAP, &[(1, "metadata"), (2, "data"), (3, "binaryData"), (4, "immutable")]),
    message(
        &EVENT,
        &[
            (1, "metadata"),
            (2, "involvedObject"),
            (3, "reason"),
            (4, "message"),
            (5, "source"),
            (6, "firstTimestamp"),
            (7, "lastTimestamp"),
            (8, "count"),
            (9, "type"),
            (10, "eventTime"),
            (11, "series"),
            (12, "action"),
            (13, "related"),
            (14, "reportingComponent"),
            (15, "reportingInstance"),
        ],
    ),
    message(&SOURCE, &[(1, "component"), (2, "host")]),
    message(&SERIES, &[(1, "count"), (2, "lastObservedTime")]),
    message(
        &REFERENCE,
        &[
            (1, "kind"),
            (2, "namespace"),
            (3, "name"),
            (4, "uid"),
            (5, "apiVersion"),
            (6, "resourceVersion"),
            (7, "fieldPath"),
        ],
    ),
    message(
        &DEPLOYMENT_SPEC,
        &[
            (1, "replicas"),
            (2, "selector"),
            (3, "template"),
            (4, "strategy"),
            (5, "minReadySeconds"),
            (6, "revisionHistoryLimit"),
            (7, "paused"),
            (9, "progressDeadlineSeconds"),
        ],
    ),
    message(&REPLICA_SET_SPEC, &[(1, "replicas"), (2, "selector"), (3, "template"), (4, "minReadySeconds")]),
    message(&STRATEGY, &[(1, "type"), (2, "rollingUpdate")]),
    message(&ROLLING, &[(1, "maxUnavailable"), (2, "maxSurge")]),
    message(&SELECTOR, &[(1, "matchLabels"), (2, "matchExpressions")]),
    message(&EXPRESSION, &[(1, "key"), (2, "operator"), (3, "values")]),
    message(&SPEC, POD_SPEC),
    message(&PULL_SECRET, &[(1, "name")]),
    message(&TOLERATION, &[(1, "key"), (2, "operator"), (3, "value"), (4, "effect"), (5, "tolerationSeconds")]),
    message(&OS, &[(1, "name")]),
    message(
        &POD_SECURITY,
        &[
            (1, "seLinuxOptions"),
            (2, "runAsUser"),
            (3, "runAsNonRoot"),
            (4, "supplementalGroups"),
            (5, "fsGroup"),
            (6, "runAsGroup"),
            (7, "sysctls"),
            (8, "windowsOptions"),
            (9, "fsGroupChangePolicy"),
            (10, "seccompProfile"),
            (11, "appArmorProfile"),
            (12, "supplementalGroupsPolicy"),
            (13, "seLinuxChangePolicy"),
        ],
    ),
    message(&SECCOMP, &[(1, "type"), (2, "localhostProfile")]),
    message(&APP_ARMOR, &[(1, "type"), (2, "localhostProfile")]),
    message(&SYSCTL, &[(1, "name"), (2, "value")]),
    message(&CONTAINER, CONTAINER_NUMBERS),
    message(&ENV, &[(1, "name"), (2, "value"), (3, "valueFrom")]),
    message(
        &ENV_SOURCE,
        &[(1, "fieldRef"), (2, "resourceFieldRef"), (3, "configMapKeyRef"), (4, "secretKeyRef"), (5, "fileKeyRef")],
    ),
    message(&FIELD_REF, &[(1, "apiVersion"), (2, "fieldPath")]),
    message(&RESOURCE_REF, &[(1, "containerName"), (2, "resource"), (3, "divisor")]),
    message(&KEY_REF, &[(1, INLINE), (2, "key"), (3, "optional")]),
    message(&ENV_FROM, &[(1, "prefix"), (2, "configMapRef"), (3, "secretRef")]),
    message(&MAP_REF, &[(1, INLINE), (2, "optional")]),
    message(&PORT, &[(1, "name"), (2, "hostPort"), (3, "containerPort"), (4, "protocol"), (5, "hostIP")]),
    message(&RESOURCES, &[(1, "limits"), (2, "requests"), (3, "claims")]),
    message(
        &SECURITY,
        &[
            (1, "capabilities"),
            (2, "privileged"),
            (3, "seLinuxOptions"),
            (4, "runAsUser"),
            (5, "runAsNonRoot"),
            (6, "readOnlyRootFilesystem"),
            (7, "allowPrivilegeEscalation"),
            (8, "runAsGroup"),
            (9, "procMount"),
            (10, "windowsOptions"),
            (11, "seccompProfile"),
            (12, "appArmorProfile"),
        ],
    ),
    message(&CAPABILITIES, &[(1, "add"), (2, "drop")]),
    message(&DNS_CONFIG, &[(1, "nameservers"), (2, "searches"), (3, "options")]),
    message(&DNS_OPTION, &[(1, "name"), (2, "value")]),
    message(&HOST_ALIAS, &[(1, "ip"), (2, "hostnames")]),
];

const POD_SPEC: &[(u32, &str)] = &[
    (1, "volumes"),
    (2, "containers"),
    (3, "restartPolicy"),
    (4, "terminationGracePeriodSeconds"),
    (5, "activeDeadlineSeconds"),
    (6, "dnsPolicy"),
    (7, "nodeSelector"),
    (8, "serviceAccountName"),
    (9, "serviceAccount"),
    (10, "nodeName"),
    (11, "hostNetwork"),
    (12, "hostPID"),
    (13, "hostIPC"),
    (14, "securityContext"),
    (15, "imagePullSecrets"),
    (16, "hostname"),
    (17, "subdomain"),
    (18, "affinity"),
    (19, "schedulerName"),
    (20, "initContainers"),
    (21, "automountServiceAccountToken"),
    (22, "tolerations"),
    (23, "hostAliases"),
    (24, "priorityClassName"),
    (25, "priority"),
    (26, "dnsConfig"),
    (27, "shareProcessNamespace"),
    (28, "readinessGates"),
    (29, "runtimeClassName"),
    (30, "enableServiceLinks"),
    (31, "preemptionPolicy"),
    (32, "overhead"),
    (33, "topologySpreadConstraints"),
    (34, "ephemeralContainers"),
    (35, "setHostnameAsFQDN"),
    (36, "os"),
    (37, "hostUsers"),
    (38, "schedulingGates"),
    (39, "resourceClaims"),
    (40, "resources"),
    (41, "hostnameOverride"),
];

const CONTAINER_NUMBERS: &[(u32, &str)] = &[
    (1, "name"),
    (2, "image"),
    (3, "command"),
    (4, "args"),
    (5, "workingDir"),
    (6, "ports"),
    (7, "env"),
    (8, "resources"),
    (9, "volumeMounts"),
    (10, "livenessProbe"),
    (11, "readinessProbe"),
    (12, "lifecycle"),
    (13, "terminationMessagePath"),
    (14, "imagePullPolicy"),
    (15, "securityContext"),
    (16, "stdin"),
    (17, "stdinOnce"),
    (18, "tty"),
    (19, "envFrom"),
    (20, "terminationMessagePolicy"),
    (21, "volumeDevices"),
    (22, "startupProbe"),
    (23, "resizePolicy"),
    (24, "restartPolicy"),
    (25, "restartPolicyRules"),
];
