//! One `grpc.health.v1.Health/Check` over HTTP/2 without TLS: a request of one field and an answer of
//! one, which needs no code generator.

use bytes::{BufMut, Bytes, BytesMut};
use hyper::header::{CONTENT_TYPE, TE, USER_AGENT};

/// The only answer that is a success.
const SERVING: u64 = 1;

/// More than any answer has, in bytes.
const ANSWER_LIMIT: usize = 1024;

pub(super) async fn check(host: &str, port: u16, service: &str) -> Result<(), String> {
    let stream = super::connect(host, port).await?;
    let failed = |error: h2::Error| format!("grpc {host}:{port}: {error}");
    let (sender, connection) = h2::client::handshake(stream).await.map_err(failed)?;
    // A connection that ends fails what is asked over it, and says nothing better.
    let driven = async {
        let _ = connection.await;
        std::future::pending::<()>().await;
    };
    // Cancel-safe: both are polled to an end here, and dropped with the connection.
    let answer = tokio::select! {
        answer = exchange(sender, host, port, service) => answer,
        () = driven => Err("the connection was closed".into()),
    };
    match answer? {
        SERVING => Ok(()),
        status => Err(format!("service unhealthy (responded with {:?})", name(status))),
    }
}

async fn exchange(sender: h2::client::SendRequest<Bytes>, host: &str, port: u16, service: &str) -> Result<u64, String> {
    let failed = |error: h2::Error| format!("grpc {host}:{port}: {error}");
    let request = hyper::Request::post(format!("http://{host}:{port}/grpc.health.v1.Health/Check"))
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .header(USER_AGENT, "kube-probe/1.33 kith")
        .body(())
        .map_err(|error| error.to_string())?;
    let mut sender = sender.ready().await.map_err(failed)?;
    let (answer, mut body) = sender.send_request(request, false).map_err(failed)?;
    body.send_data(message(service), true).map_err(failed)?;
    let answer = answer.await.map_err(failed)?;
    if !answer.status().is_success() {
        return Err(format!("grpc {host}:{port}: HTTP status {}", answer.status()));
    }
    let early = status_of(answer.headers());
    let mut body = answer.into_body();
    let mut whole = Vec::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk.map_err(failed)?;
        if whole.len() + chunk.len() > ANSWER_LIMIT {
            return Err(format!("grpc {host}:{port}: an answer of more than {ANSWER_LIMIT} bytes"));
        }
        let _ = body.flow_control().release_capacity(chunk.len());
        whole.extend_from_slice(&chunk);
    }
    let trailers = body.trailers().await.map_err(failed)?;
    let status = early.or_else(|| trailers.as_ref().and_then(status_of));
    match status.as_ref().map(|(code, text)| (code.as_str(), text)) {
        Some(("0", _)) | None => {}
        Some(("12", _)) => {
            return Err("this server does not implement the grpc health protocol (grpc.health.v1.Health)".into());
        }
        Some(("5", _)) => return Err(format!("the server does not know the health of service {service:?}")),
        Some((code, text)) => return Err(format!("grpc status {code}: {text}")),
    }
    serving_status(&whole).ok_or_else(|| format!("grpc {host}:{port}: an answer that is not a HealthCheckResponse"))
}

/// `HealthCheckRequest { service = 1 }` in a gRPC frame.
fn message(service: &str) -> Bytes {
    let mut inner = BytesMut::new();
    if !service.is_empty() {
        inner.put_u8(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            inner.put_u8(u8::try_from(length & 0x7f).unwrap_or(0) | 0x80);
            length >>= 7;
        }
        inner.put_u8(u8::try_from(length).unwrap_or(0));
        inner.put_slice(service.as_bytes());
    }
    let mut frame = BytesMut::with_capacity(5 + inner.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(inner.len()).unwrap_or(u32::MAX));
    frame.put(inner);
    frame.freeze()
}

/// `HealthCheckResponse { status = 1 }` from a gRPC frame; an absent field is 0.
fn serving_status(frame: &[u8]) -> Option<u64> {
    let (head, message) = frame.split_at_checked(5)?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
    if head[0] != 0 || usize::try_from(length).ok()? != message.len() {
        return None;
    }
    match message {
        [] => Some(0),
        [0x08, status] if *status < 0x80 => Some(u64::from(*status)),
        _ => None,
    }
}

fn status_of(headers: &hyper::HeaderMap) -> Option<(String, String)> {
    let text = |name: &str| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    Some((text("grpc-status")?, text("grpc-message").unwrap_or_default()))
}

fn name(status: u64) -> &'static str {
    match status {
        0 => "UNKNOWN",
        2 => "NOT_SERVING",
        3 => "SERVICE_UNKNOWN",
        _ => "an unknown status",
    }
}
