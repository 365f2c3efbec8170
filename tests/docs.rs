//! Keeps the pages for users honest: every command in them exists with the flags it is shown with,
//! every relative link leads somewhere, and every setting is described.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a test ends at the first thing that is wrong"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Every page for people, each with its text.
fn pages() -> Vec<(PathBuf, String)> {
    let mut found: Vec<PathBuf> = ["README.md", "ARCHITECTURE.md", "cross/README.md"].map(PathBuf::from).into();
    found.extend(fs::read_dir("docs").unwrap().map(|entry| entry.unwrap().path()));
    found.retain(|path| path.extension().is_some_and(|ending| ending == "md"));
    found.sort();
    found.into_iter().map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}

/// The lines inside fences of a shell or a console that are typed.
fn typed(text: &str) -> Vec<String> {
    let mut fence: Option<&str> = None;
    let mut found = Vec::new();
    for line in text.lines() {
        if let Some(language) = line.trim_start().strip_prefix("```") {
            fence = if fence.is_some() { None } else { Some(language.trim()) };
            continue;
        }
        match fence {
            Some("console") => found.extend(line.strip_prefix("$ ").map(str::to_owned)),
            Some("sh") => found.push(line.to_owned()),
            _ => {}
        }
    }
    found
}

/// The commands of kith inside sentences.
fn mentioned(text: &str) -> Vec<String> {
    let mut fenced = false;
    let mut prose = String::new();
    for line in text.lines() {
        fenced ^= line.trim_start().starts_with("```");
        if !fenced {
            prose.push_str(line);
            prose.push('\n');
        }
    }
    let spans = prose.split('`').skip(1).step_by(2);
    spans.filter(|span| span.starts_with("kith ")).map(str::to_owned).collect()
}

/// The invocations of kith in a typed line, without comments, pipes and redirections.
fn invocations(line: &str) -> Vec<Vec<String>> {
    let line = line.split(" # ").next().unwrap_or_default();
    let mut found = Vec::new();
    for part in line.split(['|', '>', '<', ';', '&', '(', ')', '`']) {
        let words: Vec<String> = part.split_whitespace().map(str::to_owned).collect();
        // One command may run another: kith dev exec d1 -- kith status.
        for command in words.split(|word| word == "--") {
            let begin = command.iter().position(|word| word == "kith" || word.ends_with("/kith"));
            // An unknown word in front means that kith is an argument: install, export.
            if let Some(begin) = begin.filter(|begin| *begin == 0) {
                found.push(command[begin + 1..].to_vec());
            }
        }
    }
    found
}

/// `kith SUBCOMMAND --help`, asked once each; `None` where there is no such subcommand.
#[derive(Default)]
struct Helps(BTreeMap<Vec<String>, Option<String>>);

impl Helps {
    fn of(&mut self, path: &[String]) -> Option<String> {
        let ask = || {
            let output = Command::new(env!("CARGO_BIN_EXE_kith")).args(path).arg("--help").output().unwrap();
            output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
        };
        self.0.entry(path.to_vec()).or_insert_with(ask).clone()
    }
}

/// The names under `Commands:` in a help text.
fn subcommands(help: &str) -> Vec<&str> {
    let listed = help.split("Commands:\n").nth(1).unwrap_or_default();
    listed.lines().take_while(|line| line.starts_with("  ")).filter_map(|l| l.split_whitespace().next()).collect()
}

fn has_flag(help: &str, flag: &str) -> bool {
    let ends = |c: char| !c.is_ascii_alphanumeric() && c != '-';
    help.match_indices(flag).any(|(at, _)| {
        let before = help[..at].chars().next_back().is_none_or(char::is_whitespace);
        before && help[at + flag.len()..].chars().next().is_none_or(ends)
    })
}

/// What is wrong with an invocation.
fn fault(words: &[String], helps: &mut Helps) -> Option<String> {
    let mut path: Vec<String> = Vec::new();
    let mut help = helps.of(&path)?;
    let mut words = words.iter();
    let mut flags = Vec::new();
    while let Some(word) = words.next() {
        if word.starts_with('-') && word.len() > 1 {
            let flag = word.split('=').next().unwrap_or(word).to_owned();
            // The fleet's name is the one value that stands in front of a subcommand.
            if flag == "--fleet" {
                words.next();
            }
            flags.push(flag);
        } else if subcommands(&help).contains(&word.as_str()) {
            path.push(word.clone());
            help = helps.of(&path)?;
        } else if !subcommands(&help).is_empty() && word.starts_with(|c: char| c.is_ascii_lowercase()) {
            return Some(format!("kith {} has no subcommand {word}", path.join(" ")));
        }
    }
    let missing = flags.into_iter().find(|flag| !has_flag(&help, flag))?;
    Some(format!("kith {} has no flag {missing}", path.join(" ")))
}

