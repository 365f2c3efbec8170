//! The latest events, bounded by count and by bytes. A watcher that fell out of it lists again;
//! nobody's slowness costs memory.

use std::collections::VecDeque;

use super::{Event, Gone};

/// Events kept.
pub const MAX_EVENTS: usize = 4096;

/// Bytes of bodies and keys kept.
pub const MAX_BYTES: usize = 1 << 20;

/// What one event costs besides its bodies and its key, in bytes.
const EVENT_OVERHEAD: usize = 160;

/// A bounded run of events, oldest first.
#[derive(Clone, Debug)]
pub struct Ring {
    events: VecDeque<Event>,
    bytes: usize,
    /// Bytes that are kept.
    limit: usize,
    /// Every event after this revision is here.
    floor: u64,
}

impl Ring {
    /// A ring that knows nothing of what happened up to `revision`.
    pub fn new(revision: u64) -> Self {
        Self::bounded(revision, MAX_BYTES)
    }

    /// The same with room for so many bytes.
    pub fn bounded(revision: u64, limit: usize) -> Self {
        Self { events: VecDeque::new(), bytes: 0, limit, floor: revision }
    }

    /// Takes in the events of one transaction, and forgets old ones beyond the limits.
    pub fn push(&mut self, events: impl IntoIterator<Item = Event>) {
        for event in events {
            self.bytes += cost(&event);
            self.events.push_back(event);
        }
        while self.events.len() > MAX_EVENTS || self.bytes > self.limit {
            let Some(oldest) = self.events.pop_front() else { break };
            self.bytes -= cost(&oldest);
            self.floor = oldest.revision;
        }
        if self.events.is_empty() {
            self.events.shrink_to_fit();
        }
    }

    /// Events of one kind (of all with `None`) after a revision, oldest first.
    pub fn since(&self, revision: u64, kind: Option<&str>) -> Result<Vec<Event>, Gone> {
        if revision < self.floor {
            return Err(Gone { asked: revision, oldest: self.floor });
        }
        let start = self.events.partition_point(|event| event.revision <= revision);
        Ok(self.events.range(start..).filter(|event| kind.is_none_or(|kind| event.key.kind == kind)).cloned().collect())
    }
}

fn cost(event: &Event) -> usize {
    let key = &event.key;
    let previous = event.previous.as_ref().map_or(0, |body| body.len());
    EVENT_OVERHEAD + key.kind.len() + key.namespace.len() + key.name.len() + event.body.len() + previous
}
