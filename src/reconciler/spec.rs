//! From a pod's container and its image to what the runtime starts: no decision is left after it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

use super::container::{Console, ContainerRef, ContainerSpec, Limits};
use super::env::{self, Sources};
use super::expand::expand;
use super::sandbox::ReadySandbox;
use super::security;
use super::target::{NodeContext, Settings, Target};
use super::volumes;
use crate::resource::quantity::NotAQuantity;
use crate::resource::{ImageConfig, footprint};

/// The least CPU weight, in shares.
const SHARES_MIN: u64 = 2;

/// Why a container can not be started as it is described: the reason of its waiting state follows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// A config map is missing.
    #[error("configmap {name:?} not found")]
    ConfigMap {
        /// The config map.
        name: String,
    },
    /// A key of a config map is missing.
    #[error("couldn't find key {key} in ConfigMap {name:?}")]
    ConfigKey {
        /// The config map.
        name: String,
        /// The key.
        key: String,
    },
    /// A secret is missing.
    #[error("secret {name:?} not found")]
    Secret {
        /// The secret.
        name: String,
    },
    /// A key of a secret is missing.
    #[error("couldn't find key {key} in Secret {name:?}")]
    SecretKey {
        /// The secret.
        name: String,
        /// The key.
        key: String,
    },
    /// A secret is there, but its values are not known on this device yet.
    #[error("secret {name:?} can not be opened yet: {why}")]
    Sealed {
        /// The secret.
        name: String,
        /// Why not.
        why: String,
    },
    /// A volume can not be mounted as it is described.
    #[error("volume {volume:?}: {why}")]
    Mount {
        /// The volume.
        volume: String,
        /// Why not.
        why: String,
    },
    /// A variable refers to a field that it can not have.
    #[error("variable {variable} refers to {path:?}, which is not a field that a variable can have")]
    Field {
        /// The variable.
        variable: String,
        /// The path.
        path: String,
    },
    /// Neither pod nor image names a program.
    #[error("no command specified: neither the image nor the container names a program; set `command`")]
    NoCommand,
    /// The container must not run as root, but would.
    #[error("container has runAsNonRoot and would run as root: set `runAsUser`, or use an image with a user")]
    Root,
    /// A user or group id is out of range.
    #[error("{field} is {value}, but must be between 0 and 2147483647")]
    Id {
        /// The field.
        field: &'static str,
        /// What it says.
        value: i64,
    },
    /// Something that this device's settings do not allow.
    #[error("{what} is not allowed on this device: its agent.toml would have to say {setting}")]
    NotAllowed {
        /// What the pod asks for.
        what: String,
        /// The line that allows it.
        setting: String,
    },
    /// Something that can not be given anywhere, or not together with something else.
    #[error("{0}")]
    NotPossible(String),
    /// A limit or request can not be read.
    #[error("resources: {0}")]
    Quantity(NotAQuantity),
}

impl From<NotAQuantity> for SpecError {
    fn from(found: NotAQuantity) -> Self {
        Self::Quantity(found)
    }
}

/// Everything that a runtime needs to start one attempt of a container.
pub fn container_spec(
    reference: ContainerRef,
    pod: &Pod,
    container: &Container,
    image: &ImageConfig,
    target: &Target,
    sandbox: &ReadySandbox,
) -> Result<ContainerSpec, SpecError> {
    let Target { node, settings, .. } = target;
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let hostname = sandbox.hostname.clone();
    let pod_ip = sandbox.address.map_or_else(|| node.ip.clone(), |address| address.to_string());
    let sources = Sources { pod, container, target, pod_ip };
    let variables = env::variables(&sources, image, &hostname)?;
    let args = command(container, image, &variables.own)?;
    let user = security::user(spec, container, image)?;
    let confinement = security::confinement(spec, container, &settings.security)?;
    let working_dir = container.working_dir.as_deref().map(|dir| expand(dir, &variables.own));
    let working_dir = working_dir.filter(|dir| !dir.is_empty()).unwrap_or_else(|| image.working_dir.clone());
    Ok(ContainerSpec {
        image: container.image.clone().unwrap_or_default(),
        args,
        env: variables.all,
        working_dir: if working_dir.starts_with('/') { working_dir } else { format!("/{working_dir}") },
        uid: user.uid,
        gid: user.gid,
        groups: user.groups,
        hostname,
        limits: limits(container, settings)?,
        capabilities: security::capabilities(container, &settings.security)?,
        stop_signal: image.stop_signal.clone(),
        read_only_root: container.security_context.as_ref().and_then(|security| security.read_only_root_filesystem)
            == Some(true),
        oom_score_adj: oom_score_adj(spec, container, node)?,
        mounts: volumes::mounts(pod, container, &target.places, &variables.own)?,
        namespaces: security::namespaces(spec, &settings.security, &reference.pod, sandbox.namespaces())?,
        sandbox: Some(sandbox.folder.clone()),
        reference,
        confinement,
        devices: Vec::new(),
        last_words: None,
        console: console(container),
        leash_ms: None,
    })
}

fn console(container: &Container) -> Console {
    let stdin = container.stdin == Some(true);
    Console { stdin, once: stdin && container.stdin_once == Some(true), tty: container.tty == Some(true) }
}

/// `command` replaces the image's entrypoint and its arguments; `args` only the arguments.
fn command(
    container: &Container,
    image: &ImageConfig,
    own: &BTreeMap<String, String>,
) -> Result<Vec<String>, SpecError> {
    let given = |list: &Option<Vec<String>>| list.as_ref().filter(|list| !list.is_empty()).cloned();
    let expanded = |list: Vec<String>| list.iter().map(|text| expand(text, own)).collect::<Vec<_>>();
    let mut all = match given(&container.command) {
        Some(command) => expanded(command),
        None => image.entrypoint.clone(),
    };
    match given(&container.args) {
        Some(args) => all.extend(expanded(args)),
        None if given(&container.command).is_none() => all.extend(image.cmd.iter().cloned()),
        None => {}
    }
    if all.first().is_none_or(String::is_empty) { Err(SpecError::NoCommand) } else { Ok(all) }
}

fn limits(container: &Container, settings: &Settings) -> Result<Limits, SpecError> {
    let memory = footprint::limit(container, "memory")?.map(crate::resource::Quantity::units);
    let cpu = footprint::limit(container, "cpu")?.map(crate::resource::Quantity::millis);
    let requested = footprint::request(container, "cpu")?.map_or(0, crate::resource::Quantity::millis);
    Ok(Limits {
        memory: memory.filter(|bytes| *bytes > 0),
        cpu: cpu.filter(|millis| *millis > 0),
        cpu_shares: (requested.saturating_mul(1024) / 1000).max(SHARES_MIN),
        pids: settings.pids_limit,
    })
}

/// Kubernetes' order of who is killed first when memory runs out.
fn oom_score_adj(spec: &PodSpec, container: &Container, node: &NodeContext) -> Result<i32, SpecError> {
    Ok(match footprint::qos_class(spec) {
        "Guaranteed" => -997,
        "BestEffort" => 1000,
        _ => {
            let requested = footprint::request(container, "memory")?.map_or(0, crate::resource::Quantity::units);
            let share = requested.saturating_mul(1000).checked_div(node.memory).unwrap_or(0);
            i32::try_from(1000u64.saturating_sub(share).clamp(3, 999)).unwrap_or(999)
        }
    })
}
