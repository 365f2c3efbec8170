//! The fields of pods and of pod templates.

use super::lifecycle::{EPHEMERAL, GATE, LIFECYCLE, PROBE};
use super::volume::{VOLUME, VOLUME_MOUNT};
use super::{Field, Form, METADATA, ok, refuse, refuse_unless, warn, warn_unless};

/// A pod.
pub(super) static POD: [Field; 5] = [
    ok("apiVersion", Form::Text),
    ok("kind", Form::Text),
    ok("metadata", Form::Object(&METADATA)),
    ok("spec", Form::Object(&SPEC)),
    ok("status", Form::Any),
];

/// What a Deployment or ReplicaSet makes its pods from.
pub(super) static TEMPLATE: [Field; 2] = [ok("metadata", Form::Object(&METADATA)), ok("spec", Form::Object(&SPEC))];

const NO_BLOCKS: &str = "a volume is a folder, not a block device";
const NO_RULES: &str =
    "only nodeSelector steers the placement in this release; copies are spread over devices by themselves";
const NO_PRIORITY: &str =
    "no pod makes room for another when it is placed; priority counts when a device is short of memory or disk";
const STRICTER: &str = "this confinement can not be applied in this release, and running without it would be unsafe";

pub(super) static SPEC: [Field; 42] = [
    ok("containers", Form::Objects(&CONTAINER)),
    ok("restartPolicy", Form::Text),
    ok("terminationGracePeriodSeconds", Form::Integer),
    ok("nodeSelector", Form::TextMap),
    ok("nodeName", Form::Text),
    ok("hostNetwork", Form::Boolean),
    ok("hostname", Form::Text),
    ok("securityContext", Form::Object(&POD_SECURITY)),
    ok("dnsPolicy", Form::Text),
    ok("dnsConfig", Form::Object(&DNS_CONFIG)),
    ok("hostAliases", Form::Objects(&HOST_ALIAS)),
    ok("subdomain", Form::Text),
    ok("setHostnameAsFQDN", Form::Boolean),
    ok("hostIPC", Form::Boolean),
    warn_unless("enableServiceLinks", Form::Boolean, &["true", "false"], "there are no services in this release"),
    warn_unless(
        "serviceAccountName",
        Form::Text,
        &["default"],
        "there are no service accounts in this release: the pod gets no credentials",
    ),
    warn_unless(
        "serviceAccount",
        Form::Text,
        &["default"],
        "there are no service accounts in this release: the pod gets no credentials",
    ),
    warn_unless(
        "automountServiceAccountToken",
        Form::Boolean,
        &["false"],
        "there are no service accounts in this release: the pod gets no credentials",
    ),
    warn_unless("schedulerName", Form::Text, &["default-scheduler"], "there is one scheduler: the fleet's own"),
    warn("affinity", NO_RULES),
    ok("tolerations", Form::Objects(&TOLERATION)),
    warn("topologySpreadConstraints", NO_RULES),
    ok("priorityClassName", Form::Text),
    ok("priority", Form::Integer),
    warn("preemptionPolicy", NO_PRIORITY),
    ok("imagePullSecrets", Form::Objects(&PULL_SECRET)),
    warn("hostnameOverride", "a pod's host name is its hostname, or its name"),
    ok("readinessGates", Form::Objects(&GATE)),
    warn("overhead", "it is not added to what the containers ask for"),
    ok("os", Form::Object(&OS)),
    ok("volumes", Form::Objects(&VOLUME)),
    ok("initContainers", Form::Objects(&CONTAINER)),
    ok("ephemeralContainers", Form::Objects(&EPHEMERAL)),
    ok("hostPID", Form::Boolean),
    ok("shareProcessNamespace", Form::Boolean),
    ok("hostUsers", Form::Boolean),
    refuse("runtimeClassName", STRICTER),
    ok("activeDeadlineSeconds", Form::Integer),
    refuse("schedulingGates", "a pod is placed at once in this release"),
    refuse("resourceClaims", "devices are not claimed in this release"),
    refuse("resources", "limits are set for each container in this release, not for the pod"),
    refuse("workloadRef", "pods are placed one by one in this release"),
];

pub(super) static DNS_CONFIG: [Field; 3] =
    [ok("nameservers", Form::Texts), ok("searches", Form::Texts), ok("options", Form::Objects(&DNS_OPTION))];

pub(super) static DNS_OPTION: [Field; 2] = [ok("name", Form::Text), ok("value", Form::Text)];

pub(super) static HOST_ALIAS: [Field; 2] = [ok("ip", Form::Text), ok("hostnames", Form::Texts)];

pub(super) static PULL_SECRET: [Field; 1] = [ok("name", Form::Text)];

pub(super) static TOLERATION: [Field; 5] = [
    ok("key", Form::Text),
    ok("operator", Form::Text),
    ok("value", Form::Text),
    ok("effect", Form::Text),
    warn("tolerationSeconds", "a taint moves no pod that runs already in this release"),
];

pub(super) static OS: [Field; 1] = [refuse_unless("name", Form::Text, &["linux"], "every device runs Linux")];

pub(super) static POD_SECURITY: [Field; 15] = [
    ok("runAsUser", Form::Integer),
    ok("runAsGroup", Form::Integer),
    ok("runAsNonRoot", Form::Boolean),
    ok("seccompProfile", Form::Object(&SECCOMP)),
    ok("fsGroup", Form::Integer),
    ok("fsGroupChangePolicy", Form::Text),
    ok("supplementalGroups", Form::Integers),
    ok("supplementalGroupsPolicy", Form::Text),
    ok("sysctls", Form::Objects(&SYSCTL)),
    refuse("seLinuxOptions", STRICTER),
    refuse("seLinuxChangePolicy", STRICTER),
    ok("appArmorProfile", Form::Object(&APP_ARMOR)),
    refuse("windowsOptions", "every device runs Linux"),
    refuse("gmsaCredentialSpec", "every device runs Linux"),
    refuse("privileged", "it is a field of a container's securityContext"),
];

