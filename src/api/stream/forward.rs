//! `pods/portforward`, once its streams are there: bytes between a client and a port of a pod.
//!
//! Over SPDY a client opens two streams for each connection, which share a request id. Over a
//! WebSocket it names its ports when it connects; each has two channels, and first hears its number.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::channel::{Incoming, Outgoing};
use super::spdy::Opened;
use super::websocket::Channels;
use crate::reconciler::container::ContainerRef;
use crate::runtime::{Runtime, RuntimeError};

/// Bytes that are read at once.
const READ: usize = 16 << 10;
/// The most connections whose second stream is waited for.
const HALVES_LIMIT: usize = 64;

/// The pod that is reached, by way of one of its containers.
#[derive(Clone)]
pub(super) struct Pod {
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) reference: ContainerRef,
}

/// Serves the connections of one client until it is gone.
pub(super) async fn over_spdy(pod: Pod, mut openings: mpsc::Receiver<Opened>) {
    let mut halves: HashMap<String, Opened> = HashMap::new();
    let mut open = JoinSet::new();
    loop {
        // Cancel-safe: a channel, and tasks that are only reaped.
        let opened = tokio::select! {
            opened = openings.recv() => opened,
            Some(_) = open.join_next() => continue,
        };
        let Some(opened) = opened else { return };
        let id = opened.header("requestid").to_owned();
        let Some(other) = halves.remove(&id) else {
            if halves.len() < HALVES_LIMIT {
                halves.insert(id, opened);
            }
            continue;
        };
        let (error, data) = if opened.header("streamtype") == "data" { (other, opened) } else { (opened, other) };
        let pod = pod.clone();
        open.spawn(async move {
            if let Ok(port) = data.header("port").parse() {
                carry(&pod, port, data.incoming, data.outgoing, error.outgoing).await;
            } else {
                let why = format!("{:?} is no port", data.header("port"));
                refuse(&data.outgoing, &error.outgoing, why).await;
            }
        });
    }
}

/// Serves the ports that a client named until they are closed or it is gone.
pub(super) async fn over_channels(pod: Pod, ports: Vec<u16>, mut channels: Channels) {
    let mut open = JoinSet::new();
    for (port, number) in ports.into_iter().zip((0..=u8::MAX).step_by(2)) {
        let (data, error) = (channels.outgoing(number), channels.outgoing(number + 1));
        let Some(incoming) = channels.incoming(number) else { return };
        let pod = pod.clone();
        open.spawn(async move {
            for stream in [&data, &error] {
                if stream.send(port.to_le_bytes().to_vec()).await.is_err() {
                    return;
                }
            }
            carry(&pod, port, incoming, data, error).await;
        });
    }
    drop(channels);
    while open.join_next().await.is_some() {}
}

async fn refuse(data: &Outgoing, error: &Outgoing, why: String) {
    let _ = error.send(why).await;
    error.end().await;
    data.end().await;
}

async fn carry(pod: &Pod, port: u16, incoming: Incoming, data: Outgoing, error: Outgoing) {
    let mut connection = match pod.runtime.connect(&pod.reference, port).await {
        Ok(connection) => connection,
        Err(why) => {
            let name = &pod.reference.pod.name;
            let why = match why {
                RuntimeError::Failed { reason, .. } => reason,
                other => other.to_string(),
            };
            return refuse(&data, &error, format!("error forwarding port {port} to pod {name}: {why}")).await;
        }
    };
    match exchange(&mut connection, incoming, &data).await {
        Ok(()) => data.end().await,
        Err(why) => return refuse(&data, &error, format!("error forwarding port {port}: {why}")).await,
    }
    error.end().await;
}

/// Moves bytes both ways until both sides ended theirs, or the client is gone.
async fn exchange(connection: &mut TcpStream, mut incoming: Incoming, data: &Outgoing) -> std::io::Result<()> {
    let (mut read, mut write) = connection.split();
    let there = async {
        while let Some(bytes) = incoming.recv().await {
            write.write_all(&bytes).await?;
        }
        write.shutdown().await
    };
    let back = async {
        let mut buffer = vec![0; READ];
        loop {
            let count = read.read(&mut buffer).await?;
            if count == 0 || data.send(Bytes::copy_from_slice(&buffer[..count])).await.is_err() {
                return Ok::<(), std::io::Error>(());
            }
        }
    };
    tokio::pin!(there, back);
    // A pod that ended its side has said everything; what a client still sends goes nowhere.
    tokio::select! {
        sent = &mut there => {
            sent?;
            back.await
        }
        got = &mut back => got,
    }
}
