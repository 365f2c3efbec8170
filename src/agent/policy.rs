//! The settings about pods, as the reconciler takes them.

use crate::config::Config;
use crate::reconciler::Policy;

/// What pods may ask for beyond the restricted profile.
pub(super) fn of(config: &Config) -> Policy {
    let allowed = &config.security;
    Policy {
        allow_privileged: allowed.allow_privileged,
        allow_privilege_escalation: allowed.allow_privilege_escalation,
        allow_unconfined: allowed.allow_unconfined,
        allow_host_pid: allowed.allow_host_pid,
        allow_host_ipc: allowed.allow_host_ipc,
        allow_capabilities: allowed.allow_capabilities.clone(),
        allow_sysctls: allowed.allow_sysctls.clone(),
        seccomp_profiles: allowed.seccomp_profiles.clone(),
        holders_dir: config.run_dir.join("holders"),
    }
}
