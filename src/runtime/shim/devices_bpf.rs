//! A program for the kernel's BPF machine that decides which devices a cgroup may open: what version 2
//! of cgroups has in place of a devices controller. Put together by hand, as it is a dozen
//! instructions a device.

#![expect(clippy::disallowed_methods, reason = "opens a cgroup")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use nix::libc;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};

/// Numbers of the kernel's interface (`linux/bpf.h`).
const PROG_LOAD: libc::c_long = 5;
const PROG_ATTACH: libc::c_long = 8;
const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const CGROUP_DEVICE: u32 = 6;
const ALLOW_MULTI: u32 = 2;

/// Bits of what is asked for, above the kind of the device.
const MAKE: u32 = 1;
const READ: u32 = 2;
const WRITE: u32 = 4;

/// Devices in one program: the kernel takes 4096 instructions of old.
const MAX_PERMITS: usize = 256;

/// Instructions that are used, as `(code)` of `struct bpf_insn`.
const LOAD_WORD: u8 = 0x61;
const MOVE_REGISTER: u8 = 0xbf;
const MOVE_NUMBER: u8 = 0xb7;
const AND_NUMBER_32: u8 = 0x54;
const SHIFT_RIGHT_32: u8 = 0x74;
const JUMP_IF_NOT_EQUAL: u8 = 0x55;
const EXIT: u8 = 0x95;

/// Kinds of devices, with the kernel's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Block = 1,
    Character = 2,
}

/// A device, or all of a major number, that may be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Permit {
    pub(super) kind: Kind,
    pub(super) major: u32,
    pub(super) minor: Option<u32>,
    /// See [`access`].
    pub(super) access: u32,
}

/// The kernel's bits for some of `r`, `w` and `m`.
pub(super) fn access(letters: &str) -> u32 {
    let bit = |letter| match letter {
        'r' => READ,
        'w' => WRITE,
        'm' => MAKE,
        _ => 0,
    };
    letters.chars().map(bit).fold(0, |all, bit| all | bit)
}

fn instruction(code: u8, target: u8, source: u8, offset: i16, number: u32) -> u64 {
    let registers = u64::from(source << 4 | target);
    u64::from(code) | registers << 8 | u64::from(offset.cast_unsigned()) << 16 | u64::from(number) << 32
}

/// The program: 1 when what is asked for is permitted, else 0. Nodes of any number may be made, as
/// on version 1: they can not be opened.
fn program(permits: &[Permit]) -> Vec<u64> {
    // r1 is `struct bpf_cgroup_dev_ctx`: access << 16 | kind, major, minor.
    let mut steps = vec![
        instruction(LOAD_WORD, 2, 1, 0, 0),
        instruction(MOVE_REGISTER, 3, 2, 0, 0),
        instruction(AND_NUMBER_32, 2, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT_32, 3, 0, 0, 16),
        instruction(LOAD_WORD, 4, 1, 4, 0),
        instruction(LOAD_WORD, 5, 1, 8, 0),
    ];
    let allow = [instruction(MOVE_NUMBER, 0, 0, 0, 1), instruction(EXIT, 0, 0, 0, 0)];
    steps.push(instruction(JUMP_IF_NOT_EQUAL, 3, 0, 2, MAKE));
    steps.extend(allow);
    for permit in permits {
        // What is asked for beyond what is permitted must be nothing.
        let mut checks = vec![(2, permit.kind as u32), (4, permit.major)];
        checks.extend(permit.minor.map(|minor| (5, minor)));
        // After the checks come four more instructions, and two that allow.
        let mut left = i16::try_from(checks.len()).unwrap_or(0) + 5;
        for (register, number) in checks {
            left -= 1;
            steps.push(instruction(JUMP_IF_NOT_EQUAL, register, 0, left, number));
        }
        let beyond = !permit.access & (MAKE | READ | WRITE);
        steps.push(instruction(MOVE_REGISTER, 0, 3, 0, 0));
        steps.push(instruction(AND_NUMBER_32, 0, 0, 0, beyond));
        steps.push(instruction(JUMP_IF_NOT_EQUAL, 0, 0, 2, 0));
        steps.extend(allow);
    }
    steps.extend([instruction(MOVE_NUMBER, 0, 0, 0, 0), instruction(EXIT, 0, 0, 0, 0)]);
    steps
}

/// What `PROG_LOAD` takes, as far as it is used.
#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel: u32,
    flags: u32,
}

/// What `PROG_ATTACH` takes.
#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

