//! The kinds that the API serves, and how each may be named. It decides what exists in the
//! vocabulary; kinds of the fleet itself (`kith.dev/...`) are deliberately not in it.

/// One served kind of object.
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    /// API group; empty for the core group.
    pub group: &'static str,
    /// Version within the group.
    pub version: &'static str,
    /// `Deployment`.
    pub kind: &'static str,
    /// `deployments`: the name in paths.
    pub plural: &'static str,
    /// `deployment`.
    pub singular: &'static str,
    /// `deploy`.
    pub short: &'static [&'static str],
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// Groups of kinds that a user may list at once, such as `all`.
    pub categories: &'static [&'static str],
    /// Paths below an object, such as `status`.
    pub subresources: &'static [&'static str],
    /// What may be done with it.
    pub verbs: &'static [&'static str],
}

const ALL_VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// A fence between names.
pub static NAMESPACE: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Namespace",
    plural: "namespaces",
    singular: "namespace",
    short: &["ns"],
    namespaced: false,
    categories: &[],
    subresources: &[],
    verbs: &["create", "delete", "get", "list", "patch", "update", "watch"],
};

/// A device.
pub static NODE: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Node",
    plural: "nodes",
    singular: "node",
    short: &["no"],
    namespaced: false,
    categories: &[],
    subresources: &["status"],
    verbs: ALL_VERBS,
};

/// Containers that live and die together on one device.
pub static POD: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Pod",
    plural: "pods",
    singular: "pod",
    short: &["po"],
    namespaced: true,
    categories: &["all"],
    subresources: &["attach", "ephemeralcontainers", "eviction", "exec", "log", "portforward", "status"],
    verbs: ALL_VERBS,
};

/// Settings that pods read.
pub static CONFIG_MAP: Kind = Kind {
    group: "",
    version: "v1",
    kind: "ConfigMap",
    plural: "configmaps",
    singular: "configmap",
    short: &["cm"],
    namespaced: true,
    categories: &[],
    subresources: &[],
    verbs: ALL_VERBS,
};

/// Settings that pods read and others must not see.
pub static SECRET: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Secret",
    plural: "secrets",
    singular: "secret",
    short: &[],
    namespaced: true,
    categories: &[],
    subresources: &[],
    verbs: ALL_VERBS,
};

/// A volume on one device that outlives the pods that use it.
pub static CLAIM: Kind = Kind {
    group: "",
    version: "v1",
    kind: "PersistentVolumeClaim",
    plural: "persistentvolumeclaims",
    singular: "persistentvolumeclaim",
    short: &["pvc"],
    namespaced: true,
    categories: &[],
    subresources: &["status"],
    verbs: ALL_VERBS,
};

/// Something that happened to an object.
pub static EVENT: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Event",
    plural: "events",
    singular: "event",
    short: &["ev"],
    namespaced: true,
    categories: &[],
    subresources: &[],
    verbs: ALL_VERBS,
};

/// Copies of a pod that are replaced gradually when their template changes.
pub static DEPLOYMENT: Kind = Kind {
    group: "apps",
    version: "v1",
    kind: "Deployment",
    plural: "deployments",
    singular: "deployment",
    short: &["deploy"],
    namespaced: true,
    categories: &["all"],
    subresources: &["scale", "status"],
    verbs: ALL_VERBS,
};

/// Copies of a pod.
pub static REPLICA_SET: Kind = Kind {
    group: "apps",
    version: "v1",
    kind: "ReplicaSet",
    plural: "replicasets",
    singular: "replicaset",
    short: &["rs"],
    namespaced: true,
    categories: &["all"],
    subresources: &["scale", "status"],
    verbs: ALL_VERBS,
};

/// How much pods matter against others.
pub static PRIORITY_CLASS: Kind = Kind {
    group: "scheduling.k8s.io",
    version: "v1",
    kind: "PriorityClass",
    plural: "priorityclasses",
    singular: "priorityclass",
    short: &["pc"],
    namespaced: false,
    categories: &[],
    subresources: &[],
    verbs: ALL_VERBS,
};

static ALL: [&Kind; 10] =
    [&NAMESPACE, &NODE, &POD, &CONFIG_MAP, &SECRET, &CLAIM, &EVENT, &DEPLOYMENT, &REPLICA_SET, &PRIORITY_CLASS];

