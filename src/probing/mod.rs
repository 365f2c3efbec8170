//! What probes and hooks do at the edge: a program in the container, a request, a connection. It asks
//! once, within a limit of time and bytes, and tells what came of it; what that means, and when to
//! ask again, is decided in [`crate::reconciler`].

mod grpc;
mod http;
mod tls;

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;

use crate::reconciler::container::ContainerRef;
use crate::reconciler::{Handler, Outcome};
use crate::runtime::Runtime;

/// What is kept of what a program says when it fails, in bytes.
const OUTPUT_LIMIT: usize = 1024;

/// Executes probes and hooks.
#[derive(Clone)]
pub struct Asker {
    runtime: Arc<dyn Runtime>,
    tls: tokio_rustls::TlsConnector,
}

impl Asker {
    /// Asks containers of this runtime.
    pub fn new(runtime: Arc<dyn Runtime>) -> Result<Self, rustls::Error> {
        Ok(Self { runtime, tls: tls::connector()? })
    }

    /// Does what the handler says. Being dropped half-way ends it.
    pub async fn ask(&self, reference: &ContainerRef, handler: &Handler, limit: Duration) -> Outcome {
        // A program is ended by the runtime, with all that it started.
        if let Handler::Exec(command) = handler {
            return self.exec(reference, command, limit).await;
        }
        match tokio::time::timeout(limit, self.reach(handler)).await {
            Ok(Ok(())) => Outcome::Success,
            Ok(Err(why)) => Outcome::Failure(why),
            Err(_) if matches!(handler, Handler::Sleep(_)) => Outcome::Success,
            Err(_) => Outcome::Failure(format!("{}: no answer after {limit:?}", address(handler))),
        }
    }

    async fn reach(&self, handler: &Handler) -> Result<(), String> {
        match handler {
            Handler::Http(ask) => http::ask(ask, &self.tls).await,
            Handler::Tcp { host, port } => connect(host, *port).await.map(drop),
            Handler::Grpc { host, port, service } => grpc::check(host, *port, service).await,
            Handler::Sleep(span) => {
                tokio::time::sleep(*span).await;
                Ok(())
            }
            Handler::Unusable(why) => Err(why.clone()),
            Handler::Exec(_) => Err("a program is run elsewhere".into()),
        }
    }

    async fn exec(&self, reference: &ContainerRef, command: &[String], limit: Duration) -> Outcome {
        let captured = self.runtime.exec_capture(reference, command.to_vec(), limit, OUTPUT_LIMIT).await;
        match captured {
            Ok(captured) => {
                let said = String::from_utf8_lossy(&captured.output).trim().to_owned();
                match captured.code {
                    Some(0) => Outcome::Success,
                    Some(code) if said.is_empty() => Outcome::Failure(format!("exit code {code}")),
                    Some(_) => Outcome::Failure(said),
                    None => Outcome::Failure(format!("command {:?} timed out after {limit:?}", command.join(" "))),
                }
            }
            Err(error) => Outcome::Unknown(error.to_string()),
        }
    }
}

/// What a handler asks, for messages.
fn address(handler: &Handler) -> String {
    match handler {
        Handler::Http(ask) => http::url(ask),
        Handler::Tcp { host, port } | Handler::Grpc { host, port, .. } => format!("{host}:{port}"),
        _ => String::new(),
    }
}

async fn connect(host: &str, port: u16) -> Result<TcpStream, String> {
    let refused = |error: std::io::Error| format!("dial tcp {host}:{port}: {error}");
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((bare, port)).await.map_err(refused)?;
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

#[cfg(test)]
mod tests;
