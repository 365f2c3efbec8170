//! Discovery: what the API serves, in the words of Kubernetes.

use serde_json::{Value, json};

use super::{eviction, metrics};
use crate::resource::kind::{self, Kind};

/// The Kubernetes release whose API this is a part of.
const KUBERNETES: (&str, &str) = ("1", "33");

/// `/version`
pub(super) fn version(release: &str) -> Value {
    let (major, minor) = KUBERNETES;
    json!({"major": major, "minor": minor, "gitVersion": format!("v{major}.{minor}.0+kith-{release}"),
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z", "goVersion": "", "compiler": "rustc",
        "platform": format!("linux/{}", std::env::consts::ARCH)})
}

/// `/api`
pub(super) fn core_versions() -> Value {
    json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})
}

/// `/apis`
pub(super) fn groups() -> Value {
    let groups: Vec<Value> = served().into_iter().map(|(group, version)| bare_group(group, version)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// Every group but the core one, with its version.
fn served() -> Vec<(&'static str, &'static str)> {
    let mut groups: Vec<(&str, &str)> = Vec::new();
    let named = kind::all().iter().filter(|kind| !kind.group.is_empty()).map(|kind| (kind.group, kind.version));
    for group in named.chain([(metrics::GROUP, metrics::VERSION)]) {
        if !groups.contains(&group) {
            groups.push(group);
        }
    }
    groups
}

fn bare_group(name: &str, version: &str) -> Value {
    let version = json!({"groupVersion": format!("{name}/{version}"), "version": version});
    json!({"name": name, "versions": [version], "preferredVersion": version})
}

/// `/apis/GROUP`
pub(super) fn group(name: &str) -> Option<Value> {
    let (_, version) = served().into_iter().find(|(group, _)| *group == name)?;
    let mut group = bare_group(name, version);
    group["kind"] = json!("APIGroup");
    group["apiVersion"] = json!("v1");
    Some(group)
}

/// `/api/v1`, `/apis/GROUP/VERSION`
pub(super) fn resources(group: &str, version: &str) -> Option<Value> {
    if (group, version) == (metrics::GROUP, metrics::VERSION) {
        return Some(metrics::resources());
    }
    let resources: Vec<Value> = kind::all()
        .iter()
        .filter(|kind| kind.group == group && kind.version == version)
        .flat_map(|kind| entries(kind))
        .collect();
    let name = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    (!resources.is_empty())
        .then(|| json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": name, "resources": resources}))
}

/// A kind and its subresources.
fn entries(kind: &Kind) -> Vec<Value> {
    let mut entry = json!({"name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced,
        "kind": kind.kind, "verbs": kind.verbs});
    if !kind.short.is_empty() {
        entry["shortNames"] = json!(kind.short);
    }
    if !kind.categories.is_empty() {
        entry["categories"] = json!(kind.categories);
    }
    let mut found = vec![entry];
    for subresource in kind.subresources {
        let verbs: &[&str] = match *subresource {
            "log" => &["get"],
            eviction::EVICTION => &["create"],
            "attach" | "exec" | "portforward" => &["create", "get"],
            _ => &["get", "patch", "update"],
        };
        let mut entry = json!({"name": format!("{}/{subresource}", kind.plural), "singularName": "",
            "namespaced": kind.namespaced, "kind": kind.kind, "verbs": verbs});
        match *subresource {
            "attach" => entry["kind"] = json!("PodAttachOptions"),
            "exec" => entry["kind"] = json!("PodExecOptions"),
            "portforward" => entry["kind"] = json!("PodPortForwardOptions"),
            _ => {}
        }
        if *subresource == "scale" {
            entry["group"] = json!("autoscaling");
            entry["version"] = json!("v1");
            entry["kind"] = json!("Scale");
        }
        if *subresource == eviction::EVICTION {
            entry["group"] = json!(eviction::GROUP);
            entry["version"] = json!(eviction::VERSIONS[0]);
            entry["kind"] = json!("Eviction");
        }
        found.push(entry);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_discovered() {
        let core = resources("", "v1").unwrap();
        let names: Vec<_> = core["resources"].as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap()).collect();
        assert!(names.contains(&"pods") && names.contains(&"pods/log") && names.contains(&"events"), "{names:?}");
        let apps = resources("apps", "v1").unwrap().to_string();
        assert!(apps.contains("deployments/scale") && apps.contains("autoscaling"));
        assert!(resources("batch", "v1").is_none() && group("batch").is_none());
        let eviction = core["resources"].as_array().unwrap().iter().find(|r| r["name"] == "pods/eviction").unwrap();
        assert_eq!((&eviction["kind"], &eviction["version"]), (&json!("Eviction"), &json!("v1")));
        // A group with nothing in it would be an error to `kubectl`.
        assert!(resources("policy", "v1").is_none() && group("policy").is_none());
    }
}
