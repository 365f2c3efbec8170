//! Pages for people, as tests read them: what is typed, and what is shown to come of it.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// A command of a page, and the lines that it is shown to print.
#[derive(Debug)]
pub struct Step {
    pub page: String,
    pub line: usize,
    pub typed: String,
    pub shown: Vec<String>,
}

impl Step {
    /// The command without its remark and without spaces around it.
    pub fn bare(&self) -> &str {
        let line = self.typed.split(" # ").next().unwrap_or_default();
        line.split("  # ").next().unwrap_or_default().trim()
    }

    pub fn place(&self) -> String {
        format!("{}:{}: {}", self.page, self.line, self.bare())
    }
}

/// Every page for people.
pub fn pages() -> Vec<String> {
    let mut found: Vec<PathBuf> = ["README.md", "ARCHITECTURE.md", "cross/README.md"].map(PathBuf::from).into();
    found.extend(std::fs::read_dir("docs").unwrap().map(|entry| entry.unwrap().path()));
    found.retain(|path| path.extension().is_some_and(|ending| ending == "md"));
    found.sort();
    found.into_iter().map(|path| path.display().to_string()).collect()
}

pub fn read(page: &str) -> Vec<Step> {
    steps(page, &std::fs::read_to_string(page).unwrap())
}

/// The commands of a page: lines after `$ ` in a console, with what follows them; all lines of a script.
pub fn steps(page: &str, text: &str) -> Vec<Step> {
    let mut found: Vec<Step> = Vec::new();
    let mut lines = text.lines().zip(1..);
    let mut fence: Option<&str> = None;
    while let Some((line, number)) = lines.next() {
        if let Some(language) = line.trim_start().strip_prefix("```") {
            fence = if fence.is_some() { None } else { Some(language.trim()) };
            continue;
        }
        let typed = match fence {
            Some("console") => line.strip_prefix("$ "),
            Some("sh") => Some(line).filter(|line| !line.trim().is_empty() && !line.starts_with('#')),
            _ => continue,
        };
        let Some(typed) = typed else {
            found.last_mut().expect("output before any command").shown.push(line.to_owned());
            continue;
        };
        let mut typed = typed.to_owned();
        while typed.ends_with('\\') {
            let (more, _) = lines.next().expect("a line goes on");
            typed = format!("{typed}\n{more}");
        }
        if let Some((_, word)) = typed.clone().split_once("<<") {
            for (more, _) in lines.by_ref() {
                typed = format!("{typed}\n{more}");
                if more == word.trim() {
                    break;
                }
            }
        }
        found.push(Step { page: page.to_owned(), line: number, typed, shown: Vec::new() });
    }
    for step in &mut found {
        step.shown.retain(|line| !line.trim().is_empty());
    }
    found
}

/// Words of the pages that are others here: names of pods, tokens, addresses.
#[derive(Default)]
pub struct Names {
    others: BTreeMap<String, String>,
    swapped: Option<(String, String)>,
}

impl Names {
    pub fn set(&mut self, shown: &str, here: &str) {
        self.others.insert(shown.to_owned(), here.to_owned());
    }

    /// From now on each of these stands for the other one.
    pub fn swap(&mut self, one: &str, other: &str) {
        self.swapped = Some((one.to_owned(), other.to_owned()));
    }

    /// What is typed here for what stands in the page.
    pub fn here(&self, text: &str) -> String {
        let text = match &self.swapped {
            Some((one, other)) => text.replace(one, "\0").replace(other, one).replace('\0', other),
            None => text.to_owned(),
        };
        let mut names: Vec<_> = self.others.iter().collect();
        names.sort_by_key(|(shown, _)| std::cmp::Reverse(shown.len()));
        names.into_iter().fold(text, |text, (shown, here)| text.replace(shown, here))
    }

    /// What is other than shown. Where all of it is as shown, the words that stand for others are learnt.
    pub fn differs(&mut self, shown: &[String], printed: &str, part: bool) -> Vec<String> {
        let mut printed: Vec<&str> = printed.lines().filter(|line| !line.trim().is_empty()).collect();
        let (mut wrong, mut learnt) = (Vec::new(), Vec::new());
        for line in shown {
            let here = self.here(line);
            let found = printed.iter().enumerate().find_map(|(at, is)| Some((at, fits(&here, is)?)));
            if let Some((at, words)) = found {
                printed.remove(at);
                learnt.extend(words);
            } else {
                wrong.push(format!("is not printed: {here}"));
            }
        }
        if !part && !shown.is_empty() {
            wrong.extend(printed.iter().map(|line| format!("is not shown: {line}")));
        }
        if wrong.is_empty() {
            for (shown, here) in learnt {
                self.set(&shown, &here);
            }
        }
        wrong
    }
}

