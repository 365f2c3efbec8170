//! Layers of images between devices, so that the uplink carries each once: what this device gives to
//! others, and how it asks them.
//!
//! A device gets a layer only of an image that a pod bound to it is made of, by the replicated state; and
//! it asks only after its registry gave it the manifest, with the credentials of that pod. So what a
//! registry does not give to a device, no other device does either.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use http_body_util::{BodyExt, BodyStream, Empty};
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::api::{BLOBS, ExtraBody, ExtraResponse};
use crate::config::{Config, Profile};
use crate::consensus::{Engine, Replica};
use crate::images::{Bringing, Digest, ImageName, ImageStore, Neighbourhood, Neighbours, Offer, rank};
use crate::reconciler::images_needed;
use crate::transport::Transport;

/// Devices that are asked for one blob.
const ASKED: usize = 8;
/// Blobs that are given at once.
const GIVEN_AT_ONCE: usize = 3;
/// Bytes that are read at once.
const PIECE: usize = 64 << 10;
/// How long it counts that a device may have images.
const KNOWN: Duration = Duration::from_secs(3);
/// Devices of which that is remembered.
const KNOWN_MAX: usize = 64;

/// Images that a device may have, and when that was found.
type Known = (Instant, Arc<BTreeSet<ImageName>>);

/// Gives and asks.
pub(crate) struct Exchange {
    engine: Engine,
    transport: Transport,
    store: ImageStore,
    /// This device's name.
    name: String,
    bringing: Arc<Bringing>,
    given: Arc<Semaphore>,
    throttle: Arc<Throttle>,
    /// What devices may have, as it was last found, and when.
    known: Mutex<BTreeMap<String, Known>>,
}

/// The exchange of a device, where its settings allow one. Links that cost money for each byte carry
/// nothing that a registry would carry as well.
pub(super) fn between(
    engine: &Engine,
    transport: &Transport,
    images: Option<&Arc<ImageStore>>,
    config: &Config,
    name: &str,
) -> Option<Arc<Exchange>> {
    let rate = config.images.peer_bytes_per_second;
    let images = images.filter(|_| rate > 0 && config.profile != Profile::Metered)?;
    let exchange = Exchange::new(engine.clone(), transport.clone(), (**images).clone(), name.to_owned(), rate);
    Some(Arc::new(exchange))
}

impl Exchange {
    fn new(engine: Engine, transport: Transport, store: ImageStore, name: String, bytes_per_second: u64) -> Self {
        Self {
            engine,
            transport,
            store,
            name,
            bringing: Arc::default(),
            given: Arc::new(Semaphore::new(GIVEN_AT_ONCE)),
            throttle: Arc::new(Throttle { bytes_per_second, free: Mutex::new(Instant::now()) }),
            known: Mutex::default(),
        }
    }

    /// What a pull has to know of it.
    pub(crate) fn neighbourhood(self: Arc<Self>) -> Neighbourhood {
        Neighbourhood { bringing: self.bringing.clone(), neighbours: self }
    }

    /// Answers a device that asks for `BLOBS/<digest>`, from the offset that the query names.
    pub(crate) async fn answer(self: Arc<Self>, asker: String, path: String, query: String) -> ExtraResponse {
        let digest = path.strip_prefix(BLOBS).and_then(|rest| rest.trim_start_matches('/').parse::<Digest>().ok());
        let from = query.split('&').find_map(|pair| pair.strip_prefix("from=")).map_or(Ok(0), str::parse::<u64>);
        let (Some(digest), Ok(from)) = (digest, from) else { return whole(StatusCode::BAD_REQUEST, Vec::new()) };
        let exchange = self.clone();
        let found = tokio::task::spawn_blocking(move || exchange.look(&asker, &digest)).await;
        match found.unwrap_or(Found::Nothing) {
            Found::Nothing => whole(StatusCode::NOT_FOUND, Vec::new()),
            Found::Coming(bytes) => whole(StatusCode::ACCEPTED, bytes.to_string().into_bytes()),
            Found::Whole(_, size) if from > size => whole(StatusCode::NOT_FOUND, Vec::new()),
            Found::Whole(file, size) => match self.given.clone().try_acquire_owned() {
                Ok(permit) => {
                    let chunks = give(file, from, self.throttle.clone(), permit);
                    let content_type = "application/octet-stream".into();
                    ExtraResponse { status: 200, content_type, body: ExtraBody::Stream(chunks) }
                }
                // Its turn comes.
                Err(_) => whole(StatusCode::ACCEPTED, size.to_string().into_bytes()),
            },
        }
    }

    /// What there is for a device. Blocks on the disk.
    fn look(&self, asker: &str, digest: &Digest) -> Found {
        let images = self.images_of(asker);
        match self.store.offer(digest, &images, &self.bringing) {
            Ok(Some((file, size))) => return Found::Whole(file, size),
            Ok(None) => {}
            Err(error) => tracing::debug!(%error, "a blob was not given"),
        }
        match self.bringing.of(digest) {
            // Of two that only ask yet, one has to go.
            Some(under) if images.contains(&under.image) => {
                if under.from_registry || rank(digest, &self.name) < rank(digest, asker) {
                    Found::Coming(self.store.part_length(digest))
                } else {
                    Found::Nothing
                }
            }
            _ => Found::Nothing,
        }
    }

