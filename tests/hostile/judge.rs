//! What an image did: it is loaded and unpacked beside canaries, with a clock running.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kith::images::{ImageError, ImageStore};

/// No image may take longer, on a machine however busy.
const TIME_MAX: Duration = Duration::from_mins(2);

/// What is expected of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is refused by an error that holds this.
    Refused(&'static str),
    /// It is unpacked, and nothing of it is outside of its folder.
    Harmless,
}

pub struct Bench {
    dir: tempfile::TempDir,
    canaries: BTreeMap<PathBuf, (Vec<u8>, u32, u64, u32)>,
}

impl Bench {
    pub fn new() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "hostile images try what root may do: run this test as root");
        // In memory: each image is synced to the disk before its layers are used.
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let mut bench = Self { dir, canaries: BTreeMap::new() };
        for name in ["canary", "images-canary", "etc/canary"] {
            let path = bench.dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "alive").unwrap();
        }
        bench.canaries = bench.look();
        bench
    }

    pub fn canary(&self) -> PathBuf {
        self.dir.path().join("canary")
    }

    fn images(&self) -> PathBuf {
        self.dir.path().join("images")
    }

    /// Every file outside of the store: content, mode, links, owner.
    fn look(&self) -> BTreeMap<PathBuf, (Vec<u8>, u32, u64, u32)> {
        let (mut found, mut open) = (BTreeMap::new(), vec![self.dir.path().to_owned()]);
        while let Some(folder) = open.pop() {
            for entry in fs::read_dir(folder).unwrap().flatten() {
                let path = entry.path();
                if path == self.images() {
                    continue;
                }
                let about = fs::symlink_metadata(&path).unwrap();
                let content = if about.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
                // A folder's links count its subfolders, of which the store is one.
                let links = if about.is_dir() { 0 } else { about.nlink() };
                found.insert(path.clone(), (content, about.mode(), links, about.uid()));
                if about.is_dir() {
                    open.push(path);
                }
            }
        }
        found
    }

    /// Loads and unpacks an image; returns what is wrong with what came of it.
    pub fn judge(&self, name: &str, archive: &[u8], expected: Verdict) -> Option<String> {
        let judged = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.insist(name, archive, expected)));
        let _ = fs::remove_dir_all(self.images());
        let wrong = judged.err()?;
        Some(wrong.downcast_ref::<String>().cloned().unwrap_or_else(|| format!("{name}: a panic")))
    }

    fn insist(&self, name: &str, archive: &[u8], expected: Verdict) {
        let begun = Instant::now();
        let store = ImageStore::open(&self.images()).unwrap();
        let outcome = self.run(&store, archive);
        assert!(begun.elapsed() < TIME_MAX, "{name}: it took {:?}", begun.elapsed());
        assert_eq!(self.look(), self.canaries, "{name}: something changed outside of the store");
        match (expected, &outcome) {
            (Verdict::Refused(part), Err(error)) => {
                let text = whole(error);
                assert!(text.contains(part), "{name}: refused, but {part:?} is not in: {text}");
            }
            (Verdict::Harmless, Ok(_)) => {}
            (expected, outcome) => panic!("{name}: {expected:?} was expected, and it came to {outcome:?}"),
        }
        for folder in outcome.iter().flatten() {
            examine(name, folder);
        }
        for image in store.list().unwrap() {
            store.remove(&image.name).unwrap();
        }
        // What was refused leaves nothing half-made behind.
        for folder in ["layers", "ingest"] {
            let left: Vec<_> = fs::read_dir(self.images().join(folder)).unwrap().flatten().collect();
            assert!(left.is_empty(), "{name}: {left:?} is left in {folder}");
        }
    }

    fn run(&self, store: &ImageStore, archive: &[u8]) -> Result<Vec<PathBuf>, ImageError> {
        let mut layers = Vec::new();
        for image in store.load_reader(archive, "archive", None)? {
            layers.extend(store.unpack(&image)?);
        }
        for layer in &layers {
            assert!(layer.starts_with(self.images()), "{}", layer.display());
        }
        Ok(layers)
    }
}

/// No device but a whiteout, and no attribute that overlay or a security module would obey.
fn examine(name: &str, folder: &Path) {
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        // Deeper than a path can be long there is nothing but the one file that was put there.
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(about) = fs::symlink_metadata(entry.path()) else { continue };
            let kind = about.file_type();
            let whiteout = kind.is_char_device() && about.rdev() == 0;
            assert!(!kind.is_block_device() && (!kind.is_char_device() || whiteout), "{name}: a device node");
            for attribute in attributes(&entry.path()) {
                let fine = attribute.starts_with("user.")
                    || attribute == "security.capability"
                    || (attribute == "trusted.overlay.opaque" && about.is_dir());
                assert!(fine, "{name}: {} has {attribute}", entry.path().display());
            }
            if about.is_dir() {
                open.push(entry.path());
            }
        }
    }
}

#[expect(unsafe_code, reason = "lists attributes")]
fn attributes(path: &Path) -> Vec<String> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap();
    let mut buffer = vec![0_u8; 4096];
    // SAFETY: a terminated string and a buffer with its length.
    let count = unsafe { nix::libc::llistxattr(path.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) };
    let list = &buffer[..usize::try_from(count).unwrap_or(0)];
    list.split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .collect()
}

/// Fails with everything that is wrong, at once.
pub fn settle(wrong: impl IntoIterator<Item = Option<String>>) {
    let wrong: Vec<String> = wrong.into_iter().flatten().collect();
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

fn whole(error: &ImageError) -> String {
    let source = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    format!("{error}: {source}")
}
