//! Looks how much memory and disk this device has left, and which pods have to go. It decides nothing:
//! the reconciler's `eviction` does, and the device's loop ends what it chose.

#![expect(clippy::disallowed_methods, reason = "reads /proc and the file system")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::watch;
use tokio::time::Instant;

use super::clearing;
use super::clock::Clock;
use super::local::{self, Local};
use super::statics::Shown;
use crate::config::Config;
use crate::consensus::{Engine, Replica};
use crate::images::{ImageError, ImageStore};
use crate::reconciler::eviction::{
    Eviction, Left, PodUsage, Pressure, Share, Short, Shortage, Thresholds, overuse, shortages, victim,
};
use crate::reconciler::mirrored;
use crate::resource::footprint;
use crate::runtime::Shims;

/// Time between two looks at what is left: two questions to the kernel.
const LOOK: Duration = Duration::from_secs(5);

/// Time between two counts of what pods with limits of the disk have written.
const COUNT: Duration = Duration::from_secs(20);

/// Bytes by which the disk grew, so that it was not somebody else's doing.
const ROOM_SEEN: u64 = 1 << 20;

/// The disk is never short above this, however large it is.
const DISK_ENOUGH: u64 = 2 << 30;

/// What it looks with.
pub(crate) struct Watch {
    /// `None` while this device is in no fleet.
    pub(crate) engine: Option<Engine>,
    pub(crate) statics: Shown,
    pub(crate) runtime: Shims,
    pub(crate) images: Arc<ImageStore>,
    pub(crate) config: Arc<Config>,
    pub(crate) clock: Arc<Clock>,
    pub(crate) node: String,
    pub(crate) local: Arc<watch::Sender<Local>>,
}

impl Watch {
    /// Looks for ever. Dropping it loses nothing but how long a shortage lasts.
    pub(crate) async fn run(self) {
        let settings = self.config.eviction;
        let thresholds = Thresholds {
            memory_available: settings.memory_available,
            disk_percent: settings.disk_available_percent,
            inodes_percent: settings.inodes_free_percent,
            pressure: Duration::from_secs(settings.pressure_seconds),
        };
        let mut pressure = Pressure::default();
        let mut counted = Instant::now();
        loop {
            tokio::time::sleep(LOOK).await;
            let left = left(&self.config.data_dir);
            let short = shortages(&left, &thresholds);
            let now = self.clock.now();
            pressure = pressure.after(&short, now);
            let (memory, disk) = pressure.holds(&thresholds, now);
            let Ok(pods) = self.pods() else { continue };
            local::change(&self.local, |local| {
                (local.memory_pressure, local.disk_pressure) = (memory, disk);
                local.evicted.retain(|uid, _| pods.iter().any(|pod| pod.metadata.uid.as_ref() == Some(uid)));
            });
            let limited = pods.iter().any(is_limited) && counted.elapsed() >= COUNT;
            if short.is_empty() && !limited {
                continue;
            }
            counted = Instant::now();
            let usage = self.usage(&pods).await;
            let mut going: Vec<Eviction> = pods
                .iter()
                .filter_map(|pod| {
                    let uid = pod.metadata.uid.clone()?;
                    Some(Eviction { message: overuse(pod, usage.get(&uid)?)?, uid })
                })
                .collect();
            // One at a time: what it leaves is seen before another has to go.
            if let Some(shortage) = short.first().filter(|_| going.is_empty() && !self.one_is_going(&usage)) {
                if shortage.short != Short::Memory && (self.reclaim().await || self.clear_images(shortage, &pods).await)
                {
                    continue;
                }
                let evicted = self.local.borrow().evicted.clone();
                let others =
                    pods.iter().filter(|pod| pod.metadata.uid.as_ref().is_none_or(|uid| !evicted.contains_key(uid)));
                going.extend(victim(others, &usage, shortage));
            }
            local::change(&self.local, |local| {
                for Eviction { uid, message } in going {
                    tracing::warn!(uid, message, "a pod is evicted");
                    local.evicted.entry(uid).or_insert(message);
                }
            });
        }
    }

