//! The files of one container's log: `N.log` is written, `N.log.1` is the one before it, and so on.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Bytes read at a time.
pub(super) const BLOCK: usize = 32 << 10;
/// Enough of a line to see its tag: time, stream, tag.
const HEAD: usize = 64;

/// The newest attempt of a container that logged, or the one before it.
pub(super) async fn attempt(folder: &Path, previous: bool) -> Option<u32> {
    let folder = folder.to_owned();
    let mut attempts = blocking(move || Ok(attempts(&folder))).await.ok()?;
    if previous {
        attempts.pop();
    }
    attempts.pop()
}

/// Every attempt that logged, ascending.
fn attempts(folder: &Path) -> Vec<u32> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<u32> = entries
        .filter_map(|entry| entry.file_name().to_str().and_then(|name| name.strip_suffix(".log")?.parse().ok()))
        .collect();
    found.sort_unstable();
    found
}

/// The files of an attempt, oldest first, opened.
pub(super) fn open_all(folder: &Path, attempt: u32) -> io::Result<Vec<File>> {
    let current = current(folder, attempt);
    let mut found = Vec::new();
    for number in 1.. {
        match File::open(rotated(&current, number)) {
            Ok(file) => found.push(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            Err(error) => return Err(error),
        }
    }
    found.reverse();
    found.push(File::open(&current)?);
    Ok(found)
}

/// The file that is written.
pub(super) fn current(folder: &Path, attempt: u32) -> PathBuf {
    folder.join(format!("{attempt}.log"))
}

fn rotated(current: &Path, number: u32) -> PathBuf {
    let mut name = current.as_os_str().to_owned();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

/// Runs what may wait for a disk beside the agent's thread.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

/// Where the last `lines` whole lines begin: a file's index and an offset in it. A line that was
/// split by the runtime (tag `P`) counts with the rest of it (tag `F`).
pub(super) fn tail_start(files: &[File], lines: u64) -> io::Result<(usize, u64)> {
    let mut left = lines;
    for (index, file) in files.iter().enumerate().rev() {
        let mut end = file.metadata()?.len();
        if index + 1 == files.len() && lines == 0 {
            return Ok((index, end));
        }
        let mut block = vec![0; BLOCK];
        // `line_end` is where the line under inspection ends, its newline included.
        let mut line_end = end;
        while end > 0 {
            let start = end.saturating_sub(BLOCK as u64);
            let length = usize::try_from(end - start).unwrap_or(BLOCK);
            file.read_exact_at(&mut block[..length], start)?;
            for offset in (0..length).rev().filter(|offset| block[*offset] == b'\n') {
                let line_start = start + offset as u64 + 1;
                if line_start < line_end {
                    if is_whole(file, line_start)? {
                        if left == 0 {
                            return Ok((index, line_end));
                        }
                        left -= 1;
                    }
                    line_end = line_start;
                }
            }
            end = start;
        }
        if line_end > 0 && is_whole(file, 0)? {
            if left == 0 {
                return Ok((index, line_end));
            }
            left -= 1;
        }
    }
    Ok((0, 0))
}

/// Whether the line at an offset ends a line of the program.
fn is_whole(file: &File, offset: u64) -> io::Result<bool> {
    let mut head = [0; HEAD];
    let length = file.read_at(&mut head, offset)?;
    let mut words = head[..length].split(|byte| *byte == b' ');
    Ok(words.nth(2) != Some(b"P"))
}
