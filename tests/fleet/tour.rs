//! The five minutes of the README, typed as they stand there: each command does what is shown.

use std::path::Path;
use std::process::{Command, Output};

use crate::harness::{Fleet, KITH, wait_for};

/// Fewer commands than this, and the page has changed its form.
const AT_LEAST: usize = 15;

/// A command of the page, and what it is shown to print.
struct Step {
    typed: String,
    shown: Vec<String>,
}

fn steps() -> Vec<Step> {
    let page = std::fs::read_to_string("README.md").unwrap();
    let tour = page.split("\n## Five minutes\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let mut steps: Vec<Step> = Vec::new();
    let mut inside = false;
    for line in tour.lines() {
        if line.starts_with("```") {
            inside = line == "```console";
        } else if let Some(typed) = line.strip_prefix("$ ").filter(|_| inside) {
            steps.push(Step { typed: typed.to_owned(), shown: Vec::new() });
        } else if inside {
            steps.last_mut().expect("output before any command").shown.push(line.to_owned());
        }
    }
    steps
}

impl Step {
    fn run(&self, folder: &Path) -> Output {
        // The fleet of the tour has another name than that of whoever works on this machine.
        let typed = self.typed.replace("kith dev ", "kith dev --fleet t-tour ");
        let typed = typed.replace("rootfs.tar", &folder.join("rootfs.tar").display().to_string());
        let typed = typed.replace("> kubeconfig", &format!("> {}", folder.join("kubeconfig").display()));
        let typed =
            typed.replace("--kubeconfig kubeconfig", &format!("--kubeconfig {}", folder.join("kubeconfig").display()));
        let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
        Command::new("sh").args(["-c", &typed]).env("PATH", path).output().unwrap()
    }

    /// What is missing of what is shown: words without digits, which differ from run to run.
    fn missing(&self, output: &Output) -> Vec<String> {
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        let words = self.shown.iter().flat_map(|line| line.split_whitespace());
        let steady = words.filter(|word| word.len() > 2 && !word.chars().any(|c| c.is_ascii_digit()));
        let mut missing: Vec<String> = steady.filter(|word| !said.contains(word)).map(str::to_owned).collect();
        let failed = self.shown.iter().any(|line| line.starts_with("error:"));
        if output.status.success() == failed {
            missing.push(format!("{}: {said}", output.status));
        }
        missing
    }

    /// Whether it only looks, and may look again until what is shown has come about.
    fn looks(&self) -> bool {
        ["status", "get ", "curl"].iter().any(|verb| self.typed.contains(verb))
    }
}

#[test]
fn the_tour_of_the_readme_can_be_typed_as_it_stands() {
    let folder = tempfile::tempdir().unwrap();
    let kubectl =
        std::fs::canonicalize("target/tools/kubectl-1.32").expect("kubectl is missing: run scripts/kubectl.sh");
    for (name, program) in [("kith", Path::new(KITH)), ("kubectl", &kubectl)] {
        std::os::unix::fs::symlink(program, folder.path().join(name)).unwrap();
    }
    let steps = steps();
    assert!(steps.len() >= AT_LEAST, "only {} commands found in the tour", steps.len());
    let fleet = Fleet::up("t-tour", 3);
    for step in &steps {
        eprintln!("$ {}", step.typed);
        if step.looks() {
            wait_for(&step.typed, || {
                let missing = step.missing(&step.run(folder.path()));
                missing.is_empty().then_some(()).or_else(|| {
                    eprintln!("not yet: {missing:?}");
                    None
                })
            });
        } else {
            let missing = step.missing(&step.run(folder.path()));
            assert_eq!(missing, Vec::<String>::new(), "{}", step.typed);
        }
    }
    drop(fleet);
}
