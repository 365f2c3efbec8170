//! The server's side of a WebSocket: Kubernetes' channels, the first byte of each message naming
//! its stream, and plain bytes for a SPDY connection inside.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};

use super::channel::{Incoming, Out, Outgoing, QUEUE};
use super::spdy::PING_INTERVAL;

/// The longest message, in bytes.
const MESSAGE_LIMIT: usize = 1 << 20;
/// Bytes that are read at once.
const READ: usize = 16 << 10;
/// In `v5.channel.k8s.io`, this channel names one that its sender ended.
const CLOSE: u8 = 255;
/// What is appended to a client's key before it is hashed (RFC 6455).
const MAGIC: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The answer to a client's key.
pub(super) fn accept(key: &str) -> String {
    use base64::Engine as _;
    let digest = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{MAGIC}").as_bytes());
    base64::engine::general_purpose::STANDARD.encode(digest)
}

/// Takes over a connection whose handshake is done.
pub(super) async fn open<S: AsyncRead + AsyncWrite + Unpin>(io: S) -> WebSocketStream<S> {
    let config = WebSocketConfig::default()
        .read_buffer_size(READ)
        .write_buffer_size(0)
        .max_message_size(Some(MESSAGE_LIMIT))
        .max_frame_size(Some(MESSAGE_LIMIT));
    WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await
}

/// The client's streams, by the numbers of their channels.
pub(super) struct Channels {
    incoming: Vec<Option<Incoming>>,
    to: mpsc::Sender<Out>,
}

impl Channels {
    /// What comes on a channel; `None` when it was taken before.
    pub(super) fn incoming(&mut self, channel: u8) -> Option<Incoming> {
        self.incoming.get_mut(usize::from(channel))?.take()
    }

    /// The way to the client on a channel.
    pub(super) fn outgoing(&self, channel: u8) -> Outgoing {
        Outgoing { id: channel.into(), to: self.to.clone() }
    }
}

/// Serves so many channels for as long as the work lasts, and the client is there. `halves` says
/// whether the client can end one channel alone (`v5`), `told` whether it also hears so.
pub(super) async fn serve<S, F>(
    socket: WebSocketStream<S>,
    count: u8,
    (halves, told): (bool, bool),
    work: impl FnOnce(Channels) -> F,
) where
    S: AsyncRead + AsyncWrite + Unpin,
    F: Future<Output = ()>,
{
    let (write, mut read) = socket.split();
    let (out, outs) = mpsc::channel(QUEUE);
    let (queues, incoming): (Vec<_>, Vec<_>) =
        (0..count).map(|_| mpsc::channel(QUEUE)).map(|(queue, incoming)| (Some(queue), Some(incoming))).unzip();
    let writer = write_all(write, outs, told);
    tokio::pin!(writer);
    // Each arm ends the connection; what is dropped with it is over too.
    tokio::select! {
        () = read_all(&mut read, queues, halves) => return,
        () = work(Channels { incoming, to: out }) => {}
        () = &mut writer => return,
    }
    // The client hears everything, then the closing handshake; what it still sends is passed over.
    let said = async {
        writer.await;
        while let Some(Ok(_)) = read.next().await {}
    };
    let _ = tokio::time::timeout(PING_INTERVAL / 2, said).await;
}

async fn read_all<S: AsyncRead + AsyncWrite + Unpin>(
    read: &mut SplitStream<WebSocketStream<S>>,
    mut queues: Vec<Option<mpsc::Sender<Bytes>>>,
    halves: bool,
) {
    while let Some(Ok(message)) = read.next().await {
        let mut bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Text(text) => Bytes::from(text),
            Message::Close(_) => return,
            _ => continue,
        };
        if bytes.is_empty() {
            continue;
        }
        let channel = bytes.get_u8();
        if halves && channel == CLOSE {
            if let Some(queue) = bytes.first().and_then(|ended| queues.get_mut(usize::from(*ended))) {
                *queue = None;
            }
            continue;
        }
        if let Some(Some(queue)) = queues.get(usize::from(channel))
            && !bytes.is_empty()
        {
            // A stream that nobody reads any more is passed over.
            let _ = queue.send(bytes).await;
        }
    }
}

async fn write_all<S: AsyncRead + AsyncWrite + Unpin>(
    mut write: SplitSink<WebSocketStream<S>, Message>,
    mut outs: mpsc::Receiver<Out>,
    told: bool,
) {
    let mut timer = tokio::time::interval(PING_INTERVAL);
    timer.tick().await;
    loop {
        // Cancel-safe: a channel and a timer.
        let out = tokio::select! {
            out = outs.recv() => match out {
                Some(out) => out,
                None => break,
            },
            _ = timer.tick() => {
                if write.send(Message::Ping(Bytes::new())).await.is_err() {
                    return;
                }
                continue;
            }
        };
        let channel = |id: u32| u8::try_from(id).unwrap_or(CLOSE);
        let message = match out {
            Out::Data(id, bytes) => [&[channel(id)], &bytes[..]].concat(),
            Out::End(id) if told => vec![CLOSE, channel(id)],
            Out::End(_) | Out::Raw(_) | Out::Accept(_) => continue,
        };
        if write.send(Message::Binary(message.into())).await.is_err() {
            return;
        }
    }
    let normal = CloseFrame { code: CloseCode::Normal, reason: "".into() };
    let _ = write.send(Message::Close(Some(normal))).await;
    let _ = write.close().await;
}

/// A WebSocket as a stream of bytes: what is in its binary messages, one after the other.
pub(super) struct Bytewise<S> {
    socket: WebSocketStream<S>,
    rest: Bytes,
}

impl<S> Bytewise<S> {
    pub(super) fn new(socket: WebSocketStream<S>) -> Self {
        Self { socket, rest: Bytes::new() }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Bytewise<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            match ready!(Pin::new(&mut self.socket).poll_next(cx)) {
                Some(Ok(Message::Binary(bytes))) => self.rest = bytes,
                None | Some(Ok(Message::Close(_))) => return Poll::Ready(Ok(())),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
            }
        }
        let take = self.rest.len().min(buf.remaining());
        buf.put_slice(&self.rest.split_to(take));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Bytewise<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(Pin::new(&mut self.socket).poll_ready(cx)).map_err(io::Error::other)?;
        let message = Message::Binary(Bytes::copy_from_slice(bytes));
        Pin::new(&mut self.socket).start_send(message).map_err(io::Error::other)?;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx).map_err(io::Error::other)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_close(cx).map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn keys_are_answered_as_the_rfc_has_it() {
        assert_eq!(super::accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
