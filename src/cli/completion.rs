//! `kith completion`: a script that completes commands and flags.

use std::fmt::Write as _;

use clap::{Args, Command, CommandFactory, ValueEnum};
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
    let generator = match shell {
        Known::Bash => Shell::Bash,
        Known::Zsh => Shell::Zsh,
        Known::Fish => Shell::Fish,
    };
    let mut script = Vec::new();
    let mut command = Cli::command();
    clap_complete::generate(generator, &mut command, "kith", &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    match shell {
        Known::Bash => script,
        Known::Zsh => flags_after_names(&script),
        Known::Fish => script + &values_of_names(&command, &mut Vec::new()),
    }
    .into_bytes()
}

/// In zsh, `*::` hands all that follows to another command, and no flag is completed behind the first
/// name, as in `kith get pods -`. Only the line that leads to a subcommand, in double quotes, means that.
fn flags_after_names(script: &str) -> String {
    script.replace("\n'*::", "\n'*:")
}

/// What the generator for fish leaves out: names of which only a few are known.
fn values_of_names<'a>(command: &'a Command, path: &mut Vec<&'a str>) -> String {
    let mut lines = String::new();
    for values in command.get_positionals().map(clap::Arg::get_possible_values).filter(|values| !values.is_empty()) {
        let Some((first, others)) = path.split_first() else { continue };
        let seen: String = others.iter().flat_map(|name| ["; and __fish_seen_subcommand_from ", name]).collect();
        let values: Vec<&str> = values.iter().map(clap::builder::PossibleValue::get_name).collect();
        let (condition, values) = (format!("__fish_kith_using_subcommand {first}{seen}"), values.join(" "));
        let _ = writeln!(lines, "complete -c kith -n \"{condition}\" -f -a \"{values}\"");
    }
    for inner in command.get_subcommands() {
        path.push(inner.get_name());
        lines += &values_of_names(inner, path);
        path.pop();
    }
    lines
}

#[cfg(test)]
mod tests {
    // What shells make of the scripts is in tests/completions.rs.
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
}
