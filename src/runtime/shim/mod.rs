//! The hidden command `kith shim`: the one place that calls libcontainer, and the waiter after it, and
//! the way into a container that runs.
//!
//! It runs before any thread or async runtime exists and never makes one: libcontainer clones this
//! process without the care that threads would need. It never returns into the command line.

mod attach;
mod console;
mod create;
mod credentials;
mod devices;
mod devices_bpf;
mod enter;
mod exec;
mod executor;
mod holder;
mod last_words;
mod limits;
mod log;
mod mounts;
mod privileges;
mod rootfs;
mod seccomp;
mod spec;
mod terminal;
mod users;
pub(super) mod waiter;

pub(super) use devices_bpf::try_program as devices_program;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use nix::libc;

/// Runs `kith shim ARGS`: `create FOLDER CGROUP`, `exec FOLDER CGROUP`, `wait ...`, `hold FOLDER CGROUP` or
/// `idle FOLDER CGROUP`. Only the agent calls it.
pub fn main(args: &[OsString]) -> ExitCode {
    match args.split_first() {
        Some((act, rest)) if act == "create" => match rest.first() {
            Some(folder) => create::run(Path::new(folder)),
            None => usage(),
        },
        Some((act, [folder, cgroup])) if act == "exec" => exec::run(Path::new(folder), &cgroup.to_string_lossy()),
        Some((act, rest)) if act == "wait" => match waiter::Args::parse(rest) {
            Some((args, layers)) => waiter::run(&args, layers),
            None => usage(),
        },
        Some((act, [folder, cgroup])) if act == "hold" => holder::hold(Path::new(folder), cgroup),
        Some((act, _)) if act == "idle" => holder::idle(),
        _ => usage(),
    }
}

/// Closes every descriptor above the standard ones, or has them close with `exec`
/// (`CLOSE_RANGE_CLOEXEC`). A kernel before 5.9 does nothing. musl has no function for it.
///
/// # Safety
///
/// Nothing may use them any more, or after the `exec`.
#[expect(unsafe_code, reason = "close_range by number")]
unsafe fn close_others(flags: libc::c_uint) {
    // SAFETY: plain numbers; the caller promises the rest.
    unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, flags) };
}

fn usage() -> ExitCode {
    eprintln!("error: kith shim is started by the agent only");
    ExitCode::from(2)
}
