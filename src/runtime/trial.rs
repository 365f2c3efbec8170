//! Whether the kernel lets the runtime do what it needs, tried without a container and without a trace.

use std::io;

use super::seal::SealedExe;
use super::shim;

/// Seals this program, as for the shims.
pub fn seal() -> io::Result<()> {
    SealedExe::open(&std::env::current_exe()?).map(drop)
}

/// Has the kernel check the program that decides on devices. It is attached to nothing.
pub fn devices_program() -> io::Result<()> {
    shim::devices_program()
}
