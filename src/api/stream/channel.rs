//! What both protocols come to: streams of bytes from a client and to it.

use bytes::Bytes;
use tokio::sync::mpsc;

/// Pieces of one stream that wait to be taken. The client is not read from while they are full.
pub(super) const QUEUE: usize = 8;

/// What a client sends on one of its streams; over when it ended that.
pub(super) type Incoming = mpsc::Receiver<Bytes>;

/// Something for the client.
#[derive(Debug)]
pub(super) enum Out {
    /// Bytes on a stream.
    Data(u32, Bytes),
    /// A stream is over.
    End(u32),
    /// A whole frame of the protocol.
    Raw(Bytes),
    /// A stream is accepted.
    Accept(u32),
}

/// The client is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gone;

/// One stream to a client.
#[derive(Clone, Debug)]
pub(super) struct Outgoing {
    pub(super) id: u32,
    pub(super) to: mpsc::Sender<Out>,
}

impl Outgoing {
    /// Sends; waits while the client takes nothing.
    pub(super) async fn send(&self, bytes: impl Into<Bytes>) -> Result<(), Gone> {
        self.to.send(Out::Data(self.id, bytes.into())).await.map_err(|_| Gone)
    }

    /// Says that no more comes.
    pub(super) async fn end(&self) {
        // A client that is gone needs to hear nothing.
        let _ = self.to.send(Out::End(self.id)).await;
    }
}
