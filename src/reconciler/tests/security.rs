use std::sync::Arc;

use super::specs::{spec_of, spec_with};
use super::*;
use crate::reconciler::container::{Confinement, ContainerSpec, Namespace, Seccomp};
use crate::resource::capability;

#[test]
fn users_and_groups() {
    let user = |container: &Value, pod: &Value| {
        let spec = spec_of(container, &json!({"spec": {"securityContext": pod}}))?;
        Ok((spec.uid, spec.gid, spec.groups))
    };
    let plain = json!({"name": "web"});
    assert_eq!(user(&plain, &json!({})), Ok((33, 34, vec![])));
    assert_eq!(
        user(&plain, &json!({"runAsUser": 5, "supplementalGroups": [9, 8], "fsGroup": 9})),
        Ok((5, 0, vec![8, 9]))
    );
    let own = json!({"name": "web", "securityContext": {"runAsUser": 6, "runAsGroup": 7}});
    assert_eq!(user(&own, &json!({"runAsUser": 5})), Ok((6, 7, vec![])));
    let root = json!({"name": "web", "securityContext": {"runAsUser": 0, "runAsNonRoot": true}});
    assert_eq!(user(&root, &json!({})), Err(SpecError::Root));
    assert!(user(&root, &json!({"runAsNonRoot": false})).is_err(), "the container's word counts");
    for value in [-1, 0x8000_0000_i64] {
        let odd = json!({"name": "web", "securityContext": {"runAsUser": value}});
        assert_eq!(user(&odd, &json!({})), Err(SpecError::Id { field: "runAsUser", value }));
    }
}

fn allowing(change: impl FnOnce(&mut Policy)) -> Settings {
    let mut policy =
        Policy { seccomp_profiles: "/profiles".into(), holders_dir: "/run/kith/holders".into(), ..Policy::default() };
    change(&mut policy);
    Settings { security: Arc::new(policy), ..Settings::default() }
}

/// What is made of a container's and a pod's securityContext and fields under a device's settings.
fn made(container: &Value, pod: &Value, settings: &Settings) -> Result<ContainerSpec, SpecError> {
    spec_with(&json!({"name": "web", "securityContext": container}), &json!({"spec": pod}), settings)
}

#[test]
fn nothing_said_is_the_restricted_profile() {
    let spec = made(&json!({}), &json!({}), &allowing(|_| {})).unwrap();
    assert_eq!(spec.confinement, Confinement { image_groups: true, ..Confinement::default() });
    assert!(spec.confinement.no_new_privileges && !spec.confinement.privileged);
    assert_eq!(spec.capabilities.len(), capability::DEFAULT.len());
    assert_eq!((spec.namespaces.pid, spec.namespaces.user), (Namespace::Own, None));
    assert!(spec.devices.is_empty() && !spec.read_only_root);
}

