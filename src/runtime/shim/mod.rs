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
mod restrict;
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

/// Descriptors of a shim have numbers below this: it has few, and each gets the lowest that is free.
const DESCRIPTORS: libc::c_int = 4096;

/// Closes every descriptor above the standard ones, or has them close with `exec`
/// (`CLOSE_RANGE_CLOEXEC`, which kernels before 5.11 do not know).
///
/// # Safety
///
/// Nothing may use them any more, or after the `exec`.
#[expect(unsafe_code, reason = "close_range by number, as musl has no function for it; close and fcntl")]
unsafe fn close_others(flags: libc::c_uint) {
    // SAFETY: plain numbers; the caller promises the rest.
    if unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, flags) } != 0 {
        // SAFETY: as above.
        unsafe { close_each(flags) };
    }
}

/// The same one by one.
///
/// # Safety
///
/// As for [`close_others`].
#[expect(unsafe_code, reason = "close and fcntl by number")]
unsafe fn close_each(flags: libc::c_uint) {
    for number in 3..DESCRIPTORS {
        // SAFETY: plain numbers, most of them of nothing; the caller promises the rest.
        let _ = unsafe {
            if flags == 0 { libc::close(number) } else { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) }
        };
    }
}

fn usage() -> ExitCode {
    eprintln!("error: kith shim is started by the agent only");
    ExitCode::from(2)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "opens a descriptor")]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    /// What a program that is started after `close` has besides the standard descriptors; `ls` itself has one.
    #[expect(unsafe_code, reason = "between fork and exec")]
    fn left(close: unsafe fn(libc::c_uint), flags: libc::c_uint) -> usize {
        let file = std::fs::File::open("/dev/null").unwrap();
        let mut command = Command::new("ls");
        command.arg("/proc/self/fd");
        let number = file.as_raw_fd();
        // SAFETY: plain system calls between fork and exec; the report of a failed exec alone is lost.
        unsafe {
            command.pre_exec(move || {
                libc::fcntl(number, libc::F_SETFD, 0);
                close(flags);
                Ok(())
            })
        };
        let output = command.output().unwrap();
        String::from_utf8(output.stdout).unwrap().lines().count() - 4
    }

    #[test]
    #[expect(unsafe_code, reason = "has the type of the others")]
    fn no_descriptor_is_left_to_a_program_on_new_kernels_and_old() {
        unsafe fn nothing(_: libc::c_uint) {}
        // And what this process was started with.
        assert!(left(nothing, 0) >= 1);
        for close in [close_others as unsafe fn(libc::c_uint), close_each] {
            assert_eq!(left(close, libc::CLOSE_RANGE_CLOEXEC), 0);
        }
    }
}
