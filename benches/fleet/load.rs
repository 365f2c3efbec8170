//! The load that runs inside a device's network: `client WHAT ...`, figures on standard output.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::json;

use crate::client::{Etcd, Fault, Kith};
use crate::fleet::deployment;

const SPAN: Duration = Duration::from_secs(5);
const VALUE: usize = 512;

/// What one round of writes achieved.
#[derive(Clone, Copy)]
pub struct Figures {
    /// Acknowledged writes a second.
    pub rate: f64,
    /// Milliseconds.
    pub p50: f64,
    /// Milliseconds.
    pub p99: f64,
}

impl Figures {
    pub fn parse(text: &str) -> Self {
        let numbers: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        assert_eq!(numbers.len(), 3, "figures of the client: {text}");
        Self { rate: numbers[0], p50: numbers[1], p99: numbers[2] }
    }

    pub fn median(mut rounds: Vec<Self>) -> Self {
        rounds.sort_by(|a, b| a.rate.total_cmp(&b.rate));
        rounds[rounds.len() / 2]
    }
}

pub fn client(args: &[String]) {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let result = runtime.block_on(async {
        match args.as_slice() {
            ["kith", clients, prefix, certificates] => {
                kith(clients.parse()?, prefix, &PathBuf::from(certificates)).await
            }
            ["etcd", clients, prefix, certificates, address] => {
                etcd(clients.parse()?, prefix, &PathBuf::from(certificates), address).await
            }
            ["apply", name, node, socket] => apply(name, node, socket).await,
            ["failover", prefix, pid, socket] => failover(prefix, pid.parse()?, socket).await,
            other => Err(format!("client {other:?}").into()),
        }
    });
    if let Err(error) = result {
        eprintln!("{error}");
        std::process::exit(1);
    }
}

/// The body of one write to Kith: a ConfigMap with a value of 512 bytes.
fn configmap(name: &str) -> Bytes {
    let object = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"value": "x".repeat(VALUE)},
    });
    Bytes::from(object.to_string())
}

async fn kith(clients: usize, prefix: &str, certificates: &std::path::Path) -> Result<(), Fault> {
    let mut lanes = tokio::task::JoinSet::new();
    for lane in 0..clients {
        let mut client = Kith::tls("127.0.0.1:6443", certificates).await?;
        let prefix = format!("{prefix}-{lane}");
        lanes.spawn(async move {
            let (mut spent, start) = (Vec::new(), Instant::now());
            for number in 0.. {
                if start.elapsed() > SPAN {
                    break;
                }
                let sent = Instant::now();
                let status = client
                    .post("/api/v1/namespaces/default/configmaps", configmap(&format!("{prefix}-{number}")))
                    .await?;
                if status != 201 {
                    return Err(Fault::from(format!("status {status}")));
                }
                spent.push(sent.elapsed());
            }
            Ok(spent)
        });
    }
    report(lanes).await
}

async fn etcd(clients: usize, prefix: &str, certificates: &std::path::Path, address: &str) -> Result<(), Fault> {
    let mut lanes = tokio::task::JoinSet::new();
    for lane in 0..clients {
        let mut client = Etcd::tls(address, certificates).await?;
        let prefix = format!("{prefix}-{lane}");
        lanes.spawn(async move {
            let (mut spent, start) = (Vec::new(), Instant::now());
            let value = [b'x'; VALUE];
            for number in 0.. {
                if start.elapsed() > SPAN {
                    break;
                }
                let sent = Instant::now();
                client.put(&format!("/registry/{prefix}-{number}"), &value).await?;
                spent.push(sent.elapsed());
            }
            Ok(spent)
        });
    }
    report(lanes).await
}

async fn report(mut lanes: tokio::task::JoinSet<Result<Vec<Duration>, Fault>>) -> Result<(), Fault> {
    let mut spent = Vec::new();
    while let Some(lane) = lanes.join_next().await {
        spent.extend(lane??);
    }
    spent.sort_unstable();
    let at = |part: f64| spent[((spent.len() - 1) as f64 * part) as usize].as_secs_f64() * 1000.0;
    println!("{} {} {}", spent.len() as f64 / SPAN.as_secs_f64(), at(0.5), at(0.99));
    Ok(())
}

/// Creates a Deployment bound to this device and prints the milliseconds to its first answer.
async fn apply(name: &str, node: &str, socket: &str) -> Result<(), Fault> {
    let mut api = Kith::unix(socket).await?;
    let body = Bytes::from(deployment(name, 1, Some(node)).to_string());
    let start = Instant::now();
    let status = api.post("/apis/apps/v1/namespaces/default/deployments", body).await?;
    if status != 201 {
        return Err(format!("status {status}").into());
    }
    loop {
        if let Ok(stream) = tokio::net::TcpStream::connect("127.0.0.1:8080").await
            && let Ok((mut sender, connection)) =
                hyper::client::conn::http1::handshake::<_, http_body_util::Empty<Bytes>>(hyper_util::rt::TokioIo::new(
                    stream,
                ))
                .await
        {
            tokio::spawn(connection);
            let request = hyper::Request::get("/").header("host", "hello").body(http_body_util::Empty::new())?;
            if sender.send_request(request).await.is_ok_and(|response| response.status() == 200) {
                break;
            }
        }
        if start.elapsed() > Duration::from_secs(30) {
            return Err("no HTTP 200 within 30 s".into());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    println!("{}", start.elapsed().as_millis());
    Ok(())
}

/// Kills a leader's agent and prints the milliseconds to the next acknowledged write.
async fn failover(prefix: &str, pid: i32, socket: &str) -> Result<(), Fault> {
    let path = "/api/v1/namespaces/default/configmaps";
    Kith::unix(socket).await?.post(path, configmap(&format!("{prefix}-before"))).await?;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)?;
    let start = Instant::now();
    for number in 0.. {
        let mut api = Kith::unix(socket).await?;
        if matches!(api.post(path, configmap(&format!("{prefix}-{number}"))).await, Ok(201)) {
            break;
        }
        if start.elapsed() > Duration::from_secs(30) {
            return Err("no acknowledged write within 30 s".into());
        }
    }
    println!("{}", start.elapsed().as_millis());
    Ok(())
}
