//! A folder with a store and a puller into it, and images to fill registries with.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use kith::config::{ImagesConfig, RegistryConfig};
use kith::images::{Image, ImageError, ImageName, ImageStore, Keychain, Progress, Pulled, Puller};
use kith::resource::{ImageConfig, Timestamp};

pub struct Place {
    dir: tempfile::TempDir,
    pub store: ImageStore,
}

impl Place {
    pub fn new() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "layers are unpacked with their owners: run these tests as root");
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let store = ImageStore::open(&dir.path().join("images")).unwrap();
        Self { dir, store }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn puller(&self, registries: &[(&str, RegistryConfig)]) -> Puller {
        self.puller_with(registries, &ImagesConfig::default())
    }

    pub fn puller_with(&self, registries: &[(&str, RegistryConfig)], images: &ImagesConfig) -> Puller {
        let registries: BTreeMap<String, RegistryConfig> =
            registries.iter().map(|(name, config)| ((*name).to_owned(), config.clone())).collect();
        let now = || {
            let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
            Timestamp(u64::try_from(since.as_millis()).unwrap())
        };
        Puller::new(self.store.clone(), registries, images, Arc::new(now))
    }

    /// An image whose layer holds incompressible bytes, and `/etc/hello`.
    pub fn image(&self, text: &str, bytes: usize) -> Image {
        let mut tar = tar::Builder::new(Vec::new());
        let mut noise = Vec::with_capacity(bytes);
        let mut state = 88_172_645_463_325_252_u64;
        while noise.len() < bytes {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            noise.extend_from_slice(&state.to_le_bytes());
        }
        for (path, content) in [("etc/hello", text.as_bytes()), ("noise", &noise)] {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, path, content).unwrap();
        }
        let mut zip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        zip.write_all(&tar.into_inner().unwrap()).unwrap();
        let config = ImageConfig { cmd: vec!["/bin/true".into()], ..ImageConfig::default() };
        let zipped = zip.finish().unwrap();
        self.store.import(&*zipped, &name(text), &config, Timestamp(1_800_000_000_000)).unwrap()
    }

    /// What `/etc/hello` of an image holds.
    pub fn hello(&self, image: &Image) -> String {
        let layers = self.store.unpack(image).unwrap();
        let found = layers.iter().rev().find_map(|layer| std::fs::read_to_string(layer.join("etc/hello")).ok());
        found.expect("/etc/hello in the image")
    }
}

pub fn name(text: &str) -> ImageName {
    ImageName::parse(text).unwrap()
}

pub fn plain() -> RegistryConfig {
    RegistryConfig { insecure: true, ..RegistryConfig::default() }
}

pub async fn pull(puller: &Puller, text: &str) -> Result<Pulled, ImageError> {
    puller.pull(&name(text), &Keychain::default(), &Progress::default()).await
}

/// Runs a program and insists on success.
pub fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}; apt-get install docker-registry skopeo umoci"));
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// An image made by umoci, as an OCI layout: `LAYOUT:1`.
pub fn umoci(dir: &Path, hello: &str) -> String {
    let layout = dir.join("layout");
    let layout = layout.to_str().unwrap();
    let image = format!("{layout}:1");
    run("umoci", &["init", "--layout", layout]);
    run("umoci", &["new", "--image", &image]);
    for (name, path) in [(hello, "/etc/hello"), ("second", "/etc/second")] {
        let file = dir.join("content");
        std::fs::write(&file, name).unwrap();
        run("umoci", &["insert", "--image", &image, file.to_str().unwrap(), path]);
    }
    run("umoci", &["config", "--image", &image, "--config.cmd", "/bin/true", "--config.user", "7:8"]);
    image
}
