//! Layers: recognises their compression, and unpacks them into folders that overlay mounts.

#![expect(clippy::disallowed_methods, reason = "unpacks into folders")]

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use flate2::bufread::MultiGzDecoder;

use super::blobs::{BLOB_MAX, sync_dir};
use super::digest::Hashing;
use super::place::Placer;
use super::{Image, ImageError, ImageStore, Layer, manifest, members};

/// Most bytes that one layer may have unpacked.
const UNPACKED_MAX: u64 = 32 << 30;

/// How a layer is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    Plain,
    Gzip,
    Zstd,
}

impl Packing {
    /// Tells from the first bytes.
    pub(super) fn of(start: &[u8], what: &str) -> Result<Self, ImageError> {
        let unsupported = |name: &str, hint: &str| {
            Err(ImageError::Unsupported { what: format!("{name} compression of {what}"), hint: hint.into() })
        };
        match start {
            [0x1f, 0x8b, ..] => Ok(Self::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Ok(Self::Zstd),
            [0xfd, b'7', b'z', b'X', b'Z', ..] => unsupported("xz", "unpack it first, or compress it with gzip"),
            [b'B', b'Z', b'h', ..] => unsupported("bzip2", "unpack it first, or compress it with gzip"),
            _ => Ok(Self::Plain),
        }
    }

    pub(super) fn media_type(self) -> &'static str {
        match self {
            Self::Plain => manifest::LAYER,
            Self::Gzip => manifest::LAYER_GZIP,
            Self::Zstd => manifest::LAYER_ZSTD,
        }
    }
}

/// The tar inside a layer's bytes.
pub(super) fn open_tar<'a>(reader: impl Read + 'a, what: &str) -> Result<Box<dyn Read + 'a>, ImageError> {
    use std::io::BufRead;
    let mut reader = BufReader::with_capacity(64 << 10, reader);
    let start = reader.fill_buf().map_err(ImageError::io(format!("read {what}")))?;
    Ok(match Packing::of(start, what)? {
        Packing::Plain => Box::new(reader),
        Packing::Gzip => Box::new(MultiGzDecoder::new(reader)),
        Packing::Zstd => Box::new(super::zstd::Frames::new(reader)),
    })
}

/// Digests of a layer as stored and of its tar.
pub(super) fn digests(file: File, what: &str) -> Result<(super::Digest, Packing), ImageError> {
    let mut start = [0; 8];
    let mut source = file;
    let count = source.read(&mut start).map_err(ImageError::io(format!("read {what}")))?;
    let packing = Packing::of(&start[..count], what)?;
    let whole = io::Cursor::new(start[..count].to_vec()).chain(source);
    let tar = Hashing::new(open_tar(whole, what)?, UNPACKED_MAX);
    let (digest, _) = tar.finish().map_err(|error| ImageError::damaged(what, error))?;
    Ok((digest, packing))
}

/// An unpacked layer that is not cleared away as long as this lives.
pub(super) struct Layered(#[expect(dead_code, reason = "held, not read")] File);

impl ImageStore {
    /// Unpacks a layer and holds it until a name leads to it.
    pub(super) fn hold_layer(&self, layer: &Layer) -> Result<Layered, ImageError> {
        use std::os::unix::fs::MetadataExt;
        let step = || ImageError::io(format!("hold layer {}", layer.tar));
        loop {
            let folder = File::open(self.unpack_layer(layer)?).map_err(step())?;
            folder.lock_shared().map_err(step())?;
            // It may have been cleared away before the lock was ours.
            if folder.metadata().map_err(step())?.nlink() > 0 {
                return Ok(Layered(folder));
            }
        }
    }

    /// Unpacks what is not unpacked yet; returns the folders to mount, lowest first. Every byte is
    /// checked against its digest before a folder appears.
    pub fn unpack(&self, image: &Image) -> Result<Vec<PathBuf>, ImageError> {
        if image.architecture != manifest::architecture() {
            return Err(ImageError::Unsupported {
                what: format!("image {} for {}", image.name, image.architecture),
                hint: format!("this device is {}; load an image for it", manifest::architecture()),
            });
        }
        image.layers.iter().map(|layer| self.unpack_layer(layer)).collect()
    }

    pub(super) fn unpack_layer(&self, layer: &Layer) -> Result<PathBuf, ImageError> {
        let target = self.layer_dir().join(layer.tar.hex());
        if target.is_dir() {
            return Ok(target);
        }
        let what = format!("layer {}", layer.blob);
        let step = || ImageError::io(format!("unpack {what}"));
        let held = self
            .hold(&layer.blob)?
            .ok_or_else(|| ImageError::damaged(&*what, "it is not in the store; load the image again"))?;
        let draft = tempfile::Builder::new().prefix(".new-").tempdir_in(self.layer_dir()).map_err(step())?;
        fs::set_permissions(draft.path(), fs::Permissions::from_mode(0o755)).map_err(step())?;
        let folder = File::open(draft.path()).map_err(step())?;
        // Marks the draft as somebody's, for whoever clears leftovers away.
        folder.lock_shared().map_err(step())?;

        let mut stored = Hashing::new(held.reader()?, BLOB_MAX);
        let mut unpacked = Hashing::new(open_tar(&mut stored, &what)?, UNPACKED_MAX);
        let mut placer = Placer::new(OwnedFd::from(folder.try_clone().map_err(step())?));
        members::each(&mut unpacked, &what, |member, content| placer.place(&member, content))?;
        placer.finish();
        let (tar, _) = unpacked.finish().map_err(|error| ImageError::damaged(&*what, error))?;
        let (blob, _) = stored.finish().map_err(step())?;
        for (found, expected) in [(blob, &layer.blob), (tar, &layer.tar)] {
            if found != *expected {
                // Out of the way, so that loading the image again repairs it.
                super::blobs::remove_file(&self.blob_dir().join(layer.blob.hex()))?;
                return Err(ImageError::damaged(&*what, format!("found digest {found} in place of {expected}")));
            }
        }
        // One sync for all files: after the rename the folder must be whole, also after a power cut.
        nix::unistd::syncfs(&folder).map_err(|error| step()(error.into()))?;
        let draft = draft.keep();
        match fs::rename(&draft, &target) {
            Ok(()) => sync_dir(&self.layer_dir())?,
            // Another process was faster, with the same bytes.
            Err(_) if target.is_dir() => fs::remove_dir_all(&draft).map_err(step())?,
            Err(error) => return Err(step()(error)),
        }
        Ok(target)
    }
}
