//! Tars as no honest tool writes them, and images of them.

use std::io::Write;

use serde_json::json;
use sha2::Digest as _;
use tar::{EntryType, Header};

/// A tar that is put together byte by byte.
#[derive(Clone, Default)]
pub struct Tar(pub Vec<u8>);

impl Tar {
    pub fn new() -> Self {
        Self::default()
    }

    /// A member with exactly this header and content.
    pub fn member(self, path: &[u8], kind: u8, link: &[u8], content: &[u8]) -> Self {
        self.with(path, kind, link, content, |_| {})
    }

    /// The same, with a last word on the header before it is summed up.
    pub fn with(mut self, path: &[u8], kind: u8, link: &[u8], content: &[u8], last: impl Fn(&mut Header)) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::new(kind));
        header.set_size(content.len() as u64);
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1000);
        let bytes = header.as_mut_bytes();
        bytes[..path.len().min(100)].copy_from_slice(&path[..path.len().min(100)]);
        bytes[157..157 + link.len().min(100)].copy_from_slice(&link[..link.len().min(100)]);
        last(&mut header);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub fn file(self, path: &str, content: &str) -> Self {
        self.member(path.as_bytes(), b'0', b"", content.as_bytes())
    }

    pub fn folder(self, path: &str) -> Self {
        self.member(path.as_bytes(), b'5', b"", b"")
    }

    pub fn link(self, path: &str, target: &str) -> Self {
        self.member(path.as_bytes(), b'2', target.as_bytes(), b"")
    }

    pub fn hard(self, path: &str, target: &str) -> Self {
        self.member(path.as_bytes(), b'1', target.as_bytes(), b"")
    }

    /// An extended header for the next member.
    pub fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut body = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + rest.to_string().len();
            length = rest + length.to_string().len();
            body.extend_from_slice(format!("{length} {key}=").as_bytes());
            body.extend_from_slice(value);
            body.push(b'\n');
        }
        self.member(b"pax", b'x', b"", &body)
    }

    /// With the end that a tar has.
    pub fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut zip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    zip.write_all(bytes).unwrap();
    zip.finish().unwrap()
}

pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(sha2::Sha256::digest(bytes)))
}

pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// An OCI archive of one image; `blobs` are its layers as stored, each with the digest of its tar.
pub fn oci(layers: &[(Vec<u8>, String)], user: &str) -> Vec<u8> {
    let diff_ids: Vec<&str> = layers.iter().map(|(_, tar)| tar.as_str()).collect();
    let config = json!({"architecture": architecture(), "os": "linux", "config": {"User": user, "Cmd": ["/x"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids}})
    .to_string();
    let listed: Vec<_> = layers
        .iter()
        .map(|(blob, _)| json!({"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest(blob), "size": blob.len()}))
        .collect();
    let manifest = json!({"schemaVersion": 2, "config": {"digest": digest(config.as_bytes()), "size": config.len()},
        "layers": listed})
    .to_string();
    let index = json!({"schemaVersion": 2, "manifests": [{"mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": digest(manifest.as_bytes()), "size": manifest.len(),
        "annotations": {"org.opencontainers.image.ref.name": "evil:1"}}]})
    .to_string();
    let mut documents = vec![config.into_bytes(), manifest.into_bytes()];
    documents.extend(layers.iter().map(|(blob, _)| blob.clone()));
    layout(&index, &documents)
}

/// An OCI archive of an index and blobs under their digests.
pub fn layout(index: &str, blobs: &[Vec<u8>]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |path: &str, content: &[u8]| {
        let mut header = Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, path, content).unwrap();
    };
    add("oci-layout", br#"{"imageLayoutVersion": "1.0.0"}"#);
    add("index.json", index.as_bytes());
    for blob in blobs {
        add(&format!("blobs/{}", digest(blob).replace(':', "/")), blob);
    }
    tar.into_inner().unwrap()
}
