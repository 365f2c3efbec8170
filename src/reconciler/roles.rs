//! The containers of a pod in the order of their lives, and what each is there for.

use std::borrow::Cow;

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, PodSpec};

/// What a container is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Runs to its end before the next one begins.
    Init,
    /// Begins in its turn among the init containers and runs beside the main ones: an init container
    /// with `restartPolicy: Always`.
    Sidecar,
    /// What the pod is for.
    Main,
    /// Added to a running pod to look at it.
    Ephemeral,
}

impl Role {
    /// The list of the spec that it stands in.
    pub(super) fn list(self) -> &'static str {
        match self {
            Self::Init | Self::Sidecar => "initContainers",
            Self::Main => "containers",
            Self::Ephemeral => "ephemeralContainers",
        }
    }
}

/// One container of a pod.
pub(super) struct Part<'a> {
    pub(super) role: Role,
    pub(super) container: Cow<'a, Container>,
    /// The container whose processes an ephemeral one sees.
    pub(super) beside: Option<&'a str>,
    /// `Always`, `OnFailure` or `Never`: what follows its end.
    pub(super) policy: &'a str,
}

/// All of them: init containers and sidecars in order, main ones, ephemeral ones.
pub(super) fn parts(spec: &PodSpec) -> Vec<Part<'_>> {
    let whole = spec.restart_policy.as_deref().unwrap_or("Always");
    let init = spec.init_containers.iter().flatten().map(|container| {
        let own = container.restart_policy.as_deref();
        let (role, policy) = match own.unwrap_or(whole) {
            "Always" if own.is_some() => (Role::Sidecar, "Always"),
            "Never" => (Role::Init, "Never"),
            _ => (Role::Init, "OnFailure"),
        };
        Part { role, container: Cow::Borrowed(container), beside: None, policy }
    });
    let main = spec.containers.iter().map(|container| Part {
        role: Role::Main,
        container: Cow::Borrowed(container),
        beside: None,
        policy: container.restart_policy.as_deref().unwrap_or(whole),
    });
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|added| Part {
        role: Role::Ephemeral,
        container: Cow::Owned(container(added)),
        beside: added.target_container_name.as_deref().filter(|name| !name.is_empty()),
        policy: "Never",
    });
    init.chain(main).chain(ephemeral).collect()
}

/// An ephemeral container says what any container may say, but for ports, limits, probes and hooks.
fn container(added: &EphemeralContainer) -> Container {
    let added = added.clone();
    Container {
        args: added.args,
        command: added.command,
        env: added.env,
        env_from: added.env_from,
        image: added.image,
        image_pull_policy: added.image_pull_policy,
        name: added.name,
        security_context: added.security_context,
        stdin: added.stdin,
        stdin_once: added.stdin_once,
        termination_message_path: added.termination_message_path,
        termination_message_policy: added.termination_message_policy,
        tty: added.tty,
        volume_devices: added.volume_devices,
        volume_mounts: added.volume_mounts,
        working_dir: added.working_dir,
        ..Container::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_init_container_that_always_restarts_is_a_sidecar() {
        let spec: PodSpec = serde_json::from_value(serde_json::json!({
            "initContainers": [{"name": "a"}, {"name": "b", "restartPolicy": "Always"}],
            "containers": [{"name": "c"}, {"name": "d", "restartPolicy": "Never"}],
            "ephemeralContainers": [{"name": "e", "image": "x", "targetContainerName": "c"}],
        }))
        .unwrap();
        let said: Vec<_> = parts(&spec)
            .iter()
            .map(|part| format!("{} {:?} {} {:?}", part.container.name, part.role, part.policy, part.beside))
            .collect();
        assert_eq!(
            said,
            [
                "a Init OnFailure None",
                "b Sidecar Always None",
                "c Main Always None",
                "d Main Never None",
                "e Ephemeral Never Some(\"c\")"
            ]
        );
        let never = PodSpec { restart_policy: Some("Never".into()), ..spec };
        let policies: Vec<_> = parts(&never).iter().map(|part| part.policy).collect();
        assert_eq!(policies, ["Never", "Always", "Never", "Never", "Never"]);
    }
}
