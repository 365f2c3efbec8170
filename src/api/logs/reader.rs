//! Reads log files as a stream of what the container wrote, and follows them when asked.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, stream};

use super::files::{BLOCK, blocking, current, open_all, tail_start};
use super::{Life, Wanted};

/// Time between looks at a file that is followed. Files tell nobody that they grew.
const POLL: Duration = Duration::from_millis(200);
/// The longest line that is held together; a longer one is passed on in pieces.
const LINE_LIMIT: usize = 1 << 20;

/// A log that is being read.
pub(super) struct Reader {
    folder: PathBuf,
    wanted: Wanted,
    life: Life,
    /// The files to read, oldest first; the first is being read.
    files: VecDeque<File>,
    offset: u64,
    /// What was read and is no whole line yet.
    rest: BytesMut,
    /// Whether the line before was split by the runtime.
    in_line: bool,
    /// Bytes of output left.
    left: Option<u64>,
}

/// What one look at the file found.
struct Look {
    file: File,
    bytes: Vec<u8>,
    /// The files that were begun after it, oldest first.
    newer: Vec<File>,
}

impl Reader {
    pub(super) async fn open(folder: PathBuf, wanted: Wanted, life: Life) -> io::Result<Self> {
        let (inside, attempt, tail) = (folder.clone(), life.attempt, wanted.tail);
        let (files, offset) = blocking(move || {
            let mut files = open_all(&inside, attempt)?;
            let (first, offset) = match tail {
                Some(lines) => tail_start(&files, lines)?,
                None => (0, 0),
            };
            Ok((files.split_off(first), offset))
        })
        .await?;
        let left = wanted.limit;
        Ok(Self { folder, wanted, life, files: files.into(), offset, rest: BytesMut::new(), in_line: false, left })
    }

    /// What the container wrote, in pieces.
    pub(super) fn into_chunks(self) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
        stream::unfold(Some(self), |reader| async move {
            let mut reader = reader?;
            match reader.next().await {
                Ok(Some(chunk)) => Some((Ok(chunk), Some(reader))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        })
    }

    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        // Asked before the last look: nothing that was written before the end is missed.
        let mut alive = true;
        loop {
            if self.left == Some(0) {
                return Ok(None);
            }
            let Some(file) = self.files.pop_front() else { return Ok(None) };
            let look = self.look(file).await?;
            let read = look.bytes.len();
            self.offset += read as u64;
            self.rest.extend_from_slice(&look.bytes);
            let output = self.take_lines();
            if read > 0 {
                self.files.push_front(look.file);
                if !output.is_empty() {
                    return Ok(Some(self.limit(output)));
                }
                continue;
            }
            if !self.files.is_empty() {
                self.offset = 0;
                continue;
            }
            if !look.newer.is_empty() {
                self.files = look.newer.into();
                self.offset = 0;
                continue;
            }
            self.files.push_front(look.file);
            if !self.wanted.follow || !alive {
                return Ok(None);
            }
            alive = self.life.goes_on();
            if alive && !self.pause().await {
                return Ok(None);
            }
        }
    }

    /// Waits a little; false when the agent stops.
    async fn pause(&self) -> bool {
        // Both arms only wait.
        tokio::select! {
            () = tokio::time::sleep(POLL) => true,
            () = self.life.stopping().cancelled_owned() => false,
        }
    }

    /// Reads on in a file; at its end, looks whether another is written now.
    async fn look(&self, file: File) -> io::Result<Look> {
        let offset = self.offset;
        let last = self.files.is_empty() && self.wanted.follow;
        let (folder, attempt) = (self.folder.clone(), self.life.attempt);
        blocking(move || {
            let mut bytes = vec![0; BLOCK];
            let mut read = file.read_at(&mut bytes, offset)?;
            let mut newer = Vec::new();
            if read == 0 && last {
                newer = begun_after(&file, &folder, attempt)?;
                if !newer.is_empty() {
                    // Written between the last read and the rotation.
                    read = file.read_at(&mut bytes, offset)?;
                }
            }
            bytes.truncate(read);
            Ok(Look { file, bytes, newer })
        })
        .await
    }

    /// Turns whole lines of the file into lines of the program.
    fn take_lines(&mut self) -> BytesMut {
        let mut output = BytesMut::new();
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line = self.rest.split_to(end + 1);
            self.take_line(&line[..end], &mut output);
        }
        if self.rest.len() > LINE_LIMIT {
            let piece = self.rest.split();
            output.extend_from_slice(&piece);
        }
        output
    }

    /// One line: `TIME STREAM TAG TEXT`. A line of another form is passed on as it is.
    fn take_line(&mut self, line: &[u8], output: &mut BytesMut) {
        let mut words = line.splitn(4, |byte| *byte == b' ');
        let parsed = (|| Some((words.next()?, words.next()?, words.next()?, words.next().unwrap_or_default())))();
        let Some((time, stream, tag, text)) = parsed.filter(|(_, _, tag, _)| matches!(*tag, b"F" | b"P")) else {
            output.extend_from_slice(line);
            output.extend_from_slice(b"\n");
            return;
        };
        if self.wanted.only.is_some_and(|only| only.as_bytes() != stream) {
            return;
        }
        let starts = !std::mem::replace(&mut self.in_line, tag == b"P");
        let moment = || std::str::from_utf8(time).ok().and_then(|text| text.parse::<jiff::Timestamp>().ok());
        if self.wanted.since.is_some_and(|since| moment().is_some_and(|moment| moment < since)) {
            return;
        }
        if self.wanted.timestamps && starts {
            output.extend_from_slice(time);
            output.extend_from_slice(b" ");
        }
        output.extend_from_slice(text);
        if tag == b"F" {
            output.extend_from_slice(b"\n");
        }
    }

    fn limit(&mut self, mut output: BytesMut) -> Bytes {
        if let Some(left) = &mut self.left {
            output.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= output.len() as u64;
        }
        output.freeze()
    }
}

/// The files that were begun after this one, oldest first. When it was rotated away altogether,
/// that is all of them.
fn begun_after(file: &File, folder: &Path, attempt: u32) -> io::Result<Vec<File>> {
    let identity = |file: &File| file.metadata().map(|meta| (meta.dev(), meta.ino()));
    let ours = identity(file)?;
    match File::open(current(folder, attempt)) {
        Ok(newest) if identity(&newest)? == ours => return Ok(Vec::new()),
        // Between the two steps of a rotation there is no such file.
        Err(_) => return Ok(Vec::new()),
        Ok(_) => {}
    }
    let mut files = open_all(folder, attempt)?;
    let mut place = None;
    for (index, found) in files.iter().enumerate() {
        if identity(found)? == ours {
            place = Some(index);
        }
    }
    Ok(files.split_off(place.map_or(0, |place| place + 1)))
}
