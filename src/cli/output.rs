//! What commands print: aligned tables, JSON, YAML, and colour where a person looks. Results go to
//! standard output, everything else to standard error.

use std::fmt::Arguments;
use std::io::{IsTerminal, Write, stderr, stdout};

use clap::ValueEnum;
use serde::Serialize;

use super::failure::{Code, Failure};

/// `-o`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A table with more columns.
    Wide,
    /// The whole objects.
    Json,
    /// The whole objects.
    Yaml,
    /// `TYPE/NAME`, one a line.
    Name,
}

/// Writes one line to standard output.
pub(crate) fn line(text: Arguments<'_>) -> Result<(), Failure> {
    Ok(writeln!(stdout(), "{text}")?)
}

/// Writes text as it is to standard output, and makes it appear.
pub(crate) fn raw(text: &[u8]) -> Result<(), Failure> {
    let mut out = stdout();
    out.write_all(text)?;
    Ok(out.flush()?)
}

/// Tells the user something that is not the result; a closed standard error loses it.
pub(crate) fn aside(text: Arguments<'_>) {
    _ = writeln!(stderr(), "{text}");
}

/// Prints a value as indented JSON.
pub(crate) fn json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Failure::of(Code::Failed, &e))?;
    line(format_args!("{text}"))
}

/// A value as YAML.
pub(crate) fn to_yaml(value: &impl Serialize) -> Result<String, Failure> {
    serde_saphyr::to_string(value).map_err(|e| Failure::failed(format!("write YAML: {e}")))
}

/// Prints a value as YAML.
pub(crate) fn yaml(value: &impl Serialize) -> Result<(), Failure> {
    raw(to_yaml(value)?.as_bytes())
}

/// A `println!` that reports a closed pipe instead of panicking.
macro_rules! say {
    ($($arg:tt)*) => { $crate::cli::output::line(format_args!($($arg)*)) };
}

/// A line on standard error.
macro_rules! note {
    ($($arg:tt)*) => { $crate::cli::output::aside(format_args!($($arg)*)) };
}

pub(crate) use {note, say};

/// Rows under headings, columns as wide as what they hold, three spaces between them. What has been
/// rendered keeps its widths, so that rows that come later line up.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
    widths: Vec<usize>,
}

impl Table {
    /// A table with these headings.
    pub(crate) fn new(headings: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let mut table = Self::default();
        table.row(headings);
        table
    }

    /// A table without headings.
    pub(crate) fn bare() -> Self {
        Self::default()
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = impl Into<String>>) {
        let row: Vec<String> = cells.into_iter().map(Into::into).collect();
        self.widths.resize(self.widths.len().max(row.len()), 0);
        for (width, cell) in self.widths.iter_mut().zip(&row) {
            *width = (*width).max(visible(cell));
        }
        self.rows.push(row);
    }

    /// The rows that have not been rendered yet, as text.
    pub(crate) fn render(&mut self) -> String {
        let mut text = String::new();
        for row in std::mem::take(&mut self.rows) {
            let mut line = String::new();
            for (index, (cell, width)) in row.iter().zip(&self.widths).enumerate() {
                line.push_str(cell);
                if index + 1 < row.len() {
                    line.extend(std::iter::repeat_n(' ', width - visible(cell) + 3));
                }
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    /// Prints the rows that have not been printed yet.
    pub(crate) fn print(&mut self) -> Result<(), Failure> {
        raw(self.render().as_bytes())
    }
}

/// Columns that a text takes on a terminal: colour takes none.
fn visible(text: &str) -> usize {
    let mut count = 0;
    let mut escaped = false;
    for letter in text.chars() {
        match letter {
            '\u{1b}' => escaped = true,
            'm' if escaped => escaped = false,
            _ if escaped => {}
            _ => count += 1,
        }
    }
    count
}

/// Colours for a person, nothing for a pipe.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paint {
    on: bool,
}

impl Paint {
    /// For standard output: colour on a terminal, unless `NO_COLOR` is set.
    pub(crate) fn stdout() -> Self {
        Self::when(stdout().is_terminal())
    }

    /// For standard error.
    pub(crate) fn stderr() -> Self {
        Self::when(stderr().is_terminal())
    }

    fn when(terminal: bool) -> Self {
        let asked_not = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self { on: terminal && !asked_not && !dumb }
    }

    /// Never any colour.
    #[cfg(test)]
    pub(crate) fn none() -> Self {
        Self { on: false }
    }

    /// Good news.
    pub(crate) fn green(self, text: impl AsRef<str>) -> String {
        self.with("32", text.as_ref())
    }

    /// Something to look at.
    pub(crate) fn yellow(self, text: impl AsRef<str>) -> String {
        self.with("33", text.as_ref())
    }

    /// Bad news.
    pub(crate) fn red(self, text: impl AsRef<str>) -> String {
        self.with("31", text.as_ref())
    }

    /// The name of a thing.
    pub(crate) fn bold(self, text: impl AsRef<str>) -> String {
        self.with("1", text.as_ref())
    }

    fn with(self, code: &str, text: &str) -> String {
        if self.on { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

/// A span as people say it: `12s`, `3m40s`, `5h2m`, `8d`.
pub(crate) fn span(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 if !seconds.is_multiple_of(60) => format!("{minutes}m{}s", seconds % 60),
        120..10_800 => format!("{minutes}m"),
        10_800..36_000 if !minutes.is_multiple_of(60) => format!("{hours}h{}m", minutes % 60),
        10_800..172_800 => format!("{hours}h"),
        _ => format!("{days}d"),
    }
}

/// Bytes as people say them: `512 B`, `1.4 MiB`.
pub(crate) fn size(bytes: u64) -> String {
    let units = [("GiB", 1_u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match units.into_iter().find(|(_, unit)| bytes >= *unit) {
        Some((name, unit)) => format!("{}.{} {name}", bytes / unit, bytes % unit * 10 / unit),
        None => format!("{bytes} B"),
    }
}

/// A count with its noun: `1 pod`, `3 pods`.
pub(crate) fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_whatever_their_colour() {
        let paint = Paint { on: true };
        let mut table = Table::new(["NAME", "READY", "AGE"]);
        table.row(["a", &paint.green("yes"), "1s"]);
        table.row(["longer-name", "no", ""]);
        assert_eq!(
            table.render(),
            "NAME          READY   AGE\na             \u{1b}[32myes\u{1b}[0m     1s\nlonger-name   no\n"
        );
        table.row(["b", "no", "2s"]);
        assert_eq!(table.render(), "b             no      2s\n", "later rows line up with what stands above");
    }

    #[test]
    fn sizes_are_short() {
        let said: Vec<_> = [0, 1023, 1024, 1_500_000, 3 << 30].into_iter().map(size).collect();
        assert_eq!(said, ["0 B", "1023 B", "1.0 KiB", "1.4 MiB", "3.0 GiB"]);
    }

    #[test]
    fn spans_are_short() {
        let said: Vec<_> = [0, 119, 120, 220, 7200, 18_120, 200_000].into_iter().map(span).collect();
        assert_eq!(said, ["0s", "119s", "2m", "3m40s", "120m", "5h2m", "2d"]);
    }
}
