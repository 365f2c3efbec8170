//! Streams to a pod: a WebSocket with Kubernetes' channels, and what a terminal puts in and takes out.

use std::io::{Read, Write};

use bytes::{Buf, Bytes};
use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::terminal;
use crate::cli::failure::{Code, Failure};

/// Numbers of the channels.
pub(crate) const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// Names a channel that its sender ended.
pub(crate) const CLOSE: u8 = 255;

/// Bytes that are read at once.
const READ: usize = 16 << 10;

/// The other end of a pod's streams.
pub(crate) type Socket = WebSocketStream<Box<dyn Carrier>>;

/// A connection that is no longer HTTP.
pub(crate) trait Carrier: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Carrier for T {}

/// Where a program's input comes from.
pub(crate) enum Source {
    /// Nowhere.
    Nothing,
    /// Standard input, as it is.
    Stdin,
    /// What somebody else makes.
    Pieces(mpsc::Receiver<Bytes>),
}

/// Where its output goes.
pub(crate) enum Sink {
    /// Standard output.
    Stdout,
    /// Somebody who takes it; its error ends the program.
    Pieces(mpsc::Sender<Bytes>),
}

/// One message on a channel.
pub(crate) fn message(channel: u8, bytes: &[u8]) -> Message {
    Message::Binary([&[channel], bytes].concat().into())
}

/// The connection ended before it was said how it went.
pub(crate) fn broken() -> Failure {
    Failure::new(Code::Unreachable, "the connection to the pod broke")
        .hint("its device or its agent stopped, or the pod ended: kith status, kith get pods")
}

/// Moves bytes until the program has ended; a failure says with which code. With a terminal, keys
/// are passed on as they are typed.
pub(crate) async fn run(mut socket: Socket, source: Source, sink: Sink, tty: bool) -> Result<(), Failure> {
    let raw = if tty && terminal::is_one() { Some(terminal::Raw::begin()?) } else { None };
    let mut sizes = signal(SignalKind::window_change())?;
    let mut ends = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()].map(signal);
    let [interrupt, terminate, hangup] = &mut ends;
    let (Ok(interrupt), Ok(terminate), Ok(hangup)) = (interrupt, terminate, hangup) else {
        return Err(Failure::failed("signals can not be watched"));
    };
    let mut input = match source {
        Source::Nothing => None,
        Source::Stdin => Some(read_stdin()),
        Source::Pieces(pieces) => Some(pieces),
    };
    if let Some(size) = raw.as_ref().and_then(|_| terminal::size()) {
        send(&mut socket, message(RESIZE, size.as_bytes())).await?;
    }
    loop {
        // Cancel-safe: a WebSocket's stream, a channel and signals.
        let arrived = tokio::select! {
            arrived = socket.next() => arrived,
            piece = next(&mut input) => {
                let ended = piece.is_none();
                send(&mut socket, piece.map_or_else(|| message(CLOSE, &[STDIN]), |bytes| message(STDIN, &bytes))).await?;
                if ended {
                    input = None;
                }
                continue;
            }
            Some(()) = sizes.recv(), if raw.is_some() => {
                if let Some(size) = terminal::size() {
                    send(&mut socket, message(RESIZE, size.as_bytes())).await?;
                }
                continue;
            }
            // The program ends with its connection.
            _ = interrupt.recv() => return Err(Failure::ended(130)),
            _ = terminate.recv() => return Err(Failure::ended(143)),
            _ = hangup.recv() => return Err(Failure::ended(129)),
        };
        let Some(Ok(arrived)) = arrived else { return Err(broken()) };
        let mut bytes = match arrived {
            Message::Binary(bytes) => bytes,
            Message::Close(_) => return Err(broken()),
            _ => continue,
        };
        if bytes.is_empty() {
            continue;
        }
        match bytes.get_u8() {
            STDOUT => match &sink {
                Sink::Stdout => write(&mut std::io::stdout(), &bytes)?,
                Sink::Pieces(to) => {
                    if to.send(bytes).await.is_err() {
                        return Err(Failure::said(Code::Failed));
                    }
                }
            },
            STDERR => write(&mut std::io::stderr(), &bytes)?,
            ERROR if !bytes.is_empty() => {
                drop(raw);
                // Said in full: the closing handshake is a courtesy.
                let _ = socket.close(None).await;
                return outcome(&bytes);
            }
            _ => {}
        }
    }
}

async fn send(socket: &mut Socket, message: Message) -> Result<(), Failure> {
    socket.send(message).await.map_err(|_| broken())
}

fn write(to: &mut impl Write, bytes: &[u8]) -> Result<(), Failure> {
    to.write_all(bytes)?;
    to.flush()?;
    Ok(())
}

async fn next(input: &mut Option<mpsc::Receiver<Bytes>>) -> Option<Bytes> {
    match input {
        Some(input) => input.recv().await,
        None => std::future::pending().await,
    }
}

/// What the program's end means for who ran it.
fn outcome(bytes: &[u8]) -> Result<(), Failure> {
    let status: Value = serde_json::from_slice(bytes).unwrap_or_default();
    if status["status"] == "Success" {
        return Ok(());
    }
    let causes = status["details"]["causes"].as_array().into_iter().flatten();
    let code = causes.filter(|cause| cause["reason"] == "ExitCode").find_map(|cause| cause["message"].as_str());
    if let Some(code) = code.and_then(|code| code.parse::<u8>().ok()) {
        return Err(Failure::ended(code));
    }
    Err(Failure::failed(status["message"].as_str().unwrap_or("the program could not be run")))
}

/// Standard input from a thread of its own: a read that waits for keys must not keep the command
/// from ending, and it dies with the process.
fn read_stdin() -> mpsc::Receiver<Bytes> {
    let (to, pieces) = mpsc::channel(4);
    std::thread::spawn(move || {
        let mut buffer = vec![0; READ];
        let mut stdin = std::io::stdin().lock();
        loop {
            match stdin.read(&mut buffer) {
                Ok(0) => return,
                Ok(count) => {
                    if to.blocking_send(Bytes::copy_from_slice(&buffer[..count])).is_err() {
                        return;
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    });
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_and_refusals_are_told_apart() {
        assert!(outcome(br#"{"status":"Success"}"#).is_ok());
        let nonzero = br#"{"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"7"}]}}"#;
        assert_eq!(outcome(nonzero).unwrap_err().exit_code(), 7);
        let refused = outcome(br#"{"status":"Failure","message":"no such program"}"#).unwrap_err();
        assert_eq!((refused.exit_code(), refused.chain[0].as_str()), (1, "no such program"));
        assert_eq!(outcome(b"nonsense").unwrap_err().exit_code(), 1);
    }
}
