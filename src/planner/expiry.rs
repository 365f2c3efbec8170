//! Events do not stay: each goes an hour after it was last seen, and the oldest go when there are
//! too many.

use std::time::Duration;

use k8s_openapi::api::core::v1::Event;

use super::draft::{Draft, Step};
use super::view::View;
use super::{EVENTS_LIMIT, REMOVALS_PER_BATCH};
use crate::resource::Timestamp;
use crate::store::Key;

/// How long an event stays after it was last seen.
pub(super) const LIFETIME: Duration = Duration::from_hours(1);
/// Expired events may stay this much longer, so that many go in one write.
const PATIENCE: Duration = Duration::from_mins(5);

pub(super) fn plan(view: &View<'_>, draft: &mut Draft) {
    let mut events: Vec<(Timestamp, &Key, u64)> =
        view.fleet.events.iter().map(|(key, event)| (last_seen(&event.object), key, event.revision)).collect();
    events.sort_unstable();
    let surplus = events.len().saturating_sub(EVENTS_LIMIT);
    let due = events.first().is_some_and(|(seen, ..)| view.now.since(*seen) >= LIFETIME + PATIENCE);
    let expired = if due { events.partition_point(|(seen, ..)| view.now.since(*seen) >= LIFETIME) } else { 0 };
    let gone: Vec<&(Timestamp, &Key, u64)> =
        events.iter().take(expired.max(surplus)).filter(|(_, key, _)| !draft.writes(key)).collect();
    for chunk in gone.chunks(REMOVALS_PER_BATCH) {
        let step = chunk.iter().fold(Step::default(), |step, (_, key, revision)| step.remove(key, *revision));
        if let Some((_, first, _)) = chunk.first() {
            draft.push(first, format!("{} events are old", chunk.len()), step);
        }
    }
    if let Some((seen, ..)) = events.get(expired.max(surplus)) {
        draft.wake(seen.plus(LIFETIME + PATIENCE));
    }
}

fn last_seen(event: &Event) -> Timestamp {
    let seen = event.last_timestamp.as_ref().or(event.metadata.creation_timestamp.as_ref());
    let stamp = seen.map(Timestamp::from);
    let micro = event.event_time.as_ref().map(|time| time.0.as_millisecond());
    stamp.or(micro.map(|millis| Timestamp(u64::try_from(millis).unwrap_or(0)))).unwrap_or(Timestamp(0))
}
