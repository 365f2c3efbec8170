//! One request over HTTP/1.1. A redirect counts as an answer and is not followed.

use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::header::{ACCEPT, CONNECTION, HOST, HeaderName, HeaderValue, USER_AGENT};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::reconciler::HttpAsk;
use crate::resource::chain;

/// Who asks, as programs know it that leave probes out of their logs.
const AGENT: &str = concat!("kube-probe/1.33 kith/", env!("CARGO_PKG_VERSION"));

pub(super) fn url(ask: &HttpAsk) -> String {
    let scheme = if ask.tls { "https" } else { "http" };
    format!("{scheme}://{}:{}{}", ask.host, ask.port, ask.path)
}

pub(super) async fn ask(ask: &HttpAsk, tls: &tokio_rustls::TlsConnector) -> Result<(), String> {
    let at = |why: String| format!("Get {:?}: {why}", url(ask));
    let stream = super::connect(&ask.host, ask.port).await.map_err(at)?;
    let status = if ask.tls {
        let bare = ask.host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(bare).map_err(|error| at(error.to_string()))?;
        let stream = tls.connect(name, stream).await.map_err(|error| at(error.to_string()))?;
        exchange(ask, stream).await
    } else {
        exchange(ask, stream).await
    };
    let status = status.map_err(at)?;
    if (200..400).contains(&status) { Ok(()) } else { Err(format!("HTTP probe failed with statuscode: {status}")) }
}

async fn exchange(ask: &HttpAsk, stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<u16, String> {
    let request = request(ask)?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| error.to_string())?;
    // The answer's head is all that is wanted: the connection ends with this function. One that ends
    // earlier fails what is sent over it, and says nothing better.
    let driven = async {
        let _ = connection.await;
        std::future::pending::<()>().await;
    };
    // Cancel-safe: both are polled to an end here.
    tokio::select! {
        answer = sender.send_request(request) => {
            answer.map(|answer| answer.status().as_u16()).map_err(|error| chain(&error))
        }
        () = driven => Err("the connection was closed".into()),
    }
}

fn request(ask: &HttpAsk) -> Result<hyper::Request<Empty<Bytes>>, String> {
    let mut request = hyper::Request::get(&ask.path).body(Empty::new()).map_err(|error| error.to_string())?;
    let headers = request.headers_mut();
    headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
    headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    let host = format!("{}:{}", ask.host, ask.port);
    headers.insert(HOST, HeaderValue::try_from(host).map_err(|error| error.to_string())?);
    for (name, value) in &ask.headers {
        let name = HeaderName::try_from(name).map_err(|error| format!("header {name:?}: {error}"))?;
        let value = HeaderValue::try_from(value).map_err(|error| format!("header {name}: {error}"))?;
        headers.insert(name, value);
    }
    Ok(request)
}
