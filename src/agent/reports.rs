//! Carries what this device saw back to the fleet: pod status, finished pods, events. Only the
//! latest status of a pod is kept, so a device that is cut off for a year holds one for each pod.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::{Event, Pod};
use tokio::sync::Notify;

use super::clock::Clock;
use super::tasks::Tasks;
use crate::consensus::{Engine, ProposeError, Replica};
use crate::kill_point;
use crate::reconciler::container::PodRef;
use crate::resource::Timestamp;
use crate::resource::occurrence::Occurrence;
use crate::store::{Batch, Check, Key, Precondition, Write};

/// Events that wait for a quorum; older ones are forgotten first.
const EVENTS_LIMIT: usize = 128;

/// Reports on their way at once.
const IN_FLIGHT: usize = 16;

/// Pause between two looks whether all is told.
const LOOK: Duration = Duration::from_millis(10);

/// Pause after the fleet could not be told.
const PAUSE: Duration = Duration::from_secs(1);

/// What is to be told about a pod that was seen at a revision.
#[derive(Clone, Debug)]
pub(crate) enum Report {
    /// Its new status, as the whole object.
    Status { revision: u64, object: Box<Pod> },
    /// The mirror of a static pod, new when the revision is 0.
    Mirror { revision: u64, object: Box<Pod> },
    /// Nothing of it is left on this device.
    Gone { revision: u64 },
}

/// What waits to be told.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    waiting: Mutex<Waiting>,
    added: Notify,
    /// Something is on its way.
    busy: AtomicBool,
}

#[derive(Debug, Default)]
struct Waiting {
    pods: BTreeMap<PodRef, Report>,
    events: VecDeque<Occurrence>,
}

impl Reports {
    /// Replaces what was to be told about a pod.
    pub(crate) fn report(&self, pod: PodRef, report: Report) {
        self.lock().pods.insert(pod, report);
        self.added.notify_one();
    }

    /// Adds an event.
    pub(crate) fn event(&self, occurrence: Occurrence) {
        let mut waiting = self.lock();
        if waiting.events.len() == EVENTS_LIMIT {
            waiting.events.pop_front();
        }
        waiting.events.push_back(occurrence);
        drop(waiting);
        self.added.notify_one();
    }

    /// Waits until nothing is left to be told.
    pub(crate) async fn told(&self) {
        loop {
            let waiting = self.lock().events.is_empty() && !self.busy.load(Ordering::Acquire);
            if waiting {
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts to tell the fleet.
    pub(crate) fn spawn(self: Arc<Self>, tasks: &Tasks, engine: &Engine, clock: &Arc<Clock>) {
        let (engine, clock) = (engine.clone(), clock.clone());
        tasks.spawn("report", async move { self.deliver(engine, move || clock.now()).await });
    }

    /// Tells the fleet, for ever. A report in flight when this is dropped is derived again from
    /// what runs.
    pub(crate) async fn deliver(&self, engine: Engine, now: impl Fn() -> Timestamp) {
        loop {
            self.busy.store(true, Ordering::Release);
            let Waiting { pods, events } = std::mem::take(&mut *self.lock());
            if pods.is_empty() && events.is_empty() {
                self.busy.store(false, Ordering::Release);
                self.added.notified().await;
                continue;
            }
            let told: Vec<bool> = futures_util::stream::iter(pods)
                .map(|(pod, report)| self.tell(&engine, pod, report))
                .buffer_unordered(IN_FLIGHT)
                .collect()
                .await;
            let mut all = told.into_iter().all(|told| told);
            for occurrence in events {
                all &= self.tell_event(&engine, occurrence, now()).await;
            }
            self.busy.store(false, Ordering::Release);
            if !all {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// True unless the fleet could not be reached; then the report waits again, unless a newer one came.
    async fn tell(&self, engine: &Engine, pod: PodRef, report: Report) -> bool {
        let key = Key::new("Pod", &pod.namespace, &pod.name);
        let (revision, write) = match &report {
            Report::Gone { revision } => (*revision, Write::Delete { key: key.clone() }),
            Report::Status { revision, object } | Report::Mirror { revision, object } => match body(object.as_ref()) {
                Some(body) => (*revision, Write::Put { key: key.clone(), body }),
                None => return true,
            },
        };
        let expect = if revision == 0 { Precondition::Absent } else { Precondition::AtRevision(revision) };
        let checks = vec![Check { key, expect }];
        kill_point::reached("report:before");
        match engine.propose(Batch { checks, writes: vec![write] }).await {
            // Refused: the pod changed meanwhile, and the device loop decides again from what it is now.
            Ok(_) | Err(ProposeError::Stopping | ProposeError::Forbidden(_)) => {
                kill_point::reached("report:after");
                true
            }
            Err(error) => {
                tracing::debug!(pod = pod.name, %error, "a report waits");
                self.lock().pods.entry(pod).or_insert(report);
                false
            }
        }
    }

    async fn tell_event(&self, engine: &Engine, occurrence: Occurrence, now: Timestamp) -> bool {
        let key = Key::new("Event", occurrence.namespace(), occurrence.name());
        let stored = engine.get(&key).ok().flatten();
        let expect = stored.as_ref().map_or(Precondition::Absent, |found| Precondition::AtRevision(found.modified));
        let earlier: Option<Event> = stored.and_then(|found| serde_json::from_slice(&found.body).ok());
        let Some(body) = body(&occurrence.event(earlier.as_ref(), now)) else { return true };
        let batch = Batch { checks: vec![Check { key: key.clone(), expect }], writes: vec![Write::Put { key, body }] };
        match engine.propose(batch).await {
            Ok(_) | Err(ProposeError::Stopping | ProposeError::Forbidden(_)) => true,
            Err(_) => {
                self.event(occurrence);
                false
            }
        }
    }
}

/// An object as the store keeps it: canonical JSON with sorted keys.
fn body<T: serde::Serialize>(object: &T) -> Option<Vec<u8>> {
    let value = serde_json::to_value(object).ok()?;
    Some(value.to_string().into_bytes())
}
