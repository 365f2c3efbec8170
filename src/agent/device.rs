//! The device's loop: what should run here, from the local replica, against what does run. It
//! needs no leader and no network. It decides nothing: the reconciler does, and this executes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::bound::node_of;
use super::clearing::Clearing;
use super::clock::Clock;
use super::contact::Contact;
use super::hooking::Hooks;
use super::local::Local;
use super::manifests::Manifests;
use super::plugged;
use super::prepared::Prepared;
use super::prober::{Probes, Wanted};
use super::provisions;
use super::pulls::Pulls;
use super::reports::{Report, Reports};
use super::secrets::Secrets;
use super::shelter::Unsheltered;
use super::statics::{Shown, Statics};
use super::systemd;
use super::tasks::Tasks;
use super::user_ids::Ranges;
use crate::consensus::{Engine, Replica};
use crate::images::{ImageStore, Limits, NamesVersion, Puller};
use crate::kill_point;
use crate::metrics::counted;
use crate::network::sandbox::Sandboxes;
use crate::probing::Asker;
use crate::reconciler::container::{ContainerRef, ContainerSpec, ObservedContainer, PodRef, StopSignal};
use crate::reconciler::devices::{Held, HostDevice};
use crate::reconciler::{Action, ImageState, NodeContext, Observed, Settings, Target, diff, images_needed};
use crate::resource::Timestamp;
use crate::runtime::Runtime;
use crate::store::Key;
use crate::volumes::Volumes;

/// The longest time between two looks, whatever is signalled.
const RESYNC: Duration = Duration::from_mins(1);

/// How often it is seen whether an image that pods wait for has come. One `stat`, nothing is woken.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// When an image that could not be used is tried again though no image came: the disk may have been full.
const TRY_AGAIN: Duration = Duration::from_secs(10);

/// Pause after something could not be read or observed.
const PAUSE: Duration = Duration::from_secs(1);

/// Prepared images on their way to the loop.
const PREPARED_QUEUE: usize = 16;

/// Everything the loop acts with.
pub(crate) struct Device {
    /// `None` while this device is in no fleet: then it runs static pods alone.
    pub(crate) engine: Option<Engine>,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) sandboxes: Sandboxes,
    pub(crate) images: Arc<ImageStore>,
    pub(crate) puller: Arc<Puller>,
    pub(crate) image_limits: Limits,
    pub(crate) volumes: Arc<Volumes>,
    /// `None` outside of a fleet.
    pub(crate) secrets: Option<Arc<Secrets>>,
    /// Why volumes of pods could not be made, by uid.
    pub(crate) volume_failures: Mutex<BTreeMap<String, String>>,
    pub(crate) reports: Arc<Reports>,
    pub(crate) clock: Arc<Clock>,
    pub(crate) tasks: Tasks,
    pub(crate) node: NodeContext,
    pub(crate) settings: Settings,
    /// What this device knows of itself.
    pub(crate) local: watch::Receiver<Local>,
    /// Whose users have which ids here.
    pub(crate) ranges: Mutex<Ranges>,
    pub(crate) asker: Asker,
    /// The folder of static pods.
    pub(crate) manifests_dir: PathBuf,
    /// What they are now.
    pub(crate) statics: Shown,
    /// Pods that are acted on at once.
    pub(crate) pods_at_once: usize,
    pub(crate) unsheltered: Unsheltered,
    /// With a quorum.
    pub(crate) contact: Arc<Contact>,
}

/// What the loop remembers between rounds; losing it costs a second look, nothing more.
pub(super) struct Memory {
    statics: Statics,
    hooks: Hooks,
    probes: Probes,
    /// When this device began to end a pod as a whole, by uid.
    ending: BTreeMap<String, Timestamp>,
    images: BTreeMap<String, Prepared>,
    /// Pods that are ended because this device was cut off, by uid.
    apart: BTreeSet<String>,
    /// Images that are being looked for.
    looking: BTreeSet<String>,
    asked: BTreeMap<ContainerRef, Timestamp>,
    /// Config maps, secrets and claims that this device's pods refer to, there or not.
    read: BTreeSet<Key>,
    /// Devices that were plugged in, and who has which.
    pub(super) devices: Vec<HostDevice>,
    pub(super) held: Held,
}

