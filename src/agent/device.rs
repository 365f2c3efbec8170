//! The device's loop: what should run here, from the local replica, against what does run. It
//! needs no leader and no network. It decides nothing: the reconciler does, and this executes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use tokio::sync::{mpsc, watch};

use super::clock::Clock;
use super::local::Local;
use super::reports::{Report, Reports};
use super::shelter::Unsheltered;
use super::systemd;
use super::tasks::Tasks;
use super::user_ids::Ranges;
use crate::consensus::{Engine, Replica};
use crate::images::{ImageName, ImageStore, NamesVersion};
use crate::network::sandbox::Sandboxes;
use crate::reconciler::container::{
    ContainerRef, ContainerSpec, ContainerState, ObservedContainer, StopSignal, UserRange,
};
use crate::reconciler::devices::{self, Held, HostDevice};
use crate::reconciler::{
    Action, COMPONENT, ImageState, NodeContext, Observed, Settings, Target, TargetPod, configmaps_needed, diff,
    images_needed,
};
use crate::resource::Timestamp;
use crate::resource::occurrence::Occurrence;
use crate::runtime::Runtime;

/// The longest time between two looks, whatever is signalled.
const RESYNC: Duration = Duration::from_mins(1);

/// How often it is seen whether an image that pods wait for has come. One `stat`, nothing is woken.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// When an image that could not be used is tried again though no image came: the disk may have been full.
const TRY_AGAIN: Duration = Duration::from_secs(10);

/// Pause after something could not be read or observed.
const PAUSE: Duration = Duration::from_secs(1);

/// Pods that are acted on at once.
const PODS_AT_ONCE: usize = 8;

/// Prepared images on their way to the loop.
const PREPARED_QUEUE: usize = 16;

/// Everything the loop acts with.
pub(crate) struct Device {
    pub(crate) engine: Engine,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) sandboxes: Sandboxes,
    pub(crate) images: Arc<ImageStore>,
    pub(crate) reports: Arc<Reports>,
    pub(crate) clock: Arc<Clock>,
    pub(crate) tasks: Tasks,
    pub(crate) node: NodeContext,
    pub(crate) settings: Settings,
    /// What this device knows of itself.
    pub(crate) local: watch::Receiver<Local>,
    /// Whose users have which ids here.
    pub(crate) ranges: Mutex<Ranges>,
    pub(crate) unsheltered: Unsheltered,
}

/// What the loop remembers between rounds; losing it costs a second look, nothing more.
#[derive(Default)]
struct Memory {
    images: BTreeMap<String, Prepared>,
    /// Images that are being looked for.
    looking: BTreeSet<String>,
    asked: BTreeMap<ContainerRef, Timestamp>,
    /// Namespaces and names of the config maps that this device's pods read, there or not.
    configmaps: BTreeSet<(String, String)>,
    /// Devices that were plugged in, and who has which.
    devices: Vec<HostDevice>,
    held: Held,
}

impl Memory {
    /// Tells of devices that were pulled out while a container had them.
    fn plugged(&mut self, now: &[HostDevice], device: &Device) {
        for (reference, path) in devices::lost(&self.devices, now, &self.held) {
            let pod = &reference.pod;
            let involved = ObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Pod".into()),
                namespace: Some(pod.namespace.clone()),
                name: Some(pod.name.clone()),
                uid: Some(pod.uid.clone()),
                field_path: Some(format!("spec.containers{{{}}}", reference.container)),
                ..ObjectReference::default()
            };
            let message = format!("Device {} of container {} is gone", path.display(), reference.container);
            let host = device.node.name.clone();
            device.reports.event(Occurrence {
                involved,
                warning: true,
                reason: "DeviceGone",
                message,
                component: COMPONENT,
                host,
            });
        }
        self.devices = now.to_vec();
    }
}

/// Who has which devices: containers that are over have none.
fn held(containers: &[ObservedContainer]) -> Held {
    let living = containers.iter().filter(|container| !matches!(container.state, ContainerState::Exited(_)));
    living.map(|container| (container.reference.clone(), container.devices.clone())).collect()
}

