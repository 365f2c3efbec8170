//! Debian's `docker-registry` on a port of loopback, with TLS and authentication where a test wants them.

use std::fmt::Write as _;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How a registry is to be.
#[derive(Default)]
pub struct Wish {
    pub tls: bool,
    pub basic: bool,
    /// Lines of the `auth` section.
    pub auth: String,
}

pub struct Registry {
    child: Child,
    pub host: String,
    pub ca: PathBuf,
    _dir: tempfile::TempDir,
}

impl Registry {
    pub fn start(wish: &Wish) -> Self {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let host = format!("127.0.0.1:{port}");
        let path = |name: &str| dir.path().join(name);
        let mut config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\n  delete: {{enabled: true}}\nhttp:\n  addr: {host}\n",
            path("data").display()
        );
        if wish.tls {
            certify(dir.path());
            let (cert, key) = (path("cert.pem"), path("key.pem"));
            let _ = writeln!(config, "  tls: {{certificate: {}, key: {}}}", cert.display(), key.display());
        }
        if wish.basic {
            std::fs::write(path("htpasswd"), htpasswd()).unwrap();
            let _ = writeln!(config, "auth:\n  htpasswd: {{realm: test, path: {}}}", path("htpasswd").display());
        }
        config.push_str(&wish.auth);
        std::fs::write(path("config.yml"), config).unwrap();
        let child = Command::new("docker-registry")
            .args(["serve", path("config.yml").to_str().unwrap()])
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(path("log")).unwrap())
            .spawn()
            .expect("apt-get install docker-registry");
        let mut registry = Self { child, host, ca: path("ca.pem"), _dir: dir };
        let begun = Instant::now();
        while TcpStream::connect(&registry.host).is_err() {
            let ended = registry.child.try_wait().unwrap();
            let log = || std::fs::read_to_string(registry.ca.with_file_name("log")).unwrap_or_default();
            assert!(ended.is_none() && begun.elapsed() < Duration::from_mins(1), "docker-registry: {}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
        registry
    }

    /// `HOST/PATH` as skopeo wants it.
    pub fn docker(&self, path: &str) -> String {
        format!("docker://{}/{path}", self.host)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `reader:secret`, hashed by the C library, as the registry wants bcrypt.
fn htpasswd() -> String {
    let script =
        "import crypt; print('reader:' + crypt.crypt('secret', crypt.mksalt(crypt.METHOD_BLOWFISH, rounds=16)))";
    let output = Command::new("python3").args(["-W", "ignore", "-c", script]).output().expect("python3");
    let line = String::from_utf8(output.stdout).unwrap();
    assert!(line.starts_with("reader:$2"), "{line}");
    line
}

/// An authority of the test's own, and a certificate for 127.0.0.1 that it signed.
fn certify(dir: &Path) {
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    authority.distinguished_name.push(rcgen::DnType::CommonName, "test authority");
    std::fs::write(dir.join("ca.pem"), authority.self_signed(&authority_key).unwrap().pem()).unwrap();
    let issuer = rcgen::Issuer::from_params(&authority, &authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(dir.join("cert.pem"), params.signed_by(&key, &issuer).unwrap().pem()).unwrap();
    std::fs::write(dir.join("key.pem"), key.serialize_pem()).unwrap();
}
