//! What Kubernetes fills in for volumes and for secrets. It only adds, never changes what is set; of
//! a secret, `stringData` goes where it belongs: it is for writing only.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value, json};

use super::defaults::absent;

/// The permissions of files when nothing says: 0644.
const DEFAULT_MODE: u32 = 0o644;

/// Fills in the defaults of one volume; a volume that names no source is an empty folder.
pub(super) fn defaults(volume: &mut Value) {
    let Some(volume) = volume.as_object_mut() else { return };
    if volume.keys().all(|key| key == "name") {
        volume.insert("emptyDir".into(), json!({}));
    }
    for source in ["configMap", "secret", "downwardAPI", "projected"] {
        if let Some(source) = volume.get_mut(source).and_then(Value::as_object_mut) {
            absent(source, "defaultMode", || json!(DEFAULT_MODE));
        }
    }
    if let Some(host) = volume.get_mut("hostPath").and_then(Value::as_object_mut) {
        absent(host, "type", || json!(""));
    }
}

/// Fills in the defaults of a secret, and takes what is given as text into its data.
pub(super) fn secret_defaults(secret: &mut Value) {
    let Some(secret) = secret.as_object_mut() else { return };
    absent(secret, "type", || json!("Opaque"));
    if let Some(Value::Object(texts)) = secret.remove("stringData") {
        let data = secret.entry("data").or_insert_with(|| Value::Object(Map::new()));
        if let Some(data) = data.as_object_mut() {
            data.extend(
                texts.into_iter().map(|(key, text)| (key, BASE64.encode(text.as_str().unwrap_or_default()).into())),
            );
        }
    }
}
