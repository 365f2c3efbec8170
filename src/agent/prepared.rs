//! Images as the device's loop knows them: looked up by name, and unpacked.

use std::path::PathBuf;

use crate::images::{ImageError, ImageName, ImageStore, NamesVersion};
use crate::reconciler::ImageState;

/// An image by its name on this device.
#[derive(Clone)]
pub(super) struct Prepared {
    pub(super) state: ImageState,
    pub(super) layers: Vec<PathBuf>,
    /// The names that this was read from: under other names it may be another image.
    pub(super) names: NamesVersion,
}

impl Prepared {
    pub(super) fn preparing(names: NamesVersion) -> Self {
        Self { state: ImageState::Preparing, layers: Vec::new(), names }
    }

    pub(super) fn failed(why: String, names: NamesVersion) -> Self {
        Self { state: ImageState::Failed(why), layers: Vec::new(), names }
    }

    pub(super) fn from_store(store: &ImageStore, name: &str) -> Self {
        // Read before the image: names that change meanwhile make this one stale.
        let names = store.names_version();
        let found = ImageName::parse(name).and_then(|parsed| store.resolve(&parsed)).and_then(|image| {
            let Some(image) = image else { return Ok((ImageState::Absent, Vec::new())) };
            let layers = store.unpack(&image)?;
            Ok((ImageState::Ready { config: image.config, id: image.digest.to_string() }, layers))
        });
        match found {
            Ok((state, layers)) => Self { state, layers, names },
            Err(error @ ImageError::Name { .. }) => {
                Self { state: ImageState::Invalid(error.to_string()), layers: Vec::new(), names }
            }
            Err(error) => Self::failed(error.to_string(), names),
        }
    }
}
