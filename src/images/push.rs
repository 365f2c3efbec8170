//! Brings an image of this device to a registry: what that has already is not sent.

use std::io;

use bytes::Bytes;
use futures_util::StreamExt;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use tokio_util::io::ReaderStream;

use super::manifest::MANIFEST;
use super::pull::aside;
use super::registry::{Keychain, Purpose};
use super::{Image, ImageError, ImageName, Progress, Puller};

/// Bytes that are read at once.
const PIECE: usize = 64 << 10;

impl Puller {
    /// Stores an image under a name at that name's registry.
    pub async fn push(
        &self,
        name: &ImageName,
        to: &ImageName,
        keychain: &Keychain,
        progress: &Progress,
    ) -> Result<Image, ImageError> {
        let (store, wanted) = (self.store.clone(), name.clone());
        let image = aside(move || store.resolve(&wanted)?.ok_or(ImageError::Unknown(wanted))).await?;
        let sources = self.sources(to, Purpose::Push, keychain).await?;
        let Some(endpoint) = sources.0.first() else { return Err(ImageError::Unknown(to.clone())) };
        let (store, digest) = (self.store.clone(), image.digest.clone());
        let (bytes, manifest) = aside(move || Ok((store.read(&digest)?, store.manifest(&digest)?))).await?;
        progress.begin(&manifest);
        for blob in manifest.layers.iter().chain([&manifest.config]) {
            if endpoint.has_blob(&blob.digest).await? {
                progress.here(blob.size);
                continue;
            }
            let (store, digest) = (self.store.clone(), blob.digest.clone());
            let held = aside(move || store.hold(&digest)).await?;
            let held = held.ok_or_else(|| ImageError::damaged(format!("blob {}", blob.digest), "it is not here"))?;
            let count = progress.clone();
            let path = self.store.blob_dir().join(held.digest.hex());
            let body = move || {
                let (path, count) = (path.clone(), count.clone());
                let opened = futures_util::stream::once(async move {
                    let file = tokio::fs::File::open(path).await?;
                    Ok::<_, io::Error>(ReaderStream::with_capacity(file, PIECE))
                });
                let pieces = opened.flat_map(|opened| match opened {
                    Ok(pieces) => pieces.left_stream(),
                    Err(error) => futures_util::stream::once(async { Err(error) }).right_stream(),
                });
                let frames = pieces.map(move |piece| {
                    piece.map(|bytes: Bytes| {
                        count.came(bytes.len() as u64);
                        Frame::data(bytes)
                    })
                });
                StreamBody::new(frames).boxed_unsync()
            };
            endpoint.put_blob(&blob.digest, held.size, body).await?;
        }
        let media_type = if manifest.media_type.is_empty() { MANIFEST } else { &manifest.media_type };
        let body = || Full::new(Bytes::from(bytes.clone())).map_err(|never| match never {}).boxed_unsync();
        endpoint.put_manifest(&to.reference(), media_type, body).await?;
        Ok(image)
    }
}
