//! Writing the queue out: one batch at a time, one write and one fsync for each. While the disk is
//! busy with a batch, the next one gathers, so groups form by themselves. The work stays on the
//! disk's thread from batch to batch and tells openraft from there.

use std::io;
use std::path::Path;
use std::sync::{Arc, MutexGuard};

use openraft::AsyncRuntime;
use rand_core::Rng;

use super::super::disk::{Disk, DiskFile};
use super::super::runtime::Runtime;
use super::record::{BATCH_HEADER_BYTES, HEADER_BYTES, Header, Marks, Record, seal_batch};
use super::{Active, Core, Done, KEPT_BUFFER_BYTES, Place, SMALL_BATCH_BYTES, Segment, Sizes, Wal};

/// Bytes of a page, which the kernel writes whole. Larger pieces of zeros would make it keep larger
/// ones, and write those whole for each small batch.
const PAGE: usize = 4 << 10;
/// What is written ahead, page by page.
const ZEROS: [u8; PAGE] = [0; PAGE];

/// A batch on its way to the disk.
struct Job {
    batch: Vec<u8>,
    active: Active,
    /// The segment that it starts.
    header: Option<Header>,
    /// What the log says when it is written.
    marks: Marks,
    /// Whether segments may be in nobody's need any more.
    purges: bool,
    waiting: Vec<Done>,
    sizes: Sizes,
}

impl Wal {
    /// Hands the queue to the disk, unless it is busy: then the write that is under way goes on
    /// with it.
    pub(super) fn send(self: &Arc<Self>, mut core: MutexGuard<'_, Core>, done: Option<Done>) {
        core.waiting.extend(done);
        core.wanted = true;
        if core.writing {
            return;
        }
        core.writing = true;
        drop(core);
        let wal = self.clone();
        let work = self.disk.run(Box::new(move || wal.write_all()));
        drop(Runtime::spawn(work));
    }

    fn write_all(&self) {
        loop {
            let Some(mut job) = self.lock().take(self.sizes) else { return };
            let written = job.write(self.disk.as_ref(), &self.dir);
            let waiting = std::mem::take(&mut job.waiting);
            let purges = job.purges;
            let failed = self.lock().finish(&self.dir, job, written);
            if let Some((kind, why)) = failed {
                tracing::error!(why, "the log can not be written");
                for done in waiting {
                    done.tell(Err(io::Error::new(kind, why.clone())));
                }
                self.room.notify_waiters();
                continue;
            }
            if purges && let Err(error) = self.remove_purged() {
                tracing::warn!(%error, "old parts of the log stay until the next purge");
            }
            for done in waiting {
                done.tell(Ok(()));
            }
            self.room.notify_waiters();
        }
    }

    /// Removes the segments in which every entry is purged, oldest first and each one for good
    /// before the next, so that there is never a gap.
    fn remove_purged(&self) -> io::Result<()> {
        loop {
            let oldest = {
                let core = self.lock();
                let start = core.sent.purged.map_or(0, |id| id.index + 1);
                let oldest = core.segments.first_key_value();
                let gone = oldest.filter(|(number, segment)| **number < core.active.segment && segment.end <= start);
                gone.map(|(number, segment)| (*number, segment.path.clone()))
            };
            let Some((number, path)) = oldest else { return Ok(()) };
            self.disk.remove(&path)?;
            self.disk.sync_dir(&self.dir)?;
            self.lock().segments.remove(&number);
        }
    }
}

impl Core {
    fn take(&mut self, sizes: Sizes) -> Option<Job> {
        if self.failed.is_some() {
            // Whoever asked between the failure and now.
            let (kind, why) = self.failed.clone()?;
            for done in std::mem::take(&mut self.waiting) {
                done.tell(Err(io::Error::new(kind, why.clone())));
            }
        }
        if !self.wanted || self.failed.is_some() {
            self.writing = false;
            self.wanted = false;
            return None;
        }
        self.wanted = false;
        if std::mem::take(&mut self.commit_moved)
            && let Some(committed) = self.marks.committed
        {
            Record::Commit(committed).put(&mut self.batch);
        }
        let fresh = vec![0; BATCH_HEADER_BYTES];
        let batch = std::mem::replace(&mut self.batch, fresh);
        let mut active = self.active.clone();
        let full = active.offset > HEADER_BYTES as u64 && active.offset + batch.len() as u64 > sizes.segment;
        let header = full.then(|| {
            active.segment += 1;
            active.salt = Runtime::thread_rng().next_u64();
            active.offset = HEADER_BYTES as u64;
            active.allocated = 0;
            Header {
                segment: active.segment,
                salt: active.salt,
                first_batch: active.next_batch,
                marks: self.sent.clone(),
            }
        });
        for (at, payload) in std::mem::take(&mut self.unplaced) {
            let offset = u32::try_from(active.offset + at as u64).unwrap_or(u32::MAX);
            self.places.push_back(Place { segment: active.segment, offset, payload });
        }
        self.sent_end = self.marks.next_index();
        let purges = self.sent.purged != self.marks.purged;
        self.sent = self.marks.clone();
        Some(Job {
            batch,
            active,
            header,
            marks: self.marks.clone(),
            purges,
            waiting: std::mem::take(&mut self.waiting),
            sizes,
        })
    }

