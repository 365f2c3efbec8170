//! The `kith` binary: daemon, command line and container runtime in one.

use std::process::ExitCode;

fn main() -> ExitCode {
    kith::cli::main()
}
