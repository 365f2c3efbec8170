//! Taking changes in: they are readable at once and wait for the disk in one queue, in order.

use std::io;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::super::raft::{LogId, Vote};
#[cfg(feature = "seeded-bugs")]
use super::super::seeded;
use super::record::{ENTRY_HEADER_BYTES, Record};
use super::{Cached, Core, Done, QUEUE_BYTES, Wal};

impl Wal {
    /// Waits until the queue has room, so that a slow disk does not fill the memory.
    pub(in super::super) async fn wait_for_room(&self) {
        loop {
            let room = self.room.notified();
            if self.lock().batch.len() < QUEUE_BYTES {
                return;
            }
            room.await;
        }
    }

    /// Appends entries, which follow the last one.
    pub(in super::super) fn append(self: &Arc<Self>, entries: Vec<(LogId, Vec<u8>)>, done: Done) -> io::Result<()> {
        let mut core = self.lock();
        core.check()?;
        for (id, payload) in entries {
            core.append(id, payload.into())?;
        }
        #[cfg(feature = "seeded-bugs")]
        if seeded::has(seeded::Bug::AcknowledgeBeforeFsync) {
            done.tell(Ok(()));
            self.send(core, None);
            return Ok(());
        }
        self.send(core, Some(done));
        Ok(())
    }

    /// Saves a vote.
    pub(in super::super) async fn save_vote(self: &Arc<Self>, vote: Vote) -> io::Result<()> {
        self.change(|core| core.note(&Record::Vote(vote))).await
    }

    /// Notes what is committed. It goes to the disk with the next batch: a lost mark costs a wait
    /// for the leader, nothing else.
    pub(in super::super) fn commit(&self, committed: LogId) {
        let mut core = self.lock();
        if Some(committed) > core.marks.committed && Some(committed) <= core.marks.last {
            core.marks.committed = Some(committed);
            core.commit_moved = true;
        }
    }

    /// Removes the entries after one.
    pub(in super::super) async fn truncate_after(self: &Arc<Self>, last: Option<LogId>) -> io::Result<()> {
        self.change(|core| core.truncate(last)).await
    }

    /// Removes the entries up to one, and then the segments that nobody needs any more.
    pub(in super::super) async fn purge(self: &Arc<Self>, upto: LogId) -> io::Result<()> {
        self.change(|core| core.purge(upto)).await
    }

    /// Writes out what nobody waits for; for a stop that is not a crash.
    pub(in super::super) async fn settle(self: &Arc<Self>) -> io::Result<()> {
        if !self.lock().has_records() {
            return Ok(());
        }
        self.change(|_| {}).await
    }

    async fn change(self: &Arc<Self>, change: impl FnOnce(&mut Core) + Send) -> io::Result<()> {
        let (done, waiting) = oneshot::channel();
        {
            let mut core = self.lock();
            core.check()?;
            change(&mut core);
            self.send(core, Some(Done::Caller(done)));
        }
        waiting.await.map_err(|_| io::Error::other("the log's writer has stopped"))?
    }
}

impl Core {
    fn note(&mut self, record: &Record<'_>) {
        self.marks.take_in(record);
        record.put(&mut self.batch);
    }

    fn append(&mut self, id: LogId, payload: Arc<[u8]>) -> io::Result<()> {
        if self.marks.last.is_some() && id.index != self.marks.next_index() {
            let reason = format!("entry {} does not follow entry {}", id.index, self.marks.next_index());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        }
        let length = u32::try_from(payload.len())
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a log entry has more than 4 GiB"))?;
        if self.places.is_empty() && self.unplaced.is_empty() {
            self.first = id.index;
        }
        self.unplaced.push_back((self.batch.len(), length));
        self.note(&Record::Entry(id, &payload));
        self.tail_bytes += payload.len();
        self.tail.push_back(Cached { id, payload });
        self.evict();
        Ok(())
    }

    fn truncate(&mut self, last: Option<LogId>) {
        let end = last.map_or(0, |id| id.index + 1);
        let keep = usize::try_from(end.saturating_sub(self.first)).unwrap_or(usize::MAX);
        self.places.truncate(keep);
        self.unplaced.truncate(keep.saturating_sub(self.places.len()));
        while self.tail.back().is_some_and(|cached| cached.id.index >= end) {
            self.tail_bytes -= self.tail.pop_back().map_or(0, |cached| cached.payload.len());
        }
        self.written_end = self.written_end.min(end);
        self.sent_end = self.sent_end.min(end);
        self.note(&Record::Truncate(last));
    }

    fn purge(&mut self, upto: LogId) {
        if self.marks.purged.is_some_and(|purged| purged.index >= upto.index) {
            return;
        }
        let mut gone = usize::try_from((upto.index + 1).saturating_sub(self.first)).unwrap_or(usize::MAX);
        gone -= self.places.drain(..gone.min(self.places.len())).len();
        self.unplaced.drain(..gone.min(self.unplaced.len()));
        while self.tail.front().is_some_and(|cached| cached.id.index <= upto.index) {
            self.tail_bytes -= self.tail.pop_front().map_or(0, |cached| cached.payload.len());
        }
        self.first = self.first.max(upto.index + 1);
        self.note(&Record::Purge(upto));
    }
}

/// Bytes of an entry's record.
pub(super) fn record_bytes(payload: u32) -> usize {
    ENTRY_HEADER_BYTES + payload as usize
}
