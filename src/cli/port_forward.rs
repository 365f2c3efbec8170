//! `kith port-forward`: ports of this machine that lead into a pod, wherever it runs.

use std::net::IpAddr;

use bytes::{Buf, Bytes};
use clap::Args;
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;

use super::client::{Client, query};
use super::failure::{Doing, Failure};
use super::output::{note, say};
use super::pod;
use super::pod::streams::{CLOSE, Socket, message};
use super::target::{Namespace, name_of};

/// The channels of a connection: its bytes, and what went wrong.
const DATA: u8 = 0;
const ERROR: u8 = 1;
/// Bytes with which each channel begins: the port's number.
const PREFIX: usize = 2;
/// Bytes that are read at once.
const READ: usize = 16 << 10;
/// The most connections at a time.
const CONNECTIONS_LIMIT: usize = 24;

#[derive(Debug, Args)]
pub(crate) struct PortForwardArgs {
    /// POD, pod/NAME or deployment/NAME
    #[arg(value_name = "OBJECT")]
    object: String,
    /// PORT, LOCAL:REMOTE, or :REMOTE for any free one
    #[arg(value_name = "PORTS", required = true, value_parser = ports)]
    ports: Vec<(u16, u16)>,
    #[command(flatten)]
    namespace: Namespace,
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1", value_name = "IP")]
    address: Vec<IpAddr>,
}

fn ports(text: &str) -> Result<(u16, u16), String> {
    let (local, remote) = text.split_once(':').unwrap_or((text, text));
    let number = |word: &str| word.parse::<u16>().map_err(|_| format!("{word:?} is no port"));
    let remote = number(remote)?;
    if remote == 0 {
        return Err("a pod has no port 0".into());
    }
    Ok((if local.is_empty() { 0 } else { number(local)? }, remote))
}

pub(crate) async fn run(args: &PortForwardArgs, client: &Client) -> Result<(), Failure> {
    let pod = pod::find(&args.object, args.namespace.name(), client).await?;
    let phase = pod["status"]["phase"].as_str().unwrap_or("Pending");
    if phase != "Running" {
        return Err(Failure::failed(format!("pod {} is not running: it is {phase}", name_of(&pod))));
    }
    let mut listening = Vec::new();
    for address in &args.address {
        for (local, remote) in &args.ports {
            let listener = TcpListener::bind((*address, *local)).await;
            let listener = listener.doing(|| format!("listen on {address} port {local}"))?;
            say!("Forwarding from {} -> {remote}", listener.local_addr()?)?;
            listening.push((listener, *remote));
        }
    }
    let all = listening.into_iter().map(|(listener, remote)| {
        let path = format!("{}{}", pod::path(&pod, "portforward"), query([("ports", remote.to_string())]));
        serve(listener, path, remote, client)
    });
    futures_util::future::try_join_all(all).await.map(drop)
}

async fn serve(listener: TcpListener, path: String, remote: u16, client: &Client) -> Result<(), Failure> {
    let mut open = JoinSet::new();
    loop {
        // Cancel-safe: accepting, and tasks that are only reaped.
        let accepted = tokio::select! {
            accepted = listener.accept(), if open.len() < CONNECTIONS_LIMIT => accepted,
            Some(_) = open.join_next() => continue,
        };
        let (stream, _) = accepted.doing(|| "accept a connection".into())?;
        // Each asks anew: a pod that is gone, or an agent that starts again, costs one connection.
        match client.upgrade(&path).await {
            Ok(socket) => {
                open.spawn(async move {
                    if let Err(why) = carry(stream, socket).await {
                        note!("port {remote}: {why}");
                    }
                });
            }
            Err(failure) => note!("{}", failure.text().trim_end()),
        }
    }
}

/// Moves bytes both ways until both sides are done, or one is gone.
async fn carry(stream: TcpStream, socket: Socket) -> Result<(), String> {
    let (mut read, mut write) = stream.into_split();
    let (mut to, mut from) = socket.split();
    let there = async {
        let mut buffer = vec![0; READ];
        loop {
            let bytes = match read.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(count) => message(DATA, &buffer[..count]),
            };
            to.send(bytes).await.map_err(|error| error.to_string())?;
        }
        to.send(message(CLOSE, &[DATA])).await.map_err(|error| error.to_string())
    };
    let back = async {
        let mut prefixes = [PREFIX, PREFIX];
        while let Some(Ok(arrived)) = from.next().await {
            let Message::Binary(mut bytes) = arrived else { continue };
            let channel = if bytes.is_empty() { continue } else { bytes.get_u8() };
            if channel == CLOSE && bytes.first() == Some(&DATA) {
                break;
            }
            let Some(prefix) = prefixes.get_mut(usize::from(channel)) else { continue };
            let skipped = (*prefix).min(bytes.len());
            *prefix -= skipped;
            bytes.advance(skipped);
            if bytes.is_empty() {
                continue;
            }
            if channel == ERROR {
                return Err(text(&bytes));
            }
            // Whoever connected may be gone; the pod's side is then closed too.
            if write.write_all(&bytes).await.is_err() {
                break;
            }
        }
        let _ = write.shutdown().await;
        Ok(())
    };
    tokio::pin!(there, back);
    tokio::select! {
        sent = &mut there => {
            sent?;
            back.await
        }
        got = &mut back => got,
    }
}

fn text(bytes: &Bytes) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::ports;

    #[test]
    fn ports_are_pairs() {
        assert_eq!(ports("8080:80"), Ok((8080, 80)));
        assert_eq!(ports("80"), Ok((80, 80)));
        assert_eq!(ports(":80"), Ok((0, 80)));
        for wrong in ["", ":", "80:", "x:1", "70000", "1:2:3", "5:0"] {
            assert!(ports(wrong).is_err(), "{wrong}");
        }
    }
}
