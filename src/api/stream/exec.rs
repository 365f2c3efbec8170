//! `pods/exec`, once its streams are there: bytes between a client and a program in a container.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

use super::channel::{Incoming, Outgoing};
use crate::runtime::{ExecSession, Input, Output, Terminal, TerminalSize};

/// Bytes that are read at once.
const READ: usize = 16 << 10;
/// How long more output is waited for once the program has ended: others may have its streams open.
const GRACE: Duration = Duration::from_millis(100);
/// The most pieces of output that are taken after the end: more than any pipe holds.
const READS_AFTER: usize = 128;

/// The streams of one client.
pub(super) struct Streams {
    pub(super) stdin: Option<Incoming>,
    pub(super) resize: Option<Incoming>,
    pub(super) stdout: Option<Outgoing>,
    pub(super) stderr: Option<Outgoing>,
    /// Says at the end how it went.
    pub(super) error: Outgoing,
}

/// Moves bytes until the program has ended, and says how. The program is killed when this is dropped.
pub(super) async fn attend(session: ExecSession, streams: Streams) {
    let ExecSession { stdin, stdout, stderr, terminal, mut running } = session;
    let over = CancellationToken::new();
    let error = streams.error;
    let inputs = async {
        tokio::join!(feed(streams.stdin, stdin), follow_size(streams.resize, terminal));
        std::future::pending::<()>().await;
    };
    let outputs = async {
        tokio::join!(copy(stdout, streams.stdout, &over), copy(stderr, streams.stderr, &over));
    };
    let ended = async {
        let ended = running.ended().await;
        over.cancel();
        ended
    };
    // The inputs never end by themselves; they are dropped with the program.
    let (ended, ()) = tokio::select! {
        both = async { tokio::join!(ended, outputs) } => both,
        () = inputs => return,
    };
    tell(&error, &ended.map_or_else(|why| failure(&why), exit_status)).await;
}

/// Says how it went, and that nothing more comes.
pub(super) async fn tell(error: &Outgoing, status: &Value) {
    let _ = error.send(status.to_string()).await;
    error.end().await;
}

/// A program's end as clients know it.
fn exit_status(code: i32) -> Value {
    if code == 0 {
        return json!({"metadata": {}, "status": "Success"});
    }
    json!({"metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
        "message": format!("command terminated with non-zero exit code: {code}"),
        "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]}})
}

/// What could not be done, as clients know it.
pub(super) fn failure(why: &str) -> Value {
    json!({"metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500, "message": why})
}

async fn feed(from: Option<Incoming>, to: Option<Input>) {
    let (Some(mut from), Some(mut to)) = (from, to) else { return };
    while let Some(bytes) = from.recv().await {
        // A program that reads no more is not an error: it may still have something to say.
        if to.write_all(&bytes).await.is_err() {
            return;
        }
    }
    // For a terminal, that is a key; a pipe ends when it is dropped.
    let _ = to.shutdown().await;
}

async fn follow_size(from: Option<Incoming>, terminal: Option<Terminal>) {
    let (Some(mut from), Some(terminal)) = (from, terminal) else { return };
    while let Some(bytes) = from.recv().await {
        if let Some(size) = sizes(&bytes) {
            let _ = terminal.resize(size);
        }
    }
}

/// The size of a terminal that a client tells. Several may come in one piece: the last one counts.
pub(super) fn sizes(bytes: &[u8]) -> Option<TerminalSize> {
    let sizes = serde_json::Deserializer::from_slice(bytes).into_iter::<Value>();
    let size = sizes.map_while(Result::ok).last()?;
    let number = |name: &str| size[name].as_u64().and_then(|number| u16::try_from(number).ok());
    // A terminal without a size, as under a script, keeps the one that it has.
    match (number("Width"), number("Height")) {
        (Some(width @ 1..), Some(height @ 1..)) => Some(TerminalSize { width, height }),
        _ => None,
    }
}

/// Passes output on until it ends; after the program's end, what is left of it.
async fn copy(from: Option<Output>, to: Option<Outgoing>, over: &CancellationToken) {
    let Some(mut from) = from else { return };
    let mut buffer = vec![0; READ];
    let mut left = READS_AFTER;
    loop {
        let read = tokio::select! {
            biased;
            read = from.read(&mut buffer) => read.unwrap_or(0),
            () = async { over.cancelled().await; tokio::time::sleep(GRACE).await } => 0,
        };
        if over.is_cancelled() {
            left = left.saturating_sub(1);
        }
        if read == 0 || left == 0 {
            break;
        }
        // Without a stream for it, it is read all the same: the program must not get stuck.
        if let Some(to) = &to
            && to.send(buffer[..read].to_vec()).await.is_err()
        {
            return;
        }
    }
    if let Some(to) = &to {
        to.end().await;
    }
}
