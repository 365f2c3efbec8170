//! The system calls that a container may make: an allow list in the manner of Docker's, or a profile
//! from a file of the device, for the device's own architecture only. A filter that can not be made
//! or applied stops the start.

#![expect(clippy::disallowed_methods, reason = "reads profiles")]

mod bpf;
mod calls;
mod numbers;
mod profile;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use nix::libc::{self, sock_filter};

use crate::reconciler::container::{ContainerSpec, Seccomp};
use bpf::{Compare, Condition, Rule, Rules};

/// What a filter can answer: `SECCOMP_RET_*`.
const RET_ALLOW: u32 = 0x7fff_0000;
const RET_LOG: u32 = 0x7ffc_0000;
const RET_TRAP: u32 = 0x0003_0000;
const RET_KILL_THREAD: u32 = 0;
const RET_KILL_PROCESS: u32 = 0x8000_0000;
const ERRNO: u32 = 0x0005_0000;

const EPERM: u32 = ERRNO | 1;
const ENOSYS: u32 = ERRNO | 0x26;

/// Bits of `clone` that make namespaces: all but `CLONE_NEWTIME`, which only `clone3` takes.
const CLONE_NAMESPACES: u64 = 0x7E02_0000;

/// Execution domains that are harmless: Linux, 32-bit, both without old quirks, and "which one?".
const PERSONALITIES: [u64; 5] = [0x0, 0x0008, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// Families of sockets that no container opens: `AF_VSOCK` reaches the hypervisor, `AF_ALG` a large and
/// fragile part of the kernel.
const FORBIDDEN_FAMILIES: [u64; 2] = [40, 38];

/// Longest profile that is read, in bytes.
const PROFILE_LIMIT: u64 = 1 << 20;

/// An architecture: the kernel's word for it, Docker's, and its calls.
#[derive(Clone, Copy)]
struct Architecture {
    audit: u32,
    name: &'static str,
    calls: &'static [(&'static str, u32)],
}

#[cfg(any(target_arch = "x86_64", test))]
const X86_64: Architecture = Architecture { audit: 0xc000_003e, name: "amd64", calls: numbers::X86_64 };
#[cfg(any(target_arch = "aarch64", test))]
const AARCH64: Architecture = Architecture { audit: 0xc000_00b7, name: "arm64", calls: numbers::AARCH64 };
#[cfg(any(target_arch = "arm", test))]
const ARM: Architecture = Architecture { audit: 0x4000_0028, name: "arm", calls: numbers::ARM };

#[cfg(target_arch = "x86_64")]
const NATIVE: Architecture = X86_64;
#[cfg(target_arch = "aarch64")]
const NATIVE: Architecture = AARCH64;
#[cfg(target_arch = "arm")]
const NATIVE: Architecture = ARM;

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "arm")))]
compile_error!("there are no numbers of system calls for this architecture in src/runtime/shim/seccomp/numbers.rs");

/// The number of a call on this architecture.
fn number(name: &str) -> Option<u32> {
    number_on(NATIVE, name)
}

fn number_on(architecture: Architecture, name: &str) -> Option<u32> {
    let found = architecture.calls.binary_search_by(|(known, _)| (*known).cmp(name)).ok()?;
    Some(architecture.calls[found].1)
}

/// A compiled filter.
#[derive(Clone)]
pub(super) struct Filters {
    /// Empty where a container is unconfined.
    program: Vec<sock_filter>,
    no_new_privileges: bool,
}

impl Filters {
    /// Whether it has to be applied before rights are given up: a program that may gain privileges
    /// can be filtered only by who has `CAP_SYS_ADMIN`.
    pub(super) fn needs_rights(&self) -> bool {
        !self.no_new_privileges
    }

