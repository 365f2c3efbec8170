//! Who a program in a container is: user, groups, capabilities, no new privileges, limits. Taken
//! from the container's own configuration, so that it can never be more than its first program.

use std::io;

use caps::{CapSet, CapsHashSet};
use libcontainer::oci_spec::runtime::{Capabilities, LinuxCapabilities, PosixRlimit, PosixRlimitType, Process};
use nix::libc;
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

use super::privileges;

/// Becomes the container's user, for good.
pub(super) fn assume(process: &Process) -> Result<(), String> {
    let sets = process.capabilities().clone();
    let sets = sets.as_ref();
    let wanted = |set: Option<&Option<Capabilities>>| named(set.and_then(Option::as_ref));
    let bounding = wanted(sets.map(LinuxCapabilities::bounding))?;
    let kept = bounding.iter().map(caps::Capability::bitmask).fold(0, |all, bit| all | bit);
    privileges::drop_bounding(kept).map_err(|error| format!("drop capabilities: {error}"))?;
    forget_keys();
    let user = process.user();
    let groups: Vec<Gid> = user.additional_gids().iter().flatten().map(|group| Gid::from_raw(*group)).collect();
    let (uid, gid) = (Uid::from_raw(user.uid()), Gid::from_raw(user.gid()));
    caps::securebits::set_keepcaps(true).map_err(|error| format!("keep capabilities: {error}"))?;
    setgroups(&groups).map_err(|error| format!("set the groups {groups:?}: {error}"))?;
    setresgid(gid, gid, gid).map_err(|error| format!("become group {gid}: {error}"))?;
    setresuid(uid, uid, uid).map_err(|error| format!("become user {uid}: {error}"))?;
    caps::securebits::set_keepcaps(false).map_err(|error| format!("keep capabilities: {error}"))?;
    // Changing the user emptied the effective set, and only that may be needed for the rest.
    let rest = [
        (CapSet::Effective, wanted(sets.map(LinuxCapabilities::effective))?),
        (CapSet::Permitted, wanted(sets.map(LinuxCapabilities::permitted))?),
        (CapSet::Inheritable, wanted(sets.map(LinuxCapabilities::inheritable))?),
        (CapSet::Ambient, wanted(sets.map(LinuxCapabilities::ambient))?),
    ];
    for (set, value) in rest {
        caps::set(None, set, &value).map_err(|error| format!("set the {set:?} capabilities: {error}"))?;
    }
    if process.no_new_privileges().unwrap_or(true) {
        forbid_new_privileges().map_err(|error| format!("forbid new privileges: {error}"))?;
    }
    if let Some(mask) = user.umask() {
        nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(mask));
    }
    Ok(())
}

fn named(set: Option<&Capabilities>) -> Result<CapsHashSet, String> {
    let names = set.into_iter().flatten().map(|capability| format!("CAP_{capability}"));
    names.map(|name| name.parse().map_err(|_| format!("{name} is not a capability"))).collect()
}

/// Keys of the device's session are no business of a container's. A kernel without keys is fine.
#[expect(unsafe_code, reason = "keyctl has no safe wrapper")]
fn forget_keys() {
    let none = std::ptr::null::<libc::c_char>();
    // SAFETY: a number and no name: joins a new, empty session keyring.
    unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, none) };
}

#[expect(unsafe_code, reason = "prctl")]
fn forbid_new_privileges() -> io::Result<()> {
    // SAFETY: plain numbers.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Sets the container's limits of resources.
#[expect(unsafe_code, reason = "setrlimit by number")]
pub(super) fn limit(limits: &[PosixRlimit]) -> Result<(), String> {
    for limit in limits {
        let value = libc::rlimit64 { rlim_cur: limit.soft(), rlim_max: limit.hard() };
        // SAFETY: a known resource and a structure that outlives the call.
        if unsafe { libc::setrlimit64(resource(limit.typ()), &raw const value) } != 0 {
            return Err(format!("set {}: {}", limit.typ(), io::Error::last_os_error()));
        }
    }
    Ok(())
}

#[cfg(target_env = "gnu")]
type Resource = libc::__rlimit_resource_t;
#[cfg(not(target_env = "gnu"))]
type Resource = libc::c_int;

fn resource(kind: PosixRlimitType) -> Resource {
    match kind {
        PosixRlimitType::RlimitCpu => libc::RLIMIT_CPU,
        PosixRlimitType::RlimitFsize => libc::RLIMIT_FSIZE,
        PosixRlimitType::RlimitData => libc::RLIMIT_DATA,
        PosixRlimitType::RlimitStack => libc::RLIMIT_STACK,
        PosixRlimitType::RlimitCore => libc::RLIMIT_CORE,
        PosixRlimitType::RlimitRss => libc::RLIMIT_RSS,
        PosixRlimitType::RlimitNproc => libc::RLIMIT_NPROC,
        PosixRlimitType::RlimitNofile => libc::RLIMIT_NOFILE,
        PosixRlimitType::RlimitMemlock => libc::RLIMIT_MEMLOCK,
        PosixRlimitType::RlimitAs => libc::RLIMIT_AS,
        PosixRlimitType::RlimitLocks => libc::RLIMIT_LOCKS,
        PosixRlimitType::RlimitSigpending => libc::RLIMIT_SIGPENDING,
        PosixRlimitType::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
        PosixRlimitType::RlimitNice => libc::RLIMIT_NICE,
        PosixRlimitType::RlimitRtprio => libc::RLIMIT_RTPRIO,
        PosixRlimitType::RlimitRttime => libc::RLIMIT_RTTIME,
    }
}
