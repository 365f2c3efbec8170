//! The numbers that fields of volumes, secrets and claims have in Kubernetes' protobuf messages.

use super::volume::{
    CLAIM, CLAIM_RESOURCES, CLAIM_SOURCE, CLAIM_SPEC, CONFIG_MAP_SOURCE, DOWNWARD, DOWNWARD_ITEM, EMPTY_DIR, HOST_PATH,
    ITEM, PROJECTED, PROJECTED_DOWNWARD, PROJECTED_OBJECT, PROJECTION, SECRET, SECRET_SOURCE, VOLUME, VOLUME_MOUNT,
};
use super::wire::{INLINE, INSIDE, Message, OBJECT, message};

pub(super) static MESSAGES: [Message; 18] = [
    message(&SECRET, &[(1, "metadata"), (2, "data"), (3, "type"), (4, "stringData"), (5, "immutable")]),
    message(&CLAIM, OBJECT),
    message(
        &CLAIM_SPEC,
        &[
            (1, "accessModes"),
            (2, "resources"),
            (3, "volumeName"),
            (4, "selector"),
            (5, "storageClassName"),
            (6, "volumeMode"),
            (7, "dataSource"),
            (8, "dataSourceRef"),
            (9, "volumeAttributesClassName"),
        ],
    ),
    message(&CLAIM_RESOURCES, &[(1, "limits"), (2, "requests")]),
    message(&VOLUME, VOLUME_NUMBERS),
    message(&HOST_PATH, &[(1, "path"), (2, "type")]),
    message(&EMPTY_DIR, &[(1, "medium"), (2, "sizeLimit")]),
    message(&CONFIG_MAP_SOURCE, &[(1, INLINE), (2, "items"), (3, "defaultMode"), (4, "optional")]),
    message(&SECRET_SOURCE, &[(1, "secretName"), (2, "items"), (3, "defaultMode"), (4, "optional")]),
    message(&ITEM, &[(1, "key"), (2, "path"), (3, "mode")]),
    message(&DOWNWARD, &[(1, "items"), (2, "defaultMode")]),
    message(&DOWNWARD_ITEM, &[(1, "path"), (2, "fieldRef"), (3, "resourceFieldRef"), (4, "mode")]),
    message(&PROJECTED, &[(1, "sources"), (2, "defaultMode")]),
    message(
        &PROJECTION,
        &[
            (1, "secret"),
            (2, "downwardAPI"),
            (3, "configMap"),
            (4, "serviceAccountToken"),
            (5, "clusterTrustBundle"),
            (6, "podCertificate"),
        ],
    ),
    message(&PROJECTED_OBJECT, &[(1, INLINE), (2, "items"), (4, "optional")]),
    message(&PROJECTED_DOWNWARD, &[(1, "items")]),
    message(&CLAIM_SOURCE, &[(1, "claimName"), (2, "readOnly")]),
    message(
        &VOLUME_MOUNT,
        &[
            (1, "name"),
            (2, "readOnly"),
            (3, "mountPath"),
            (4, "subPath"),
            (5, "mountPropagation"),
            (6, "subPathExpr"),
            (7, "recursiveReadOnly"),
        ],
    ),
];

/// The first two are the volume's own; what the second holds has these numbers again, in `SOURCES`.
const VOLUME_NUMBERS: &[(u32, &str)] = &[(1, "name"), (2, INSIDE)];

/// The sources of a volume, by their numbers in the message that holds one of them.
pub(super) const SOURCES: &[(u32, &str)] = &[
    (1, "hostPath"),
    (2, "emptyDir"),
    (3, "gcePersistentDisk"),
    (4, "awsElasticBlockStore"),
    (5, "gitRepo"),
    (6, "secret"),
    (7, "nfs"),
    (8, "iscsi"),
    (9, "glusterfs"),
    (10, "persistentVolumeClaim"),
    (11, "rbd"),
    (12, "flexVolume"),
    (13, "cinder"),
    (14, "cephfs"),
    (15, "flocker"),
    (16, "downwardAPI"),
    (17, "fc"),
    (18, "azureFile"),
    (19, "configMap"),
    (20, "vsphereVolume"),
    (21, "quobyte"),
    (22, "azureDisk"),
    (23, "photonPersistentDisk"),
    (24, "portworxVolume"),
    (25, "scaleIO"),
    (26, "projected"),
    (27, "storageos"),
    (28, "csi"),
    (29, "ephemeral"),
    (30, "image"),
];
