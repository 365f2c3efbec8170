//! A registry that does what a test tells it: it serves the blobs of a store, cuts connections, lies
//! and counts.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use kith::images::Image;

/// One request.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub path: String,
    /// Where the range that it asks for begins.
    pub from: Option<usize>,
    pub authorization: Option<String>,
}

/// An answer; `cut` ends the connection after so many bytes of the body.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub cut: Option<usize>,
}

impl Reply {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into(), cut: None }
    }

    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }
}

pub struct Scripted {
    pub host: String,
    pub seen: Arc<Mutex<Vec<Request>>>,
}

impl Scripted {
    /// Serves until the test ends. The script is called once for each request.
    pub fn start(script: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (script, log) = (Arc::new(script), seen.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (script, log) = (script.clone(), log.clone());
                std::thread::spawn(move || {
                    let _ = serve(&stream, &*script, &log);
                });
            }
        });
        Self { host, seen }
    }

    /// Requests whose path holds a text.
    pub fn count(&self, part: &str) -> usize {
        self.seen.lock().unwrap().iter().filter(|request| request.path.contains(part)).count()
    }
}

fn serve(stream: &TcpStream, script: &dyn Fn(&Request) -> Reply, log: &Mutex<Vec<Request>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let mut words = line.split_whitespace().map(str::to_owned);
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let mut request = Request { method, path, from: None, authorization: None };
        let mut length = 0;
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            let Some((name, value)) = header.trim().split_once(':') else { break };
            match name.to_ascii_lowercase().as_str() {
                "range" => {
                    request.from =
                        value.trim().strip_prefix("bytes=").and_then(|range| range.strip_suffix('-')?.parse().ok());
                }
                "authorization" => request.authorization = Some(value.trim().to_owned()),
                "content-length" => length = value.trim().parse().unwrap_or(0),
                _ => {}
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        log.lock().unwrap().push(request.clone());
        let reply = script(&request);
        let mut head = format!("HTTP/1.1 {} Scripted\r\ncontent-length: {}\r\n", reply.status, reply.body.len());
        for (name, value) in &reply.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let mut stream = stream;
        stream.write_all(format!("{head}\r\n").as_bytes())?;
        if request.method == "HEAD" {
            continue;
        }
        if let Some(cut) = reply.cut.filter(|cut| *cut < reply.body.len()) {
            stream.write_all(&reply.body[..cut])?;
            return stream.shutdown(std::net::Shutdown::Both);
        }
        stream.write_all(&reply.body)?;
    }
}

/// Serves one image of a store as a registry would, by tag and digest, with ranges.
#[derive(Clone)]
pub struct Honest {
    blobs: PathBuf,
    manifest: String,
}

impl Honest {
    pub fn new(images: PathBuf, image: &Image) -> Self {
        Self { blobs: images.join("blobs/sha256"), manifest: image.digest.hex().to_owned() }
    }

    pub fn blob(&self, hex: &str) -> Option<Vec<u8>> {
        std::fs::read(self.blobs.join(hex)).ok()
    }

    pub fn reply(&self, request: &Request) -> Reply {
        let last = request.path.rsplit('/').next().unwrap_or_default();
        if request.path.contains("/manifests/") {
            let hex = last.strip_prefix("sha256:").unwrap_or(&self.manifest);
            let Some(bytes) = self.blob(hex) else { return Reply::new(404, "") };
            return Reply::new(200, bytes).header("content-type", "application/vnd.oci.image.manifest.v1+json");
        }
        let Some(bytes) = last.strip_prefix("sha256:").and_then(|hex| self.blob(hex)) else {
            return Reply::new(404, "");
        };
        match request.from {
            Some(from) if from < bytes.len() => {
                let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
                Reply::new(206, &bytes[from..]).header("content-range", range)
            }
            Some(_) => Reply::new(416, ""),
            None => Reply::new(200, bytes),
        }
    }
}
