//! The variables of a container: the image's, then whole config maps, then one by one, later ones
//! winning.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVar, EnvVarSource, Pod, ResourceFieldSelector};

use super::expand::expand;
use super::spec::SpecError;
use super::target::{NodeContext, SecretState, Target};
use super::volume::Bytes;
use crate::resource::quantity::Quantity;
use crate::resource::{ImageConfig, footprint};

/// Where programs are looked for when neither image nor pod says.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a container may refer to.
pub(super) struct Sources<'a> {
    pub(super) pod: &'a Pod,
    pub(super) container: &'a Container,
    pub(super) target: &'a Target,
    pub(super) pod_ip: String,
}

/// All variables in order, and those that the pod defines: only these are expanded in commands.
pub(super) struct Variables {
    pub(super) all: Vec<(String, String)>,
    pub(super) own: BTreeMap<String, String>,
}

pub(super) fn variables(sources: &Sources<'_>, image: &ImageConfig, hostname: &str) -> Result<Variables, SpecError> {
    let mut all: Vec<(String, String)> = Vec::new();
    set(&mut all, "PATH", DEFAULT_PATH.to_owned());
    set(&mut all, "HOSTNAME", hostname.to_owned());
    for pair in &image.env {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        set(&mut all, name, value.to_owned());
    }
    let mut own = BTreeMap::new();
    for (name, value) in sources.whole_maps()? {
        set(&mut all, &name, value.clone());
        own.insert(name, value);
    }
    for var in sources.container.env.iter().flatten() {
        let Some(value) = sources.value(var, &own)? else { continue };
        set(&mut all, &var.name, value.clone());
        own.insert(var.name.clone(), value);
    }
    Ok(Variables { all, own })
}

fn set(all: &mut Vec<(String, String)>, name: &str, value: String) {
    match all.iter_mut().find(|(known, _)| known == name) {
        Some(entry) => entry.1 = value,
        None => all.push((name.to_owned(), value)),
    }
}

impl Sources<'_> {
    fn key(&self, name: &str) -> (String, String) {
        (self.pod.metadata.namespace.clone().unwrap_or_default(), name.to_owned())
    }

    fn config_map(&self, name: &str) -> Option<&ConfigMap> {
        self.target.configmaps.get(&self.key(name))
    }

    /// A secret's values; `None` when there is no such secret.
    fn secret(&self, name: &str) -> Result<Option<&BTreeMap<String, Bytes>>, SpecError> {
        match self.target.secrets.get(&self.key(name)) {
            None => Ok(None),
            Some(SecretState::Open(values)) => Ok(Some(values)),
            Some(SecretState::Sealed(why)) => Err(SpecError::Sealed { name: name.to_owned(), why: why.clone() }),
        }
    }

    fn whole_maps(&self) -> Result<Vec<(String, String)>, SpecError> {
        let mut found = Vec::new();
        for from in self.container.env_from.iter().flatten() {
            let prefix = from.prefix.as_deref().unwrap_or_default();
            if let Some(wanted) = &from.secret_ref {
                match self.secret(&wanted.name)? {
                    Some(values) => {
                        let pairs = values.iter();
                        found.extend(pairs.map(|(key, value)| (format!("{prefix}{key}"), text(value))));
                    }
                    None if wanted.optional == Some(true) => {}
                    None => return Err(SpecError::Secret { name: wanted.name.clone() }),
                }
            }
            let Some(wanted) = &from.config_map_ref else { continue };
            match self.config_map(&wanted.name) {
                Some(map) => {
                    let pairs = map.data.iter().flatten();
                    found.extend(pairs.map(|(key, value)| (format!("{prefix}{key}"), value.clone())));
                }
                None if wanted.optional == Some(true) => {}
                None => return Err(SpecError::ConfigMap { name: wanted.name.clone() }),
            }
        }
        Ok(found)
    }

    fn value(&self, var: &EnvVar, own: &BTreeMap<String, String>) -> Result<Option<String>, SpecError> {
        let Some(from) = &var.value_from else {
            return Ok(Some(expand(var.value.as_deref().unwrap_or_default(), own)));
        };
        self.reference(var, from)
    }

    fn reference(&self, var: &EnvVar, from: &EnvVarSource) -> Result<Option<String>, SpecError> {
        if let Some(wanted) = &from.config_map_key_ref {
            let optional = wanted.optional == Some(true);
            let Some(map) = self.config_map(&wanted.name) else {
                return if optional { Ok(None) } else { Err(SpecError::ConfigMap { name: wanted.name.clone() }) };
            };
            return match map.data.as_ref().and_then(|all| all.get(&wanted.key)) {
                Some(value) => Ok(Some(value.clone())),
                None if optional => Ok(None),
                None => Err(SpecError::ConfigKey { name: wanted.name.clone(), key: wanted.key.clone() }),
            };
        }
        if let Some(wanted) = &from.secret_key_ref {
            let optional = wanted.optional == Some(true);
            let Some(values) = self.secret(&wanted.name)? else {
                return if optional { Ok(None) } else { Err(SpecError::Secret { name: wanted.name.clone() }) };
            };
            return match values.get(&wanted.key) {
                Some(value) => Ok(Some(text(value))),
                None if optional => Ok(None),
                None => Err(SpecError::SecretKey { name: wanted.name.clone(), key: wanted.key.clone() }),
            };
        }
        if let Some(wanted) = &from.field_ref {
            return field_of(self.pod, &self.target.node, &self.pod_ip, &wanted.field_path)
                .map(Some)
                .ok_or_else(|| SpecError::Field { variable: var.name.clone(), path: wanted.field_path.clone() });
        }
        if let Some(wanted) = &from.resource_field_ref {
            let unknown = || SpecError::Field { variable: var.name.clone(), path: wanted.resource.clone() };
            return resource_of(self.pod, Some(self.container), wanted, &self.target.node)
                .map(Some)
                .ok_or_else(unknown);
        }
        Ok(Some(String::new()))
    }
}

