//! For fuzzers: archives of images, members of layers, names. Whatever an archive holds, nothing
//! outside the store's folder changes.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    reason = "a fuzzer needs a folder, and ends at what is wrong"
)]

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::place::Placer;
use super::{Digest, ImageName, ImageStore, members};

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
