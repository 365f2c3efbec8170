//! What is said about secrets, claims and the volumes of pods. The values of a secret are never said.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value;

use super::{Page, text};
use crate::resource::claim::SELECTED_NODE;

/// Where `kubectl apply` leaves the whole object once more, values included.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The annotations that a description shows.
pub(super) fn annotations(object: &Value) -> Value {
    let mut annotations = object["metadata"]["annotations"].clone();
    if let Some(map) = annotations.as_object_mut() {
        map.remove(LAST_APPLIED);
    }
    annotations
}

pub(super) fn secret(page: &mut Page, secret: &Value) {
    page.line("Type", text(&secret["type"]));
    if secret["immutable"] == true {
        page.line("Immutable", "yes");
    }
    let sizes: Vec<String> = secret["data"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| {
            let bytes = BASE64.decode(value.as_str().unwrap_or_default()).map_or(0, |bytes| bytes.len());
            format!("{key}: {bytes} bytes")
        })
        .collect();
    page.line("Data", if sizes.is_empty() { "<none>".into() } else { sizes.join("\n") });
}

pub(super) fn claim(page: &mut Page, claim: &Value, pods: &[Value]) {
    page.line("Status", text(&claim["status"]["phase"]));
    let device = &claim["metadata"]["annotations"][SELECTED_NODE];
    page.line(
        "Device",
        match device.as_str() {
            Some(device) => format!("{device}: the volume is there, and pods that use the claim run there"),
            None => "none yet: the device of the first pod that uses the claim".into(),
        },
    );
    page.line("Capacity", format!("{} (asked for, not kept back)", text(&claim["status"]["capacity"]["storage"])));
    let modes: Vec<String> = claim["spec"]["accessModes"].as_array().into_iter().flatten().map(text).collect();
    page.line("Access modes", modes.join(", "));
    let name = claim["metadata"]["name"].as_str().unwrap_or_default();
    let users: Vec<String> = pods
        .iter()
        .filter(|pod| {
            let mut volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
            volumes.any(|volume| volume["persistentVolumeClaim"]["claimName"] == name)
        })
        .map(|pod| text(&pod["metadata"]["name"]))
        .collect();
    page.line("Used by", if users.is_empty() { "<none>".into() } else { users.join("\n") });
}

/// The volumes of a pod, one a line.
pub(super) fn volumes(page: &mut Page, spec: &Value) {
    let all: Vec<String> = spec["volumes"].as_array().into_iter().flatten().map(volume).collect();
    if !all.is_empty() {
        page.line("Volumes", all.join("\n"));
    }
}

fn volume(volume: &Value) -> String {
    let name = text(&volume["name"]);
    let kind = volume.as_object().into_iter().flatten().find(|(key, _)| *key != "name");
    let Some((kind, source)) = kind else { return name };
    let what = match kind.as_str() {
        "configMap" | "secret" | "persistentVolumeClaim" | "hostPath" => {
            let named = ["name", "secretName", "claimName", "path"];
            format!(" {}", named.iter().find_map(|key| source[*key].as_str()).unwrap_or_default())
        }
        "emptyDir" if source["medium"] == "Memory" => " in memory".into(),
        _ => String::new(),
    };
    format!("{name}: {kind}{what}")
}

/// Where a container sees volumes, one a line.
pub(super) fn mounts(page: &mut Page, container: &Value) {
    let mount = |mount: &Value| {
        let below = ["subPath", "subPathExpr"].iter().find_map(|key| mount[*key].as_str());
        let below = below.map(|path| format!("/{path}")).unwrap_or_default();
        let read = if mount["readOnly"] == true { " (read only)" } else { "" };
        format!("{} from {}{below}{read}", text(&mount["mountPath"]), text(&mount["name"]))
    };
    let all: Vec<String> = container["volumeMounts"].as_array().into_iter().flatten().map(mount).collect();
    if !all.is_empty() {
        page.line("Mounts", all.join("\n"));
    }
}
