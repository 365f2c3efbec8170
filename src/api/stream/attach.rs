//! `pods/attach`, once its streams are there: what a container writes from now on. It is read from
//! the container's log, as whoever attaches must not slow the container down.

use futures_util::{Stream, StreamExt};

use super::super::Api;
use super::channel::Outgoing;
use super::exec::{Streams, failure, tell};
use super::open::Subject;
use bytes::Bytes;
use serde_json::json;

/// Passes on what the container writes until it ends.
pub(super) async fn follow(api: &Api, subject: Subject, streams: Streams) {
    let one = async |name: &'static str, to: Option<Outgoing>| {
        let Some(to) = to else { return Ok(()) };
        let chunks = api.follow_log(&subject.reference, subject.key.clone(), name).await?;
        pass(chunks, &to).await;
        to.end().await;
        Ok::<(), std::io::Error>(())
    };
    let done = tokio::try_join!(one("stdout", streams.stdout), one("stderr", streams.stderr));
    let status = match done {
        Ok(_) => json!({"metadata": {}, "status": "Success"}),
        Err(error) => failure(&format!("read the container's log: {error}")),
    };
    tell(&streams.error, &status).await;
}

async fn pass(chunks: impl Stream<Item = std::io::Result<Bytes>>, to: &Outgoing) {
    let mut chunks = std::pin::pin!(chunks);
    while let Some(Ok(chunk)) = chunks.next().await {
        if to.send(chunk).await.is_err() {
            return;
        }
    }
}