impl Kind {
    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_owned() } else { format!("{}/{}", self.group, self.version) }
    }

    /// The kind in a store key: `Pod`, `apps/Deployment`.
    pub fn store_kind(&self) -> String {
        if self.group.is_empty() { self.kind.to_owned() } else { format!("{}/{}", self.group, self.kind) }
    }

    /// The name in messages: `pods`, `deployments.apps`.
    pub fn qualified_plural(&self) -> String {
        if self.group.is_empty() { self.plural.to_owned() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// `Pod`, `Deployment.apps`.
    pub fn qualified_kind(&self) -> String {
        if self.group.is_empty() { self.kind.to_owned() } else { format!("{}.{}", self.kind, self.group) }
    }

    /// The path of its collection: `/api/v1/namespaces/NS/pods`, `/apis/apps/v1/deployments`.
    pub fn path(&self, namespace: Option<&str>) -> String {
        let root = if self.group.is_empty() { "/api" } else { "/apis" };
        let version = self.api_version();
        match namespace {
            Some(namespace) if self.namespaced => format!("{root}/{version}/namespaces/{namespace}/{}", self.plural),
            _ => format!("{root}/{version}/{}", self.plural),
        }
    }

    /// Whether the kind counts changes of its spec in `metadata.generation`.
    pub fn has_generation(&self) -> bool {
        matches!(self.kind, "Deployment" | "ReplicaSet" | "Pod")
    }
}

/// Every served kind.
pub fn all() -> &'static [&'static Kind] {
    &ALL
}

/// The kind that a user means by `pods`, `po`, `Pod`, `deployments.apps` or `deployments.v1.apps`.
pub fn find(name: &str) -> Option<&'static Kind> {
    let name = name.to_ascii_lowercase();
    let (head, rest) = name.split_once('.').map_or((name.as_str(), None), |(head, rest)| (head, Some(rest)));
    let named = |kind: &&&'static Kind| {
        let by_name = kind.plural == head
            || kind.singular == head
            || kind.short.contains(&head)
            || kind.kind.eq_ignore_ascii_case(head);
        let by_group = rest.is_none_or(|rest| {
            rest == kind.group || rest == format!("{}.{}", kind.version, kind.group).trim_end_matches('.')
        });
        by_name && by_group
    };
    ALL.iter().find(named).copied()
}

/// The kind of an object's `apiVersion` and `kind`.
pub fn of(api_version: &str, kind: &str) -> Option<&'static Kind> {
    ALL.iter().find(|known| known.kind == kind && known.api_version() == api_version).copied()
}

/// The kind at a path's group, version and plural.
pub fn resource(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    ALL.iter().find(|kind| kind.group == group && kind.version == version && kind.plural == plural).copied()
}

/// The kind behind a store key's kind.
pub fn stored(store_kind: &str) -> Option<&'static Kind> {
    ALL.iter().find(|kind| kind.store_kind() == store_kind).copied()
}

/// Kinds that belong to a category such as `all`.
pub fn in_category(category: &str) -> Vec<&'static Kind> {
    ALL.iter().filter(|kind| kind.categories.contains(&category)).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_answers_to_all_its_names() {
        for name in ["pods", "pod", "po", "Pod", "POD"] {
            assert_eq!(find(name).map(|kind| kind.kind), Some("Pod"), "{name}");
        }
        for name in ["deployments", "deploy", "deployments.apps", "deployment.v1.apps", "deploy.apps"] {
            assert_eq!(find(name).map(|kind| kind.kind), Some("Deployment"), "{name}");
        }
        for name in ["", "pods.apps", "deployments.core", "token", "kith.dev/Token"] {
            assert_eq!(find(name), None, "{name}");
        }
    }

    #[test]
    fn paths_and_store_keys() {
        assert_eq!(DEPLOYMENT.path(Some("web")), "/apis/apps/v1/namespaces/web/deployments");
        assert_eq!(POD.path(None), "/api/v1/pods");
        assert_eq!(NODE.path(Some("ignored")), "/api/v1/nodes");
        assert_eq!(stored("apps/ReplicaSet"), Some(&REPLICA_SET));
        assert_eq!(of("apps/v1", "Deployment"), Some(&DEPLOYMENT));
        assert_eq!(of("v1", "Deployment"), None);
    }
}
