//! Fewer messages to a follower: news that only says how far is committed waits a moment for
//! entries that say it too. It never holds back entries, and nothing for longer than that moment.

use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use openraft::raft::AppendEntriesRequest;

use crate::storage::TypeConfig;

type Append = AppendEntriesRequest<TypeConfig>;

/// The requests, less those that the next one within `patience()` makes superfluous.
pub(super) fn coalesced<S>(
    input: S,
    patience: impl Fn() -> Option<Duration> + Send + Sync + 'static,
) -> impl Stream<Item = Append> + Send + Unpin + 'static
where
    S: Stream<Item = Append> + Send + Unpin + 'static,
{
    let first = (input.fuse(), None::<Append>, patience);
    Box::pin(stream::unfold(first, |(mut input, kept, patience)| async move {
        let mut request = match kept {
            Some(request) => request,
            None => input.next().await?,
        };
        let mut kept = None;
        if request.entries.is_empty()
            && let Some(moment) = patience()
        {
            // A timeout loses nothing: the stream goes on where it was.
            match tokio::time::timeout(moment, input.next()).await {
                Ok(Some(next)) if next.prev_log_id == request.prev_log_id => request = next,
                Ok(next) => kept = next,
                Err(_) => {}
            }
        }
        Some((request, (input, kept, patience)))
    }))
}

#[cfg(test)]
mod tests {
    use openraft::vote::RaftLeaderId;
    use tokio::sync::mpsc;

    use super::*;
    use crate::storage::{Command, Entry, LogId, Vote};

    fn at(index: u64) -> LogId {
        LogId::new(<TypeConfig as openraft::RaftTypeConfig>::LeaderId::new(1, 1), index)
    }

    fn append(prev: u64, entries: u64, commit: u64) -> Append {
        let entry = |index| Entry { log_id: at(index), payload: openraft::EntryPayload::Normal(Command::NextMemberId) };
        AppendEntriesRequest {
            vote: Vote::new(1, 1),
            prev_log_id: Some(at(prev)),
            entries: (prev + 1..=prev + entries).map(entry).collect(),
            leader_commit: Some(at(commit)),
        }
    }

    fn seen(request: &Append) -> (u64, usize) {
        (request.leader_commit.map_or(0, |commit| commit.index), request.entries.len())
    }

    fn stream_of(patience: Option<Duration>) -> (mpsc::UnboundedSender<Append>, impl Stream<Item = Append> + Unpin) {
        let (send, mut receive) = mpsc::unbounded_channel();
        let input = stream::poll_fn(move |context| receive.poll_recv(context));
        (send, coalesced(input, move || patience))
    }

    #[tokio::test]
    async fn a_commit_rides_with_entries_that_come_in_time() {
        let (send, mut requests) = stream_of(Some(Duration::from_millis(2)));
        for request in [append(5, 1, 4), append(6, 0, 6), append(6, 2, 6), append(8, 0, 8)] {
            send.send(request).unwrap();
        }
        assert_eq!(seen(&requests.next().await.unwrap()), (4, 1));
        assert_eq!(seen(&requests.next().await.unwrap()), (6, 2));
        // Nothing comes after the last one: it goes by itself.
        assert_eq!(seen(&requests.next().await.unwrap()), (8, 0));
        send.send(append(8, 0, 9)).unwrap();
        // Of another place in the log: both are needed.
        send.send(append(3, 1, 9)).unwrap();
        drop(send);
        assert_eq!(seen(&requests.next().await.unwrap()), (9, 0));
        assert_eq!(seen(&requests.next().await.unwrap()), (9, 1));
        assert!(requests.next().await.is_none());
    }

    #[tokio::test]
    async fn who_waits_for_a_commit_gets_it_at_once() {
        let (send, mut requests) = stream_of(None);
        send.send(append(6, 0, 6)).unwrap();
        send.send(append(6, 2, 6)).unwrap();
        assert_eq!(seen(&requests.next().await.unwrap()), (6, 0));
        assert_eq!(seen(&requests.next().await.unwrap()), (6, 2));
    }
}
