//! Passing a stream on to the device that runs the pod: the same request there, and then bytes.

use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{HeaderMap, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::sync::OwnedSemaphorePermit;

use super::super::Api;
use super::super::answer::{self, Answer};
use super::super::ask::Ask;
use super::super::failure::Failure;
use super::super::peer::FORWARDED_BY;

/// How long the other device may take to begin its answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Headers of a request and of its answer that belong to the protocol of its streams.
const CARRIED: [&str; 6] = [
    "upgrade",
    "connection",
    "x-stream-protocol-version",
    "sec-websocket-key",
    "sec-websocket-version",
    "sec-websocket-protocol",
];

impl Api {
    /// Asks the device that runs the pod for the same streams, and carries their bytes.
    pub(super) async fn relay(
        &self,
        node: &str,
        mut ask: Ask,
        permit: OwnedSemaphorePermit,
    ) -> Result<Answer, Failure> {
        let unreachable = |why: String| Failure::unavailable(format!("device {node} can not be asked: {why}"));
        let stream = self.inner.config.peers.open(node).await.map_err(|error| unreachable(error.to_string()))?;
        let (mut sender, connection) = http1::Builder::new()
            .handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
            .await
            .map_err(|error| unreachable(error.to_string()))?;
        // The connection ends with the request, or is taken over.
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "a relayed stream ended early");
            }
        });
        let target =
            if ask.query.raw.is_empty() { ask.path.clone() } else { format!("{}?{}", ask.path, ask.query.raw) };
        let mut request = Request::builder().method(ask.method.clone()).uri(target).header(header::HOST, "kith");
        for name in CARRIED {
            for value in ask.headers.get_all(name) {
                request = request.header(name, value);
            }
        }
        let request = request
            .header(FORWARDED_BY, &self.inner.config.node_name)
            .body(Empty::new())
            .map_err(|error| unreachable(error.to_string()))?;
        let mut response = tokio::time::timeout(ANSWER_TIMEOUT, sender.send_request(request))
            .await
            .map_err(|_| unreachable(format!("no answer within {ANSWER_TIMEOUT:?}")))?
            .map_err(|error| unreachable(error.to_string()))?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Ok(response.map(|body| body.map_err(std::io::Error::other).boxed_unsync()));
        }
        let (far, near) = (hyper::upgrade::on(&mut response), ask.upgrade.take());
        let Some(near) = near else { return Err(super::not_upgradable()) };
        // A client may take its time with what it shows.
        ask.patience.endless();
        let shutdown = self.inner.config.shutdown.clone();
        tokio::spawn(async move {
            let _permit = permit;
            let carried = async {
                let (near, far) = tokio::try_join!(near, far)?;
                let (mut near, mut far) = (TokioIo::new(near), TokioIo::new(far));
                let moved = tokio::io::copy_bidirectional_with_sizes(&mut near, &mut far, BUFFER, BUFFER).await;
                if let Err(error) = moved {
                    tracing::debug!(%error, "a relayed stream broke");
                }
                Ok::<(), hyper::Error>(())
            };
            // Dropped with the shutdown: both sides see their stream end.
            tokio::select! {
                carried = carried => if let Err(error) = carried {
                    tracing::debug!(%error, "a relayed stream was not taken over");
                },
                () = shutdown.cancelled() => {}
            }
        });
        Ok(switching(response.headers()))
    }
}

/// Bytes that are held in each direction.
const BUFFER: usize = 32 << 10;

/// The answer that hands a connection over, with the headers of another.
fn switching(headers: &HeaderMap) -> Answer {
    let mut response = answer::whole(101, "", Bytes::new());
    response.headers_mut().clear();
    for name in CARRIED.into_iter().chain(["sec-websocket-accept"]) {
        for value in headers.get_all(name) {
            let Ok(name) = header::HeaderName::from_bytes(name.as_bytes()) else { continue };
            response.headers_mut().append(name, value.clone());
        }
    }
    response
}