    /// Clears images away that no pod of this device needs. Returns whether that made room: then it is
    /// looked again before a pod has to go.
    async fn clear_images(&self, shortage: &Shortage, pods: &[Pod]) -> bool {
        // Without a fleet nothing says what is needed: whatever is here may be.
        if self.engine.is_none() {
            return false;
        }
        let (images, scope) = (self.images.clone(), clearing::scope(pods.iter()));
        let wanted = match shortage.short {
            Short::Disk => shortage.threshold.saturating_sub(shortage.available),
            _ => u64::MAX,
        };
        let work = move || {
            let before = images.room()?.free;
            let cleared = images.make_room(wanted, &scope, false)?;
            // What is counted as freed may be held by somebody: only what can be seen counts.
            let grew = images.room()?.free.saturating_sub(before) > ROOM_SEEN;
            Ok::<_, ImageError>((cleared, grew))
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(Ok((cleared, grew))) => {
                if !cleared.images.is_empty() {
                    let names: Vec<String> = cleared.images.iter().map(ToString::to_string).collect();
                    tracing::info!(images = names.join(" "), "images made room before a pod has to go");
                }
                grew || !cleared.images.is_empty()
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "images could not make room");
                false
            }
            Err(_) => false,
        }
    }

    /// Removes what pods that are over still take of the disk: nobody is evicted for that. Says whether
    /// there was anything.
    async fn reclaim(&self) -> bool {
        let runtime = self.runtime.clone();
        let freed = tokio::task::spawn_blocking(move || runtime.reclaim()).await.unwrap_or_default();
        if freed.entries > 0 {
            tracing::warn!(bytes = freed.bytes, files = freed.entries, "what containers that are over left is removed");
        }
        freed.entries > 0
    }

    /// Whether containers of an evicted pod are still here: what they used is not back yet.
    fn one_is_going(&self, usage: &BTreeMap<String, PodUsage>) -> bool {
        self.local.borrow().evicted.keys().any(|uid| usage.get(uid).is_some_and(|used| !used.containers.is_empty()))
    }

    /// The pods of this device. Static ones are its own: it has them whether or not the fleet can be told.
    fn pods(&self) -> Result<Vec<Pod>, String> {
        let mut pods = self.statics.pods();
        let Some(engine) = &self.engine else { return Ok(pods) };
        let listing = engine.list("Pod", None).map_err(|error| error.to_string())?;
        let bound = listing
            .documents
            .iter()
            .filter(|document| super::bound::node_of(&document.body).is_some_and(|node| node == self.node));
        let bound = bound.filter_map(|document| serde_json::from_slice(&document.body).ok());
        pods.extend(bound.filter(|pod| mirrored(pod).is_none()));
        Ok(pods)
    }

    /// What the pods use, off the loop: counting folders takes its time.
    async fn usage(&self, pods: &[Pod]) -> BTreeMap<String, PodUsage> {
        let (runtime, data_dir) = (self.runtime.clone(), self.config.data_dir.clone());
        let volumes: Vec<(String, Vec<String>)> = pods.iter().filter_map(empty_dirs).collect();
        let counted = tokio::task::spawn_blocking(move || {
            let mut pods: BTreeMap<String, PodUsage> = BTreeMap::new();
            for (reference, used) in runtime.consumption() {
                let pod = pods.entry(reference.pod.uid).or_default();
                let sum = pod.containers.entry(reference.container).or_default();
                sum.memory += used.memory;
                sum.disk += used.disk;
                sum.inodes += used.inodes;
            }
            for (uid, names) in volumes {
                let folder = data_dir.join("pods").join(&uid);
                let pod = pods.entry(uid).or_default();
                for name in names {
                    let bytes = crate::runtime::on_disk(&folder.join("volumes").join(&name)).bytes;
                    pod.volumes.insert(name, bytes);
                }
            }
            pods
        });
        counted.await.unwrap_or_default()
    }
}

/// The volumes of a pod that it writes to on the device's own disk.
fn empty_dirs(pod: &Pod) -> Option<(String, Vec<String>)> {
    let volumes = pod.spec.as_ref()?.volumes.iter().flatten();
    let names: Vec<String> = volumes.filter(|volume| volume.empty_dir.is_some()).map(|v| v.name.clone()).collect();
    (!names.is_empty()).then_some((pod.metadata.uid.clone()?, names))
}

/// Whether a pod may use only so much of the disk.
fn is_limited(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let sized = |volume: &k8s_openapi::api::core::v1::Volume| {
        volume.empty_dir.as_ref().is_some_and(|dir| dir.size_limit.is_some())
    };
    let limited = |container| matches!(footprint::limit(container, "ephemeral-storage"), Ok(Some(_)));
    spec.volumes.iter().flatten().any(sized) || spec.containers.iter().any(limited)
}

/// What this device has left.
fn left(data_dir: &Path) -> Left {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = |name: &str| {
        let found = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        found.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok()).unwrap_or(0)
    };
    let memory = Share { available: kib("MemAvailable") * 1024, total: kib("MemTotal") * 1024 };
    let Ok(stat) = nix::sys::statvfs::statvfs(data_dir) else { return Left { memory, ..Left::default() } };
    #[allow(clippy::useless_conversion, reason = "a c_ulong has 32 bits on armv7")]
    let bytes = |blocks: u64| blocks.saturating_mul(u64::from(stat.fragment_size()));
    let available = bytes(stat.blocks_available());
    // A share of a large disk would be more than anybody needs to be kept free.
    let total = if available >= DISK_ENOUGH { 0 } else { bytes(stat.blocks()) };
    Left {
        memory,
        disk: Share { available, total },
        inodes: Share { available: stat.files_available(), total: stat.files() },
    }
}