#[test]
fn every_command_that_is_shown_exists_with_its_flags() {
    let mut helps = Helps::default();
    let (mut seen, mut faults) = ([0; 2], Vec::new());
    for (path, text) in pages() {
        for (kind, lines) in [typed(&text), mentioned(&text)].iter().enumerate() {
            for words in lines.iter().flat_map(|line| invocations(line)) {
                seen[kind] += 1;
                faults.extend(fault(&words, &mut helps).map(|fault| format!("{}: {fault}", path.display())));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    let enough = seen.iter().all(|seen| *seen >= 50);
    assert!(
        enough,
        "only {seen:?} commands found in fences and sentences: are the fences still called sh and console?"
    );
}

#[test]
fn a_wrong_command_would_be_noticed() {
    let mut helps = Helps::default();
    let mut fault_of = |line: &str| invocations(line).iter().find_map(|words| fault(words, &mut helps));
    assert_eq!(fault_of("kith dev --fleet mine exec d1 -- kith get pods -o wide | head"), None);
    for wrong in
        ["kith frob", "kith dev frob", "kith get pods --frob", "kith dev exec d1 -- kith stat", "kith token make"]
    {
        assert!(fault_of(wrong).is_some(), "{wrong}");
    }
}

#[test]
fn every_subcommand_is_described() {
    let mut helps = Helps::default();
    let page = fs::read_to_string("docs/cli.md").unwrap();
    let groups = ["token", "image", "rollout", "top", "dev"].map(|group| vec![group.to_owned()]);
    for group in [vec![]].into_iter().chain(groups) {
        let help = helps.of(&group).unwrap();
        for name in subcommands(&help) {
            let command = group.iter().map(String::as_str).chain([name]).collect::<Vec<_>>().join(" ");
            assert!(page.contains(&format!("kith {command}")), "docs/cli.md does not show kith {command}");
        }
    }
}

/// How GitHub names the place of a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

fn headings(text: &str) -> Vec<String> {
    let mut fenced = false;
    let mut found = Vec::new();
    for line in text.lines() {
        fenced ^= line.starts_with("```");
        if let Some(heading) = line.strip_prefix('#').filter(|_| !fenced) {
            found.push(anchor(heading.trim_start_matches('#').trim()));
        }
    }
    found
}

#[test]
fn every_relative_link_leads_somewhere() {
    for (page, text) in pages() {
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if target.contains("://") {
                continue;
            }
            let (file, place) = target.split_once('#').unwrap_or((target, ""));
            let there = if file.is_empty() { page.clone() } else { page.parent().unwrap_or(Path::new("")).join(file) };
            assert!(there.exists(), "{}: {target} does not exist", page.display());
            if !place.is_empty() {
                let named = headings(&fs::read_to_string(&there).unwrap());
                assert!(named.iter().any(|known| known == place), "{}: no heading for {target}", page.display());
            }
        }
    }
}

#[test]
fn every_setting_is_described_with_its_default() {
    let page = fs::read_to_string("docs/configuration.md").unwrap();
    let settings: toml::Table = toml::from_str(&fs::read_to_string("configs/agent.toml").unwrap()).unwrap();
    for (key, value) in settings {
        let row = page.lines().find(|line| line.starts_with(&format!("| `{key}` |")));
        let row = row.unwrap_or_else(|| panic!("docs/configuration.md has no row for {key}"));
        let default = match &value {
            toml::Value::String(text) if !text.is_empty() => text.clone(),
            toml::Value::Table(_) => "empty".to_owned(),
            other => other.to_string(),
        };
        assert!(row.contains(&default), "docs/configuration.md: the default of {key} is {default}");
    }
}

#[test]
fn the_first_page_names_the_two_commands() {
    let page = fs::read_to_string("README.md").unwrap();
    assert!(page.contains("make demo") && page.contains("make test"));
}

#[test]
fn the_exposure_of_the_unit_is_what_the_page_says() {
    let output = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--no-pager", "systemd/kith.service"])
        .output()
        .expect("install it first: apt-get install systemd");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let figure = said.split("kith.service: ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap_or_default();
    let page = fs::read_to_string("docs/security.md").unwrap();
    assert!(!figure.is_empty() && page.contains(&format!("an exposure of {figure},")), "{figure:?}: {said}");
}
