//! From an agreement to streams: the connection is taken over, and its work begins.

use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::super::Api;
use super::super::answer::Answer;
use super::super::ask::Ask;
use super::super::failure::Failure;
use super::exec::{self, Streams};
use super::spdy::{self, Opened};
use super::websocket::{self, Bytewise, Channels};
use super::{Agreement, Carrier, Purpose, attach, forward};
use crate::reconciler::container::ContainerRef;
use crate::runtime::{ExecSpec, Runtime, RuntimeError, TerminalSize};
use crate::store::Key;

/// How long a client may take to open the streams that it announced.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);

/// What the streams go to.
pub(super) struct Subject {
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) reference: ContainerRef,
    /// The pod.
    pub(super) key: Key,
}

/// The channels of a WebSocket, by their numbers.
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CHANNELS: u8 = 5;

impl Api {
    /// Answers that the connection is taken over, and does so.
    pub(super) fn open(
        &self,
        mut ask: Ask,
        agreement: Agreement,
        purpose: Purpose,
        subject: Subject,
        permit: OwnedSemaphorePermit,
    ) -> Result<Answer, Failure> {
        let Some(upgrade) = ask.upgrade.take() else { return Err(super::not_upgradable()) };
        // A client may take its time with what it shows: who is gone is found out by asking.
        ask.patience.endless();
        let answer = agreement.answer();
        let (api, shutdown) = (self.clone(), self.inner.config.shutdown.clone());
        tokio::spawn(async move {
            let _permit = permit;
            let io = match upgrade.await {
                Ok(io) => TokioIo::new(io),
                Err(error) => return tracing::debug!(%error, "a connection was not taken over"),
            };
            // Dropped with the shutdown: programs end, and the client sees its streams end.
            tokio::select! {
                () = serve(&api, io, agreement.carrier, purpose, subject) => {}
                () = shutdown.cancelled() => {}
            }
        });
        Ok(answer)
    }
}

async fn serve<S>(api: &Api, io: S, carrier: Carrier, purpose: Purpose, subject: Subject)
where
    S: AsyncRead + AsyncWrite + Send + Unpin,
{
    match carrier {
        Carrier::Spdy => spdy::serve(io, |openings| over_spdy(api, purpose, subject, openings)).await,
        Carrier::Tunnel => {
            let io = Bytewise::new(websocket::open(io).await);
            spdy::serve(io, |openings| over_spdy(api, purpose, subject, openings)).await;
        }
        Carrier::Channels { halves } => {
            let count = match &purpose {
                Purpose::Forward { ports } => u8::try_from(ports.len() * 2).unwrap_or(u8::MAX),
                _ => CHANNELS,
            };
            let socket = websocket::open(io).await;
            // Of a program's streams, kubectl knows none that ends before the others.
            let told = halves && matches!(purpose, Purpose::Forward { .. });
            websocket::serve(socket, count, (halves, told), |channels| over_channels(api, purpose, subject, channels))
                .await;
        }
    }
}

async fn over_spdy(api: &Api, purpose: Purpose, subject: Subject, openings: mpsc::Receiver<Opened>) {
    if let Purpose::Forward { .. } = purpose {
        let pod = forward::Pod { runtime: subject.runtime, reference: subject.reference };
        return forward::over_spdy(pod, openings).await;
    }
    let gathered = tokio::time::timeout(OPEN_TIMEOUT, gather(&purpose, openings)).await;
    if let Ok(Some((streams, openings))) = gathered {
        work(api, purpose, subject, streams).await;
        drop(openings);
    }
}

async fn over_channels(api: &Api, purpose: Purpose, subject: Subject, mut channels: Channels) {
    let streams = match &purpose {
        Purpose::Forward { ports } => {
            let pod = forward::Pod { runtime: subject.runtime, reference: subject.reference };
            return forward::over_channels(pod, ports.clone(), channels).await;
        }
        Purpose::Exec { tty, stdin, stdout, stderr, .. } | Purpose::Attach { tty, stdin, stdout, stderr } => Streams {
            stdin: stdin.then(|| channels.incoming(STDIN)).flatten(),
            resize: tty.then(|| channels.incoming(RESIZE)).flatten(),
            stdout: stdout.then(|| channels.outgoing(STDOUT)),
            stderr: stderr.then(|| channels.outgoing(STDERR)),
            error: channels.outgoing(ERROR),
        },
    };
    drop(channels);
    work(api, purpose, subject, streams).await;
}

/// Waits for the streams that the client announced; `None` when it leaves before.
async fn gather(purpose: &Purpose, mut openings: mpsc::Receiver<Opened>) -> Option<(Streams, mpsc::Receiver<Opened>)> {
    let (stdin, stdout, stderr, tty) = match purpose {
        Purpose::Exec { tty, stdin, stdout, stderr, .. } | Purpose::Attach { tty, stdin, stdout, stderr } => {
            (*stdin, *stdout, *stderr, *tty)
        }
        Purpose::Forward { .. } => return None,
    };
    let (mut input, mut resize, mut out, mut err, mut error) = (None, None, None, None, None);
    loop {
        if let Some(known) = &error
            && (!stdin || input.is_some())
            && (!tty || resize.is_some())
            && (!stdout || out.is_some())
            && (!stderr || err.is_some())
        {
            let error = Clone::clone(known);
            return Some((Streams { stdin: input, resize, stdout: out, stderr: err, error }, openings));
        }
        let opened = openings.recv().await?;
        let kind = opened.header("streamtype").to_owned();
        match kind.as_str() {
            "stdin" => input = Some(opened.incoming),
            "resize" => resize = Some(opened.incoming),
            "stdout" => out = Some(opened.outgoing),
            "stderr" => err = Some(opened.outgoing),
            "error" => error = Some(opened.outgoing),
            _ => opened.outgoing.end().await,
        }
    }
}

async fn work(api: &Api, purpose: Purpose, subject: Subject, streams: Streams) {
    match purpose {
        Purpose::Exec { command, tty, stdin, .. } => {
            let terminal = tty.then_some(TerminalSize { width: 80, height: 24 });
            let spec = ExecSpec { args: command, env: Vec::new(), terminal, stdin };
            match subject.runtime.exec(&subject.reference, spec).await {
                Ok(session) => exec::attend(session, streams).await,
                Err(RuntimeError::Failed { reason, .. }) => exec::tell(&streams.error, &exec::failure(&reason)).await,
                Err(other) => exec::tell(&streams.error, &exec::failure(&other.to_string())).await,
            }
        }
        Purpose::Attach { stdin, .. } => attach::attend(api, subject, streams, stdin).await,
        Purpose::Forward { .. } => {}
    }
}