    fn finish(&mut self, dir: &Path, job: Job, written: io::Result<()>) -> Option<(io::ErrorKind, String)> {
        if let Err(error) = written {
            let failed = (error.kind(), error.to_string());
            self.failed = Some(failed.clone());
            return Some(failed);
        }
        let Job { mut batch, active, marks, .. } = job;
        let file = active.file.clone();
        let segment = self.segments.entry(active.segment).or_insert_with(|| Segment {
            path: dir.join(super::replay::name(active.segment)),
            file,
            bytes: 0,
            end: 0,
        });
        segment.bytes = active.allocated;
        segment.end = segment.end.max(marks.next_index());
        self.active = active;
        self.written_end = self.sent_end;
        self.evict();
        if self.batch.len() == BATCH_HEADER_BYTES && batch.capacity() <= KEPT_BUFFER_BYTES {
            batch.clear();
            batch.resize(BATCH_HEADER_BYTES, 0);
            self.batch = batch;
        }
        None
    }
}

impl Job {
    fn write(&mut self, disk: &dyn Disk, dir: &Path) -> io::Result<()> {
        let number = self.active.next_batch;
        seal_batch(&mut self.batch, self.active.salt, number);
        self.active.next_batch += 1;
        if let Some(header) = self.header.take() {
            return self.write_segment(disk, dir, &header);
        }
        self.write_batch()?;
        self.active.file.sync()
    }

    fn write_batch(&mut self) -> io::Result<()> {
        let active = &mut self.active;
        let end = active.offset + self.batch.len() as u64;
        active.file.write_at(active.offset, &self.batch)?;
        active.offset = end;
        if end > active.allocated {
            active.allocated = end;
            if self.batch.len() as u64 <= SMALL_BATCH_BYTES {
                write_ahead(active, self.sizes);
            }
        }
        Ok(())
    }

    fn write_segment(&mut self, disk: &dyn Disk, dir: &Path, header: &Header) -> io::Result<()> {
        let path = dir.join(super::replay::name(header.segment));
        self.active.file = start_segment(disk, dir, header)?;
        self.active.allocated = HEADER_BYTES as u64;
        self.write_batch()?;
        put_in_place(disk, dir, self.active.file.as_ref(), &path)
    }
}

/// Room of zeros for the batches to come. Without it they are only slower, so no error counts.
fn write_ahead(active: &mut Active, sizes: Sizes) {
    let wanted = (active.allocated + sizes.ahead).next_multiple_of(PAGE as u64).min(sizes.segment);
    while active.allocated < wanted {
        let used = usize::try_from(active.allocated % PAGE as u64).unwrap_or(0);
        let piece = usize::try_from(wanted - active.allocated).unwrap_or(usize::MAX).min(PAGE - used);
        if active.file.write_at(active.allocated, &ZEROS[..piece]).is_err() {
            // Whatever part of it the file has now is zeros.
            active.allocated = active.file.len().unwrap_or(active.allocated);
            return;
        }
        active.allocated += piece as u64;
    }
}

/// A new segment under a name of no meaning.
pub(super) fn start_segment(disk: &dyn Disk, dir: &Path, header: &Header) -> io::Result<Arc<dyn DiskFile>> {
    let file = disk.create(&dir.join(NEW))?;
    file.write_at(0, &header.encode())?;
    Ok(file)
}

/// Makes a new segment whole, and only then part of the log.
pub(super) fn put_in_place(disk: &dyn Disk, dir: &Path, file: &dyn DiskFile, path: &Path) -> io::Result<()> {
    file.sync()?;
    disk.rename(&dir.join(NEW), path)?;
    disk.sync_dir(dir)
}

/// The name of a segment that is being made.
const NEW: &str = "new";
