//! `pods/attach`, once its streams are there: what a container writes from now on, and for one with an
//! input or a terminal, what is typed. Without those it is read from the container's log, as whoever
//! attaches must not slow the container down.

use futures_util::{Stream, StreamExt};

use super::super::Api;
use super::super::failure::Failure;
use super::channel::{Incoming, Outgoing};
use super::exec::{Streams, failure, sizes, tell};
use super::open::Subject;
use crate::resource::meta;
use crate::runtime::{Attached, RuntimeError, Written};
use bytes::Bytes;
use serde_json::{Value, json};

/// Refuses what the container was not made with.
pub(super) fn check(pod: &Value, container: &str, tty: bool, stdin: bool) -> Result<(), Failure> {
    let lists = ["spec.containers", "spec.initContainers", "spec.ephemeralContainers"];
    let mut all = lists.iter().flat_map(|list| meta::list_at(pod, list));
    let Some(found) = all.find(|found| found["name"] == container) else { return Ok(()) };
    let (name, has) = (meta::name(pod), |field: &str| found.get(field) == Some(&Value::Bool(true)));
    let shell = format!("or run a shell in it: kith exec -it {name} -c {container} -- sh");
    if stdin && !has("stdin") {
        return Err(Failure::bad_request(format!(
            "container {container} of pod {name} has no input: its spec would have to say stdin: true; {shell}"
        )));
    }
    if tty && !has("tty") {
        return Err(Failure::bad_request(format!(
            "container {container} of pod {name} has no terminal: its spec would have to say tty: true; attach \
             without -t, {shell}"
        )));
    }
    Ok(())
}

/// Attaches until the container ends or the client leaves.
pub(super) async fn attend(api: &Api, subject: Subject, streams: Streams, stdin: bool) {
    match subject.runtime.attach(&subject.reference, stdin).await {
        Ok(Some(attached)) => {
            let error = streams.error.clone();
            if let Some(status) = live(attached, streams).await {
                tell(&error, &status).await;
            }
        }
        Ok(None) => follow(api, subject, streams).await,
        Err(RuntimeError::Failed { reason, .. }) => tell(&streams.error, &failure(&reason)).await,
        Err(other) => tell(&streams.error, &failure(&other.to_string())).await,
    }
}

/// Carries both ways; returns how it ended, nothing when the client left.
async fn live(attached: Attached, streams: Streams) -> Option<Value> {
    let Streams { stdin, resize, stdout, stderr, .. } = streams;
    let inputs = async {
        tokio::join!(feed(stdin, &attached), follow_size(resize, &attached));
        std::future::pending::<()>().await;
    };
    let outputs = async {
        loop {
            let (to, bytes) = match attached.receive().await {
                Ok(Some((Written::Stdout, bytes))) => (&stdout, bytes),
                Ok(Some((Written::Stderr, bytes))) => (&stderr, bytes),
                Ok(None) => break,
                Err(error) => return Some(failure(&format!("read what the container writes: {error}"))),
            };
            if let Some(to) = to
                && to.send(bytes).await.is_err()
            {
                return None;
            }
        }
        for to in [&stdout, &stderr].into_iter().flatten() {
            to.end().await;
        }
        Some(json!({"metadata": {}, "status": "Success"}))
    };
    // The inputs never end by themselves; they are dropped with the outputs.
    tokio::select! {
        ended = outputs => ended,
        () = inputs => None,
    }
}

async fn feed(from: Option<Incoming>, attached: &Attached) {
    let Some(mut from) = from else { return };
    while let Some(bytes) = from.recv().await {
        if attached.write(&bytes).await.is_err() {
            return;
        }
    }
    let _ = attached.end().await;
}

async fn follow_size(from: Option<Incoming>, attached: &Attached) {
    let Some(mut from) = from else { return };
    while let Some(bytes) = from.recv().await {
        if let Some(size) = sizes(&bytes) {
            let _ = attached.resize(size).await;
        }
    }
}

/// Passes on what the container writes until it ends.
async fn follow(api: &Api, subject: Subject, streams: Streams) {
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
