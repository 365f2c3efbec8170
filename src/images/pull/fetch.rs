//! Fetches manifests and blobs from the first source that has them, again and again while that may
//! help: with waits that grow, from where the connection broke.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use super::aside;
use super::neighbours::{self, Begun, Neighbourhood};
use super::progress::Progress;
use crate::images::blobs::{BLOB_MAX, Held};
use crate::images::manifest::Descriptor;
use crate::images::partial::{Found, Partial};
use crate::images::registry::{Document, Endpoint, RegistryError};
use crate::images::{ImageError, ImageName, ImageStore};

/// Tries of one request in a row that bring nothing.
const TRIES: u32 = 4;
/// Tries of one blob in all: each but a few has brought a part of it.
const TRIES_IN_ALL: u32 = 200;
/// The wait after the first try; doubled after each further one.
const WAIT: Duration = Duration::from_millis(500);
/// Time between two looks whether somebody else has brought a blob.
const LOOK: Duration = Duration::from_millis(100);
/// Bytes that are gathered before they are written.
pub(super) const BATCH: usize = 256 << 10;

/// Whom to ask, in order.
pub(in crate::images) struct Sources(pub(in crate::images) Vec<Endpoint>);

impl Sources {
    /// A manifest, with the number of the source that had it. `first` is asked before the others.
    pub(super) async fn manifest(&self, first: usize, reference: &str) -> Result<(usize, Document), ImageError> {
        let mut tries = 0;
        loop {
            tries += 1;
            let mut last = None;
            for (number, endpoint) in self.from(first) {
                match endpoint.manifest(reference).await {
                    Ok(document) => return Ok((number, document)),
                    Err(error) => last = Some(worse(last, error)),
                }
            }
            let error = last.unwrap_or_else(|| nobody(reference));
            // A name that is not found, or a certificate that is not trusted, stays so.
            let may_help = error.is_unreachable()
                && !matches!(&error, RegistryError::Unreachable { step, .. } if *step != "read" && *step != "request");
            if !may_help || tries >= TRIES {
                return Err(error.into());
            }
            pause(tries).await;
        }
    }

    /// All sources, a certain one first.
    fn from(&self, first: usize) -> impl Iterator<Item = (usize, &Endpoint)> {
        let numbered = || self.0.iter().enumerate();
        numbered().skip(first).take(1).chain(numbered().filter(move |(number, _)| *number != first))
    }
}

/// Of two failures, the one that says more: that of the registry itself, which is asked last.
fn worse(earlier: Option<RegistryError>, later: RegistryError) -> RegistryError {
    match earlier {
        Some(earlier) if later.is_unreachable() && !earlier.is_unreachable() => earlier,
        _ => later,
    }
}

fn nobody(asked: &str) -> RegistryError {
    RegistryError::Malformed { host: String::new(), asked: asked.into(), reason: "there is nobody to ask".into() }
}

/// Waits before the next try: twice as long as before the last, give or take a quarter.
async fn pause(tries: u32) {
    let wait = WAIT.saturating_mul(1 << tries.min(6));
    tokio::time::sleep(wait.mul_f64(rand::random_range(0.75..1.25))).await;
}

/// Fetches the blobs of one image.
pub(super) struct Fetch<'a> {
    pub(super) store: &'a ImageStore,
    pub(super) sources: &'a Sources,
    /// The source that had the manifest.
    pub(super) first: usize,
    pub(super) progress: &'a Progress,
    /// The image that is brought.
    pub(super) image: &'a ImageName,
    /// Other devices that may have it.
    pub(super) others: Option<&'a Neighbourhood>,
    /// What others are told of it.
    pub(super) begun: Mutex<Vec<Begun>>,
}