impl Device {
    /// Keeps this device as it should be, for ever. Being dropped between two actions is safe: the
    /// next agent observes what was done.
    pub(crate) async fn run(self, probes: Probes) {
        self.wait_for_state().await;
        let (prepared, mut arrivals) = mpsc::channel(PREPARED_QUEUE);
        let statics = Statics::new(Manifests::new(self.manifests_dir.clone(), &self.node.name), self.statics.clone());
        let hooks = Hooks::new(self.asker.clone(), self.tasks.clone());
        let mut pulls = Pulls::new(self.puller.clone(), self.reports.clone(), self.tasks.clone());
        let mut clearing = Clearing::new(self.images.clone(), self.image_limits, self.tasks.clone());
        let mut memory = Memory::new(statics, hooks, probes);
        // Without a fleet nothing moves its revision.
        let (_still, standing) = tokio::sync::watch::channel(0);
        let mut revisions = self.engine.as_ref().map_or(standing, Replica::revision);
        let mut changes = self.runtime.changed();
        let mut local = self.local.clone();
        let (_still, untold) = tokio::sync::watch::channel(0);
        let mut regained = self.contact.regained();
        let mut secrets = self.secrets.as_ref().map_or(untold, |secrets| secrets.changed());
        loop {
            self.plugged(&mut memory, &local.borrow_and_update().devices);
            let seen = *revisions.borrow_and_update();
            changes.borrow_and_update();
            regained.borrow_and_update();
            secrets.borrow_and_update();
            systemd::alive();
            kill_point::hangs("round:begun").await;
            let begun = Instant::now();
            let round = self.round(&mut memory, &mut pulls, &mut clearing, &prepared).await;
            counted::ROUNDS.record(begun.elapsed());
            let pause = match round {
                Ok(pause) => pause,
                Err(error) => {
                    tracing::error!(error, "this device can not look after its pods");
                    PAUSE
                }
            };
            // Cancel-safe: watches, channels and a timer.
            tokio::select! {
                () = self.concerning(seen, &mut revisions, &memory.read) => {}
                changed = changes.changed() => if changed.is_err() { return },
                changed = local.changed() => if changed.is_err() { return },
                changed = regained.changed() => if changed.is_err() { return },
                changed = secrets.changed() => if changed.is_err() { return },
                () = memory.hooks.moved() => {}
                () = memory.probes.moved() => {}
                () = memory.statics.manifests.moved() => {}
                Some((name, found)) = arrivals.recv() => {
                    memory.looking.remove(&name);
                    memory.images.insert(name, found);
                }
                Some(ended) = pulls.next() => {
                    // Whoever waits for its name to change need not any more.
                    memory.looking.remove(&pulls.ended(ended, self.clock.now()));
                }
                () = tokio::time::sleep(systemd::rest(pause)) => {}
            }
        }
    }

    /// A device that begins again has an empty state at first: it says nothing about what should
    /// run here, and whatever runs goes on.
    async fn wait_for_state(&self) {
        let Some(engine) = &self.engine else { return };
        let mut applied = engine.applied();
        while !engine.belongs() {
            systemd::alive();
            // Cancel-safe: a watch and a timer.
            tokio::select! {
                changed = applied.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(systemd::rest(RESYNC)) => {}
            }
        }
    }

