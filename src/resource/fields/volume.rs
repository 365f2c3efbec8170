//! The fields of volumes, of what they are made from, and of where containers see them.

use super::pod::{FIELD_REF, RESOURCE_REF};
use super::{Field, Form, METADATA, ok, refuse, refuse_unless, warn, warn_unless};

/// A secret.
pub(super) static SECRET: [Field; 7] = [
    ok("apiVersion", Form::Text),
    ok("kind", Form::Text),
    ok("metadata", Form::Object(&METADATA)),
    ok("data", Form::BytesMap),
    ok("stringData", Form::TextMap),
    ok("type", Form::Text),
    ok("immutable", Form::Boolean),
];

/// A claim.
pub(super) static CLAIM: [Field; 5] = [
    ok("apiVersion", Form::Text),
    ok("kind", Form::Text),
    ok("metadata", Form::Object(&METADATA)),
    ok("spec", Form::Object(&CLAIM_SPEC)),
    ok("status", Form::Any),
];

const FROM_NOTHING: &str = "a claim begins as an empty folder on the device of its first pod";
const ONE_CLASS: &str = "every claim is a folder on the device of its first pod";

pub(super) static CLAIM_SPEC: [Field; 9] = [
    ok("accessModes", Form::Texts),
    ok("resources", Form::Object(&CLAIM_RESOURCES)),
    refuse_unless("volumeMode", Form::Text, &["Filesystem"], "a claim is a folder, not a block device"),
    warn_unless("storageClassName", Form::Text, &["", "local"], ONE_CLASS),
    warn("volumeAttributesClassName", ONE_CLASS),
    refuse("volumeName", ONE_CLASS),
    refuse("selector", ONE_CLASS),
    refuse("dataSource", FROM_NOTHING),
    refuse("dataSourceRef", FROM_NOTHING),
];

pub(super) static CLAIM_RESOURCES: [Field; 2] =
    [ok("requests", Form::Amounts(&STORAGE)), ok("limits", Form::Amounts(&STORAGE))];

pub(super) static STORAGE: [Field; 1] = [ok("storage", Form::Quantity)];

const NO_TOKENS: &str = "there are no service accounts in this release, and the program would miss its token";
const NO_NETWORK: &str =
    "a device mounts no storage over the network: mount it on the device and use hostPath, or use a claim";
const NO_DRIVERS: &str = "there are no storage drivers: use emptyDir, hostPath or a persistentVolumeClaim";

/// A volume of a pod.
pub(super) static VOLUME: [Field; 31] = [
    ok("name", Form::Text),
    ok("emptyDir", Form::Object(&EMPTY_DIR)),
    ok("hostPath", Form::Object(&HOST_PATH)),
    ok("configMap", Form::Object(&CONFIG_MAP_SOURCE)),
    ok("secret", Form::Object(&SECRET_SOURCE)),
    ok("downwardAPI", Form::Object(&DOWNWARD)),
    ok("projected", Form::Object(&PROJECTED)),
    ok("persistentVolumeClaim", Form::Object(&CLAIM_SOURCE)),
    refuse("image", "images are not mounted as volumes in this release"),
    refuse("gitRepo", "it is not safe, and Kubernetes took it out"),
    refuse("ephemeral", "a claim is not made for one pod in this release: use emptyDir"),
    refuse("csi", NO_DRIVERS),
    refuse("flexVolume", NO_DRIVERS),
    refuse("nfs", NO_NETWORK),
    refuse("iscsi", NO_NETWORK),
    refuse("fc", NO_NETWORK),
    refuse("glusterfs", NO_NETWORK),
    refuse("rbd", NO_NETWORK),
    refuse("cephfs", NO_NETWORK),
    refuse("cinder", NO_NETWORK),
    refuse("flocker", NO_NETWORK),
    refuse("quobyte", NO_NETWORK),
    refuse("portworxVolume", NO_NETWORK),
    refuse("scaleIO", NO_NETWORK),
    refuse("storageos", NO_NETWORK),
    refuse("azureFile", NO_NETWORK),
    refuse("azureDisk", NO_NETWORK),
    refuse("awsElasticBlockStore", NO_NETWORK),
    refuse("gcePersistentDisk", NO_NETWORK),
    refuse("vsphereVolume", NO_NETWORK),
    refuse("photonPersistentDisk", NO_NETWORK),
];

pub(super) static EMPTY_DIR: [Field; 2] = [
    refuse_unless("medium", Form::Text, &["", "Memory"], "an emptyDir is on the disk, or in memory"),
    ok("sizeLimit", Form::Quantity),
];

pub(super) static HOST_PATH: [Field; 2] = [ok("path", Form::Text), ok("type", Form::Text)];

pub(super) static CONFIG_MAP_SOURCE: [Field; 4] = [
    ok("name", Form::Text),
    ok("items", Form::Objects(&ITEM)),
    ok("defaultMode", Form::Integer),
    ok("optional", Form::Boolean),
];

pub(super) static SECRET_SOURCE: [Field; 4] = [
    ok("secretName", Form::Text),
    ok("items", Form::Objects(&ITEM)),
    ok("defaultMode", Form::Integer),
    ok("optional", Form::Boolean),
];

pub(super) static ITEM: [Field; 3] = [ok("key", Form::Text), ok("path", Form::Text), ok("mode", Form::Integer)];

pub(super) static DOWNWARD: [Field; 2] = [ok("items", Form::Objects(&DOWNWARD_ITEM)), ok("defaultMode", Form::Integer)];

pub(super) static DOWNWARD_ITEM: [Field; 4] = [
    ok("path", Form::Text),
    ok("fieldRef", Form::Object(&FIELD_REF)),
    ok("resourceFieldRef", Form::Object(&RESOURCE_REF)),
    ok("mode", Form::Integer),
];

pub(super) static PROJECTED: [Field; 2] = [ok("sources", Form::Objects(&PROJECTION)), ok("defaultMode", Form::Integer)];

pub(super) static PROJECTION: [Field; 6] = [
    ok("configMap", Form::Object(&PROJECTED_OBJECT)),
    ok("secret", Form::Object(&PROJECTED_OBJECT)),
    ok("downwardAPI", Form::Object(&PROJECTED_DOWNWARD)),
    refuse("serviceAccountToken", NO_TOKENS),
    refuse("clusterTrustBundle", "there are no trust bundles in this release"),
    refuse("podCertificate", "pods get no certificates in this release"),
];

pub(super) static PROJECTED_OBJECT: [Field; 3] =
    [ok("name", Form::Text), ok("items", Form::Objects(&ITEM)), ok("optional", Form::Boolean)];

pub(super) static PROJECTED_DOWNWARD: [Field; 1] = [ok("items", Form::Objects(&DOWNWARD_ITEM))];

pub(super) static CLAIM_SOURCE: [Field; 2] = [ok("claimName", Form::Text), ok("readOnly", Form::Boolean)];

/// Where a container sees a volume.
pub(super) static VOLUME_MOUNT: [Field; 7] = [
    ok("name", Form::Text),
    ok("mountPath", Form::Text),
    ok("readOnly", Form::Boolean),
    warn_unless(
        "recursiveReadOnly",
        Form::Text,
        &["IfPossible", "Enabled"],
        "what is mounted for reading only is so with all that is mounted below it",
    ),
    ok("subPath", Form::Text),
    ok("subPathExpr", Form::Text),
    refuse_unless(
        "mountPropagation",
        Form::Text,
        &["None", "HostToContainer"],
        "a container can not mount onto the device",
    ),
];