impl Fetch<'_> {
    /// A blob, whole and verified. One that is not what it claims to be is brought once more, from
    /// another source where there is one: the beginning of it may have lain here since a power cut.
    pub(super) async fn blob(&self, wanted: &Descriptor) -> Result<Held, ImageError> {
        match self.bring(wanted, self.first, self.others).await {
            Err(ImageError::Damaged { reason, .. }) => {
                tracing::warn!(digest = %wanted.digest, reason, "a download is damaged and is brought again");
                // This time from the registry itself: it may have been another device that sent something else.
                self.bring(wanted, (self.first + 1) % self.sources.0.len().max(1), None).await
            }
            done => done,
        }
    }

    async fn bring(
        &self,
        wanted: &Descriptor,
        first: usize,
        others: Option<&Neighbourhood>,
    ) -> Result<Held, ImageError> {
        if wanted.size > BLOB_MAX {
            let reason = format!("its size of {} bytes is more than a blob may have", wanted.size);
            return Err(ImageError::damaged(format!("blob {}", wanted.digest), reason));
        }
        let mut part = match self.begin(wanted).await? {
            Found::Whole(held) => {
                self.progress.here(wanted.size);
                return Ok(held);
            }
            Found::Part(part) => part,
            Found::Busy => return Err(ImageError::damaged("a download", "it ended without an end")),
        };
        self.progress.here(part.length());
        let others = others.filter(|_| wanted.size >= neighbours::LEAST);
        if let Some(others) = others {
            // Told to others until the image has its name: from then on that tells what is here.
            let begun = others.bringing.begin(&wanted.digest, self.image);
            self.begun.lock().unwrap_or_else(PoisonError::into_inner).push(begun);
            part = self.ask_others(part, wanted, others).await?;
            others.bringing.goes_to_registry(&wanted.digest);
        }
        let (mut fruitless, mut in_all) = (0, 0);
        while !part.is_whole() {
            let before = part.length();
            let (back, outcome) = self.ask_each(part, wanted, first).await?;
            part = back;
            let Err(error) = outcome else { continue };
            in_all += 1;
            fruitless = if part.length() > before { 1 } else { fruitless + 1 };
            if !error.is_unreachable() || fruitless >= TRIES || in_all >= TRIES_IN_ALL {
                return Err(error);
            }
            tracing::debug!(digest = %wanted.digest, have = part.length(), %error, "a download broke and goes on");
            pause(fruitless).await;
        }
        let (store, length) = (self.store.clone(), part.length());
        let finished = aside(move || part.finish(&store)).await;
        if finished.is_err() {
            self.progress.forget(length);
        }
        finished
    }

    /// Takes hold of a blob's part; waits while somebody else brings it.
    async fn begin(&self, wanted: &Descriptor) -> Result<Found, ImageError> {
        loop {
            let (store, descriptor) = (self.store.clone(), wanted.clone());
            match aside(move || store.begin(&descriptor)).await? {
                Found::Busy => tokio::time::sleep(LOOK).await,
                found => return Ok(found),
            }
        }
    }

    /// Asks each source once, from where the part ends.
    async fn ask_each(
        &self,
        mut part: Partial,
        wanted: &Descriptor,
        first: usize,
    ) -> Result<(Partial, Result<(), ImageError>), ImageError> {
        let mut last = None;
        for (_, endpoint) in self.sources.from(first) {
            let before = part.length();
            let (back, outcome) = self.read_from(part, wanted, endpoint).await?;
            part = back;
            match outcome {
                Ok(()) => return Ok((part, Ok(()))),
                Err(error) if part.length() > before => return Ok((part, Err(error.into()))),
                Err(error) => last = Some(worse(last, error)),
            }
        }
        let error = last.unwrap_or_else(|| nobody("a blob"));
        Ok((part, Err(error.into())))
    }

    /// Reads from one source until the blob is whole or the connection breaks. The outer error is one
    /// that no other source helps against.
    async fn read_from(
        &self,
        mut part: Partial,
        wanted: &Descriptor,
        endpoint: &Endpoint,
    ) -> Result<(Partial, Result<(), RegistryError>), ImageError> {
        let mut stream = match endpoint.blob(&wanted.digest, part.length()).await {
            Ok(stream) => stream,
            Err(error) => return Ok((part, Err(error))),
        };
        if stream.from != part.length() {
            self.progress.forget(part.length());
            part = write(part, Vec::new(), true).await?;
        }
        let mut batch: Vec<Bytes> = Vec::new();
        let mut gathered = 0;
        loop {
            let chunk = stream.chunk().await;
            if let Ok(Some(bytes)) = &chunk {
                gathered += bytes.len();
                self.progress.came(bytes.len() as u64);
                batch.push(bytes.clone());
            }
            let goes_on = matches!(chunk, Ok(Some(_)));
            if gathered >= BATCH || !goes_on {
                part = write(part, std::mem::take(&mut batch), false).await?;
                gathered = 0;
            }
            match chunk {
                Ok(Some(_)) => {}
                Ok(None) if part.is_whole() => return Ok((part, Ok(()))),
                Ok(None) => {
                    let reason = format!("it ended after {} of {} bytes", part.length(), wanted.size);
                    let host = endpoint.host().to_owned();
                    return Ok((
                        part,
                        Err(RegistryError::Unreachable { host, step: "read", reason, hint: String::new() }),
                    ));
                }
                Err(error) => return Ok((part, Err(error))),
            }
        }
    }
}

pub(super) async fn write(mut part: Partial, pieces: Vec<Bytes>, anew: bool) -> Result<Partial, ImageError> {
    aside(move || {
        if anew {
            part.restart()?;
        }
        part.append(&pieces)?;
        Ok(part)
    })
    .await
}
