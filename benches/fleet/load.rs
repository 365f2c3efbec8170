//! The load that runs inside a device's network: `client WHAT ...`, figures on standard output.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::json;

use crate::client::{Engine, Etcd, Fault, Kith};
use crate::fleet::deployment;

const SPAN: Duration = Duration::from_secs(5);
const VALUE: usize = 512;
/// Where a device serves HTTPS.
const API: &str = "127.0.0.1:6443";
const CONFIGMAPS: &str = "/api/v1/namespaces/default/configmaps";

/// What one round of requests achieved.
#[derive(Clone, Copy)]
pub struct Figures {
    /// Requests answered a second.
    pub rate: f64,
    /// Milliseconds.
    pub p50: f64,
    /// Milliseconds.
    pub p99: f64,
    /// Requests answered.
    pub count: f64,
}

impl Figures {
    pub fn parse(text: &str) -> Self {
        let numbers: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        assert_eq!(numbers.len(), 4, "figures of the client: {text}");
        Self { rate: numbers[0], p50: numbers[1], p99: numbers[2], count: numbers[3] }
    }
}

pub fn client(args: &[String]) {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let result = runtime.block_on(async {
        match args.as_slice() {
            ["engine", clients, prefix, device] => engine(clients.parse()?, prefix, Path::new(device)).await,
            ["kith", clients, prefix, certificates] => kith(clients.parse()?, prefix, Path::new(certificates)).await,
            ["kith-get", clients, prefix, certificates] => {
                kith_get(clients.parse()?, prefix, Path::new(certificates)).await
            }
            ["etcd", clients, prefix, certificates, address] => {
                etcd(clients.parse()?, prefix, Path::new(certificates), address).await
            }
            ["etcd-get", clients, prefix, certificates, address] => {
                etcd_get(clients.parse()?, prefix, Path::new(certificates), address).await
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

async fn engine(clients: usize, prefix: &str, device: &Path) -> Result<(), Fault> {
    let writer = Arc::new(Engine::join(device)?);
    writer.put(&format!("{prefix}-first"), &[b'x'; VALUE]).await?;
    let lanes = (0..clients).map(|_| writer.clone()).collect();
    run(lanes, prefix, async |writer, name| writer.put(&name, &[b'x'; VALUE]).await).await
}

async fn kith(clients: usize, prefix: &str, certificates: &Path) -> Result<(), Fault> {
    let mut lanes = Vec::new();
    for _ in 0..clients {
        lanes.push(Kith::tls(API, certificates).await?);
    }
    run(lanes, prefix, async |api, name| {
        let status = api.post(CONFIGMAPS, configmap(&name)).await?;
        if status == 201 { Ok(()) } else { Err(Fault::from(format!("status {status}"))) }
    })
    .await
}

async fn kith_get(clients: usize, prefix: &str, certificates: &Path) -> Result<(), Fault> {
    let mut lanes = Vec::new();
    for _ in 0..clients {
        lanes.push(Kith::tls(API, certificates).await?);
    }
    if let Some(api) = lanes.first_mut() {
        api.post(CONFIGMAPS, configmap(prefix)).await?;
    }
    run(lanes, prefix, async |api, _| {
        let status = api.get(&format!("{CONFIGMAPS}/{prefix}")).await?;
        if status == 200 { Ok(()) } else { Err(Fault::from(format!("status {status}"))) }
    })
    .await
}

/// One connection for each client, or fewer that are shared, whichever suits etcd better.
async fn etcd_lanes(clients: usize, certificates: &Path, address: &str) -> Result<Vec<Etcd>, Fault> {
    let connections = std::env::var("ETCD_CONNECTIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(clients);
    let mut open = Vec::new();
    for _ in 0..clients.min(connections) {
        open.push(Etcd::tls(address, certificates).await?);
    }
    Ok(open.iter().cycle().take(clients).cloned().collect())
}

async fn etcd(clients: usize, prefix: &str, certificates: &Path, address: &str) -> Result<(), Fault> {
    let lanes = etcd_lanes(clients, certificates, address).await?;
    run(lanes, prefix, async |etcd, name| etcd.put(&format!("/registry/{name}"), &[b'x'; VALUE]).await).await
}

async fn etcd_get(clients: usize, prefix: &str, certificates: &Path, address: &str) -> Result<(), Fault> {
    let lanes = etcd_lanes(clients, certificates, address).await?;
    let key = format!("/registry/{prefix}");
    if let Some(etcd) = lanes.first() {
        etcd.put(&key, &[b'x'; VALUE]).await?;
    }
    run(lanes, prefix, async |etcd, _| etcd.get(&key).await).await
}

/// Every lane does `step` again and again, each time under a new name, for a while.
async fn run<L, F>(lanes: Vec<L>, prefix: &str, step: F) -> Result<(), Fault>
where
    F: AsyncFn(&mut L, String) -> Result<(), Fault>,
{
    let step = &step;
    let start = Instant::now();
    let lanes = lanes.into_iter().enumerate().map(|(lane, mut client)| async move {
        let mut spent = Vec::new();
        for number in 0.. {
            if start.elapsed() > SPAN {
                break;
            }
            let sent = Instant::now();
            step(&mut client, format!("{prefix}-{lane}-{number}")).await?;
            spent.push(sent.elapsed());
        }
        Ok::<_, Fault>(spent)
    });
    let spent = futures_util::future::try_join_all(lanes).await?;
    report(spent.concat());
    Ok(())
}

fn report(mut spent: Vec<Duration>) {
    spent.sort_unstable();
    let at = |part: f64| spent[((spent.len() - 1) as f64 * part) as usize].as_secs_f64() * 1000.0;
    println!("{} {} {} {}", spent.len() as f64 / SPAN.as_secs_f64(), at(0.5), at(0.99), spent.len());
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
    let path = CONFIGMAPS;
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
