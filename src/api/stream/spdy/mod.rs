//! The server's side of a SPDY/3.1 connection, as kubectl has it: it opens streams, both write to
//! them. Kubernetes' own implementation knows no flow control, so a stream that nobody reads from
//! holds up the connection, as there; windows are granted to clients that go by them.

mod frame;

use std::collections::HashMap;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::sync::mpsc;

use super::channel::{Incoming, Out, Outgoing, QUEUE};
use frame::{Decoder, Encoder, Frame};
pub(super) use frame::{Headers, Violation};

/// The most streams that a client may have open at a time.
const STREAMS_LIMIT: usize = 256;
/// Bytes that are read at once.
const READ: usize = 32 << 10;
/// How often the other side is asked for a sign of life: who is gone is seen by it even when it is
/// not read from.
pub(super) const PING_INTERVAL: Duration = Duration::from_secs(10);
/// How long a client may take to close after everything was said.
const LINGER: Duration = Duration::from_secs(5);

/// A stream that the client opened.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) headers: Headers,
    pub(super) incoming: Incoming,
    pub(super) outgoing: Outgoing,
}

impl Opened {
    /// The value of a header; empty when there is none.
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }
}

/// Serves a connection for as long as the work lasts, and the client is there.
pub(super) async fn serve<S, F>(io: S, work: impl FnOnce(mpsc::Receiver<Opened>) -> F)
where
    S: AsyncRead + AsyncWrite + Send,
    F: Future<Output = ()>,
{
    let (mut read, write) = split(io);
    let (out, outs) = mpsc::channel(QUEUE);
    let (opened, openings) = mpsc::channel(STREAMS_LIMIT);
    let writer = write_all(write, outs);
    tokio::pin!(writer);
    // Each arm ends the connection; what is dropped with it is over too.
    tokio::select! {
        ended = read_all(&mut read, opened, out) => {
            if let Err(violation) = ended {
                tracing::debug!(%violation, "a SPDY connection was ended");
            }
            return;
        }
        () = work(openings) => {}
        () = &mut writer => return,
    }
    // Everything was said: it is written out, and the client closes. Closing first could take the
    // last words from a client that is still sending.
    let said = async {
        writer.await;
        let mut rest = [0; 4096];
        while read.read(&mut rest).await.is_ok_and(|count| count > 0) {}
    };
    let _ = tokio::time::timeout(LINGER, said).await;
}

/// The client's halves of its streams. What comes on others is passed over.
#[derive(Default)]
struct Streams(HashMap<u32, mpsc::Sender<Bytes>>);

async fn read_all<S: AsyncRead>(
    read: &mut ReadHalf<S>,
    opened: mpsc::Sender<Opened>,
    out: mpsc::Sender<Out>,
) -> Result<(), Violation> {
    let mut decoder = Decoder::new();
    let mut buffer = BytesMut::with_capacity(READ);
    let mut streams = Streams::default();
    loop {
        while let Some(frame) = decoder.next(&mut buffer)? {
            streams.take(frame, &opened, &out).await?;
        }
        buffer.reserve(READ);
        if !read.read_buf(&mut buffer).await.is_ok_and(|count| count > 0) {
            return Ok(());
        }
    }
}

