//! Passing a request on to the device that can answer it.

use std::time::Duration;

use futures_util::future::BoxFuture;
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::Api;
use super::answer::Answer;
use super::ask::Ask;
use super::failure::Failure;

/// Names the device that passed a request on, so that it is never passed on twice.
pub(super) const FORWARDED_BY: &str = "kith-forwarded-by";

/// How long another device may take to begin its answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A two-way byte stream.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A device could not be reached.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unreachable(pub String);

/// The way to the APIs of other devices.
pub trait PeerStreams: Send + Sync + 'static {
    /// Opens a byte stream to the API of the device with this node name. The other side serves it
    /// with [`Api::serve_connection`] as [`super::User::device`].
    fn open<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<Box<dyn Stream>, Unreachable>>;
}

impl Api {
    /// Asks another device for the same thing, and passes its answer on as it comes.
    pub(super) async fn forward(&self, node: &str, ask: &Ask) -> Result<Answer, Failure> {
        let unreachable = |why: String| Failure::unavailable(format!("device {node} can not be asked: {why}"));
        let stream = self.inner.config.peers.open(node).await.map_err(|error| unreachable(error.to_string()))?;
        let (mut sender, connection) = http1::Builder::new()
            .handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
            .await
            .map_err(|error| unreachable(error.to_string()))?;
        let target =
            if ask.query.raw.is_empty() { ask.path.clone() } else { format!("{}?{}", ask.path, ask.query.raw) };
        let request = Request::builder()
            .method(ask.method.clone())
            .uri(target)
            .header(header::HOST, "kith")
            .header(header::ACCEPT, &ask.accept)
            .header(FORWARDED_BY, &self.inner.config.node_name)
            .body(Empty::new())
            .map_err(|error| unreachable(error.to_string()))?;
        // The connection lives as long as its answer is read: the task ends with either side.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a forwarded request ended early");
            }
        });
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, sender.send_request(request))
            .await
            .map_err(|_| unreachable(format!("no answer within {ANSWER_TIMEOUT:?}")))?
            .map_err(|error| unreachable(error.to_string()))?;
        Ok(answer.map(|body| body.map_err(std::io::Error::other).boxed_unsync()))
    }
}
