//! Every command of every page, typed as it stands: on a fleet, or run by another test that is named
//! with the reason. A command without a note is typed, so a new one has to work.

use std::collections::BTreeSet;

use crate::harness::Fleet;
use crate::page::{self, Step};
use crate::stage::{How, Note, Stage};
use crate::tour::is_in_the_tour;
use crate::typed_notes as notes;

fn steps(page: &str) -> Vec<Step> {
    page::read(page).into_iter().filter(|step| !is_in_the_tour(step)).collect()
}

fn notes_of(step: &Step) -> Vec<How> {
    let of_step = |note: &&Note| note.0 == step.page && note.1 == step.bare();
    notes::all().filter(of_step).map(|note| note.2).collect()
}

fn type_pages(stage: &mut Stage, pages: &[&str]) {
    let mut wrong = Vec::new();
    // One page alone, for whoever writes it.
    let only = std::env::var("PAGE").ok();
    let wanted = pages.iter().filter(|page| only.as_ref().is_none_or(|only| *page == only));
    for step in wanted.flat_map(|page| steps(page)) {
        let found = stage.play(&step, &notes_of(&step));
        for what in &found {
            eprintln!("    {what}");
        }
        wrong.extend(found);
    }
    assert!(wrong.is_empty(), "{} things are not as the pages say:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn every_command_of_every_page_is_typed_or_run_elsewhere() {
    let typed: BTreeSet<&str> = notes::CALM.iter().chain(&notes::ROUGH).copied().collect();
    let mut unused: Vec<&Note> = notes::all().collect();
    for page in page::pages() {
        let steps = steps(&page);
        assert!(steps.is_empty() || typed.contains(page.as_str()), "{page} has commands, and no test types it");
        unused.retain(|note| !steps.iter().any(|step| note.0 == step.page && note.1 == step.bare()));
    }
    let unused: Vec<&str> = unused.into_iter().map(|note| note.1).collect();
    assert!(unused.is_empty(), "no page has these any more: {unused:?}");
    let makefile = std::fs::read_to_string("Makefile").unwrap();
    for Note(page, typed, how) in notes::all() {
        let How::Elsewhere(why, file, words) = how else { continue };
        let text = std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{page}: {typed}: {file}: {error}"));
        assert!(text.contains(words), "{page}: {typed}: {words:?} does not stand in {file}");
        assert!(!why.is_empty(), "{page}: {typed}");
        let targets = typed.split("make ").nth(1).unwrap_or_default().split_whitespace();
        for target in targets.filter(|_| typed.starts_with("make ")) {
            let known = makefile.lines().any(|line| {
                line.split_once(':').is_some_and(|(names, _)| names.split_whitespace().any(|name| name == target))
            });
            assert!(known, "{page}: the Makefile has no {target}");
        }
    }
}

#[test]
fn what_the_pages_show_comes_of_what_they_type() {
    let registries = "registries={\"127.0.0.1:5000\"={insecure=true}}";
    let fleet = Fleet::up_with("t-pages", 3, &[registries, "host_paths=[\"/\"]", "security={allow_host_pid=true}"]);
    fleet.load_hello();
    let mut stage = Stage::new(fleet);
    notes::begin(&mut stage);
    type_pages(&mut stage, &notes::CALM);
}

#[test]
fn operating_goes_as_its_page_says() {
    let mut stage = Stage::new(Fleet::up_with("t-operating", 3, &["lost_after_seconds=3"]));
    type_pages(&mut stage, &notes::ROUGH);
}