    /// Waits for a revision that changed a pod of this device or something that its pods refer to.
    async fn concerning(&self, mut seen: u64, revisions: &mut tokio::sync::watch::Receiver<u64>, read: &BTreeSet<Key>) {
        let Some(engine) = &self.engine else { return std::future::pending().await };
        loop {
            if revisions.changed().await.is_err() {
                return std::future::pending().await;
            }
            let now = *revisions.borrow();
            let Ok(events) = engine.events_since(seen, None) else { return };
            let concerns = events.iter().any(|event| match event.key.kind.as_str() {
                "Pod" => node_of(&event.body).is_some_and(|node| node == self.node.name),
                _ => read.contains(&event.key),
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
        pulls: &mut Pulls,
        clearing: &mut Clearing,
        prepared: &mpsc::Sender<(String, Prepared)>,
    ) -> Result<Duration, String> {
        let containers = self.runtime.list().await.map_err(|error| error.to_string())?;
        let names = self.images.names_version();
        memory.images.retain(|_, image| image.state == ImageState::Preparing || image.names == names);
        memory.asked.retain(|asked, _| containers.iter().any(|container| container.reference == *asked));
        let now = self.clock.now();
        let mut target = self.target(memory, &containers, now)?;
        let pods = target.pods.iter().filter(|pod| pod.pod.metadata.deletion_timestamp.is_none());
        let pods = pods.filter_map(|pod| pod.pod.metadata.uid.clone()).collect();
        let started = containers.iter().map(|container| container.reference.clone()).collect();
        pulls.retain(&pods, &started);
        target.pulls = pulls.states();
        clearing.attend(&target.pods, now);
        memory.held = plugged::held(&containers);
        let observed = Observed {
            devices: memory.held.clone(),
            sandboxes: self.shelters(&target),
            asked: memory.asked.clone(),
            ending: memory.ending.clone(),
            apart: memory.apart.clone(),
            hooks: memory.hooks.of(&containers),
            health: memory.probes.health(),
            volumes: self.volumes.observe().map_err(|error| format!("look at the volumes: {error}"))?,
            volume_failures: self.volume_failures.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            containers,
        };
        memory.read = provisions::read_by(&target.pods);
        let decision = diff(&target, &observed, now);
        counted::ACTIONS.add(decision.actions.len() as u64);
        memory.ending.retain(|uid, _| decision.ending.contains(uid));
        memory.apart = decision.apart;
        for uid in decision.ending {
            memory.ending.entry(uid).or_insert(now);
        }
        let there = observed.containers.into_iter().map(|container| container.reference).collect();
        memory.probes.want(Wanted { orders: decision.probes, there });
        for (name, state) in &target.images {
            match state {
                ImageState::Absent => self.prepare(name, memory, prepared, Some((names, RESYNC))),
                ImageState::Failed(_) => self.prepare(name, memory, prepared, Some((names, TRY_AGAIN))),
                ImageState::Ready { .. } | ImageState::Preparing | ImageState::Invalid(_) => {}
            }
        }
        let mut by_pod: BTreeMap<String, Vec<Action>> = BTreeMap::new();
        let mut next_look = RESYNC;
        for action in decision.actions {
            match action {
                Action::PrepareImage { image } => {
                    memory.images.insert(image.clone(), Prepared::preparing(names));
                    self.prepare(&image, memory, prepared, None);
                }
                Action::PullImage(pull) => {
                    pulls.begin(*pull, &target);
                }
                Action::Hook(hook) => memory.hooks.begin(*hook, now),
                Action::Report { pod, revision, object } => {
                    self.tell(&mut memory.statics, pod, Report::Status { revision, object });
                }
                Action::DeletePod { pod, revision } => {
                    let own = self.tell(&mut memory.statics, pod, Report::Gone { revision });
                    // Nobody else says that a static pod has gone.
                    next_look = if own { Duration::ZERO } else { next_look };
                }
                Action::Stop { ref reference, signal: StopSignal::Ask } => {
                    memory.asked.insert(reference.clone(), now);
                    by_pod.entry(reference.pod.uid.clone()).or_default().push(action);
                }
                action => by_pod.entry(pod_uid(&action)).or_default().push(action),
            }
        }
        let images = &memory.images;
        let look = futures_util::stream::iter(by_pod.into_values())
            .map(|actions| self.execute(actions, images))
            .buffer_unordered(self.pods_at_once)
            .fold(RESYNC, |soonest, look| async move { soonest.min(look) })
            .await;
        let next_look = next_look.min(look);
        Ok(decision.wake_at.map_or(next_look, |at| at.since(now).min(next_look)))
    }

    /// Tells the fleet of a pod. Returns whether it is a static one.
    fn tell(&self, statics: &mut Statics, pod: PodRef, report: Report) -> bool {
        if !statics.has(&pod) {
            self.reports.report(pod, report);
            return false;
        }
        if let Some(own) = statics.report(&pod, report) {
            self.reports.report(pod, own);
        }
        true
    }

    /// What should run here, from the local replica and from files.
    fn target(&self, memory: &mut Memory, containers: &[ObservedContainer], now: Timestamp) -> Result<Target, String> {
        let mut pods = self.bound()?;
        for (pod, report) in memory.statics.mix(&mut pods, containers, now) {
            self.reports.report(pod, report);
        }
        for occurrence in memory.statics.manifests.news() {
            self.reports.event(occurrence);
        }
        let needed: BTreeSet<String> = pods.iter().flat_map(|pod| images_needed(&pod.pod)).collect();
        let images =
            needed.into_iter().filter_map(|name| Some((name.clone(), memory.images.get(&name)?.state.clone())));
        let local = self.local.borrow().clone();
        let mut target = Target {
            node: self.node.clone(),
            images: images.collect(),
            users: self.users(&pods),
            pods,
            settings: self.settings.clone(),
            devices: local.devices,
            evicted: local.evicted,
            apart_for: self.contact.age(),
            ..Target::default()
        };
        self.provide(&mut target)?;
        Ok(target)
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
                Action::Start(spec) => {
                    kill_point::reached("start:before");
                    let done = self.start(*spec, images).await;
                    kill_point::reached("start:after");
                    (done, None)
                }
                Action::Stop { reference, signal } => {
                    kill_point::reached("stop:before");
                    let done = self.runtime.stop(&reference, signal).await;
                    kill_point::reached("stop:after");
                    let again = done.is_err().then_some(PAUSE);
                    (done, again)
                }
                Action::Remove(reference) => {
                    kill_point::reached("remove:before");
                    let done = self.runtime.remove(&reference).await;
                    kill_point::reached("remove:after");
                    let again = if done.is_ok() { Duration::ZERO } else { PAUSE };
                    (done, Some(again))
                }
                Action::MakeVolumes { pod, volumes } => {
                    let look = if self.make_volumes(pod, volumes).await { Duration::ZERO } else { TRY_AGAIN };
                    (Ok(()), Some(look))
                }
                Action::RemoveVolumes { uid } => {
                    let look = if self.remove_volumes(uid).await { Duration::ZERO } else { PAUSE };
                    (Ok(()), Some(look))
                }
                Action::Event(occurrence) => {
                    self.reports.event(occurrence);
                    (Ok(()), None)
                }
                // The loop itself has done these.
                Action::PrepareImage { .. }
                | Action::PullImage(_)
                | Action::Hook(_)
                | Action::Report { .. }
                | Action::DeletePod { .. } => (Ok(()), None),
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
        counted::STARTS.one();
        if spec.reference.attempt > 0 {
            counted::RESTARTS.one();
        }
        self.runtime.start(spec, layers).await
    }
}

impl Memory {
    fn new(statics: Statics, hooks: Hooks, probes: Probes) -> Self {
        Self {
            statics,
            hooks,
            probes,
            ending: BTreeMap::new(),
            apart: BTreeSet::new(),
            images: BTreeMap::new(),
            looking: BTreeSet::new(),
            asked: BTreeMap::new(),
            read: BTreeSet::new(),
            devices: Vec::new(),
            held: Held::new(),
        }
    }
}

/// The pod that an action is about, by its uid.
fn pod_uid(action: &Action) -> String {
    match action {
        Action::MakeSandbox { spec, .. } => spec.pod.uid.clone(),
        Action::Start(spec) => spec.reference.pod.uid.clone(),
        Action::Hook(hook) => hook.reference.pod.uid.clone(),
        Action::Stop { reference, .. } | Action::Remove(reference) => reference.pod.uid.clone(),
        Action::Report { pod, .. }
        | Action::DeletePod { pod, .. }
        | Action::RemoveSandbox(pod)
        | Action::MakeVolumes { pod, .. } => pod.uid.clone(),
        Action::RemoveVolumes { uid } => uid.clone(),
        Action::Event(occurrence) => occurrence.involved.uid.clone().unwrap_or_default(),
        Action::PrepareImage { .. } | Action::PullImage(_) => String::new(),
    }
}
