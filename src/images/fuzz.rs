//! For fuzzers: archives of images, members of layers, names. Whatever an archive holds, nothing
//! outside the store's folder changes.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    reason = "a fuzzer needs a folder, and ends at what is wrong"
)]

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::blobs::parse;
use super::manifest::{ConfigFile, Index, Manifest};
use super::place::Placer;
use super::registry::Challenge;
use super::{Digest, ImageName, ImageStore, Keychain, members, platform};

/// A folder with a neighbour that must not change.
struct Yard(tempfile::TempDir);

impl Yard {
    fn new() -> Self {
        let memory = Path::new("/dev/shm");
        let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let yard = Self(made.expect("a folder"));
        fs::create_dir(yard.inside()).expect("a folder");
        fs::write(yard.0.path().join("neighbour"), "untouched").expect("a file");
        yard
    }

    fn inside(&self) -> PathBuf {
        self.0.path().join("inside")
    }
}

impl Drop for Yard {
    fn drop(&mut self) {
        let mut names: Vec<_> =
            fs::read_dir(self.0.path()).expect("the folder").flatten().map(|entry| entry.file_name()).collect();
        names.sort();
        assert_eq!(names, ["inside", "neighbour"], "something was written beside the folder");
        let neighbour = fs::read_to_string(self.0.path().join("neighbour")).expect("the neighbour");
        assert_eq!(neighbour, "untouched");
    }
}

/// An archive as `kith image load` takes it; what it loads is unpacked and saved again.
pub(crate) fn archive(bytes: &[u8]) {
    let yard = Yard::new();
    let Ok(store) = ImageStore::open(&yard.inside()) else { return };
    let Ok(images) = store.load_reader(bytes, "fuzz", None) else { return };
    for image in images {
        let _ = store.unpack(&image);
    }
    let _ = store.list();
}

/// What registries say before they answer, and what they answer: challenges, tokens, refusals,
/// manifests, and the credentials of pull secrets.
pub(crate) fn registry(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let _ = Challenge::parse(&text);
    let _ = super::registry::token_in(bytes);
    let said = super::registry::detail(bytes);
    assert!(said.chars().count() <= 200 && !said.contains(char::is_control), "{said:?}");
    let mut keychain = Keychain::default();
    let _ = keychain.add_docker_config(bytes, "fuzz");
    if let Ok(index) = parse::<Index>(bytes, "fuzz") {
        let _ = (platform::best(&index.manifests), platform::listed(&index.manifests));
    }
    let _ = parse::<Manifest>(bytes, "fuzz");
    let _ = parse::<ConfigFile>(bytes, "fuzz").map(|file| file.created());
}

/// A layer compressed by zstd: at most so much of it is unpacked.
pub(crate) fn zstd(bytes: &[u8]) {
    let _ = io::copy(&mut super::zstd::Frames::new(bytes).take(4 << 20), &mut io::sink());
}

/// The tar of one layer.
pub(crate) fn layer(bytes: &[u8]) {
    let yard = Yard::new();
    let folder = OwnedFd::from(File::open(yard.inside()).expect("the folder"));
    let mut placer = Placer::new(folder);
    let _ = members::each(bytes, "fuzz", |member, content| placer.place(&member, content));
    placer.finish();
}

/// What is accepted as a name is written and read to the same.
pub(crate) fn name(text: &str) {
    if let Ok(name) = ImageName::parse(text) {
        let written = name.to_string();
        assert_eq!(ImageName::parse(&written).ok().map(|again| again.to_string()), Some(written), "{text:?}");
    }
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string(), text);
    }
}
