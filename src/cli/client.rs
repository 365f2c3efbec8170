//! HTTP over the agent's unix socket: one connection for each request, answers as JSON or as a
//! stream of lines. It turns every way of not being answered into a failure with an exit code and
//! a hint; it never retries a write.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST, HeaderMap, WARNING};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::failure::{Code, Failure};
use super::keeper::Keeper;
use super::output::{Paint, note};
use super::pod::streams::{Carrier, Socket};

/// How long an agent may take to begin its answer; it gives up on a quorum long before.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// The largest answer that is read whole, in bytes.
const ANSWER_LIMIT: usize = 256 << 20;
/// The longest line of a stream, in bytes: one object as JSON.
const LINE_LIMIT: usize = 16 << 20;

/// How a body is labelled.
pub(crate) mod media {
    /// Plain JSON.
    pub(crate) const JSON: &str = "application/json";
    /// A manifest.
    pub(crate) const YAML: &str = "application/yaml";
    /// A table made by the server, or JSON where it makes none.
    pub(crate) const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    /// JSON patch, RFC 6902.
    pub(crate) const JSON_PATCH: &str = "application/json-patch+json";
    /// Merge patch, RFC 7386.
    pub(crate) const MERGE_PATCH: &str = "application/merge-patch+json";
    /// Strategic merge patch: lists are merged by name.
    pub(crate) const STRATEGIC_PATCH: &str = "application/strategic-merge-patch+json";
    /// Server-side apply.
    pub(crate) const APPLY_PATCH: &str = "application/apply-patch+yaml";
}

/// A client of one agent.
#[derive(Debug)]
pub(crate) struct Client {
    socket: PathBuf,
    verbose: bool,
    keeper: Keeper,
    warned: RefCell<BTreeSet<String>>,
}

/// A request before it is sent.
#[derive(Debug)]
pub(crate) struct Ask<'a> {
    method: Method,
    path: &'a str,
    accept: &'a str,
    body: Bytes,
    content_type: &'a str,
}

impl<'a> Ask<'a> {
    /// A request without a body that wants JSON back.
    pub(crate) fn new(method: Method, path: &'a str) -> Self {
        Self { method, path, accept: media::JSON, body: Bytes::new(), content_type: "" }
    }

    /// A read.
    pub(crate) fn get(path: &'a str) -> Self {
        Self::new(Method::GET, path)
    }

    /// What kind of answer is wanted.
    pub(crate) fn accept(mut self, accept: &'a str) -> Self {
        self.accept = accept;
        self
    }

    /// A body, labelled.
    pub(crate) fn body(mut self, content_type: &'a str, body: impl Into<Bytes>) -> Self {
        self.content_type = content_type;
        self.body = body.into();
        self
    }
}

impl Client {
    /// A client of the agent at `socket`; nothing is connected yet.
    pub(crate) fn new(socket: impl Into<PathBuf>, verbose: bool) -> Self {
        Self { socket: socket.into(), verbose, keeper: Keeper::Hand, warned: RefCell::default() }
    }

    /// The same, and who starts that agent.
    pub(crate) fn kept_by(self, keeper: Keeper) -> Self {
        Self { keeper, ..self }
    }

    /// Sends a request and parses the answer.
    pub(crate) async fn json<T: DeserializeOwned>(&self, ask: Ask<'_>) -> Result<T, Failure> {
        let path = ask.path.to_owned();
        let (_, bytes) = self.whole(ask).await?;
        serde_json::from_slice(&bytes)
            .map_err(|e| Failure::of(Code::Failed, &e).during(format!("understand the agent's answer to {path}")))
            .map_err(|f| f.hint("kith and the agent may be of different versions: kith version, kith status"))
    }

