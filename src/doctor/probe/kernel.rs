//! What the kernel can do, by trying it where that leaves no trace.

use std::io;
use std::path::Path;

use nix::errno::Errno;
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::super::facts::{Kernel, Try};
use super::{System, tried};
use crate::{network, runtime};

pub(super) fn look(system: &System, data: &Path, root: bool) -> Kernel {
    let trial = if root { network::trial::trial().map_err(|error| error.to_string()) } else { Err(String::new()) };
    let part = |tried: Result<(), String>| match tried {
        Ok(()) => Try::Works,
        Err(why) => Try::Fails(why),
    };
    let (packet_filter, bridge, cable) = match trial {
        Ok(trial) => (part(trial.rules.map_err(|error| said(&error))), part(trial.bridge), part(trial.cable)),
        Err(why) if why.is_empty() => {
            let untried = || Try::Untried("only root can try it".into());
            (untried(), untried(), untried())
        }
        Err(why) => {
            let failed = || Try::Fails(format!("no network namespace could be made: {why}"));
            (failed(), failed(), failed())
        }
    };
    let release = system.text("/proc/sys/kernel/osrelease").unwrap_or_default();
    let folder = system.path("/lib/modules").join(&release);
    Kernel {
        machine: nix::sys::utsname::uname().map_or_else(|_| String::new(), |u| u.machine().to_string_lossy().into()),
        built_for: std::env::consts::ARCH.into(),
        modules: (!release.is_empty()).then(|| folder.exists()),
        modules_sealed: system.number("/proc/sys/kernel/modules_disabled") == Some(1),
        overlay: tried(root, || overlay(data)),
        namespaces: namespaces(system),
        seccomp: system
            .text("/proc/sys/kernel/seccomp/actions_avail")
            .map(|actions| actions.split_whitespace().map(str::to_owned).collect()),
        devices_program: tried(root, runtime::trial::devices_program),
        packet_filter,
        bridge,
        cable,
        pidfd: tried(true, pidfd),
        sealed: tried(root, runtime::trial::seal),
        pressure: Some(system.path("/proc/pressure/memory").exists()),
        release,
    }
}

/// What a refusal of the packet filter means.
fn said(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::EOPNOTSUPP | libc::EPROTONOSUPPORT) => {
            format!("the kernel lacks a part of nf_tables: {error}")
        }
        _ => error.to_string(),
    }
}

/// Kinds of namespaces, without those for children.
fn namespaces(system: &System) -> Option<Vec<String>> {
    let mut names = system.names("/proc/self/ns");
    names.retain(|name| !name.ends_with("_for_children"));
    (!names.is_empty()).then_some(names)
}

/// Mounts an overlay under a folder, in a mount namespace that ends with the thread.
fn overlay(data: &Path) -> io::Result<()> {
    let folder = tempfile::Builder::new().prefix(".kith-doctor-").tempdir_in(data)?;
    let at = |name: &str| folder.path().join(name);
    for name in ["lower", "upper", "work", "merged"] {
        std::fs::create_dir(at(name))?;
    }
    std::fs::write(at("lower").join("file"), "lower")?;
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        at("lower").display(),
        at("upper").display(),
        at("work").display()
    );
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNS)?;
            mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
            mount(Some("overlay"), &at("merged"), Some("overlay"), MsFlags::empty(), Some(options.as_str()))?;
            std::fs::write(at("merged").join("file"), "upper")
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[expect(unsafe_code, reason = "pidfd_open has no safe wrapper")]
fn pidfd() -> Result<(), Errno> {
    // SAFETY: two numbers; the result is checked.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, std::process::id(), 0) };
    let fd = i32::try_from(fd).unwrap_or(-1);
    if fd < 0 {
        return Err(Errno::last());
    }
    nix::unistd::close(fd)
}