/// Names long enough to be meant when they are typed later.
const NAME_LETTERS: usize = 8;

/// Whether a line is as shown, up to what changes from run to run; with the names that are others here.
fn fits(shown: &str, is: &str) -> Option<Vec<(String, String)>> {
    let (shown, is): (Vec<&str>, Vec<&str>) = (shown.split_whitespace().collect(), is.split_whitespace().collect());
    if shown.len() != is.len() || !shown.iter().zip(&is).all(|(shown, is)| alike(shown, is)) {
        return None;
    }
    let others = shown.into_iter().zip(is).filter(|(shown, is)| shown != is && shown.len() >= NAME_LETTERS);
    Some(others.map(|(shown, is)| (shown.to_owned(), is.to_owned())).collect())
}

/// Whether two words are the same, or both are numbers, times, names or digests. `1/3` is meant as it is.
fn alike(shown: &str, is: &str) -> bool {
    let has_digit = |word: &str| word.chars().any(|c| c.is_ascii_digit());
    let share = |word: &str| word.contains('/') && word.chars().all(|c| c.is_ascii_digit() || c == '/');
    // The beginning of a name is no chance: hello-w6h6zlfl5z-79zt9.
    let head = |word: &str| {
        let (head, _) = word.split_once(['-', '/', ':'])?;
        (head.len() > 1 && head.chars().all(char::is_alphabetic)).then(|| head.to_owned())
    };
    let parts = |word: &str| word.matches('-').count();
    // The rest of a name is drawn, and may have no digit.
    let named = |word: &str| head(word).is_some() && parts(word) == parts(shown);
    let end = |word: &str| word.chars().next_back().filter(|c| ",:;.)".contains(*c) && !word.ends_with("..."));
    shown == is
        || has_digit(shown)
            && (has_digit(is) || named(is))
            && !share(shown)
            && !share(is)
            && head(shown) == head(is)
            && end(shown) == end(is)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_found_with_what_they_print() {
        let text = "```console\n$ kith a\none\n\ntwo\n$ kith b # why\n```\n```toml\n$ no\n```\n\
                    ```sh\n# no\nkith c \\\n  d\nkith e <<END\nx\nEND\n\nkith f\n```\n";
        let found = steps("page", text);
        let typed: Vec<&str> = found.iter().map(Step::bare).collect();
        assert_eq!(typed, ["kith a", "kith b", "kith c \\\n  d", "kith e <<END\nx\nEND", "kith f"]);
        assert_eq!((&found[0].shown[..], found[1].line), (&["one".to_owned(), "two".to_owned()][..], 6));
    }

    #[test]
    fn only_what_changes_from_run_to_run_may_be_other_than_shown() {
        let differs = |shown: &str, printed: &str| {
            let shown: Vec<String> = shown.lines().map(str::to_owned).collect();
            !Names::default().differs(&shown, printed, false).is_empty()
        };
        assert!(!differs("hello-w6h6-79zt9 1/1 Running 2s d3", "hello-ab2-fghij   1/1  Running 41s  d1\n"));
        assert!(!differs("d1 no\nd2 yes", "d3 yes\n\nd1 no"), "in any order");
        for (shown, printed) in [
            ("ok", ""),
            ("ok", "ok\nand more"),
            ("ok", "okay"),
            ("image hello:1 loaded", "image hello:1 removed"),
            ("hello-w6h6-79zt9 1/1", "hello-w6h6-79zt9 0/1"),
            ("hello-w6h6-79zt9", "other-w6h6-79zt9"),
            ("d1 no", "d1 no way"),
            ("token 7b4a8121f8 revoked", "token unknown revoked"),
            ("92 checks: 1 problem", "92 checks, 1 problem"),
        ] {
            assert!(differs(shown, printed), "{shown} / {printed}");
        }
    }

    #[test]
    fn names_are_learnt_where_they_are_printed() {
        let mut names = Names::default();
        assert!(names.differs(&["7b4a8121f8 device 5".to_owned()], "0011223344 device 5", false).is_empty());
        assert_eq!(names.here("kith token revoke 7b4a8121f8"), "kith token revoke 0011223344");
        assert!(names.differs(&["token 7b4a8121f8 revoked".to_owned()], "token 0011223344 revoked", false).is_empty());
    }
}
