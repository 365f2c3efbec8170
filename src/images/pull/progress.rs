//! How far a pull has come, for whoever looks: counters, which nobody waits for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::images::manifest::Manifest;

/// Counters of one pull; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    total: AtomicU64,
    done: AtomicU64,
    brought: AtomicU64,
    layers: AtomicU64,
    layers_done: AtomicU64,
}

impl Progress {
    /// Bytes of the whole image as stored; 0 until its manifest is known.
    pub fn total(&self) -> u64 {
        self.0.total.load(Ordering::Relaxed)
    }

    /// Bytes that are here.
    pub fn done(&self) -> u64 {
        self.0.done.load(Ordering::Relaxed)
    }

    /// Bytes that came over the network.
    pub fn brought(&self) -> u64 {
        self.0.brought.load(Ordering::Relaxed)
    }

    /// Layers that are here and unpacked, and all of them.
    pub fn layers(&self) -> (u64, u64) {
        (self.0.layers_done.load(Ordering::Relaxed), self.0.layers.load(Ordering::Relaxed))
    }

    pub(in crate::images) fn begin(&self, manifest: &Manifest) {
        let sizes = manifest.layers.iter().map(|layer| layer.size);
        let total = sizes.fold(manifest.config.size, u64::saturating_add);
        self.0.total.store(total, Ordering::Relaxed);
        self.0.layers.store(manifest.layers.len() as u64, Ordering::Relaxed);
    }

    pub(in crate::images) fn here(&self, bytes: u64) {
        self.0.done.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(in crate::images) fn came(&self, bytes: u64) {
        self.0.brought.fetch_add(bytes, Ordering::Relaxed);
        self.here(bytes);
    }

    pub(super) fn forget(&self, bytes: u64) {
        self.0.done.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(super) fn layer_done(&self) {
        self.0.layers_done.fetch_add(1, Ordering::Relaxed);
    }
}