#[test]
fn capabilities_follow_kubernetes_and_the_devices_settings() {
    let kept = |text: &Value, settings: &Settings| {
        made(&json!({"capabilities": text}), &json!({}), settings).map(|spec| spec.capabilities)
    };
    let strict = allowing(|_| {});
    assert_eq!(
        kept(&json!({"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}), &strict).unwrap(),
        ["CAP_NET_BIND_SERVICE"]
    );
    assert!(kept(&json!({"drop": ["CAP_KILL"]}), &strict).unwrap().iter().all(|name| name != "CAP_KILL"));
    assert_eq!(kept(&json!({"drop": ["ALL", "KILL"], "add": ["KILL"]}), &strict).unwrap(), Vec::<String>::new());
    let error = kept(&json!({"add": ["net_admin"]}), &strict).unwrap_err().to_string();
    assert!(error.contains("NET_ADMIN") && error.contains("allow_capabilities = [\"NET_ADMIN\"]"), "{error}");
    assert!(error.contains("agent.toml") && error.contains("[security]"), "{error}");
    let open = allowing(|policy| policy.allow_capabilities = vec!["CAP_net_admin".into()]);
    assert!(kept(&json!({"add": ["NET_ADMIN"]}), &open).unwrap().contains(&"CAP_NET_ADMIN".to_owned()));
    assert!(kept(&json!({"add": ["ALL"]}), &open).is_err());
    let wide = allowing(|policy| policy.allow_capabilities = vec!["ALL".into()]);
    assert_eq!(kept(&json!({"add": ["ALL"]}), &wide).unwrap().len(), capability::CAPABILITIES.len());
    assert_eq!(kept(&json!({"add": ["ALL"], "drop": ["SYS_ADMIN"]}), &wide).unwrap().len(), 40);
    assert!(kept(&json!({"add": ["FLY"]}), &wide).unwrap_err().to_string().contains("FLY is not a capability"));
}

#[test]
fn what_lifts_the_profile_has_to_be_allowed_and_says_by_what() {
    let strict = allowing(|_| {});
    let cases = [
        (json!({"privileged": true}), json!({}), "allow_privileged = true"),
        (json!({"allowPrivilegeEscalation": true}), json!({}), "allow_privilege_escalation = true"),
        (json!({"seccompProfile": {"type": "Unconfined"}}), json!({}), "allow_unconfined = true"),
        (json!({}), json!({"securityContext": {"seccompProfile": {"type": "Unconfined"}}}), "allow_unconfined = true"),
        (json!({"procMount": "Unmasked"}), json!({}), "allow_privileged = true"),
        (json!({}), json!({"hostPID": true}), "allow_host_pid = true"),
        (json!({}), json!({"hostIPC": true}), "allow_host_ipc = true"),
        (
            json!({}),
            json!({"hostNetwork": false, "securityContext": {"sysctls": [{"name": "net.core.somaxconn", "value": "9"}]}}),
            "allow_sysctls = [\"net.core.somaxconn\"]",
        ),
    ];
    for (container, pod, setting) in cases {
        let error = made(&container, &pod, &strict).unwrap_err().to_string();
        assert!(error.contains(setting) && error.contains("agent.toml"), "{error}");
    }
    let open = allowing(|policy| policy.allow_privileged = true);
    let spec = made(&json!({"privileged": true}), &json!({}), &open).unwrap();
    let lifted = spec.confinement;
    assert!(lifted.privileged && !lifted.no_new_privileges && lifted.unmasked_proc);
    assert_eq!((lifted.seccomp, spec.capabilities.len()), (Seccomp::Unconfined, 41));
    let open = allowing(|policy| policy.allow_privilege_escalation = true);
    let spec = made(&json!({"allowPrivilegeEscalation": true}), &json!({}), &open).unwrap();
    assert!(!spec.confinement.no_new_privileges && spec.confinement.seccomp == Seccomp::Default);
    // Users of its own make an unmasked /proc harmless.
    assert!(made(&json!({"procMount": "Unmasked"}), &json!({"hostUsers": false}), &strict).is_ok());
}

#[test]
fn profiles_lie_below_their_folder() {
    let named = |name: &str| {
        let profile = json!({"seccompProfile": {"type": "Localhost", "localhostProfile": name}});
        made(&profile, &json!({}), &allowing(|_| {})).map(|spec| spec.confinement.seccomp)
    };
    assert_eq!(named("team/web.json"), Ok(Seccomp::File("/profiles/team/web.json".into())));
    for name in ["", "/etc/passwd", "../web.json", "a/../../b"] {
        assert!(named(name).unwrap_err().to_string().contains("below /profiles"), "{name}");
    }
    // The container's own profile counts before the pod's.
    let pod = json!({"securityContext": {"seccompProfile": {"type": "Localhost", "localhostProfile": "pod.json"}}});
    let own = json!({"seccompProfile": {"type": "RuntimeDefault"}});
    assert_eq!(made(&own, &pod, &allowing(|_| {})).unwrap().confinement.seccomp, Seccomp::Default);
}

#[test]
fn kernel_settings_are_the_pods_own_or_refused() {
    let set = |name: &str, pod: &Value| {
        let mut whole = json!({"hostNetwork": false, "securityContext": {"sysctls": [{"name": name, "value": "1"}]}});
        merge(&mut whole, pod);
        made(&json!({}), &whole, &allowing(|policy| policy.allow_sysctls = vec!["net.core.*".into()]))
            .map(|spec| spec.confinement.sysctls)
            .map_err(|error| error.to_string())
    };
    assert_eq!(set("net.ipv4.tcp_syncookies", &json!({})).unwrap(), [("net.ipv4.tcp_syncookies".into(), "1".into())]);
    assert!(set("kernel/shm_rmid_forced", &json!({})).is_ok());
    assert!(set("net.core.somaxconn", &json!({})).is_ok());
    assert!(set("net.ipv4.tcp_syncookies", &json!({"hostNetwork": true})).unwrap_err().contains("hostNetwork"));
    assert!(set("kernel.shm_rmid_forced", &json!({"hostIPC": true})).unwrap_err().contains("hostIPC"));
    assert!(set("vm.swappiness", &json!({})).unwrap_err().contains("whole device"));
}

#[test]
fn processes_are_shared_in_the_pods_own_folder() {
    let strict = allowing(|_| {});
    let spec = made(&json!({}), &json!({"shareProcessNamespace": true}), &strict).unwrap();
    assert_eq!(spec.namespaces.pid, Namespace::At("/run/kith/holders/u1".into()));
    let both = json!({"shareProcessNamespace": true, "hostPID": true});
    assert!(made(&json!({}), &both, &allowing(|policy| policy.allow_host_pid = true)).is_err());
    let users = json!({"shareProcessNamespace": true, "hostUsers": false});
    assert!(made(&json!({}), &users, &strict).unwrap_err().to_string().contains("hostUsers"));
}
