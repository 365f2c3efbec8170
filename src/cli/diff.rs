//! `kith diff`: what `kith apply` would change, as the fleet itself works it out.

use std::path::PathBuf;

use clap::Args;
use serde_json::Value;

use super::apply;
use super::client::Client;
use super::failure::{Code, Failure};
use super::manifests;
use super::output::{self, say};
use super::target::{Namespace, title};

/// Lines around a change that are shown.
const AROUND: usize = 3;
/// Lines of one object that are compared line by line; of a larger one all are shown as changed.
const LINES: usize = 4000;

#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// File, folder, or - for standard input; may be given several times
    #[arg(short, long = "filename", required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    namespace: Namespace,
}

/// Prints the differences, and ends with 1 if there are any.
pub(crate) async fn run(args: &DiffArgs, client: &Client) -> Result<(), Failure> {
    let mut differs = false;
    for manifest in manifests::read(&args.files, &args.namespace)? {
        let title = title(manifest.target.kind, manifest.target.name.as_deref().unwrap_or_default());
        let (before, after) = apply::change(&manifest, true, client)
            .await
            .map_err(|failure| failure.during(format!("compare {title}")))?;
        let (before, after) = (lines(before.as_ref())?, lines(Some(&after))?);
        if before == after {
            continue;
        }
        differs = true;
        say!("--- {title}, as it is\n+++ {title}, as it would be")?;
        for line in unified(&before, &after) {
            say!("{line}")?;
        }
    }
    if differs { Err(Failure::said(Code::Failed)) } else { Ok(()) }
}

/// What of an object somebody decides, as YAML.
fn lines(object: Option<&Value>) -> Result<Vec<String>, Failure> {
    let Some(object) = object else { return Ok(Vec::new()) };
    let mut object = apply::without_revision(object);
    if let Some(fields) = object.as_object_mut() {
        fields.remove("status");
    }
    if let Some(metadata) = object["metadata"].as_object_mut() {
        for own in ["generation", "uid", "creationTimestamp"] {
            metadata.remove(own);
        }
    }
    Ok(output::to_yaml(&object)?.lines().map(str::to_owned).collect())
}

/// A line that stays, goes or comes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Edit<'a> {
    Stays(&'a str),
    Goes(&'a str),
    Comes(&'a str),
}

/// The fewest edits that lead from one text to the other.
fn edits<'a>(before: &'a [String], after: &'a [String]) -> Vec<Edit<'a>> {
    if before.len() > LINES || after.len() > LINES {
        let gone = before.iter().map(|line| Edit::Goes(line));
        return gone.chain(after.iter().map(|line| Edit::Comes(line))).collect();
    }
    // The longest common sequence of what follows each pair of places.
    let width = after.len() + 1;
    let mut common = vec![0_u16; (before.len() + 1) * width];
    for (row, old) in before.iter().enumerate().rev() {
        for (column, new) in after.iter().enumerate().rev() {
            let at = row * width + column;
            let skipped = common[at + 1].max(common[at + width]);
            common[at] = if old == new { common[at + width + 1] + 1 } else { skipped };
        }
    }
    let (mut row, mut column, mut found) = (0, 0, Vec::new());
    while row < before.len() || column < after.len() {
        let at = row * width + column;
        match (before.get(row), after.get(column)) {
            (Some(old), Some(new)) if old == new => {
                found.push(Edit::Stays(old));
                (row, column) = (row + 1, column + 1);
            }
            (Some(old), new) if new.is_none() || common[at + width] >= common[at + 1] => {
                found.push(Edit::Goes(old));
                row += 1;
            }
            (_, Some(new)) => {
                found.push(Edit::Comes(new));
                column += 1;
            }
            (_, None) => break,
        }
    }
    found
}

/// The edits with the lines around them.
fn unified(before: &[String], after: &[String]) -> Vec<String> {
    let edits = edits(before, after);
    let near = |at: usize| {
        let around = &edits[at.saturating_sub(AROUND)..(at + AROUND + 1).min(edits.len())];
        around.iter().any(|edit| !matches!(edit, Edit::Stays(_)))
    };
    let mut shown = Vec::new();
    let mut left_out = false;
    for (at, edit) in edits.iter().enumerate() {
        if !near(at) {
            left_out = true;
            continue;
        }
        if std::mem::take(&mut left_out) {
            shown.push("@@".to_owned());
        }
        shown.push(match edit {
            Edit::Stays(line) => format!(" {line}"),
            Edit::Goes(line) => format!("-{line}"),
            Edit::Comes(line) => format!("+{line}"),
        });
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(letters: &str) -> Vec<String> {
        letters.chars().map(String::from).collect()
    }

    #[test]
    fn only_what_differs_is_shown_with_what_is_around_it() {
        assert_eq!(unified(&text("abc"), &text("abc")), Vec::<String>::new());
        assert_eq!(unified(&text("abcde"), &text("abxde")), [" a", " b", "-c", "+x", " d", " e"]);
        assert_eq!(unified(&[], &text("ab")), ["+a", "+b"]);
        assert_eq!(unified(&text("0123456789"), &text("012345678")), ["@@", " 6", " 7", " 8", "-9"]);
    }

    #[test]
    fn edits_lead_from_one_text_to_the_other() {
        for (one, other) in [("kitten", "sitting"), ("", "ab"), ("ab", ""), ("abcabba", "cbabac")] {
            let (before, after) = (text(one), text(other));
            let edits = edits(&before, &after);
            let side = |goes: bool| -> String {
                let kept = |edit: &Edit<'_>| match edit {
                    Edit::Stays(line) => Some((*line).to_owned()),
                    Edit::Goes(line) => goes.then(|| (*line).to_owned()),
                    Edit::Comes(line) => (!goes).then(|| (*line).to_owned()),
                };
                edits.iter().filter_map(kept).collect()
            };
            assert_eq!((side(true).as_str(), side(false).as_str()), (one, other));
        }
    }
}
