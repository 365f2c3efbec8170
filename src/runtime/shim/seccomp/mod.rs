//! The system calls that a container may make: an allow list in the manner of Docker's, for the
//! device's own architecture only. A filter that can not be made or applied stops the start.

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod calls;

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(super) use unsupported::{Filters, filters};

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(super) use native::{Filters, filters};

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod unsupported {
    /// There is no filter here yet.
    #[derive(Clone)]
    pub(in super::super) enum Filters {}

    impl Filters {
        pub(in super::super) fn apply(&self) -> Result<(), String> {
            match *self {}
        }
    }

    /// Refuses: a container without a filter is not started.
    pub(in super::super) fn filters(_: &[String]) -> Result<Filters, String> {
        Err(format!(
            "no seccomp filter for {} in this version of kith: containers are not started",
            std::env::consts::ARCH
        ))
    }
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod native {
    use std::collections::BTreeMap;

    use nix::libc;
    use seccompiler::{
        BpfProgram, SeccompAction, SeccompCmpArgLen as Width, SeccompCmpOp as Op, SeccompCondition, SeccompFilter,
        SeccompRule, TargetArch, apply_filter, sock_filter,
    };

    use super::calls;

    /// Bits of `clone` that make namespaces: all but `CLONE_NEWTIME`, which only `clone3` takes.
    const CLONE_NAMESPACES: u64 = 0x7E02_0000;

    /// Execution domains that are harmless: Linux, 32-bit, both without old quirks, and "which one?".
    const PERSONALITIES: [u64; 5] = [0x0, 0x0008, 0x2_0000, 0x2_0008, 0xffff_ffff];

    /// Compiled filters, in the order in which they are applied.
    #[derive(Clone)]
    pub(in super::super) struct Filters {
        unknown: BpfProgram,
        allow: BpfProgram,
    }

    impl Filters {
        /// Applies them to this process, for good.
        pub(in super::super) fn apply(&self) -> Result<(), String> {
            // The kernel takes the strictest answer of both, and the later filter's number when both refuse.
            apply_filter(&self.allow).and_then(|()| apply_filter(&self.unknown)).map_err(|error| error.to_string())
        }
    }

    /// Compiles the filters for a container that keeps these capabilities.
    pub(in super::super) fn filters(capabilities: &[String]) -> Result<Filters, String> {
        let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(|error| error.to_string())?;
        let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
        for call in calls::ALWAYS.iter().chain(calls::NATIVE) {
            rules.insert(*call, Vec::new());
        }
        conditional(&mut rules).map_err(|error| error.to_string())?;
        for (capability, granted) in calls::BY_CAPABILITY {
            if capabilities.iter().any(|kept| kept == capability) {
                rules.extend(granted.iter().map(|call| (*call, Vec::new())));
            }
        }
        let refuse = SeccompAction::Errno(libc::EPERM.unsigned_abs());
        let filter = SeccompFilter::new(rules, refuse, SeccompAction::Allow, arch);
        let allow =
            filter.and_then(BpfProgram::try_from).map_err(|error| format!("compile the seccomp filter: {error}"))?;
        Ok(Filters { unknown: answer_enosys(), allow })
    }

    fn conditional(rules: &mut BTreeMap<i64, Vec<SeccompRule>>) -> Result<(), seccompiler::BackendError> {
        let is = |argument, op, value| SeccompCondition::new(argument, Width::Dword, op, value);
        let mut domains = Vec::new();
        for domain in PERSONALITIES {
            domains.push(SeccompRule::new(vec![is(0, Op::Eq, domain)?])?);
        }
        rules.insert(libc::SYS_personality, domains);
        rules.insert(libc::SYS_clone, vec![SeccompRule::new(vec![is(0, Op::MaskedEq(CLONE_NAMESPACES), 0)?])?]);
        // AF_VSOCK reaches the hypervisor, AF_ALG a large and fragile part of the kernel.
        let families = [libc::AF_VSOCK, libc::AF_ALG].map(|family| is(0, Op::Ne, u64::from(family.unsigned_abs())));
        let [vsock, alg] = families;
        rules.insert(libc::SYS_socket, vec![SeccompRule::new(vec![vsock?, alg?])?]);
        Ok(())
    }

    /// Answers "no such call" to what this list does not know yet, and to `clone3`, whose arguments no
    /// filter can see: C libraries then fall back to what they used before.
    fn answer_enosys() -> BpfProgram {
        const LOAD_NUMBER: u16 = 0x20;
        const JUMP_IF_EQUAL: u16 = 0x15;
        const JUMP_IF_GREATER: u16 = 0x25;
        const RETURN: u16 = 0x06;
        let enosys = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs();
        let call = |number: i64| u32::try_from(number).unwrap_or(u32::MAX);
        vec![
            sock_filter { code: LOAD_NUMBER, jt: 0, jf: 0, k: 0 },
            sock_filter { code: JUMP_IF_EQUAL, jt: 2, jf: 0, k: call(libc::SYS_clone3) },
            sock_filter { code: JUMP_IF_GREATER, jt: 1, jf: 0, k: call(calls::NEWEST) },
            sock_filter { code: RETURN, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW },
            sock_filter { code: RETURN, jt: 0, jf: 0, k: enosys },
        ]
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn the_filter_compiles_and_fits_the_kernel() {
            let filters = filters(&["CAP_SYS_ADMIN".into(), "CAP_NET_BIND_SERVICE".into()]).unwrap();
            assert!((300..4096).contains(&filters.allow.len()), "{}", filters.allow.len());
            assert!(filters.allow.len() > super::filters(&[]).unwrap().allow.len());
        }

        #[test]
        fn dangerous_calls_are_not_on_the_list() {
            let open: Vec<i64> = calls::ALWAYS.iter().chain(calls::NATIVE).copied().collect();
            for call in [
                libc::SYS_mount,
                libc::SYS_umount2,
                libc::SYS_unshare,
                libc::SYS_setns,
                libc::SYS_bpf,
                libc::SYS_keyctl,
                libc::SYS_add_key,
                libc::SYS_kexec_load,
                libc::SYS_init_module,
                libc::SYS_io_uring_setup,
                libc::SYS_userfaultfd,
                libc::SYS_perf_event_open,
                libc::SYS_reboot,
                libc::SYS_open_by_handle_at,
                libc::SYS_clone,
                libc::SYS_clone3,
                libc::SYS_socket,
                libc::SYS_personality,
                libc::SYS_move_mount,
            ] {
                assert!(!open.contains(&call), "{call}");
            }
        }
    }
}
