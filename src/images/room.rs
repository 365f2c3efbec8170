//! Room on the file system of the store.

use super::{ImageError, ImageStore};

/// A file system, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// All of it.
    pub total: u64,
    /// What root may still take.
    pub free: u64,
}

impl ImageStore {
    /// The file system that the images lie on.
    #[allow(clippy::useless_conversion, reason = "these numbers are narrower on 32-bit ARM")]
    pub fn room(&self) -> Result<Room, ImageError> {
        let step = format!("look for room in {}", self.dir.display());
        let found = nix::sys::statvfs::statvfs(&self.dir).map_err(|error| ImageError::io(step)(error.into()))?;
        let block = u64::from(found.fragment_size());
        Ok(Room { total: u64::from(found.blocks()) * block, free: u64::from(found.blocks_available()) * block })
    }
}
