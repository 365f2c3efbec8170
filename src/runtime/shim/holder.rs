//! The first process of a pod whose containers share their processes: it holds their pid namespace and
//! reaps what nobody else does. It has no rights, sees no files, and can not be looked into.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitCode;

use nix::libc;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, chdir, fork, pivot_root};

use super::privileges;
use crate::runtime::folder::write_whole;
use crate::runtime::pidfd::Identity;
use crate::runtime::seal;

/// Where an empty root is made: any folder would do, as the mount namespace is private.
const EMPTY: &str = "/proc";

/// `nobody`, so that nothing in the pod is the same user.
const NOBODY: u32 = 65534;

/// Runs `kith shim hold FOLDER CGROUP`: starts the holder and leaves its identity in the folder.
pub(super) fn hold(folder: &Path, cgroup: &OsString) -> ExitCode {
    match start(folder, cgroup) {
        Ok(()) => {
            println!("ok");
            ExitCode::SUCCESS
        }
        Err(reason) => {
            println!("{reason}");
            ExitCode::FAILURE
        }
    }
}

#[expect(unsafe_code, reason = "fork")]
fn start(folder: &Path, cgroup: &OsString) -> Result<(), String> {
    seal::require()?;
    unshare(CloneFlags::CLONE_NEWPID).map_err(|error| format!("make a pid namespace: {error}"))?;
    // SAFETY: this process has one thread, so the child finds nothing half done.
    match unsafe { fork() }.map_err(|error| format!("fork: {error}"))? {
        ForkResult::Child => Err(format!("start the holder of a pid namespace: {}", become_idle(folder, cgroup))),
        ForkResult::Parent { child } => {
            let identity = Identity::of(child.as_raw()).map_err(|error| format!("look up the holder: {error}"))?;
            let bytes = serde_json::to_vec(&identity).map_err(|error| error.to_string())?;
            write_whole(&folder.join("holder.json"), &bytes).map_err(|error| format!("write holder.json: {error}"))
        }
    }
}

/// Executes the program again, to keep almost none of its memory. Returns only if that fails.
fn become_idle(folder: &Path, cgroup: &OsString) -> io::Error {
    let _ = nix::unistd::setsid();
    let Ok(null) = File::options().read(true).write(true).open("/dev/null") else { return io::Error::last_os_error() };
    let duplicated = nix::unistd::dup2_stdin(&null)
        .and_then(|()| nix::unistd::dup2_stdout(&null))
        .and_then(|()| nix::unistd::dup2_stderr(&null));
    if let Err(error) = duplicated {
        return error.into();
    }
    let arg = |text: &OsString| CString::new(text.as_bytes()).unwrap_or_default();
    let args = ["kith".into(), "shim".into(), "idle".into(), folder.as_os_str().to_owned(), cgroup.clone()];
    let args: Vec<CString> = args.iter().map(arg).collect();
    match nix::unistd::execve(c"/proc/self/exe", &args, &[] as &[&std::ffi::CStr]) {
        Err(error) => error.into(),
        Ok(never) => match never {},
    }
}

/// Runs `kith shim idle FOLDER CGROUP`: the holder itself.
pub(super) fn idle() -> ExitCode {
    let all = SigSet::all();
    if all.thread_block().is_err() || give_up().is_err() {
        return ExitCode::FAILURE;
    }
    crate::runtime::pages::forget_program();
    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    loop {
        while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            if status == WaitStatus::StillAlive {
                break;
            }
        }
        let _ = children.wait();
    }
}

/// Leaves the device's files, and every right, for good.
#[expect(unsafe_code, reason = "prctl and close_range have no safe wrapper")]
fn give_up() -> io::Result<()> {
    // SAFETY: plain numbers; nothing above the standard descriptors is used by this process.
    unsafe { super::close_others(0) };
    unshare(CloneFlags::CLONE_NEWNS)?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("none"), EMPTY, Some("tmpfs"), flags, Some("size=4k,mode=555"))?;
    chdir(EMPTY)?;
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    chdir("/")?;
    mount(none, "/", none, MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | flags, none)?;
    nix::unistd::setgroups(&[])?;
    privileges::drop_bounding(0)?;
    nix::unistd::setresgid(NOBODY.into(), NOBODY.into(), NOBODY.into())?;
    nix::unistd::setresuid(NOBODY.into(), NOBODY.into(), NOBODY.into())?;
    // SAFETY: plain numbers.
    let held = unsafe {
        libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) == 0 && libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    };
    if held { Ok(()) } else { Err(io::Error::last_os_error()) }
}
