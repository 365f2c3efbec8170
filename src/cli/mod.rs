//! The command line: one file per subcommand. It speaks to the API like any client.

use std::process::ExitCode;

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    if args.get(1).is_some_and(|command| command == "shim") {
        return crate::runtime::shim::main(&args[2..]);
    }
    ExitCode::SUCCESS
}
