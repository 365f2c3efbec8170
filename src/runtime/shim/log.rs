//! Container output in the CRI log format, in files bounded by size.
//!
//! Memory is constant whatever the container writes: a line longer than a buffer is written in parts
//! tagged `P`, the last one `F`. A disk that is full or gone loses lines, never the container.

#![expect(clippy::disallowed_methods, reason = "writes log files by the clock")]

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::runtime::folder::LogLimits;

/// Bytes of one line before it is split; also the size of one read.
pub(super) const LINE_MAX: usize = 16 << 10;

/// Bytes gathered before they are written.
const BATCH: usize = 16 << 10;

/// `2026-01-01T00:00:00.000000000Z stdout F ` is 40 bytes.
const PREFIX: usize = 40;

/// The current log file and its older ones.
pub(super) struct LogFile {
    limits: LogLimits,
    file: Option<File>,
    size: u64,
    batch: Vec<u8>,
}

/// One of the container's two streams, with the line that is not complete yet.
pub(super) struct Stream {
    name: &'static str,
    line: Vec<u8>,
}

impl Stream {
    pub(super) fn new(name: &'static str) -> Self {
        Self { name, line: Vec::new() }
    }

    /// Takes what was read and logs its complete lines.
    pub(super) fn push(&mut self, mut bytes: &[u8], log: &mut LogFile) {
        let stamp = stamp(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
        while !bytes.is_empty() {
            let room = LINE_MAX - self.line.len();
            let window = &bytes[..bytes.len().min(room)];
            match window.iter().position(|byte| *byte == b'\n') {
                Some(end) => {
                    log.line(&stamp, self.name, b"F", &self.line, &window[..end]);
                    self.line.clear();
                    bytes = &bytes[end + 1..];
                }
                None if window.len() == room => {
                    log.line(&stamp, self.name, b"P", &self.line, window);
                    self.line.clear();
                    bytes = &bytes[room..];
                }
                None => {
                    self.line.extend_from_slice(window);
                    bytes = &[];
                }
            }
        }
        log.flush();
    }

    /// The stream ended: what it left unfinished is a line too.
    pub(super) fn finish(&mut self, log: &mut LogFile) {
        if !self.line.is_empty() {
            self.push(b"\n", log);
        }
        self.line = Vec::new();
    }
}

impl LogFile {
    pub(super) fn new(limits: LogLimits) -> Self {
        Self { limits, file: None, size: 0, batch: Vec::new() }
    }

    /// Makes the file before the first line, so that a silent container has a log too.
    pub(super) fn open(&mut self) {
        if self.file.is_some() {
            return;
        }
        if let Some(folder) = self.limits.path.parent() {
            let _ = fs::DirBuilder::new().recursive(true).mode(0o750).create(folder);
        }
        self.file = OpenOptions::new().create(true).append(true).mode(0o640).open(&self.limits.path).ok();
        self.size = self.file.as_ref().and_then(|file| file.metadata().ok()).map_or(0, |metadata| metadata.len());
    }

    fn line(&mut self, stamp: &[u8], stream: &str, tag: &[u8], start: &[u8], end: &[u8]) {
        if self.batch.len() + PREFIX + start.len() + end.len() > BATCH {
            self.flush();
        }
        for part in [stamp, b" ", stream.as_bytes(), b" ", tag, b" ", start, end, b"\n"] {
            self.batch.extend_from_slice(part);
        }
    }

    fn flush(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        self.open();
        let length = self.batch.len() as u64;
        if self.size > 0 && self.size + length > self.limits.max_bytes {
            self.rotate();
        }
        match self.file.as_mut().map(|file| file.write_all(&self.batch)) {
            Some(Ok(())) => self.size += length,
            // Look for the file anew next time: its folder may be back, or the disk have room.
            _ => self.file = None,
        }
        self.batch.clear();
    }