/// An image by its name on this device.
#[derive(Clone)]
struct Prepared {
    state: ImageState,
    layers: Vec<PathBuf>,
    /// The names that this was read from: under other names it may be another image.
    names: NamesVersion,
}

impl Device {
    /// Keeps this device as it should be, for ever. Being dropped between two actions is safe: the
    /// next agent observes what was done.
    pub(crate) async fn run(self) {
        self.wait_for_state().await;
        let (prepared, mut arrivals) = mpsc::channel(PREPARED_QUEUE);
        let mut memory = Memory::default();
        let mut revisions = self.engine.revision();
        let mut changes = self.runtime.changed();
        let mut local = self.local.clone();
        loop {
            memory.plugged(&local.borrow_and_update().devices, &self);
            let seen = *revisions.borrow_and_update();
            changes.borrow_and_update();
            systemd::alive();
            let pause = match self.round(&mut memory, &prepared).await {
                Ok(pause) => pause,
                Err(error) => {
                    tracing::error!(error, "this device can not look after its pods");
                    PAUSE
                }
            };
            // Cancel-safe: watches, a channel and a timer.
            tokio::select! {
                () = self.concerning(seen, &mut revisions, &memory.configmaps) => {}
                changed = changes.changed() => if changed.is_err() { return },
                changed = local.changed() => if changed.is_err() { return },
                Some((name, found)) = arrivals.recv() => {
                    memory.looking.remove(&name);
                    memory.images.insert(name, found);
                }
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// A device that begins again has an empty state at first: it says nothing about what should
    /// run here, and whatever runs goes on.
    async fn wait_for_state(&self) {
        let mut applied = self.engine.applied();
        while !self.engine.belongs() {
            systemd::alive();
            // Cancel-safe: a watch and a timer.
            tokio::select! {
                changed = applied.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(RESYNC) => {}
            }
        }
    }

    /// Waits for a revision that changed a pod of this device or a config map that its pods read.
    async fn concerning(
        &self,
        mut seen: u64,
        revisions: &mut tokio::sync::watch::Receiver<u64>,
        read: &BTreeSet<(String, String)>,
    ) {
        loop {
            if revisions.changed().await.is_err() {
                return std::future::pending().await;
            }
            let now = *revisions.borrow();
            let Ok(events) = self.engine.events_since(seen, None) else { return };
            let concerns = events.iter().any(|event| match event.key.kind.as_str() {
                "ConfigMap" => read.contains(&(event.key.namespace.clone(), event.key.name.clone())),
                "Pod" => node_of(&event.body).is_some_and(|node| node == self.node.name),
                _ => false,
            });
            if concerns {
                return;
            }
            seen = now;
        }
    }

    /// Looks, decides, acts. Returns how long nothing needs to be looked at.
    async fn round(
        &self,
        memory: &mut Memory,
        prepared: &mpsc::Sender<(String, Prepared)>,
    ) -> Result<Duration, String> {
        let containers = self.runtime.list().await.map_err(|error| error.to_string())?;
        let names = self.images.names_version();
        memory.images.retain(|_, image| image.state == ImageState::Preparing || image.names == names);
        memory.asked.retain(|asked, _| containers.iter().any(|container| container.reference == *asked));
        let target = self.target(memory)?;
        let sandboxes = self.shelters(&target);
        memory.held = held(&containers);
        let devices = memory.held.clone();
        let observed = Observed { containers, sandboxes, asked: memory.asked.clone(), devices };
        memory.configmaps = target.pods.iter().flat_map(|pod| configmaps_needed(&pod.pod)).collect();
        let now = self.clock.now();
        let decision = diff(&target, &observed, now);
        for (name, state) in &target.images {
            match state {
                ImageState::Absent => self.prepare(name, memory, prepared, Some((names, RESYNC))),
                ImageState::Failed(_) => self.prepare(name, memory, prepared, Some((names, TRY_AGAIN))),
                ImageState::Ready { .. } | ImageState::Preparing => {}
            }
        }
        let mut by_pod: BTreeMap<String, Vec<Action>> = BTreeMap::new();
        for action in decision.actions {
            match action {
                Action::PrepareImage { image } => {
                    memory.images.insert(image.clone(), Prepared::preparing(names));
                    self.prepare(&image, memory, prepared, None);
                }
                Action::Stop { ref reference, signal: StopSignal::Ask } => {
                    memory.asked.insert(reference.clone(), now);
                    by_pod.entry(reference.pod.uid.clone()).or_default().push(action);
                }
                action => by_pod.entry(pod_uid(&action)).or_default().push(action),
            }
        }
        let images = &memory.images;
        let next_look = futures_util::stream::iter(by_pod.into_values())
            .map(|actions| self.execute(actions, images))
            .buffer_unordered(PODS_AT_ONCE)
            .fold(RESYNC, |soonest, look| async move { soonest.min(look) })
            .await;
        Ok(decision.wake_at.map_or(next_look, |at| at.since(now).min(next_look)))
    }

    /// What should run here, from the local replica.
    fn target(&self, memory: &Memory) -> Result<Target, String> {
        let listing = self.engine.list("Pod", None).map_err(|error| error.to_string())?;
        let mut pods = Vec::new();
        let mut unreadable = None;
        for document in &listing.documents {
            if node_of(&document.body).is_none_or(|node| node != self.node.name) {
                continue;
            }
            match serde_json::from_slice::<Pod>(&document.body) {
                Ok(pod) => pods.push(TargetPod { pod, revision: document.modified }),
                Err(error) => unreadable = Some(format!("{}: {error}", document.key)),
            }
        }
        if let Some(unreadable) = unreadable {
            // Its containers would look like nobody's, and be stopped.
            return Err(format!("a pod of this device can not be read: {unreadable}"));
        }
        let local = self.local.borrow().clone();
        let users = self.users(&pods);
        let needed: BTreeSet<String> = pods.iter().flat_map(|pod| images_needed(&pod.pod)).collect();
        let images =
            needed.into_iter().filter_map(|name| Some((name.clone(), memory.images.get(&name)?.state.clone())));
        let mut configmaps = BTreeMap::new();
        for (namespace, name) in pods.iter().flat_map(|pod| configmaps_needed(&pod.pod)) {
            let key = crate::store::Key::new("ConfigMap", &namespace, &name);
            let document = self.engine.get(&key).map_err(|error| error.to_string())?;
            if let Some(found) = document.and_then(|document| serde_json::from_slice(&document.body).ok()) {
                configmaps.insert((namespace, name), found);
            }
        }
        Ok(Target {
            node: self.node.clone(),
            images: images.collect(),
            pods,
            configmaps,
            settings: self.settings.clone(),
            devices: local.devices,
            evicted: local.evicted,
            users,
        })
    }

    /// Ids for the users of the pods that have their own.
    fn users(&self, pods: &[TargetPod]) -> BTreeMap<String, UserRange> {
        let own = pods.iter().filter(|pod| pod.pod.spec.as_ref().and_then(|spec| spec.host_users) == Some(false));
        let uids = own.filter_map(|pod| pod.pod.metadata.uid.as_deref());
        self.ranges.lock().unwrap_or_else(PoisonError::into_inner).settle(uids)
    }

    /// Looks an image up and unpacks it, off the loop: at once, or when the names are others than
    /// these, or after so long.
    fn prepare(
        &self,
        name: &str,
        memory: &mut Memory,
        prepared: &mpsc::Sender<(String, Prepared)>,
        after: Option<(NamesVersion, Duration)>,
    ) {
        if !memory.looking.insert(name.to_owned()) {
            return;
        }
        let (store, prepared, name) = (self.images.clone(), prepared.clone(), name.to_owned());
        self.tasks.spawn("prepare an image", async move {
            let begun = tokio::time::Instant::now();
            while after.is_some_and(|(known, limit)| store.names_version() == known && begun.elapsed() < limit) {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            let wanted = name.clone();
            let names = store.names_version();
            let found = tokio::task::spawn_blocking(move || Prepared::from_store(&store, &wanted)).await;
            let found = found.unwrap_or_else(|error| Prepared::failed(error.to_string(), names));
            let _ = prepared.send((name, found)).await;
        });
    }

    /// Executes the actions of one pod in order. Returns when to look at what came of it: nobody
    /// signals a removal, which may be the last thing that a pod waits for, nor what did not work.
    async fn execute(&self, actions: Vec<Action>, images: &BTreeMap<String, Prepared>) -> Duration {
        let mut next_look = RESYNC;
        for action in actions {
            let (done, look) = match action {
                Action::MakeSandbox { spec, complaint } => (Ok(()), Some(self.shelter(*spec, *complaint).await)),
                Action::RemoveSandbox(pod) => (Ok(()), Some(self.unshelter(&pod).await)),
                // A start that failed is observed as an exit, or decided again in its own time.
                Action::Start(spec) => (self.start(*spec, images).await, None),
                Action::Stop { reference, signal } => {
                    let done = self.runtime.stop(&reference, signal).await;
                    let again = done.is_err().then_some(PAUSE);
                    (done, again)
                }
                Action::Remove(reference) => {
                    let done = self.runtime.remove(&reference).await;
                    let again = if done.is_ok() { Duration::ZERO } else { PAUSE };
                    (done, Some(again))
                }
                Action::Report { pod, revision, object } => {
                    self.reports.report(pod, Report::Status { revision, object });
                    (Ok(()), None)
                }
                Action::DeletePod { pod, revision } => {
                    self.reports.report(pod, Report::Gone { revision });
                    (Ok(()), None)
                }
                Action::Event(occurrence) => {
                    self.reports.event(occurrence);
                    (Ok(()), None)
                }
                Action::PrepareImage { .. } => (Ok(()), None),
            };
            next_look = next_look.min(look.unwrap_or(RESYNC));
            if let Err(error) = done {
                tracing::warn!(%error, "an action failed; it is decided again");
            }
        }
        next_look
    }

    async fn start(
        &self,
        spec: ContainerSpec,
        images: &BTreeMap<String, Prepared>,
    ) -> Result<(), crate::runtime::RuntimeError> {
        let layers = images.get(&spec.image).map(|image| image.layers.clone()).unwrap_or_default();
        tracing::info!(pod = spec.reference.pod.name, container = spec.reference.container, "start a container");
        self.runtime.start(spec, layers).await
    }
}

impl Prepared {
    fn preparing(names: NamesVersion) -> Self {
        Self { state: ImageState::Preparing, layers: Vec::new(), names }
    }

    fn failed(why: String, names: NamesVersion) -> Self {
        Self { state: ImageState::Failed(why), layers: Vec::new(), names }
    }

    fn from_store(store: &ImageStore, name: &str) -> Self {
        // Read before the image: names that change meanwhile make this one stale.
        let names = store.names_version();
        let found = ImageName::parse(name).and_then(|parsed| store.resolve(&parsed)).and_then(|image| {
            let Some(image) = image else { return Ok((ImageState::Absent, Vec::new())) };
            let layers = store.unpack(&image)?;
            Ok((ImageState::Ready { config: image.config, id: image.digest.to_string() }, layers))
        });
        match found {
            Ok((state, layers)) => Self { state, layers, names },
            Err(error) => Self::failed(error.to_string(), names),
        }
    }
}

/// The pod that an action is about, by its uid.
fn pod_uid(action: &Action) -> String {
    match action {
        Action::MakeSandbox { spec, .. } => spec.pod.uid.clone(),
        Action::Start(spec) => spec.reference.pod.uid.clone(),
        Action::Stop { reference, .. } | Action::Remove(reference) => reference.pod.uid.clone(),
        Action::RemoveSandbox(pod) | Action::Report { pod, .. } | Action::DeletePod { pod, .. } => pod.uid.clone(),
        Action::Event(occurrence) => occurrence.involved.uid.clone().unwrap_or_default(),
        Action::PrepareImage { .. } => String::new(),
    }
}

/// The device that a pod is bound to, read without the rest of it.
pub(super) fn node_of(body: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Bound {
        spec: Spec,
    }
    #[derive(serde::Deserialize)]
    struct Spec {
        #[serde(rename = "nodeName")]
        node_name: Option<String>,
    }
    serde_json::from_slice::<Bound>(body).ok()?.spec.node_name
}
