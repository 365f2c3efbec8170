//! Capabilities of a program that may gain privileges. Its filter of system calls can only be applied
//! by a process with `CAP_SYS_ADMIN`, so libcontainer is told to leave that to the container's first
//! process, which gives it up here: after the filter, before the program.

use std::io;

use nix::libc;

use crate::resource::capability;

/// What has to be left until the filter is applied, and to give up the rest.
pub(super) const NEEDED: [&str; 2] = ["CAP_SETPCAP", "CAP_SYS_ADMIN"];

/// Numbers of capabilities that a kernel may know.
const NUMBERS: libc::c_ulong = 64;

/// Version of the structures below (`_LINUX_CAPABILITY_VERSION_3`).
const VERSION: u32 = 0x2008_0522;

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

/// One half of the three sets.
#[repr(C)]
#[derive(Clone, Copy)]
struct Half {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Keeps these capabilities only, in every set of this process, and none that could be inherited.
#[expect(unsafe_code, reason = "capset has no safe wrapper")]
pub(super) fn reduce(names: &[String]) -> io::Result<()> {
    let kept = names.iter().filter_map(|name| capability::number(name)).fold(0_u64, |all, number| all | 1 << number);
    drop_bounding(kept)?;
    // What is not there can not be kept: an unprivileged user's program has an empty effective set.
    let (header, mut halves) = read()?;
    let part = |bits: u64| u32::try_from(bits & 0xffff_ffff).unwrap_or(0);
    let kept_halves = [part(kept), part(kept >> 32)];
    for (half, bits) in halves.iter_mut().zip(kept_halves) {
        half.permitted &= bits;
        half.effective &= bits;
        half.inheritable = 0;
    }
    // SAFETY: both structures are of the version that the header names, and outlive the call.
    if unsafe { libc::syscall(libc::SYS_capset, &raw const header, halves.as_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[expect(unsafe_code, reason = "capget has no safe wrapper")]
fn read() -> io::Result<(Header, [Half; 2])> {
    let header = Header { version: VERSION, pid: 0 };
    let mut halves = [Half { effective: 0, permitted: 0, inheritable: 0 }; 2];
    // SAFETY: both structures are of the version that the header names, and outlive the call.
    if unsafe { libc::syscall(libc::SYS_capget, &raw const header, halves.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((header, halves))
}

/// What this process has, by the bits of the numbers.
pub(super) fn held() -> io::Result<u64> {
    let (_, [low, high]) = read()?;
    Ok(u64::from(low.permitted) | u64::from(high.permitted) << 32)
}

/// Drops all but these, by their bits, from what this process and its children can ever have.
#[expect(unsafe_code, reason = "prctl has no safe wrapper")]
pub(super) fn drop_bounding(kept: u64) -> io::Result<()> {
    for number in 0..NUMBERS {
        // SAFETY: plain numbers.
        let held = unsafe { libc::prctl(libc::PR_CAPBSET_READ, number, 0, 0, 0) };
        // The kernel knows no more than those before.
        if held < 0 {
            break;
        }
        if held == 1 && kept & (1 << number) == 0 {
            // SAFETY: plain numbers.
            if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
    }
    Ok(())
}