    /// Reads an object, a list or an answer of the agent.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.json(Ask::get(path)).await
    }

    /// Reads an object that may not exist.
    pub(crate) async fn find(&self, path: &str) -> Result<Option<Value>, Failure> {
        let response = self.exchange(Ask::get(path)).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let (_, bytes) = Self::collect(self.checked(response).await?).await?;
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|e| Failure::of(Code::Failed, &e).during(format!("read {path}")))
    }

    /// Posts a value as JSON and parses the answer.
    pub(crate) async fn post<T: DeserializeOwned>(&self, path: &str, value: &impl Serialize) -> Result<T, Failure> {
        let body = serde_json::to_vec(value).map_err(|e| Failure::of(Code::Failed, &e))?;
        self.json(Ask::new(Method::POST, path).body(media::JSON, body)).await
    }

    /// Sends a request and returns its status and whole body.
    pub(crate) async fn whole(&self, ask: Ask<'_>) -> Result<(StatusCode, Bytes), Failure> {
        let response = self.exchange(ask).await?;
        Self::collect(self.checked(response).await?).await
    }

    /// Sends a request whose answer goes on for as long as the agent has something to say.
    pub(crate) async fn stream(&self, ask: Ask<'_>) -> Result<Stream, Failure> {
        let response = self.exchange(ask).await?;
        Ok(Stream {
            body: self.checked(response).await?.into_body(),
            rest: BytesMut::new(),
            ended: false,
            keeper: self.keeper,
        })
    }

    /// Opens streams to a pod.
    pub(crate) async fn upgrade(&self, path: &str) -> Result<Socket, Failure> {
        use base64::Engine as _;
        let key = base64::engine::general_purpose::STANDARD.encode(rand::random::<[u8; 16]>());
        let headers = [
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", &key),
            ("sec-websocket-protocol", "v5.channel.k8s.io"),
        ];
        let mut response = self.exchange_with(Ask::get(path), &headers).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let (status, bytes) = Self::collect(response).await?;
            return Err(refusal(status, &bytes));
        }
        let upgraded = hyper::upgrade::on(&mut response).await;
        let upgraded = upgraded.map_err(|e| Failure::of(Code::Unreachable, &e).during("open the streams"))?;
        let carrier: Box<dyn Carrier> = Box::new(TokioIo::new(upgraded));
        Ok(Socket::from_raw_socket(carrier, Role::Client, None).await)
    }

    async fn exchange(&self, ask: Ask<'_>) -> Result<Response<Incoming>, Failure> {
        self.exchange_with(ask, &[]).await
    }

    async fn exchange_with(&self, ask: Ask<'_>, headers: &[(&str, &str)]) -> Result<Response<Incoming>, Failure> {
        if self.verbose {
            note!("{} {}", ask.method, ask.path);
        }
        let stream = UnixStream::connect(&self.socket).await.map_err(|e| self.no_agent(&e))?;
        let failed = |e: hyper::Error| {
            Failure::of(Code::Unreachable, &e)
                .during(format!("ask the agent at {}", self.socket.display()))
                .hint(self.keeper.stopped(" while it was asked"))
        };
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
        tokio::spawn(connection.with_upgrades());
        let mut request = Request::builder()
            .method(ask.method)
            .uri(ask.path)
            .header(HOST, "kith")
            .header("user-agent", concat!("kith/", env!("CARGO_PKG_VERSION")))
            .header(ACCEPT, ask.accept);
        if !ask.content_type.is_empty() {
            request = request.header(CONTENT_TYPE, ask.content_type);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request
            .body(Full::new(ask.body))
            .map_err(|e| Failure::usage(format!("{} can not be asked for: {e}", ask.path)))?;
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, sender.send_request(request)).await;
        let response = answer
            .map_err(|_| {
                Failure::new(Code::Unreachable, format!("the agent did not answer within {ANSWER_TIMEOUT:?}"))
                    .hint(format!("kith status shows what it waits for, and {} the rest", self.keeper.log()))
            })?
            .map_err(failed)?;
        self.show_warnings(response.headers());
        Ok(response)
    }

    async fn checked(&self, response: Response<Incoming>) -> Result<Response<Incoming>, Failure> {
        if response.status().is_success() {
            return Ok(response);
        }
        let (status, bytes) = Self::collect(response).await?;
        Err(refusal(status, &bytes))
    }

    async fn collect(response: Response<Incoming>) -> Result<(StatusCode, Bytes), Failure> {
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_LIMIT).collect().await.map_err(|e| {
            if e.is::<LengthLimitError>() {
                Failure::failed(format!("the answer has more than {ANSWER_LIMIT} bytes"))
                    .hint("ask for less: one namespace (-n), or a selector (-l)")
            } else {
                Failure::of(Code::Unreachable, e.as_ref()).during("read the agent's answer")
            }
        })?;
        Ok((status, body.to_bytes()))
    }

    fn show_warnings(&self, headers: &HeaderMap) {
        for header in headers.get_all(WARNING) {
            let Some(text) = header.to_str().ok().and_then(warning_text) else { continue };
            if self.warned.borrow_mut().insert(text.clone()) {
                note!("{} {text}", Paint::stderr().yellow("warning:"));
            }
        }
    }

    fn no_agent(&self, error: &std::io::Error) -> Failure {
        let failure =
            Failure::of(Code::Unreachable, error).during(format!("reach the agent at {}", self.socket.display()));
        match error.kind() {
            std::io::ErrorKind::PermissionDenied => failure.hint("the socket is for root: sudo kith ..."),
            _ => failure.hint(format!(
                "is the agent running? {} starts it, kith doctor says what is in its way; is this device in no fleet yet? kith init, or kith join TOKEN",
                self.keeper.start()
            )),
        }
    }
}