impl Streams {
    async fn take(
        &mut self,
        frame: Frame,
        opened: &mpsc::Sender<Opened>,
        out: &mpsc::Sender<Out>,
    ) -> Result<(), Violation> {
        match frame {
            Frame::Open { id, fin, headers } => {
                if id.is_multiple_of(2) || self.0.contains_key(&id) {
                    let _ = out.send(Out::Raw(frame::reset(id, frame::PROTOCOL_ERROR))).await;
                    return Ok(());
                }
                self.0.retain(|_, queue| !queue.is_closed());
                if self.0.len() >= STREAMS_LIMIT {
                    let _ = out.send(Out::Raw(frame::reset(id, frame::REFUSED))).await;
                    return Ok(());
                }
                let (queue, incoming) = mpsc::channel(QUEUE);
                if !fin {
                    self.0.insert(id, queue);
                }
                // Before anything else on it: what comes earlier is lost to kubectl.
                let _ = out.send(Out::Accept(id)).await;
                let outgoing = Outgoing { id, to: out.clone() };
                let _ = opened.send(Opened { headers, incoming, outgoing }).await;
            }
            Frame::Data { id, bytes, fin } => {
                let length = bytes.len();
                if let Some(queue) = self.0.get(&id)
                    && length > 0
                {
                    let _ = queue.send(bytes).await;
                }
                if fin {
                    self.0.remove(&id);
                }
                if length > 0 {
                    let _ = out.send(Out::Raw(frame::window(0, length))).await;
                    if !fin {
                        let _ = out.send(Out::Raw(frame::window(id, length))).await;
                    }
                }
            }
            Frame::Reset { id } => {
                self.0.remove(&id);
            }
            // Odd numbers are the client's own questions.
            Frame::Ping(id) if !id.is_multiple_of(2) => {
                let _ = out.send(Out::Raw(frame::ping(id))).await;
            }
            Frame::Ping(_) | Frame::GoAway | Frame::Other => {}
        }
        Ok(())
    }
}

/// Writes until everyone who could say something is gone, or the client is.
async fn write_all<S: AsyncWrite>(mut write: WriteHalf<S>, mut outs: mpsc::Receiver<Out>) {
    let mut encoder = Encoder::new();
    let mut pings = (2_u32..).step_by(2);
    let mut timer = tokio::time::interval(PING_INTERVAL);
    timer.tick().await;
    loop {
        // Cancel-safe: a channel and a timer.
        let out = tokio::select! {
            out = outs.recv() => match out {
                Some(out) => out,
                None => break,
            },
            _ = timer.tick() => Out::Raw(frame::ping(pings.next().unwrap_or(2))),
        };
        let written = match out {
            Out::Raw(bytes) => write.write_all(&bytes).await,
            Out::Accept(id) => write.write_all(&encoder.reply(id)).await,
            Out::End(id) => write.write_all(&frame::data_head(id, 0, true)).await,
            Out::Data(id, bytes) => {
                let head = frame::data_head(id, bytes.len(), false);
                match write.write_all(&head).await {
                    Ok(()) => write.write_all(&bytes).await,
                    failed => failed,
                }
            }
        };
        let flushed = if outs.is_empty() { written.and(write.flush().await) } else { written };
        if flushed.is_err() {
            return;
        }
    }
    let _ = write.write_all(&frame::go_away(0)).await;
    let _ = write.shutdown().await;
}

/// For fuzzers: any bytes are frames or a violation, and frames stay within their bounds.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn fuzz(bytes: &[u8]) {
    let mut decoder = Decoder::new();
    let mut buffer = BytesMut::new();
    for chunk in bytes.chunks(7) {
        buffer.extend_from_slice(chunk);
        loop {
            match decoder.next(&mut buffer) {
                Ok(Some(Frame::Data { bytes: piece, .. })) => assert!(piece.len() <= bytes.len()),
                Ok(Some(Frame::Open { headers, .. })) => assert!(headers.len() <= 64),
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
}

/// Seeds for the fuzzer.
#[cfg(test)]
pub(super) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let mut encoder = Encoder::new();
    let mut exec = Vec::new();
    for (id, kind) in [(1, "error"), (3, "stdin"), (5, "stdout"), (7, "stderr")] {
        exec.extend_from_slice(&encoder.open(id, false, &[("streamtype", kind)]));
    }
    exec.extend_from_slice(&frame::data_head(3, 5, true));
    exec.extend_from_slice(b"hello");
    let mut rest = Vec::new();
    for bytes in [frame::ping(1), frame::reset(1, 3), frame::window(0, 9), frame::go_away(1), Encoder::new().reply(2)] {
        rest.extend_from_slice(&bytes);
    }
    vec![("exec", exec), ("control", rest)]
}
