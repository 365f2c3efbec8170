//! `kith man FOLDER`: the manual pages, one for each command. For those who make packages.

use std::fs;
use std::path::PathBuf;

use clap::{Args, CommandFactory};

use super::Cli;
use super::failure::{Doing, Failure};

#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// Where the pages are written: kith.1, kith-apply.1 and so on
    folder: PathBuf,
}

pub(crate) fn run(args: &ManArgs) -> Result<(), Failure> {
    fs::create_dir_all(&args.folder).doing(|| format!("make {}", args.folder.display()))?;
    clap_mangen::generate_to(Cli::command(), &args.folder).doing(|| format!("write into {}", args.folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page() {
        let folder = tempfile::tempdir().unwrap();
        run(&ManArgs { folder: folder.path().to_owned() }).unwrap();
        for (page, text) in [("kith.1", "apply"), ("kith-apply.1", "dry"), ("kith-dev-cut.1", "SYNOPSIS")] {
            let found = fs::read_to_string(folder.path().join(page)).unwrap();
            assert!(found.contains(text), "{page}: {found}");
        }
        assert!(!folder.path().join("kith-man.1").exists(), "the page of a hidden command");
    }
}
