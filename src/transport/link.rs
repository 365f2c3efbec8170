//! One live connection to a trusted peer: requests, answers and byte streams in both directions,
//! each on a stream of its own.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use quinn::{Connection, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::frame::{self, FrameError, from_write};
use crate::identity::DeviceKey;

/// First byte of a stream that asks whether this side is accepted.
pub(super) const HELLO: u8 = 0;
/// First byte of a stream with a request.
pub(super) const CALL: u8 = 1;
/// First byte of a stream that goes to the HTTP API.
pub(super) const STREAM: u8 = 2;
/// Answer to `HELLO` and `STREAM`: accepted.
pub(super) const ACCEPTED: u8 = 1;

/// A live connection.
pub(super) struct Link {
    pub(super) connection: Connection,
    pub(super) key: DeviceKey,
    /// Whether this device dialled it.
    pub(super) dialed: bool,
    /// Counts up over all links of this transport.
    pub(super) number: u64,
    /// One clone for each stream in use.
    busy: Arc<()>,
    /// Streams that were ever used, in both directions.
    uses: AtomicU64,
    heard: Mutex<Heard>,
}

/// What is known of packets that arrived. It is looked up, not recorded, so all moments are those
/// of a look.
struct Heard {
    datagrams: u64,
    /// When the number of datagrams was last seen to have grown.
    at: Instant,
    /// The first moment since then at which something was sent that asks for an answer.
    unanswered: Option<Instant>,
}

impl Heard {
    fn look(&mut self, link: &Link) {
        let datagrams = link.connection.stats().udp_rx.datagrams;
        if datagrams != self.datagrams && link.is_open() {
            *self = Self { datagrams, at: Instant::now(), unanswered: None };
        }
    }
}

impl Link {
    pub(super) fn new(connection: Connection, key: DeviceKey, dialed: bool, number: u64) -> Self {
        let heard = Heard { datagrams: connection.stats().udp_rx.datagrams, at: Instant::now(), unanswered: None };
        Self { connection, key, dialed, number, busy: Arc::new(()), uses: AtomicU64::new(0), heard: Mutex::new(heard) }
    }

    pub(super) fn is_open(&self) -> bool {
        self.connection.close_reason().is_none()
    }

    /// Whether a stream is in use.
    pub(super) fn is_busy(&self) -> bool {
        Arc::strong_count(&self.busy) > 1
    }

    /// Hold it while a stream is in use.
    pub(super) fn busy(&self) -> Arc<()> {
        self.uses.fetch_add(1, Ordering::Relaxed);
        self.busy.clone()
    }

    /// How many streams were used so far.
    pub(super) fn uses(&self) -> u64 {
        self.uses.load(Ordering::Relaxed)
    }

    fn look(&self) -> MutexGuard<'_, Heard> {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.look(self);
        heard
    }

    /// The latest moment at which a packet is known to have arrived.
    pub(super) fn heard(&self) -> Instant {
        self.look().at
    }

    /// For how long something was asked and no packet came, not even an acknowledgement.
    pub(super) fn silent(&self) -> Duration {
        self.look().unanswered.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Notes that an answer is expected from now on.
    fn ask(&self) -> Arc<()> {
        self.look().unanswered.get_or_insert_with(Instant::now);
        self.busy()
    }

    /// Asks whether the peer accepts this connection. Over TLS 1.3 a dialler finishes the
    /// handshake before the other side has judged its key; an answer settles it.
    pub(super) async fn hello(connection: &Connection) -> Result<(), FrameError> {
        let (mut send, mut recv) = connection.open_bi().await?;
        send.write_all(&[HELLO]).await.map_err(from_write)?;
        accepted(&mut recv).await
    }

    /// Sends a request and waits for its answer.
    pub(super) async fn call(&self, request: &[u8], limit: usize) -> Result<Vec<u8>, FrameError> {
        let _busy = self.ask();
        let (mut send, mut recv) = self.connection.open_bi().await?;
        send.write_all(&[CALL]).await.map_err(from_write)?;
        frame::write(&mut send, request, limit).await?;
        // It can only fail when the stream is over, which the read reports better.
        let _ = send.finish();
        frame::read(&mut recv, limit).await
    }

    /// Opens a byte stream to the peer's HTTP API.
    pub(super) async fn open(&self) -> Result<Carried, FrameError> {
        let busy = self.ask();
        let (mut send, mut recv) = self.connection.open_bi().await?;
        send.write_all(&[STREAM]).await.map_err(from_write)?;
        accepted(&mut recv).await?;
        Ok(Carried { send, recv, _busy: busy })
    }
}

async fn accepted(recv: &mut RecvStream) -> Result<(), FrameError> {
    let mut answer = [0];
    frame::read_exact(recv, &mut answer).await?;
    if answer == [ACCEPTED] { Ok(()) } else { Err(FrameError::Short) }
}

/// A byte stream on a connection; it keeps its connection from being given up as superfluous.
pub(super) struct Carried {
    send: SendStream,
    recv: RecvStream,
    _busy: Arc<()>,
}

impl Carried {
    pub(super) fn new(send: SendStream, recv: RecvStream, busy: Arc<()>) -> Self {
        Self { send, recv, _busy: busy }
    }
}

impl AsyncRead for Carried {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        AsyncRead::poll_read(Pin::new(&mut self.recv), cx, buf)
    }
}

impl AsyncWrite for Carried {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        AsyncWrite::poll_write(Pin::new(&mut self.send), cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        AsyncWrite::poll_flush(Pin::new(&mut self.send), cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        AsyncWrite::poll_shutdown(Pin::new(&mut self.send), cx)
    }
}
