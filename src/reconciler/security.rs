//! What a pod's `securityContext` makes of a container: who it is, what it may do, what it shares with
//! the device. The restricted profile is the default; what goes beyond it is given only where the
//! device's own settings allow it, and a refusal names the setting.
//!
//! Where pod and container both speak, the container's word counts, as in Kubernetes.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, PodSpec, SeccompProfile, SecurityContext};

use super::container::{Confinement, Namespace, Namespaces, PodRef, Seccomp};
use super::spec::SpecError;
use crate::resource::{ImageConfig, capability};

/// Kernel settings that concern nobody but the pod: the list of Kubernetes.
const SAFE_SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];

/// Beginnings of the names of settings that each network or ipc namespace has for itself.
const NAMESPACED: [&str; 5] = ["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue.", "net."];

/// Ids of users and groups are at most this, as in Kubernetes.
const ID_MAX: i64 = 0x7fff_ffff;

/// What this device's settings let pods ask for beyond the restricted profile.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Containers with all powers over the device.
    pub allow_privileged: bool,
    /// Programs that gain privileges, such as `sudo`.
    pub allow_privilege_escalation: bool,
    /// Containers without a filter of system calls.
    pub allow_unconfined: bool,
    /// Pods that see the device's processes.
    pub allow_host_pid: bool,
    /// Pods that share the device's memory segments and queues.
    pub allow_host_ipc: bool,
    /// Capabilities beyond the safe ones; `ALL` is every one.
    pub allow_capabilities: Vec<String>,
    /// Kernel settings beyond the safe ones; `net.core.*` is all that begin so.
    pub allow_sysctls: Vec<String>,
    /// Folder of the profiles that `Localhost` names.
    pub seccomp_profiles: PathBuf,
    /// Folder of the processes that hold the pid namespaces of pods.
    pub holders_dir: PathBuf,
}

impl Policy {
    fn require(allowed: bool, what: impl Into<String>, setting: &str) -> Result<(), SpecError> {
        if allowed {
            return Ok(());
        }
        Err(SpecError::NotAllowed { what: what.into(), setting: format!("`{setting}` under [security]") })
    }
}

/// The user of a container.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct User {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
}

/// Who a container's program is.
pub(super) fn user(spec: &PodSpec, container: &Container, image: &ImageConfig) -> Result<User, SpecError> {
    let (own, whole) = (container.security_context.as_ref(), spec.security_context.as_ref());
    let asked = own.and_then(|own| own.run_as_user).or(whole.and_then(|whole| whole.run_as_user));
    let group = own.and_then(|own| own.run_as_group).or(whole.and_then(|whole| whole.run_as_group));
    let uid = asked.map_or(Ok(image.user.uid), |value| id("runAsUser", value))?;
    let default = if uid == image.user.uid { image.user.gid } else { 0 };
    let gid = group.map_or(Ok(default), |value| id("runAsGroup", value))?;
    let non_root = own.and_then(|own| own.run_as_non_root).or(whole.and_then(|whole| whole.run_as_non_root));
    if non_root == Some(true) && uid == 0 {
        return Err(SpecError::Root);
    }
    let listed = whole.into_iter().flat_map(|whole| {
        let named = whole.supplemental_groups.iter().flatten().map(|value| ("supplementalGroups", *value));
        named.chain(whole.fs_group.map(|value| ("fsGroup", value)))
    });
    let groups: BTreeSet<u32> = listed.map(|(field, value)| id(field, value)).collect::<Result<_, _>>()?;
    Ok(User { uid, gid, groups: groups.into_iter().collect() })
}

fn id(field: &'static str, value: i64) -> Result<u32, SpecError> {
    let fine = u32::try_from(value).ok().filter(|_| value <= ID_MAX);
    fine.ok_or(SpecError::Id { field, value })
}

fn is_privileged(own: Option<&SecurityContext>) -> bool {
    own.and_then(|own| own.privileged) == Some(true)
}

