//! Brings blobs and manifests to a registry.

use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use hyper::{Method, StatusCode, Uri};

use super::http::Body;
use super::{Endpoint, RegistryError, nothing, resolve};
use crate::images::Digest;

impl Endpoint {
    /// Whether the registry has a blob already.
    pub(in crate::images) async fn has_blob(&self, digest: &Digest) -> Result<bool, RegistryError> {
        let answer = self.ask(Method::HEAD, &format!("blobs/{digest}"), &[], nothing).await?;
        match answer.status {
            StatusCode::OK => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            _ => Err(self.refused(answer, &format!("blob {digest}")).await),
        }
    }

    /// Uploads a blob in one piece. `body` yields its bytes, each time from the start.
    pub(in crate::images) async fn put_blob(
        &self,
        digest: &Digest,
        size: u64,
        body: impl Fn() -> Body,
    ) -> Result<(), RegistryError> {
        let asked = format!("upload of blob {digest}");
        let begun = self.ask(Method::POST, "blobs/uploads/", &[(CONTENT_LENGTH, "0".into())], nothing).await?;
        if begun.status != StatusCode::ACCEPTED {
            return Err(self.refused(begun, &asked).await);
        }
        let location = begun.header(LOCATION).to_owned();
        let _ = begun.whole(super::REFUSAL_MAX, &asked).await;
        let scheme = if self.base.tls { "https" } else { "http" };
        let home: Uri =
            format!("{scheme}://{}/", self.base.shown()).parse().map_err(|_| self.malformed(&asked, "no address"))?;
        let target = resolve(&home, &location);
        let joint = if target.contains('?') { '&' } else { '?' };
        let target = format!("{target}{joint}digest={digest}");
        let headers = [(CONTENT_LENGTH, size.to_string()), (CONTENT_TYPE, "application/octet-stream".into())];
        let done = self.ask(Method::PUT, &target, &headers, body).await?;
        match done.status {
            StatusCode::CREATED => Ok(()),
            _ => Err(self.refused(done, &asked).await),
        }
    }

    /// Stores a manifest under a tag or its digest.
    pub(in crate::images) async fn put_manifest(
        &self,
        reference: &str,
        media_type: &str,
        body: impl Fn() -> Body,
    ) -> Result<(), RegistryError> {
        let asked = format!("upload of manifest {}:{reference}", self.repository);
        let headers = [(CONTENT_TYPE, media_type.to_owned())];
        let answer = self.ask(Method::PUT, &format!("manifests/{reference}"), &headers, body).await?;
        match answer.status {
            StatusCode::CREATED | StatusCode::OK | StatusCode::ACCEPTED => Ok(()),
            _ => Err(self.refused(answer, &asked).await),
        }
    }
}
