//! `kith completion`: a script that completes commands and flags.

use clap::{Args, CommandFactory, ValueEnum};
use clap_complete::Shell;

use super::failure::Failure;
use super::{Cli, output};

#[derive(Debug, Args)]
pub(crate) struct CompletionArgs {
    /// The shell: source <(kith completion bash)
    shell: Known,
}

/// Shells with a script.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Known {
    Bash,
    Zsh,
    Fish,
}

pub(crate) fn run(args: &CompletionArgs) -> Result<(), Failure> {
    output::raw(&script(args.shell))
}

fn script(shell: Known) -> Vec<u8> {
    let shell = match shell {
        Known::Bash => Shell::Bash,
        Known::Zsh => Shell::Zsh,
        Known::Fish => Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "kith", &mut script);
    script
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn every_shell_gets_every_command() {
        for shell in Known::value_variants() {
            let script = String::from_utf8(script(*shell)).unwrap();
            for word in ["apply", "kubeconfig", "heal"] {
                assert!(script.contains(word), "{shell:?} does not complete {word}");
            }
        }
    }

    #[test]
    fn bash_completes_a_command_with_the_script() {
        let mut bash = Command::new("bash").arg("--norc").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut input = bash.stdin.take().unwrap();
        input.write_all(&script(Known::Bash)).unwrap();
        input
            .write_all(b"\nCOMP_WORDS=(kith ap); COMP_CWORD=1; _kith kith ap kith; echo \"${COMPREPLY[@]}\"\n")
            .unwrap();
        drop(input);
        let output = bash.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "apply");
    }
}
