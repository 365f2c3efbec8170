//! Paths of the API. It says what a path means; it never looks whether it exists.

use super::ask::decode;
use super::metrics::{self, Metrics};
use crate::resource::kind::{self, Kind};

/// What a path means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// `/version`
    Version,
    /// `/healthz`, `/livez`, `/readyz`
    Health,
    /// `/api`
    CoreVersions,
    /// `/apis`
    Groups,
    /// `/apis/GROUP`
    Group(String),
    /// `/api/v1`, `/apis/GROUP/VERSION`
    Resources { group: String, version: String },
    /// `/openapi/v2`
    OpenApi2,
    /// `/openapi/v3`
    OpenApi3,
    /// `/openapi/v3/api/v1`, `/openapi/v3/apis/GROUP/VERSION`
    OpenApi3Of { group: String, version: String },
    /// `/apis/metrics.k8s.io/v1beta1/...`
    Metrics(Metrics),
    /// Objects of a kind.
    Objects(Target),
    /// `/kith/...`, `/metrics`
    Extra,
    /// `/kith/v1/blobs/...`: for devices alone.
    Blobs,
}

/// The objects that a path means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) kind: &'static Kind,
    /// Empty for kinds without one, and for all of them.
    pub(super) namespace: String,
    /// Empty for a collection.
    pub(super) name: String,
    /// `status`, `scale`, `log`; empty for the object itself.
    pub(super) subresource: String,
}

impl Route {
    /// What a path means; `None` when nothing is there.
    pub(super) fn parse(path: &str) -> Option<Self> {
        if path.strip_prefix(super::BLOBS).is_some_and(|rest| rest.starts_with('/')) {
            return Some(Self::Blobs);
        }
        if path == "/kith" || path.starts_with("/kith/") || path == "/metrics" {
            return Some(Self::Extra);
        }
        let decoded: Vec<String> = path.trim_matches('/').split('/').map(decode).collect();
        if decoded.iter().any(|part| part.contains(['/', '\0']) || part == "..") {
            return None;
        }
        let parts: Vec<&str> = decoded.iter().map(String::as_str).collect();
        match parts.as_slice() {
            ["version"] => Some(Self::Version),
            ["healthz" | "livez" | "readyz", ..] => Some(Self::Health),
            ["api"] => Some(Self::CoreVersions),
            ["apis"] => Some(Self::Groups),
            ["apis", group] => Some(Self::Group((*group).to_owned())),
            ["openapi", "v2"] => Some(Self::OpenApi2),
            ["openapi", "v3"] => Some(Self::OpenApi3),
            ["openapi", "v3", "api", version] => {
                Some(Self::OpenApi3Of { group: String::new(), version: (*version).to_owned() })
            }
            ["openapi", "v3", "apis", group, version] => {
                Some(Self::OpenApi3Of { group: (*group).to_owned(), version: (*version).to_owned() })
            }
            ["api", version] => Some(Self::Resources { group: String::new(), version: (*version).to_owned() }),
            ["apis", group, version] => {
                Some(Self::Resources { group: (*group).to_owned(), version: (*version).to_owned() })
            }
            ["api", version, rest @ ..] => target("", version, rest).map(Self::Objects),
            ["apis", metrics::GROUP, metrics::VERSION, rest @ ..] => Metrics::parse(rest).map(Self::Metrics),
            ["apis", group, version, rest @ ..] => target(group, version, rest).map(Self::Objects),
            _ => None,
        }
    }
}

fn target(group: &str, version: &str, rest: &[&str]) -> Option<Target> {
    let (namespace, rest) = match rest {
        ["namespaces", _, "status" | "finalize"] => ("", rest),
        ["namespaces", namespace, tail @ ..] if !namespace.is_empty() && !tail.is_empty() => (*namespace, tail),
        _ => ("", rest),
    };
    let (plural, name, subresource) = match rest {
        [plural] => (plural, "", ""),
        [plural, name] => (plural, *name, ""),
        [plural, name, subresource] => (plural, *name, *subresource),
        _ => return None,
    };
    let kind = kind::resource(group, version, plural)?;
    let fits = if kind.namespaced { name.is_empty() || !namespace.is_empty() } else { namespace.is_empty() };
    let known = subresource.is_empty() || kind.subresources.contains(&subresource);
    (fits && known).then(|| Target {
        kind,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        subresource: subresource.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objects(path: &str) -> Option<(&'static str, String, String, String)> {
        match Route::parse(path) {
            Some(Route::Objects(found)) => Some((found.kind.kind, found.namespace, found.name, found.subresource)),
            _ => None,
        }
    }

    #[test]
    fn paths_of_objects() {
        let found =
            |kind, namespace: &str, name: &str, sub: &str| Some((kind, namespace.into(), name.into(), sub.into()));
        assert_eq!(objects("/api/v1/pods"), found("Pod", "", "", ""));
        assert_eq!(objects("/api/v1/namespaces/a/pods/"), found("Pod", "a", "", ""));
        assert_eq!(objects("/api/v1/namespaces/a/pods/b/log"), found("Pod", "a", "b", "log"));
        assert_eq!(objects("/api/v1/namespaces/a"), found("Namespace", "", "a", ""));
        assert_eq!(objects("/api/v1/namespaces"), found("Namespace", "", "", ""));
        assert_eq!(objects("/api/v1/nodes/n/status"), found("Node", "", "n", "status"));
        assert_eq!(objects("/apis/apps/v1/namespaces/a/deployments/b/scale"), found("Deployment", "a", "b", "scale"));
        assert_eq!(objects("/apis/apps/v1/deployments"), found("Deployment", "", "", ""));
        for nothing in [
            "/api/v1/pods/b",
            "/api/v1/namespaces/a/nodes",
            "/api/v1/namespaces/a/pods/b/nothing",
            "/api/v1/deployments",
            "/api/v2/pods",
            "/api/v1/namespaces/a/pods/..",
            "/api/v1/namespaces/a%2fb/pods",
            "/nothing",
            "/",
            "",
        ] {
            assert_eq!(Route::parse(nothing).filter(|route| matches!(route, Route::Objects(_))), None, "{nothing}");
        }
    }

    #[test]
    fn other_paths() {
        assert_eq!(
            Route::parse("/apis/apps/v1"),
            Some(Route::Resources { group: "apps".into(), version: "v1".into() })
        );
        assert_eq!(Route::parse("/kith/v1/status"), Some(Route::Extra));
        assert_eq!(Route::parse("/metrics"), Some(Route::Extra));
        assert_eq!(Route::parse("/metrics/a"), None);
        assert_eq!(Route::parse("/healthz/ping"), Some(Route::Health));
        assert_eq!(Route::parse("/kithly"), None);
    }
}