/// The text of `299 - "text"`, as RFC 7234 has it.
fn warning_text(header: &str) -> Option<String> {
    let quoted = header.split_once('"')?.1;
    let mut text = String::new();
    let mut letters = quoted.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '"' => return Some(text),
            '\\' => text.extend(letters.next()),
            _ => text.push(letter),
        }
    }
    Some(text)
}

/// What a `Status` (or whatever else came with an error) means for the user.
pub(crate) fn refusal(status: StatusCode, body: &[u8]) -> Failure {
    let parsed: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |name: &str| parsed[name].as_str().filter(|text| !text.is_empty());
    let message = text("message").map_or_else(
        || {
            let said = String::from_utf8_lossy(&body[..body.len().min(500)]).trim().to_owned();
            if said.is_empty() { format!("the agent answered {status}") } else { said }
        },
        str::to_owned,
    );
    let code = match status.as_u16() {
        503 | 504 => Code::Unreachable,
        400..=499 => Code::Refused,
        _ => Code::Failed,
    };
    let mut failure = Failure::new(code, message);
    failure.status = Some(status);
    match (status.as_u16(), text("reason").unwrap_or_default()) {
        (503 | 504, _) => failure.hint("kith status says which devices are missing and what to do"),
        (409, "AlreadyExists") => failure.hint("kith apply -f changes what exists"),
        (409, _) => failure.hint("somebody else changed it in the meantime: look (kith get -o yaml) and try again"),
        (410, _) => failure.hint("what was asked for is too old: list again"),
        (401 | 403, _) => failure.hint("this needs another user, or root on the device's own socket"),
        _ => failure,
    }
}

/// A body that arrives piece by piece.
#[derive(Debug)]
pub(crate) struct Stream {
    body: Incoming,
    rest: BytesMut,
    ended: bool,
    keeper: Keeper,
}

impl Stream {
    /// The next bytes, however many; `None` at the end.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, Failure> {
        while let Some(frame) = self.body.frame().await {
            let frame = frame.map_err(|e| {
                Failure::of(Code::Unreachable, &e).during("read on from the agent").hint(self.keeper.stopped(""))
            })?;
            if let Ok(bytes) = frame.into_data()
                && !bytes.is_empty()
            {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }

    /// The next line without its end; `None` at the end.
    pub(crate) async fn line(&mut self) -> Result<Option<Bytes>, Failure> {
        let mut looked_at = 0;
        loop {
            if let Some(found) = self.rest[looked_at..].iter().position(|byte| *byte == b'\n') {
                let line = self.rest.split_to(looked_at + found).freeze();
                self.rest.advance(1);
                return Ok(Some(line));
            }
            looked_at = self.rest.len();
            if looked_at > LINE_LIMIT {
                return Err(Failure::failed(format!("a line of the stream has more than {LINE_LIMIT} bytes")));
            }
            if self.ended {
                return Ok((!self.rest.is_empty()).then(|| self.rest.split().freeze()));
            }
            match self.chunk().await? {
                Some(bytes) => self.rest.extend_from_slice(&bytes),
                None => self.ended = true,
            }
        }
    }
}

/// A path's query, escaped: `?a=1&b=x%3Dy`; nothing for no pairs.
pub(crate) fn query<'a>(pairs: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let mut text = String::new();
    for (name, value) in pairs {
        text.push(if text.is_empty() { '?' } else { '&' });
        text.push_str(name);
        text.push('=');
        text.push_str(&escape(&value));
    }
    text
}

/// One segment of a path, or a value of a query, escaped.
pub(crate) fn escape(text: &str) -> String {
    use std::fmt::Write as _;
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => escaped.push(char::from(byte)),
            _ => _ = write!(escaped, "%{byte:02X}"),
        }
    }
    escaped
}

#[cfg(test)]
mod tests;
