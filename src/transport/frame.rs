//! Messages on a stream: a length, then so many bytes. A message that is cut short is never taken
//! for a whole one, and a length reserves no memory until its bytes arrive.

use futures_util::FutureExt;
use quinn::{ConnectionError, ReadError, ReadExactError, RecvStream, SendStream, VarInt, WriteError};

/// Bytes reserved for a message before any of it arrived.
const FIRST_RESERVE: usize = 16 << 10;

/// A message did not get through.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum FrameError {
    /// The whole connection is gone.
    #[error("{0}")]
    Lost(#[from] ConnectionError),
    /// Larger than the reader takes.
    #[error("the message has {size} bytes, and the limit is {limit}")]
    TooLarge { size: u64, limit: usize },
    /// The other side ended the stream in the middle.
    #[error("the other side broke off (code {0})")]
    Aborted(VarInt),
    /// The other side ended the stream before the message was whole.
    #[error("the other side broke off")]
    Short,
}

/// Codes with which a stream or a connection is ended.
pub(super) mod code {
    use quinn::VarInt;

    /// The message is larger than this side takes.
    pub(in crate::transport) const TOO_LARGE: VarInt = VarInt::from_u32(1);
    /// The agent is stopping.
    pub(in crate::transport) const STOPPING: VarInt = VarInt::from_u32(2);
    /// The other side's key is no longer trusted.
    pub(in crate::transport) const REMOVED: VarInt = VarInt::from_u32(3);
    /// Another connection of the same pair is kept.
    pub(in crate::transport) const DUPLICATE: VarInt = VarInt::from_u32(4);
    /// Nothing was heard for too long.
    pub(in crate::transport) const SILENT: VarInt = VarInt::from_u32(5);
    /// Too much is going on at once.
    pub(in crate::transport) const BUSY: VarInt = VarInt::from_u32(6);
    /// The other side does not speak the protocol.
    pub(in crate::transport) const NONSENSE: VarInt = VarInt::from_u32(7);
    /// All is said.
    pub(in crate::transport) const DONE: VarInt = VarInt::from_u32(0);
}

/// Writes one message.
pub(super) async fn write(send: &mut SendStream, message: &[u8], limit: usize) -> Result<(), FrameError> {
    let too_large = || FrameError::TooLarge { size: message.len() as u64, limit };
    if message.len() > limit {
        return Err(too_large());
    }
    let length = u32::try_from(message.len()).map_err(|_| too_large())?;
    send.write_all(&length.to_be_bytes()).await.map_err(from_write)?;
    send.write_all(message).await.map_err(from_write)
}

/// A message that is arriving.
pub(super) struct Partial {
    size: usize,
    message: Vec<u8>,
}

impl Partial {
    /// A message that announces itself with these bytes; refused when it is larger than `limit`.
    pub(super) fn begin(length: [u8; 4], limit: usize) -> Result<Self, FrameError> {
        let size = u32::from_be_bytes(length) as usize;
        if size > limit {
            return Err(FrameError::TooLarge { size: size as u64, limit });
        }
        Ok(Self { size, message: Vec::with_capacity(size.min(FIRST_RESERVE)) })
    }

    /// How many bytes have not arrived.
    pub(super) fn missing(&self) -> usize {
        self.size - self.message.len()
    }

    /// Takes in the next bytes; no more than are missing.
    pub(super) fn take(&mut self, bytes: &[u8]) {
        let fits = bytes.len().min(self.missing());
        self.message.extend_from_slice(&bytes[..fits]);
    }

    /// The message, once all of it is here.
    pub(super) fn whole(self) -> Option<Vec<u8>> {
        (self.missing() == 0).then_some(self.message)
    }
}

/// Reads one message of at most `limit` bytes.
pub(super) async fn read(recv: &mut RecvStream, limit: usize) -> Result<Vec<u8>, FrameError> {
    let mut length = [0; 4];
    read_exact(recv, &mut length).await?;
    let mut partial = Partial::begin(length, limit).inspect_err(|_| {
        // Best effort: the stream may be over already.
        let _ = recv.stop(code::TOO_LARGE);
    })?;
    while partial.missing() > 0 {
        match recv.read_chunk(partial.missing(), true).await.map_err(from_read)? {
            Some(chunk) => partial.take(&chunk.bytes),
            None => return Err(FrameError::Short),
        }
    }
    // The end of the stream came with the message. One that is not taken is refused when the stream
    // is dropped: a packet of its own, and another one that acknowledges it.
    let _ = recv.read_chunk(1, true).now_or_never();
    partial.whole().ok_or(FrameError::Short)
}

/// Fills a buffer.
pub(super) async fn read_exact(recv: &mut RecvStream, buffer: &mut [u8]) -> Result<(), FrameError> {
    recv.read_exact(buffer).await.map_err(|error| match error {
        ReadExactError::FinishedEarly(_) => FrameError::Short,
        ReadExactError::ReadError(error) => from_read(error),
    })
}

pub(super) fn from_write(error: WriteError) -> FrameError {
    match error {
        WriteError::Stopped(code) => FrameError::Aborted(code),
        WriteError::ConnectionLost(error) => FrameError::Lost(error),
        WriteError::ClosedStream | WriteError::ZeroRttRejected => FrameError::Short,
    }
}

fn from_read(error: ReadError) -> FrameError {
    match error {
        ReadError::Reset(code) => FrameError::Aborted(code),
        ReadError::ConnectionLost(error) => FrameError::Lost(error),
        ReadError::ClosedStream | ReadError::IllegalOrderedRead | ReadError::ZeroRttRejected => FrameError::Short,
    }
}