pub(super) static SYSCTL: [Field; 2] = [ok("name", Form::Text), ok("value", Form::Text)];

pub(super) static APP_ARMOR: [Field; 2] = [
    refuse_unless("type", Form::Text, &["RuntimeDefault", "Unconfined"], "profiles of AppArmor can not be applied"),
    refuse("localhostProfile", "profiles of AppArmor can not be applied"),
];

pub(super) static SECCOMP: [Field; 2] = [ok("type", Form::Text), ok("localhostProfile", Form::Text)];

pub(super) static CONTAINER: [Field; 25] = [
    ok("name", Form::Text),
    ok("image", Form::Text),
    ok("imagePullPolicy", Form::Text),
    ok("command", Form::Texts),
    ok("args", Form::Texts),
    ok("env", Form::Objects(&ENV)),
    ok("envFrom", Form::Objects(&ENV_FROM)),
    ok("workingDir", Form::Text),
    ok("ports", Form::Objects(&PORT)),
    ok("resources", Form::Object(&RESOURCES)),
    ok("securityContext", Form::Object(&SECURITY)),
    ok("livenessProbe", Form::Object(&PROBE)),
    ok("readinessProbe", Form::Object(&PROBE)),
    ok("startupProbe", Form::Object(&PROBE)),
    ok("lifecycle", Form::Object(&LIFECYCLE)),
    ok("stdin", Form::Boolean),
    ok("stdinOnce", Form::Boolean),
    ok("tty", Form::Boolean),
    ok("terminationMessagePath", Form::Text),
    ok("terminationMessagePolicy", Form::Text),
    warn("resizePolicy", "limits of a running container are not changed in this release"),
    ok("volumeMounts", Form::Objects(&VOLUME_MOUNT)),
    refuse("volumeDevices", NO_BLOCKS),
    ok("restartPolicy", Form::Text),
    refuse("restartPolicyRules", "exit codes do not choose what follows in this release"),
];

pub(super) static ENV: [Field; 3] =
    [ok("name", Form::Text), ok("value", Form::Text), ok("valueFrom", Form::Object(&ENV_SOURCE))];

pub(super) static ENV_SOURCE: [Field; 5] = [
    ok("fieldRef", Form::Object(&FIELD_REF)),
    ok("configMapKeyRef", Form::Object(&KEY_REF)),
    ok("resourceFieldRef", Form::Object(&RESOURCE_REF)),
    ok("secretKeyRef", Form::Object(&KEY_REF)),
    refuse("fileKeyRef", "variables are not read from files of a volume in this release"),
];

pub(super) static FIELD_REF: [Field; 2] = [ok("apiVersion", Form::Text), ok("fieldPath", Form::Text)];

pub(super) static RESOURCE_REF: [Field; 3] =
    [ok("containerName", Form::Text), ok("resource", Form::Text), ok("divisor", Form::Quantity)];

pub(super) static KEY_REF: [Field; 3] = [ok("name", Form::Text), ok("key", Form::Text), ok("optional", Form::Boolean)];

pub(super) static ENV_FROM: [Field; 3] =
    [ok("prefix", Form::Text), ok("configMapRef", Form::Object(&MAP_REF)), ok("secretRef", Form::Object(&MAP_REF))];

pub(super) static MAP_REF: [Field; 2] = [ok("name", Form::Text), ok("optional", Form::Boolean)];

pub(super) static PORT: [Field; 5] = [
    ok("name", Form::Text),
    ok("containerPort", Form::Integer),
    ok("hostPort", Form::Integer),
    refuse_unless("protocol", Form::Text, &["TCP", "UDP"], "only TCP and UDP ports are served"),
    ok("hostIP", Form::Text),
];

pub(super) static RESOURCES: [Field; 3] = [
    ok("limits", Form::Amounts(&AMOUNTS)),
    ok("requests", Form::Amounts(&AMOUNTS)),
    refuse("claims", "devices are not claimed in this release"),
];

pub(super) static AMOUNTS: [Field; 5] = [
    ok("cpu", Form::Quantity),
    ok("memory", Form::Quantity),
    ok("ephemeral-storage", Form::Quantity),
    ok("kith.dev/*", Form::Quantity),
    refuse("*", "only cpu, memory, ephemeral-storage and the devices of agent.toml (kith.dev/...) are counted"),
];

pub(super) static SECURITY: [Field; 13] = [
    ok("runAsUser", Form::Integer),
    ok("runAsGroup", Form::Integer),
    ok("runAsNonRoot", Form::Boolean),
    ok("readOnlyRootFilesystem", Form::Boolean),
    ok("capabilities", Form::Object(&CAPABILITIES)),
    ok("seccompProfile", Form::Object(&SECCOMP)),
    ok("allowPrivilegeEscalation", Form::Boolean),
    ok("privileged", Form::Boolean),
    ok("procMount", Form::Text),
    refuse("seLinuxOptions", STRICTER),
    ok("appArmorProfile", Form::Object(&APP_ARMOR)),
    refuse("windowsOptions", "every device runs Linux"),
    refuse("fsGroup", "it is a field of the pod's securityContext"),
];

pub(super) static CAPABILITIES: [Field; 2] = [ok("add", Form::Texts), ok("drop", Form::Texts)];