/// A variable holds text: what is no UTF-8 is replaced, as Kubernetes' own interface would show it.
fn text(value: &Bytes) -> String {
    String::from_utf8_lossy(&value.0).into_owned()
}

/// A field of the pod, such as `metadata.labels['app']`.
pub(super) fn field_of(pod: &Pod, node: &NodeContext, pod_ip: &str, path: &str) -> Option<String> {
    let meta = &pod.metadata;
    if let Some((map, key)) = path.strip_suffix("']").and_then(|path| path.split_once("['")) {
        let map = match map {
            "metadata.labels" => &meta.labels,
            "metadata.annotations" => &meta.annotations,
            _ => return None,
        };
        return Some(map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default());
    }
    let spec = pod.spec.as_ref()?;
    match path {
        "metadata.name" => meta.name.clone(),
        "metadata.namespace" => meta.namespace.clone(),
        "metadata.uid" => meta.uid.clone(),
        "spec.nodeName" => Some(node.name.clone()),
        "spec.serviceAccountName" => Some(spec.service_account_name.clone().unwrap_or_else(|| "default".into())),
        "status.hostIP" | "status.hostIPs" => Some(node.ip.clone()),
        "status.podIP" | "status.podIPs" => Some(pod_ip.to_owned()),
        _ => None,
    }
}

/// A limit or request of a container of the pod: `own` unless another is named.
pub(super) fn resource_of(
    pod: &Pod,
    own: Option<&Container>,
    wanted: &ResourceFieldSelector,
    node: &NodeContext,
) -> Option<String> {
    let divisor = wanted.divisor.as_ref().and_then(|divisor| divisor.0.parse().ok());
    let container = match wanted.container_name.as_deref().filter(|name| !name.is_empty()) {
        None => own?,
        Some(name) => {
            let mut all =
                pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers));
            all.find(|container| container.name == name)?
        }
    };
    resource(container, &wanted.resource, divisor, node)
}

/// A limit or request in units of the divisor, rounded up; the device's memory stands in for no limit.
fn resource(container: &Container, name: &str, divisor: Option<Quantity>, node: &NodeContext) -> Option<String> {
    let (list, resource) = name.split_once('.')?;
    let amount = match list {
        "limits" => footprint::limit(container, resource).ok()?,
        "requests" => footprint::request(container, resource).ok()?,
        _ => return None,
    };
    let ceiling = |value: u64, by: u64| value.div_ceil(by.max(1)).to_string();
    match resource {
        "cpu" => Some(ceiling(amount?.millis(), divisor.map_or(1000, Quantity::millis))),
        "memory" => Some(ceiling(amount.map_or(node.memory, Quantity::units), divisor.map_or(1, Quantity::units))),
        _ => None,
    }
}