    /// The images that the pods of a device are made of.
    fn images_of(&self, device: &str) -> Arc<BTreeSet<ImageName>> {
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, images)) = known().get(device)
            && at.elapsed() < KNOWN
        {
            return images.clone();
        }
        let listed = self.engine.list("Pod", None).map(|listing| listing.documents).unwrap_or_default();
        let bound =
            listed.iter().filter(|document| super::bound::node_of(&document.body).is_some_and(|node| node == device));
        let pods = bound.filter_map(|document| serde_json::from_slice::<Pod>(&document.body).ok());
        let names = pods.flat_map(|pod| images_needed(&pod)).filter_map(|name| name.parse().ok());
        let images: Arc<BTreeSet<ImageName>> = Arc::new(names.collect());
        let mut known = known();
        known.retain(|_, (at, _)| at.elapsed() < KNOWN);
        // One that may have nothing is looked up again: its pods may only just have been bound.
        if !images.is_empty() && known.len() < KNOWN_MAX {
            known.insert(device.to_owned(), (Instant::now(), images.clone()));
        }
        images
    }

    async fn request(&self, device: &str, digest: &Digest, from: u64) -> Option<Offer> {
        let member = self.engine.members().borrow().values().find(|member| member.name == device).cloned()?;
        let stream = self.transport.open(&member).await.ok()?;
        let handshake = hyper::client::conn::http1::handshake::<_, Empty<Bytes>>(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.ok()?;
        let driver = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(async move {
            let _ = connection.await;
        }));
        let uri = format!("{BLOBS}/{digest}?from={from}");
        let request = Request::get(uri).header(header::HOST, "kith").body(Empty::new()).ok()?;
        let answer = sender.send_request(request).await.ok()?;
        match answer.status() {
            StatusCode::OK => {
                let body = BodyStream::new(answer.into_body()).map(|frame| match frame {
                    Ok(frame) => Ok(frame.into_data().unwrap_or_default()),
                    Err(error) => Err(std::io::Error::other(error)),
                });
                // The connection lives as long as its answer is read.
                let held = body.map(move |piece| {
                    let _ = &driver;
                    piece
                });
                Some(Offer::Bytes(held.boxed()))
            }
            StatusCode::ACCEPTED => {
                let body = answer.into_body().collect().await.ok()?.to_bytes();
                Some(Offer::Coming(std::str::from_utf8(&body).ok()?.parse().ok()?))
            }
            _ => None,
        }
    }
}

impl Neighbours for Exchange {
    fn near(&self) -> Vec<String> {
        let reachable = self.transport.reachable();
        let members = self.engine.members().borrow().clone();
        let mut near: Vec<(Duration, String)> = members
            .values()
            .filter(|member| member.name != self.name && !member.witness)
            .filter_map(|member| {
                let reach = reachable.get(&member.key).filter(|reach| reach.connected)?;
                Some((reach.rtt, member.name.clone()))
            })
            .collect();
        near.sort();
        near.into_iter().take(ASKED).map(|(_, name)| name).collect()
    }

    fn ask<'a>(&'a self, device: &'a str, digest: &'a Digest, from: u64) -> BoxFuture<'a, Offer> {
        self.request(device, digest, from).map(|offer| offer.unwrap_or(Offer::Nothing)).boxed()
    }
}

enum Found {
    Whole(File, u64),
    Coming(u64),
    Nothing,
}

fn whole(status: StatusCode, body: Vec<u8>) -> ExtraResponse {
    ExtraResponse { status: status.as_u16(), content_type: "text/plain".into(), body: ExtraBody::Whole(body) }
}

/// A file from an offset on, no faster than may be.
fn give(
    file: File,
    from: u64,
    throttle: Arc<Throttle>,
    permit: tokio::sync::OwnedSemaphorePermit,
) -> crate::api::ByteChunks {
    let pieces = futures_util::stream::unfold(
        (file, Some(from), throttle, permit),
        |(mut file, at, throttle, permit)| async move {
            let at = at?;
            let read = tokio::task::spawn_blocking(move || {
                let mut piece = vec![0; PIECE];
                let read = file.seek(SeekFrom::Start(at)).and_then(|_| file.read(&mut piece));
                (
                    file,
                    read.map(|length| {
                        piece.truncate(length);
                        Bytes::from(piece)
                    }),
                )
            });
            let (file, read) = read.await.ok()?;
            match read {
                Ok(piece) if piece.is_empty() => None,
                Ok(piece) => {
                    let length = piece.len() as u64;
                    throttle.wait(length).await;
                    Some((Ok(piece), (file, Some(at + length), throttle, permit)))
                }
                Err(error) => Some((Err(error), (file, None, throttle, permit))),
            }
        },
    );
    pieces.boxed()
}

/// So many bytes a second, all who are given something together.
struct Throttle {
    bytes_per_second: u64,
    /// When the next bytes may go.
    free: Mutex<Instant>,
}

impl Throttle {
    async fn wait(&self, bytes: u64) {
        let takes = Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / self.bytes_per_second.max(1));
        let turn = {
            let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
            let turn = (*free).max(Instant::now());
            *free = turn + takes;
            turn
        };
        tokio::time::sleep_until(turn).await;
    }
}

#[cfg(test)]
mod tests;