/// The short default list, with what is added of the allowed ones, less what is dropped.
pub(super) fn capabilities(container: &Container, policy: &Policy) -> Result<Vec<String>, SpecError> {
    let own = container.security_context.as_ref();
    let full = |names: BTreeSet<String>| names.into_iter().map(|name| format!("CAP_{name}")).collect();
    let every = || capability::CAPABILITIES.iter().map(|name| (*name).to_owned());
    if is_privileged(own) {
        return Ok(full(every().collect()));
    }
    let asked = own.and_then(|own| own.capabilities.as_ref());
    let names = |list: Option<&Vec<String>>| -> Vec<String> {
        list.into_iter().flatten().map(|name| capability::short(name)).collect()
    };
    let added = names(asked.and_then(|asked| asked.add.as_ref()));
    let dropped = names(asked.and_then(|asked| asked.drop.as_ref()));
    let mut kept: BTreeSet<String> = capability::DEFAULT.iter().map(|name| (*name).to_owned()).collect();
    if added.iter().any(|name| name == "ALL") {
        allow(policy, "ALL")?;
        kept.extend(every());
    }
    if dropped.iter().any(|name| name == "ALL") {
        kept.clear();
    }
    for name in added.iter().filter(|name| *name != "ALL") {
        allow(policy, name)?;
        kept.insert(name.clone());
    }
    kept.retain(|name| !dropped.contains(name));
    Ok(full(kept))
}

fn allow(policy: &Policy, name: &str) -> Result<(), SpecError> {
    if name != "ALL" && capability::number(name).is_none() {
        return Err(SpecError::NotPossible(format!("{name} is not a capability of Linux")));
    }
    let safe = capability::DEFAULT.contains(&name) || capability::SAFE.contains(&name);
    let allowed = policy.allow_capabilities.iter().map(|allowed| capability::short(allowed));
    let allowed = safe || policy.allow_privileged || allowed.into_iter().any(|known| known == name || known == "ALL");
    Policy::require(allowed, format!("capability {name}"), &format!("allow_capabilities = [\"{name}\"]"))
}

/// What holds a container back.
pub(super) fn confinement(spec: &PodSpec, container: &Container, policy: &Policy) -> Result<Confinement, SpecError> {
    let (own, whole) = (container.security_context.as_ref(), spec.security_context.as_ref());
    let privileged = is_privileged(own);
    let own_users = spec.host_users == Some(false);
    if privileged {
        Policy::require(policy.allow_privileged, "privileged: true", "allow_privileged = true")?;
        if own_users {
            let text = "a container can not be privileged and have users of its own: drop privileged: true, or set \
                        hostUsers: true";
            return Err(SpecError::NotPossible(text.into()));
        }
    }
    // Kubernetes' default is true; a container that wants it here has to say so.
    let escalates = own.and_then(|own| own.allow_privilege_escalation) == Some(true);
    if escalates && !privileged {
        let allowed = policy.allow_privilege_escalation || policy.allow_privileged;
        Policy::require(allowed, "allowPrivilegeEscalation: true", "allow_privilege_escalation = true")?;
    }
    let unmasked = own.and_then(|own| own.proc_mount.as_deref()) == Some("Unmasked");
    if unmasked && !own_users {
        let what = "procMount: Unmasked without hostUsers: false";
        Policy::require(policy.allow_privileged, what, "allow_privileged = true")?;
    }
    let profile = own.and_then(|own| own.seccomp_profile.as_ref());
    let profile = profile.or(whole.and_then(|whole| whole.seccomp_profile.as_ref()));
    let strict = whole.and_then(|whole| whole.supplemental_groups_policy.as_deref()) == Some("Strict");
    Ok(Confinement {
        privileged,
        no_new_privileges: !(escalates || privileged),
        seccomp: seccomp(profile, privileged, policy)?,
        sysctls: sysctls(spec, policy)?,
        unmasked_proc: privileged || unmasked,
        image_groups: !strict,
    })
}

