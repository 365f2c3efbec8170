//! What a container left to say when it ended: its termination message, or the end of its log. It
//! reads little, and trusts nothing of it.

#![expect(clippy::disallowed_methods, reason = "reads what the container wrote")]

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use crate::runtime::folder::Order;
use crate::runtime::last_words;

/// Bytes of a message that are kept.
const MESSAGE_LIMIT: u64 = 4096;

/// Bytes and lines of a log that stand in for a message.
const TAIL_LIMIT: usize = 2048;
const TAIL_LINES: usize = 80;

/// Bytes of a log that are looked at.
const LOOK_BACK: u64 = 16 << 10;

/// The message of a container that ended with this code; empty when it left none.
pub(super) fn of(order: &Order, code: i32) -> String {
    let Some(wanted) = &order.spec.last_words else { return String::new() };
    let message = read(&order.scratch.join(last_words::FILE)).unwrap_or_default();
    if message.is_empty() && wanted.or_log && code != 0 {
        return tail(&order.log.path).unwrap_or_default();
    }
    message
}

fn read(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MESSAGE_LIMIT).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The last lines of a log, without their stamps.
fn tail(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(LOOK_BACK)))?;
    let mut bytes = Vec::new();
    file.take(LOOK_BACK).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    // The first line may have been cut.
    let skipped = usize::from(size > LOOK_BACK);
    let lines: Vec<&str> = text.lines().skip(skipped).filter_map(|line| line.splitn(4, ' ').nth(3)).collect();
    let mut words = String::new();
    for line in lines[lines.len().saturating_sub(TAIL_LINES)..].iter().rev() {
        if words.len() + line.len() + 1 > TAIL_LIMIT {
            break;
        }
        words.insert_str(0, &format!("{line}\n"));
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    #[test]
    fn the_end_of_a_log_is_its_last_lines_without_stamps() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let log = (0..300).fold(String::new(), |mut all, n| {
            writeln!(all, "2026-01-01T00:00:00.000000000Z stderr F line {n} of many").unwrap();
            all
        });
        std::fs::write(&path, log).unwrap();
        let words = tail(&path).unwrap();
        assert!(words.ends_with("line 299 of many\n") && words.len() <= TAIL_LIMIT, "{words}");
        assert_eq!(words.lines().count(), TAIL_LINES);
        assert!(words.starts_with("line 220"), "{words}");
    }
}
