//! The files of volumes that are made from objects: config maps, secrets, fields of the pod.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    ConfigMapVolumeSource, DownwardAPIVolumeFile, KeyToPath, Pod, ProjectedVolumeSource, SecretVolumeSource,
    VolumeProjection,
};

use super::env;
use super::target::{SecretState, Target};
use super::volume::{Bytes, VolumeFile};

/// Permissions of a file when nothing says.
const DEFAULT_MODE: i32 = 0o644;

/// Files by path, so that later sources replace earlier ones.
type Files = BTreeMap<String, VolumeFile>;

/// Makes the files of a pod's volumes.
pub(super) struct Maker<'a> {
    pub(super) target: &'a Target,
    pub(super) pod: &'a Pod,
}

impl Maker<'_> {
    pub(super) fn config_map(&self, source: &ConfigMapVolumeSource) -> Result<Vec<VolumeFile>, String> {
        let mut files = Files::new();
        let choice = Choice {
            items: source.items.as_deref(),
            optional: source.optional == Some(true),
            mode: mode(source.default_mode, DEFAULT_MODE),
        };
        self.add_config_map(&source.name, choice, &mut files)?;
        Ok(files.into_values().collect())
    }

    pub(super) fn secret(&self, source: &SecretVolumeSource) -> Result<Vec<VolumeFile>, String> {
        let mut files = Files::new();
        let choice = Choice {
            items: source.items.as_deref(),
            optional: source.optional == Some(true),
            mode: mode(source.default_mode, DEFAULT_MODE),
        };
        self.add_secret(source.secret_name.as_deref().unwrap_or_default(), choice, &mut files)?;
        Ok(files.into_values().collect())
    }

    pub(super) fn downward(
        &self,
        items: &[DownwardAPIVolumeFile],
        default: Option<i32>,
    ) -> Result<Vec<VolumeFile>, String> {
        let mut files = Files::new();
        self.add_downward(items, mode(default, DEFAULT_MODE), &mut files)?;
        Ok(files.into_values().collect())
    }

    pub(super) fn projected(&self, source: &ProjectedVolumeSource) -> Result<Vec<VolumeFile>, String> {
        let mut files = Files::new();
        let mode = mode(source.default_mode, DEFAULT_MODE);
        for VolumeProjection { config_map, secret, downward_api, .. } in source.sources.iter().flatten() {
            if let Some(map) = config_map {
                let choice = Choice { items: map.items.as_deref(), optional: map.optional == Some(true), mode };
                self.add_config_map(&map.name, choice, &mut files)?;
            }
            if let Some(secret) = secret {
                let choice = Choice { items: secret.items.as_deref(), optional: secret.optional == Some(true), mode };
                self.add_secret(&secret.name, choice, &mut files)?;
            }
            if let Some(downward) = downward_api {
                self.add_downward(downward.items.as_deref().unwrap_or_default(), mode, &mut files)?;
            }
        }
        Ok(files.into_values().collect())
    }

    fn key(&self, name: &str) -> (String, String) {
        (self.pod.metadata.namespace.clone().unwrap_or_default(), name.to_owned())
    }

    fn add_config_map(&self, name: &str, choice: Choice<'_>, files: &mut Files) -> Result<(), String> {
        let Some(map) = self.target.configmaps.get(&self.key(name)) else {
            return choice.missing(format!("configmap {name:?} not found"));
        };
        let texts = map.data.iter().flatten().map(|(key, text)| (key.as_str(), text.as_bytes()));
        let bytes = map.binary_data.iter().flatten().map(|(key, bytes)| (key.as_str(), bytes.0.as_slice()));
        let data: BTreeMap<&str, &[u8]> = texts.chain(bytes).collect();
        choice.take(&data, &format!("configmap {name:?}"), "config", files)
    }

    fn add_secret(&self, name: &str, choice: Choice<'_>, files: &mut Files) -> Result<(), String> {
        let opened = match self.target.secrets.get(&self.key(name)) {
            Some(SecretState::Open(opened)) => opened,
            Some(SecretState::Sealed(why)) => return Err(format!("secret {name:?} can not be opened yet: {why}")),
            None => return choice.missing(format!("secret {name:?} not found")),
        };
        let data: BTreeMap<&str, &[u8]> =
            opened.iter().map(|(key, value)| (key.as_str(), value.0.as_slice())).collect();
        choice.take(&data, &format!("secret {name:?}"), "secret", files)
    }

    fn add_downward(&self, items: &[DownwardAPIVolumeFile], default: u32, files: &mut Files) -> Result<(), String> {
        for item in items {
            let text = if let Some(field) = &item.field_ref {
                self.field(&field.field_path)
            } else if let Some(wanted) = &item.resource_field_ref {
                env::resource_of(self.pod, None, wanted, &self.target.node)
            } else {
                Some(String::new())
            };
            let text = text.ok_or_else(|| format!("{}: there is no such field for a file", item.path))?;
            let mode = item.mode.map_or(default, |own| mode(Some(own), DEFAULT_MODE));
            put(files, &item.path, mode, text.as_bytes())?;
        }
        Ok(())
    }

    fn field(&self, path: &str) -> Option<String> {
        let meta = &self.pod.metadata;
        match path {
            "metadata.labels" => Some(lines(meta.labels.as_ref())),
            "metadata.annotations" => Some(lines(meta.annotations.as_ref())),
            // Addresses are for variables only.
            other => env::field_of(self.pod, &self.target.node, "", other),
        }
    }
}

/// Which keys of an object become files, and how.
#[derive(Clone, Copy)]
struct Choice<'a> {
    items: Option<&'a [KeyToPath]>,
    optional: bool,
    mode: u32,
}

impl Choice<'_> {
    fn missing(self, why: String) -> Result<(), String> {
        if self.optional { Ok(()) } else { Err(why) }
    }

    fn take(self, data: &BTreeMap<&str, &[u8]>, whose: &str, what: &str, files: &mut Files) -> Result<(), String> {
        let Some(items) = self.items.filter(|items| !items.is_empty()) else {
            return data.iter().try_for_each(|(key, bytes)| put(files, key, self.mode, bytes));
        };
        for item in items {
            let Some(bytes) = data.get(item.key.as_str()) else {
                self.missing(format!("{whose} references non-existent {what} key: {}", item.key))?;
                continue;
            };
            let mode = item.mode.map_or(self.mode, |own| mode(Some(own), DEFAULT_MODE));
            put(files, &item.path, mode, bytes)?;
        }
        Ok(())
    }
}

fn mode(given: Option<i32>, default: i32) -> u32 {
    given.unwrap_or(default).unsigned_abs() & 0o777
}

fn put(files: &mut Files, path: &str, mode: u32, bytes: &[u8]) -> Result<(), String> {
    let outside = path.is_empty() || path.starts_with('/') || path.split('/').any(|part| part == "..");
    if outside || path.starts_with("..") {
        return Err(format!("{path:?} is not a path inside of a volume"));
    }
    files.insert(path.to_owned(), VolumeFile { path: path.to_owned(), mode, content: Bytes(bytes.to_vec()) });
    Ok(())
}

/// Labels or annotations, one a line, as Kubernetes writes them.
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<String> = map.into_iter().flatten().map(|(key, value)| format!("{key}={value:?}")).collect();
    lines.join("\n")
}