fn seccomp(profile: Option<&SeccompProfile>, privileged: bool, policy: &Policy) -> Result<Seccomp, SpecError> {
    if privileged {
        return Ok(Seccomp::Unconfined);
    }
    let Some(profile) = profile else { return Ok(Seccomp::Default) };
    match profile.type_.as_str() {
        "RuntimeDefault" => Ok(Seccomp::Default),
        "Unconfined" => {
            let allowed = policy.allow_unconfined || policy.allow_privileged;
            Policy::require(allowed, "seccompProfile type Unconfined", "allow_unconfined = true")?;
            Ok(Seccomp::Unconfined)
        }
        "Localhost" => {
            let name = Path::new(profile.localhost_profile.as_deref().unwrap_or_default());
            let inside = name.components().all(|part| matches!(part, Component::Normal(_)));
            if name.as_os_str().is_empty() || !inside {
                let text = format!(
                    "localhostProfile {:?} must be the path of a file below {}, without ..",
                    name.display().to_string(),
                    policy.seccomp_profiles.display()
                );
                return Err(SpecError::NotPossible(text));
            }
            Ok(Seccomp::File(policy.seccomp_profiles.join(name)))
        }
        other => Err(SpecError::NotPossible(format!("seccompProfile type {other:?} is not known"))),
    }
}

/// Kernel settings of the pod. Those that would be the device's own are refused.
fn sysctls(spec: &PodSpec, policy: &Policy) -> Result<Vec<(String, String)>, SpecError> {
    let asked = spec.security_context.iter().flat_map(|whole| whole.sysctls.iter().flatten());
    let mut settings = Vec::new();
    for sysctl in asked {
        let name = sysctl.name.replace('/', ".");
        if !NAMESPACED.iter().any(|start| name.starts_with(start)) {
            let text = format!("sysctl {name} is a setting of the whole device: no pod can have its own");
            return Err(SpecError::NotPossible(text));
        }
        let (field, shared) =
            if name.starts_with("net.") { ("hostNetwork", spec.host_network) } else { ("hostIPC", spec.host_ipc) };
        if shared == Some(true) {
            let text = format!("sysctl {name} would be set for the whole device, as the pod has {field}: true");
            return Err(SpecError::NotPossible(text));
        }
        let allowed = policy.allow_sysctls.iter().any(|allowed| match allowed.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => *allowed == name,
        });
        let allowed = allowed || SAFE_SYSCTLS.contains(&name.as_str());
        Policy::require(allowed, format!("sysctl {name}"), &format!("allow_sysctls = [\"{name}\"]"))?;
        settings.push((name, sysctl.value.clone()));
    }
    Ok(settings)
}

/// Which namespaces a container shares beyond those that are decided elsewhere.
pub(super) fn namespaces(
    spec: &PodSpec,
    policy: &Policy,
    pod: &PodRef,
    mut namespaces: Namespaces,
) -> Result<Namespaces, SpecError> {
    let own_users = spec.host_users == Some(false);
    if spec.host_pid == Some(true) {
        let allowed = policy.allow_host_pid || policy.allow_privileged;
        Policy::require(allowed, "hostPID: true", "allow_host_pid = true")?;
        namespaces.pid = Namespace::Host;
    }
    if spec.host_ipc == Some(true) {
        let allowed = policy.allow_host_ipc || policy.allow_privileged;
        Policy::require(allowed, "hostIPC: true", "allow_host_ipc = true")?;
        namespaces.ipc = Namespace::Host;
    }
    let shared = spec.share_process_namespace == Some(true);
    if own_users && (shared || spec.host_pid == Some(true) || spec.host_ipc == Some(true)) {
        let text = "a pod with hostUsers: false can not have hostPID, hostIPC or shareProcessNamespace: its users are \
                    nobody there";
        return Err(SpecError::NotPossible(text.into()));
    }
    if shared && spec.host_pid == Some(true) {
        let text = "hostPID and shareProcessNamespace can not both be true";
        return Err(SpecError::NotPossible(text.into()));
    }
    if shared {
        namespaces.pid = Namespace::At(policy.holders_dir.join(&pod.uid));
    }
    Ok(namespaces)
}
