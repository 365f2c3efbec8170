//! Whether what the names promise is there. It reads sizes, not bytes: a digest over gigabytes is not for
//! a look.

use std::path::Path;

use super::{ImageError, ImageStore};

/// How many images a folder has, and what is wrong with them, a sentence each. It changes nothing, and an
/// agent may be at work there.
pub fn unsound(dir: &Path) -> Result<(usize, Vec<String>), ImageError> {
    let store = ImageStore { dir: dir.to_owned() };
    let names = store.names()?;
    let mut wrong = Vec::new();
    for named in &names.images {
        let image = match store.image(named) {
            Ok(image) => image,
            Err(error) => {
                wrong.push(format!("{}: {error}", named.name));
                continue;
            }
        };
        for layer in &image.layers {
            // A layer that is unpacked needs no blob any more, and the other way round.
            let unpacked = store.layer_dir().join(layer.tar.hex()).is_dir();
            let blob = std::fs::metadata(store.blob_dir().join(layer.blob.hex()));
            match blob {
                Ok(found) if found.len() == layer.size => {}
                Ok(found) => {
                    wrong.push(format!("{}: a layer has {} bytes instead of {}", image.name, found.len(), layer.size));
                }
                Err(_) if unpacked => {}
                Err(_) => wrong.push(format!("{}: its layer {} is gone", image.name, layer.tar.hex())),
            }
        }
    }
    Ok((names.images.len(), wrong))
}