/// Attaches a program to a cgroup that permits these devices and no others. It goes with the cgroup.
#[expect(unsafe_code, reason = "bpf has no safe wrapper")]
pub(super) fn attach(cgroup: &Path, permits: &[Permit]) -> io::Result<()> {
    if permits.len() > MAX_PERMITS {
        return Err(io::Error::other(format!("{} devices are more than {MAX_PERMITS}", permits.len())));
    }
    let folder = File::open(cgroup)?;
    let loaded = load(permits)?;
    let attach = Attach {
        target: folder.as_raw_fd().unsigned_abs(),
        program: loaded.as_raw_fd().unsigned_abs(),
        kind: CGROUP_DEVICE,
        flags: ALLOW_MULTI,
    };
    // SAFETY: a structure of the size that is passed.
    let result = unsafe { libc::syscall(libc::SYS_bpf, PROG_ATTACH, &raw const attach, size_of::<Attach>()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Gives the kernel a program that permits one device, and takes it back.
pub(in crate::runtime) fn try_program() -> io::Result<()> {
    load(&[Permit { kind: Kind::Character, major: 1, minor: Some(3), access: READ | WRITE }]).map(drop)
}

#[expect(unsafe_code, reason = "bpf has no safe wrapper")]
fn load(permits: &[Permit]) -> io::Result<OwnedFd> {
    let steps = program(permits);
    let load = Load {
        kind: PROG_TYPE_CGROUP_DEVICE,
        count: u32::try_from(steps.len()).map_err(io::Error::other)?,
        instructions: steps.as_ptr().addr() as u64,
        license: c"Apache-2.0".as_ptr().addr() as u64,
        ..Load::default()
    };
    // SAFETY: a structure of the size that is passed, with addresses of constants and of a list that outlives the call.
    let give = || unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw const load, size_of::<Load>()) };
    let mut fd = i32::try_from(give()).unwrap_or(-1);
    let mut refused = io::Error::last_os_error();
    if fd < 0 && refused.raw_os_error() == Some(libc::EPERM) {
        (fd, refused) = without_limit(|| (i32::try_from(give()).unwrap_or(-1), io::Error::last_os_error()))?;
    }
    if fd < 0 {
        return Err(refused);
    }
    // SAFETY: the kernel just handed this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Kernels before 5.11 count programs as memory that their user has locked, all of them together, and
/// systemd lets a service lock 64 KiB: 16 containers.
fn without_limit<T>(act: impl FnOnce() -> T) -> io::Result<T> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_MEMLOCK)?;
    // Where this is not allowed, what was refused stays so.
    let raised = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
    let done = act();
    if raised.is_ok() {
        // A container has the limit that it was given.
        setrlimit(Resource::RLIMIT_MEMLOCK, soft, hard)?;
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::process::Command;

    const ZERO: Permit = Permit { kind: Kind::Character, major: 1, minor: Some(5), access: READ | WRITE };
    const FULL_READ: Permit = Permit { kind: Kind::Character, major: 1, minor: Some(7), access: READ };

    /// A cgroup of version 2, wherever it is mounted; removed at the end.
    struct Cgroup(std::path::PathBuf);

    impl Cgroup {
        fn make(name: &str) -> Self {
            let roots = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(Path::new);
            let root = roots.into_iter().find(|root| root.join("cgroup.procs").exists());
            let root =
                root.expect("version 2 of cgroups must be mounted: mount -t cgroup2 none /sys/fs/cgroup/unified");
            let folder = root.join("kith").join(format!("test-bpf-{}-{name}", std::process::id()));
            fs::create_dir_all(&folder).unwrap();
            Self(folder)
        }

        /// Whether a shell in the cgroup can do something.
        fn does(&self, script: &str) -> bool {
            let procs = self.0.join("cgroup.procs");
            let whole = format!("echo $$ > {} && {script}", procs.display());
            Command::new("/bin/sh").args(["-c", &whole]).stderr(std::process::Stdio::null()).status().unwrap().success()
        }
    }

    impl Drop for Cgroup {
        fn drop(&mut self) {
            let _ = fs::remove_dir(&self.0);
        }
    }

    #[test]
    fn the_kernel_lets_through_what_is_permitted_and_nothing_else() {
        let cgroup = Cgroup::make("devices");
        assert!(cgroup.does(": < /dev/zero") && cgroup.does(": < /dev/null") && cgroup.does(": > /dev/full"));
        attach(&cgroup.0, &[ZERO, FULL_READ]).unwrap();
        assert!(cgroup.does(": < /dev/zero") && cgroup.does(": > /dev/zero"));
        assert!(cgroup.does(": < /dev/full") && !cgroup.does(": > /dev/full"));
        assert!(!cgroup.does(": < /dev/null"));
        assert!(!cgroup.does(": < /dev/urandom"));
    }

    #[test]
    fn all_of_a_major_number_can_be_permitted() {
        let cgroup = Cgroup::make("major");
        attach(&cgroup.0, &[Permit { minor: None, ..ZERO }]).unwrap();
        assert!(cgroup.does(": < /dev/zero") && cgroup.does(": < /dev/null"));
        assert!(!cgroup.does(": < /dev/ptmx"));
        let cgroup = Cgroup::make("many");
        let many: Vec<Permit> = (0..256).map(|minor| Permit { minor: Some(minor), major: 7, ..ZERO }).collect();
        attach(&cgroup.0, &many).unwrap();
        assert!(!cgroup.does(": < /dev/zero"));
    }
}