    /// Applies it to this process, for good. A container that may gain privileges needs it to be
    /// applied by a process that has `CAP_SYS_ADMIN` still.
    #[expect(unsafe_code, reason = "prctl and seccomp have no safe wrapper")]
    pub(super) fn apply(&self) -> Result<(), String> {
        // SAFETY: plain numbers.
        if self.no_new_privileges && unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
            return Err(io::Error::last_os_error().to_string());
        }
        if self.program.is_empty() {
            return Ok(());
        }
        let len = u16::try_from(self.program.len()).map_err(|error| error.to_string())?;
        let program = libc::sock_fprog { len, filter: self.program.as_ptr().cast_mut() };
        // SAFETY: the kernel copies a program of the length given, which outlives the call, and does not write to it.
        let applied = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
        if applied == 0 { Ok(()) } else { Err(io::Error::last_os_error().to_string()) }
    }
}

/// Compiles the filter of a container.
pub(super) fn filters(spec: &ContainerSpec) -> Result<Filters, String> {
    let no_new_privileges = spec.confinement.no_new_privileges;
    let rules = match &spec.confinement.seccomp {
        Seccomp::Unconfined => return Ok(Filters { program: Vec::new(), no_new_privileges }),
        Seccomp::Default => default_rules(NATIVE, &spec.capabilities),
        Seccomp::File(path) => from_file(path, &spec.capabilities)?,
    };
    let program = bpf::compile(&rules, NATIVE.audit).map_err(|error| format!("compile the seccomp filter: {error}"))?;
    Ok(Filters { program, no_new_privileges })
}

fn from_file(path: &Path, capabilities: &[String]) -> Result<Rules, String> {
    let failed = |reason: String| format!("read the seccomp profile {}: {reason}", path.display());
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(PROFILE_LIMIT + 1).read_to_end(&mut bytes));
    read.map_err(|error| failed(error.to_string()))?;
    if bytes.len() as u64 > PROFILE_LIMIT {
        return Err(failed(format!("it is longer than {PROFILE_LIMIT} bytes")));
    }
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let kernel = profile::version(&release).unwrap_or_default();
    let around = profile::Surroundings { architecture: NATIVE.name, capabilities, kernel };
    profile::parse(&bytes, &around).map_err(failed)
}

/// Kith's own rules for a container that keeps these capabilities.
fn default_rules(architecture: Architecture, capabilities: &[String]) -> Rules {
    let allow = || vec![Rule { conditions: Vec::new(), action: RET_ALLOW }];
    let number = |name: &str| number_on(architecture, name);
    let mut calls: BTreeMap<u32, Vec<Rule>> = BTreeMap::new();
    for call in calls::ALWAYS.iter().filter_map(|name| number(name)) {
        calls.insert(call, allow());
    }
    for (name, rules) in conditional() {
        calls.extend(number(name).map(|call| (call, rules)));
    }
    for (capability, granted) in calls::BY_CAPABILITY {
        if capabilities.iter().any(|kept| kept == capability) {
            calls.extend(granted.iter().filter_map(|name| Some((number(name)?, allow()))));
        }
    }
    // No filter can see the arguments of `clone3`; C libraries then fall back to what they used before.
    calls.extend(number("clone3").map(|call| (call, vec![Rule { conditions: Vec::new(), action: ENOSYS }])));
    Rules { calls, otherwise: EPERM, newest: calls::NEWEST, unknown: ENOSYS }
}

/// Calls that depend on their arguments. The kernel takes all of these as 32 bits.
fn conditional() -> [(&'static str, Vec<Rule>); 3] {
    let when = |compare: &[Compare]| Rule {
        conditions: compare.iter().map(|compare| Condition { argument: 0, compare: *compare, wide: false }).collect(),
        action: RET_ALLOW,
    };
    let domains = PERSONALITIES.iter().map(|domain| when(&[Compare::Equal(*domain)])).collect();
    let families = FORBIDDEN_FAMILIES.map(Compare::NotEqual);
    let plain = Compare::Masked { mask: CLONE_NAMESPACES, value: 0 };
    [("personality", domains), ("clone", vec![when(&[plain])]), ("socket", vec![when(&families)])]
}
