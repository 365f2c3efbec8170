//! House rules that a compiler does not know: which room may import which, how long a file and a
//! function may be, and that every file in `configs/` parses.
#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a test ends at the first thing that is wrong"
)]

use std::fs;
use std::path::{Path, PathBuf};

/// Room -> the rooms of this crate that it may import. Absent means none.
const IMPORTS: &[(&str, &[&str])] = &[
    ("resource", &[]),
    ("store", &["resource"]),
    ("planner", &["resource", "store"]),
    ("reconciler", &["resource", "store"]),
    ("storage", &["resource", "store", "identity"]),
    ("identity", &["resource", "store"]),
    ("transport", &["resource", "store", "identity", "config"]),
    ("consensus", &["resource", "store", "storage", "identity", "transport", "config"]),
    ("images", &["resource", "reconciler", "config"]),
    ("volumes", &["resource", "reconciler"]),
    // A sub path is opened as the room of volumes opens paths: beneath, whatever a program left there.
    ("runtime", &["resource", "reconciler", "volumes", "kill_point"]),
    // Executes what the reconciler names, and runs programs in containers.
    ("probing", &["resource", "reconciler", "runtime"]),
    // What the containers of a pod share is decided by the reconciler.
    ("network", &["config", "resource", "reconciler"]),
    // The API of the device that runs a pod leads into its containers.
    ("api", &["resource", "store", "consensus", "identity", "reconciler", "runtime"]),
    // Judges facts, and finds them by what the other edges can try; the way that peers are asked is tested
    // against a real endpoint.
    ("doctor", &["config", "identity", "images", "network", "resource", "runtime", "transport"]),
    ("config", &[]),
    // Tests have the agent killed where any edge is in the middle of something.
    ("kill_point", &[]),
];

/// The edges that may use everything: they compose.
const FREE: &[&str] = &["agent", "cli", "fuzzing"];

const FILE_LINES: usize = 500;
const FUNCTION_LINES: usize = 80;

fn files(dir: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display())) {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, ending));
        } else if path.extension().is_some_and(|found| found == ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn room_of(path: &Path) -> String {
    let inside = path.strip_prefix("src").unwrap();
    let first = inside.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
    first.strip_suffix(".rs").map(str::to_owned).unwrap_or(first)
}

/// The rooms that a line of code names as `crate::room`.
fn named_rooms(line: &str) -> Vec<String> {
    let code = line.split("//").next().unwrap_or("");
    code.match_indices("crate::")
        .filter(|(at, _)| *at == 0 || !code[..*at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
        .flat_map(|(at, word)| {
            let rest = &code[at + word.len()..];
            let list = rest.strip_prefix('{').map_or_else(|| vec![rest], |inside| inside.split(',').collect());
            list.into_iter()
                .map(|part| part.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>())
                .collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn rooms_import_only_what_the_table_allows() {
    let mut wrong = Vec::new();
    for path in files(Path::new("src"), "rs") {
        let room = room_of(&path);
        if FREE.contains(&room.as_str()) || room == "lib" || room == "main" {
            continue;
        }
        let allowed = IMPORTS.iter().find(|(name, _)| *name == room).map_or_else(
            || panic!("{}: the room {room} is not in the table of tests/tidy.rs", path.display()),
            |(_, allowed)| *allowed,
        );
        for (number, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
            for named in named_rooms(line) {
                let is_room = IMPORTS.iter().any(|(name, _)| *name == named) || FREE.contains(&named.as_str());
                if is_room && named != room && !allowed.contains(&named.as_str()) {
                    wrong.push(format!("{}:{}: {room} may not import {named}", path.display(), number + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn files_and_functions_fit() {
    let mut wrong = Vec::new();
    for path in files(Path::new("src"), "rs") {
        let text = fs::read_to_string(&path).unwrap();
        let lines = text.lines().count();
        if lines > FILE_LINES {
            wrong.push(format!("{}: {lines} lines, over {FILE_LINES}: split it", path.display()));
        }
        let file = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut functions = Functions::default();
        syn::visit::visit_file(&mut functions, &file);
        for (name, length) in functions.found {
            if length > FUNCTION_LINES {
                wrong.push(format!("{}: fn {name} has {length} lines, over {FUNCTION_LINES}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[derive(Default)]
struct Functions {
    found: Vec<(String, usize)>,
}

impl Functions {
    fn note(&mut self, name: &syn::Ident, block: &syn::Block) {
        let brace = block.brace_token.span;
        self.found.push((name.to_string(), brace.close().start().line - brace.open().start().line + 1));
    }
}

impl<'ast> syn::visit::Visit<'ast> for Functions {
    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        self.note(&function.sig.ident, &function.block);
        syn::visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.note(&function.sig.ident, &function.block);
        syn::visit::visit_impl_item_fn(self, function);
    }
}

#[test]
fn every_room_says_what_it_decides() {
    for path in files(Path::new("src"), "rs") {
        // A test says what it is about by its name.
        if path.components().any(|part| part.as_os_str() == "tests" || part.as_os_str() == "tests.rs") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("//!"), "{}: a module opens with what it decides (//!)", path.display());
    }
}

#[test]
fn every_file_in_configs_parses() {
    let mut seen = 0;
    for path in files(Path::new("configs"), "toml") {
        let text = fs::read_to_string(&path).unwrap();
        kith::config::Config::parse(&path, &text).unwrap_or_else(|error| panic!("{error}"));
        seen += 1;
    }
    for path in files(Path::new("configs"), "yaml") {
        let text = fs::read_to_string(&path).unwrap();
        let objects = kith::resource::manifest::parse(&text, &path.display().to_string())
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(!objects.is_empty(), "{}: no object in it", path.display());
        seen += 1;
    }
    assert!(seen >= 2, "configs/ should hold agent.toml and examples");
}
