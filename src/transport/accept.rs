//! The answering side: handshakes, then the streams of each connection. A stranger's handshake
//! fails; whoever wants to join gets one conversation and nothing else.

use std::sync::Arc;
use std::time::Duration;

use quinn::{Incoming, RecvStream, SendStream};
use tokio::time::timeout;

use super::endpoint::Inner;
use super::frame::{self, FrameError, code, from_write};
use super::link::{ACCEPTED, CALL, Carried, HELLO, Link, STREAM};
use super::{Service, join, tls};

/// How long a peer may take to send a whole request.
const REQUEST_TIMEOUT: Duration = Duration::from_mins(1);

impl Inner {
    /// Accepts connections until the transport stops.
    pub(super) async fn accept_all(self: Arc<Self>) {
        loop {
            let incoming = tokio::select! {
                // Both arms only wait; an incoming connection stays queued until it is taken.
                () = self.stop.cancelled() => return,
                incoming = self.endpoint.accept() => incoming,
            };
            let Some(incoming) = incoming else { return };
            let Ok(permit) = self.handshakes.clone().try_acquire_owned() else {
                // The other side sends its first packet again, by when there may be room.
                incoming.ignore();
                continue;
            };
            let crowded = self.handshakes.available_permits() < self.limits.handshakes / 2;
            if crowded && !incoming.remote_address_validated() && incoming.may_retry() {
                // Only addresses that exist get a handshake when many are under way.
                let _ = incoming.retry();
                continue;
            }
            let inner = self.clone();
            self.tasks.spawn(async move {
                tokio::select! {
                    // Dropping the handshake or the join closes its connection.
                    () = inner.stop.cancelled() => {}
                    () = inner.clone().welcome(incoming, permit) => {}
                }
            });
        }
    }

    async fn welcome(self: Arc<Self>, incoming: Incoming, permit: tokio::sync::OwnedSemaphorePermit) {
        let address = incoming.remote_address();
        let crypto = match self.tls.server(self.trust.clone()) {
            Ok(crypto) => Arc::new(crypto),
            Err(error) => return tracing::error!(%error, "a handshake can not start"),
        };
        let mut config = self.server.clone();
        config.crypto = crypto;
        let handshake = async { incoming.accept_with(Arc::new(config))?.await };
        let connection = match timeout(self.timing.handshake, handshake).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return tracing::debug!(%address, %error, "a handshake failed"),
            Err(_) => return tracing::debug!(%address, "a handshake took too long"),
        };
        drop(permit);
        let (protocol, key) = (tls::protocol(&connection), tls::peer_key(&connection));
        match (protocol.as_deref(), key) {
            (Some(tls::PEER), Some(key)) if self.trust.contains(&key) => {
                let peer = self.peer(key);
                self.adopt(&peer, connection, false);
            }
            (Some(tls::JOIN), Some(key)) => join::answer(&self, &connection, key).await,
            _ => connection.close(code::REMOVED, b"not a member"),
        }
    }

    /// Answers the streams of one connection until it is gone.
    pub(super) async fn answer(self: Arc<Self>, link: Arc<Link>) {
        let mut uses = link.uses();
        loop {
            let stream = tokio::select! {
                // All arms only wait; a stream stays queued until it is taken.
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(self.timing.unused) => {
                    // The side that dialled gives it up: keeping it alive costs power and traffic.
                    if link.dialed && link.uses() == uses && !link.is_busy() {
                        link.connection.close(code::DONE, b"unused");
                    }
                    uses = link.uses();
                    continue;
                }
                stream = link.connection.accept_bi() => stream,
            };
            let Ok((send, recv)) = stream else { break };
            let (inner, link) = (self.clone(), link.clone());
            self.tasks.spawn(async move {
                tokio::select! {
                    // Dropping a request half way resets nothing that the peer could take for an
                    // answer: answers carry their length.
                    () = inner.stop.cancelled() => {}
                    ended = inner.answer_stream(&link, send, recv) => if let Err(error) = ended {
                        tracing::debug!(peer = %link.key, %error, "a stream ended early");
                    },
                }
            });
        }
        if let Some(reason) = link.connection.close_reason() {
            tracing::debug!(peer = %link.key, %reason, "disconnected");
        }
    }

    async fn answer_stream(&self, link: &Link, mut send: SendStream, mut recv: RecvStream) -> Result<(), FrameError> {
        let busy = link.busy();
        let mut kind = [0];
        within(REQUEST_TIMEOUT, frame::read_exact(&mut recv, &mut kind)).await?;
        match kind[0] {
            HELLO => {
                send.write_all(&[ACCEPTED]).await.map_err(from_write)?;
                let _ = send.finish();
                Ok(())
            }
            CALL => {
                let request = within(REQUEST_TIMEOUT, frame::read(&mut recv, self.limits.message)).await?;
                let answer = self.service().await.call(link.key, request).await;
                let sent = frame::write(&mut send, &answer, self.limits.message).await;
                if let Err(FrameError::TooLarge { .. }) = sent {
                    let _ = send.reset(code::TOO_LARGE);
                }
                sent?;
                let _ = send.finish();
                Ok(())
            }
            STREAM => {
                send.write_all(&[ACCEPTED]).await.map_err(from_write)?;
                let service = self.service().await;
                service.stream(link.key, Box::new(Carried::new(send, recv, busy)));
                Ok(())
            }
            _ => {
                let _ = recv.stop(code::NONSENSE);
                let _ = send.reset(code::NONSENSE);
                Ok(())
            }
        }
    }

    /// The service, once there is one. A caller that waits gives up by its own timeout.
    pub(super) async fn service(&self) -> Arc<dyn Service> {
        let mut service = self.service.subscribe();
        loop {
            if let Some(service) = service.borrow_and_update().clone() {
                return service;
            }
            if service.changed().await.is_err() {
                // The sender lives in `self`.
                unreachable!("the transport outlives its streams");
            }
        }
    }
}

async fn within<T>(limit: Duration, step: impl Future<Output = Result<T, FrameError>>) -> Result<T, FrameError> {
    timeout(limit, step).await.unwrap_or(Err(FrameError::Short))
}
