//! Keeps the images of this device within their room: notes what ran well for which workload, and
//! clears away what nothing needs when the disk fills. What stays follows from the pods bound here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use tokio::time::Instant;

use super::tasks::Tasks;
use crate::images::{Cleared, Digest, ImageError, ImageName, ImageStore, Limits, Scope};
use crate::reconciler::{TargetPod, images_needed, ran_well, workload_of};
use crate::resource::Timestamp;

/// Time between two looks at the disk.
const LOOK: Duration = Duration::from_mins(1);

/// What the loop keeps of it between rounds.
pub(crate) struct Clearing {
    images: Arc<ImageStore>,
    limits: Limits,
    tasks: Tasks,
    next: Instant,
    /// What was noted already, by workload and container.
    noted: BTreeMap<(String, String), String>,
}

impl Clearing {
    pub(crate) fn new(images: Arc<ImageStore>, limits: Limits, tasks: Tasks) -> Self {
        Self { images, limits, tasks, next: Instant::now() + LOOK, noted: BTreeMap::new() }
    }

    /// Looks at the pods of a round; works beside the loop.
    pub(crate) fn attend(&mut self, pods: &[TargetPod], now: Timestamp) {
        let mut fresh = Vec::new();
        let mut seen = BTreeMap::new();
        for pod in pods {
            let workload = workload_of(&pod.pod);
            for (container, digest) in ran_well(&pod.pod, now) {
                let key = (workload.clone(), container);
                if self.noted.get(&key) != Some(&digest) && !seen.contains_key(&key) {
                    fresh.push((key.clone(), digest.clone()));
                }
                seen.entry(key).or_insert(digest);
            }
        }
        self.noted = seen;
        let due = self.next <= Instant::now();
        if due {
            self.next = Instant::now() + LOOK;
        }
        if fresh.is_empty() && !due {
            return;
        }
        let scope = scope(pods.iter().map(|pod| &pod.pod));
        let (images, limits) = (self.images.clone(), self.limits);
        self.tasks.spawn("look after the images", async move {
            let work = move || {
                for ((workload, container), digest) in fresh {
                    if let Ok(manifest) = digest.parse::<Digest>() {
                        images.note_ran(&workload, &container, &manifest)?;
                    }
                }
                if due { clear(&images, limits, &scope) } else { Ok(Cleared::default()) }
            };
            match tokio::task::spawn_blocking(work).await {
                Ok(Ok(cleared)) if cleared.images.is_empty() => {}
                Ok(Ok(cleared)) => {
                    let names: Vec<String> = cleared.images.iter().map(ImageName::to_string).collect();
                    tracing::info!(images = names.join(" "), bytes = cleared.bytes, "images made room");
                }
                Ok(Err(error)) => tracing::warn!(%error, "images could not be looked after"),
                Err(error) => tracing::error!(%error, "looking after the images ended early"),
            }
        });
    }
}

/// What must stay for these pods, which are all of this device's.
pub(super) fn scope<'a>(pods: impl Iterator<Item = &'a Pod>) -> Scope {
    let mut scope = Scope { images: BTreeSet::new(), workloads: None };
    let mut workloads = BTreeSet::new();
    for pod in pods {
        scope.images.extend(images_needed(pod).iter().filter_map(|name| name.parse::<ImageName>().ok()));
        workloads.insert(workload_of(pod));
    }
    scope.workloads = Some(workloads);
    scope
}

/// Makes room where too much is taken.
fn clear(images: &ImageStore, limits: Limits, scope: &Scope) -> Result<Cleared, ImageError> {
    // Counting what images take walks over all of them: only where a limit asks for it.
    let taken = if limits.max_bytes > 0 { images.size() } else { 0 };
    let wanted = limits.wanted(images.room()?, taken);
    if wanted == 0 {
        return Ok(Cleared::default());
    }
    let cleared = images.make_room(wanted, scope, false)?;
    if cleared.bytes < wanted {
        tracing::warn!(wanted, freed = cleared.bytes, "the disk is too full, and no more images can go");
    }
    Ok(cleared)
}
