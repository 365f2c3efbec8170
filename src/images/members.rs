//! The members of a tar archive, with long names and extended headers applied.
//!
//! Extended headers are read here and not by the tar library, as that would take them into memory
//! whatever their size. A member that two readers could understand in two ways is refused.

use std::cell::Cell;
use std::io::{self, Read};
use std::rc::Rc;

use super::ImageError;

/// Longest extended header, in bytes.
const EXTENDED_MAX: u64 = 1 << 20;

/// Most members of one archive.
const MEMBERS_MAX: u64 = 1_000_000;

/// One member; its content follows from the reader.
pub(super) struct Member {
    pub(super) path: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) kind: tar::EntryType,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Seconds since the epoch.
    pub(super) mtime: u64,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What extended headers say about the next member.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<u64>,
    size: Option<u64>,
    sparse: bool,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Calls `visit` for each member, in order.
pub(super) fn each(
    reader: impl Read,
    what: &str,
    mut visit: impl FnMut(Member, &mut dyn Read) -> Result<(), ImageError>,
) -> Result<(), ImageError> {
    let damaged = |error: io::Error| ImageError::damaged(what, error);
    let real = Rc::new(Cell::new(None));
    let mut archive = tar::Archive::new(Padded { inner: reader, count: 0, end: real.clone() });
    let mut next = Extended::default();
    let mut count = 0;
    for entry in archive.entries().map_err(damaged)?.raw(true) {
        let mut entry = entry.map_err(damaged)?;
        count += 1;
        if count > MEMBERS_MAX {
            return Err(ImageError::damaged(what, format!("it has more than {MEMBERS_MAX} entries")));
        }
        let kind = entry.header().entry_type();
        match kind {
            tar::EntryType::XGlobalHeader => {}
            tar::EntryType::GNULongName => next.path = Some(long_name(&mut entry, what)?),
            tar::EntryType::GNULongLink => next.link = Some(long_name(&mut entry, what)?),
            tar::EntryType::XHeader => next.read(&extended(&mut entry, what)?, what)?,
            _ => {
                let member = member(&entry, std::mem::take(&mut next), what)?;
                visit(member, &mut entry)?;
                let end = entry.raw_file_position().saturating_add(entry.size());
                io::copy(&mut entry, &mut io::sink()).map_err(damaged)?;
                // Zeros may stand in for what fills the last block up, and for nothing else.
                if real.get().is_some_and(|real| real < end) {
                    return Err(ImageError::damaged(what, "it is cut off within a file"));
                }
            }
        }
    }
    Ok(())
}

/// Fills the last block up with zeros: some writers leave it short, and what is in it is whole.
struct Padded<R> {
    inner: R,
    count: u64,
    /// Where the reader really ended, once it did.
    end: Rc<Cell<Option<u64>>>,
}

/// Bytes of a block of a tar.
const BLOCK: u64 = 512;

impl<R: Read> Read for Padded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.end.get().is_none() {
            let count = self.inner.read(buffer)?;
            self.count += count as u64;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            self.end.set(Some(self.count));
        }
        let missing = self.count.next_multiple_of(BLOCK) - self.count;
        let count = buffer.len().min(usize::try_from(missing).unwrap_or(0));
        buffer[..count].fill(0);
        self.count += count as u64;
        Ok(count)
    }
}

fn extended(entry: &mut (impl Read + ?Sized), what: &str) -> Result<Vec<u8>, ImageError> {
    let mut bytes = Vec::new();
    entry.take(EXTENDED_MAX + 1).read_to_end(&mut bytes).map_err(|error| ImageError::damaged(what, error))?;
    if bytes.len() as u64 > EXTENDED_MAX {
        return Err(ImageError::damaged(what, format!("an extended header is longer than {EXTENDED_MAX} bytes")));
    }
    Ok(bytes)
}

fn long_name(entry: &mut (impl Read + ?Sized), what: &str) -> Result<Vec<u8>, ImageError> {
    let mut name = extended(entry, what)?;
    while name.last() == Some(&0) {
        name.pop();
    }
    Ok(name)
}