    fn rotate(&mut self) {
        self.file = None;
        let numbered = |number: u32| -> PathBuf {
            if number == 0 {
                return self.limits.path.clone();
            }
            let mut name = self.limits.path.clone().into_os_string();
            name.push(format!(".{number}"));
            name.into()
        };
        let last = self.limits.max_files.saturating_sub(1);
        if last == 0 {
            let _ = fs::remove_file(&self.limits.path);
        }
        for number in (0..last).rev() {
            let _ = fs::rename(numbered(number), numbered(number + 1));
        }
        self.open();
    }
}

/// RFC 3339 in UTC with nanoseconds, without an allocation.
fn stamp(since: std::time::Duration) -> [u8; 30] {
    let (year, month, day) = civil(since.as_secs() / 86_400);
    let (seconds, nanos) = (since.as_secs() % 86_400, u64::from(since.subsec_nanos()));
    let mut text = *b"0000-00-00T00:00:00.000000000Z";
    let fields = [
        (year, 0, 4),
        (month, 5, 2),
        (day, 8, 2),
        (seconds / 3600, 11, 2),
        (seconds / 60 % 60, 14, 2),
        (seconds % 60, 17, 2),
        (nanos, 20, 9),
    ];
    for (mut value, at, width) in fields {
        for place in text[at..at + width].iter_mut().rev() {
            *place = b'0' + u8::try_from(value % 10).unwrap_or(0);
            value /= 10;
        }
    }
    text
}

/// Year, month and day of a day since 1970 (H. Hinnant's algorithm, for days after the epoch).
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn log_in(folder: &std::path::Path, max_bytes: u64, max_files: u32) -> LogFile {
        LogFile::new(LogLimits { path: folder.join("pod/0.log"), max_bytes, max_files })
    }

    #[test]
    fn stamps_match_the_calendar() {
        let text = |seconds, nanos| String::from_utf8(stamp(Duration::new(seconds, nanos)).to_vec()).unwrap();
        assert_eq!(text(0, 0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(text(951_782_400, 7), "2000-02-29T00:00:00.000000007Z");
        assert_eq!(text(1_769_843_109, 999_999_999), "2026-01-31T07:05:09.999999999Z");
        for day in (0..40_000u64).step_by(13) {
            let expected = jiff::Timestamp::from_second(i64::try_from(day * 86_400).unwrap()).unwrap();
            assert_eq!(text(day * 86_400, 0)[..10], expected.to_string()[..10]);
        }
    }

    #[test]
    fn lines_are_split_when_long_and_kept_when_short() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = log_in(folder.path(), 1 << 20, 2);
        let mut stream = Stream::new("stdout");
        stream.push(b"one\ntw", &mut log);
        stream.push(b"o\n\n", &mut log);
        stream.push(&vec![b'x'; LINE_MAX + 3], &mut log);
        stream.finish(&mut log);
        let text = fs::read_to_string(folder.path().join("pod/0.log")).unwrap();
        let tails: Vec<String> = text.lines().map(|line| line[31..].to_owned()).collect();
        assert_eq!(tails[..3], ["stdout F one", "stdout F two", "stdout F "]);
        assert_eq!(tails[3], format!("stdout P {}", "x".repeat(LINE_MAX)));
        assert_eq!(tails[4], "stdout F xxx");
        assert_eq!(tails.len(), 5);
    }

    #[test]
    fn files_stay_within_their_bounds_and_keep_the_newest_lines() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = log_in(folder.path(), 4096, 3);
        let mut stream = Stream::new("stderr");
        for number in 0..2000 {
            stream.push(format!("line {number}\n").as_bytes(), &mut log);
        }
        let mut names: Vec<_> =
            fs::read_dir(folder.path().join("pod")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["0.log", "0.log.1", "0.log.2"]);
        for name in names {
            let path = folder.path().join("pod").join(name);
            assert!(fs::metadata(&path).unwrap().len() <= 4096);
        }
        assert!(fs::read_to_string(folder.path().join("pod/0.log")).unwrap().ends_with("stderr F line 1999\n"));
    }

    #[test]
    fn a_log_that_can_not_be_written_stops_nobody() {
        let mut log = LogFile::new(LogLimits { path: "/proc/none/0.log".into(), max_bytes: 4096, max_files: 2 });
        let mut stream = Stream::new("stdout");
        stream.push(&vec![b'\n'; 1 << 20], &mut log);
        assert!(log.batch.capacity() < 4 * BATCH);
    }
}