fn member<R: Read>(entry: &tar::Entry<'_, R>, next: Extended, what: &str) -> Result<Member, ImageError> {
    let header = entry.header();
    let path = next.path.unwrap_or_else(|| header.path_bytes().into_owned());
    let refused = |reason: &str| ImageError::Refused { entry: lossy(&path), reason: reason.into() };
    if next.sparse || header.entry_type().is_gnu_sparse() {
        return Err(refused("sparse files are not read; make the archive without --sparse"));
    }
    if next.size.is_some_and(|size| size != entry.size()) {
        return Err(refused("its extended header has another size than its header"));
    }
    let damaged = |error: io::Error| ImageError::damaged(what, error);
    let number = |extended: Option<u64>, field: &[u8], plain: io::Result<u64>| match extended {
        Some(value) => Ok(value),
        // Some writers leave what is nothing blank.
        None if field.iter().all(|byte| matches!(byte, 0 | b' ')) => Ok(0),
        None => plain.map_err(damaged),
    };
    let fields = header.as_old();
    let id = |value: u64| u32::try_from(value).map_err(|_| refused("its owner is not a 32-bit number"));
    Ok(Member {
        link: next
            .link
            .unwrap_or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned).unwrap_or_default()),
        kind: header.entry_type(),
        mode: header.mode().map_err(damaged)? & 0o7777,
        uid: id(number(next.uid, &fields.uid, header.uid())?)?,
        gid: id(number(next.gid, &fields.gid, header.gid())?)?,
        mtime: number(next.mtime, &fields.mtime, header.mtime())?,
        xattrs: next.xattrs,
        path,
    })
}

impl Extended {
    fn read(&mut self, bytes: &[u8], what: &str) -> Result<(), ImageError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let (record, tail) =
                record(rest).ok_or_else(|| ImageError::damaged(what, "an extended header has no length"))?;
            rest = tail;
            let Some(at) = record.iter().position(|byte| *byte == b'=') else {
                return Err(ImageError::damaged(what, "an extended header has no value"));
            };
            let (key, value) = (&record[..at], &record[at + 1..]);
            let number = || std::str::from_utf8(value).ok().and_then(|text| text.split('.').next()?.parse().ok());
            match key {
                b"path" => self.path = Some(value.to_vec()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"uid" => self.uid = number(),
                b"gid" => self.gid = number(),
                b"mtime" => self.mtime = number(),
                b"size" => {
                    self.size = Some(number().ok_or_else(|| ImageError::damaged(what, "a size is not a number"))?);
                }
                _ if key.starts_with(b"GNU.sparse.") => self.sparse = true,
                _ => {
                    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                        self.xattrs.push((name.to_vec(), value.to_vec()));
                    }
                }
            }
        }
        Ok(())
    }
}

/// One `LENGTH KEY=VALUE\n` record and what follows it.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = bytes.iter().take(20).position(|byte| *byte == b' ')?;
    let length: usize = std::str::from_utf8(&bytes[..space]).ok()?.parse().ok()?;
    let (record, rest) = bytes.split_at_checked(length)?;
    Some((record.get(space + 1..)?.strip_suffix(b"\n")?, rest))
}

/// A path of an archive for a message.
pub(super) fn lossy(path: &[u8]) -> String {
    String::from_utf8_lossy(&path[..path.len().min(300)]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same bytes over and over, so many times.
    struct Again<'a> {
        bytes: &'a [u8],
        at: usize,
        times: u64,
    }

    impl Read for Again<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.at == self.bytes.len() {
                (self.at, self.times) = (0, self.times - 1);
            }
            let count = if self.times == 0 { 0 } else { buffer.len().min(self.bytes.len() - self.at) };
            buffer[..count].copy_from_slice(&self.bytes[self.at..self.at + count]);
            self.at += count;
            Ok(count)
        }
    }

    fn header(size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_path("f").unwrap();
        header.set_size(size);
        header.set_mode(0o644);
        header.set_cksum();
        header
    }

    #[test]
    fn more_than_a_million_entries_are_refused() {
        let header = header(0);
        let flood = Again { bytes: header.as_bytes(), at: 0, times: u64::MAX };
        let error = each(flood, "flood", |_, _| Ok(())).unwrap_err().to_string();
        assert!(error.contains("more than 1000000 entries"), "{error}");
    }

    #[test]
    fn a_last_block_may_be_short_but_not_what_is_in_it() {
        let mut bytes = header(3).as_bytes().to_vec();
        bytes.extend_from_slice(b"abc");
        let mut found = Vec::new();
        each(&*bytes, "short", |_, content| {
            content.read_to_end(&mut found).unwrap();
            Ok(())
        })
        .unwrap();
        assert_eq!(found, b"abc");
        bytes.pop();
        let error = each(&*bytes, "cut", |_, _| Ok(())).unwrap_err().to_string();
        assert!(error.contains("cut off"), "{error}");
    }
}
