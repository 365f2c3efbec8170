//! The pulls that this device's pods wait for: begun as the reconciler says, given up when the pod is
//! gone. What comes of them is kept for the next decision, and told as events.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::reports::Reports;
use super::tasks::Tasks;
use crate::images::{ImageError, ImageName, Keychain, Progress, Pulled, Puller};
use crate::metrics::counted;
use crate::reconciler::container::ContainerRef;
use crate::reconciler::{PullFailure, PullImage, PullState, SecretState, Target};
use crate::resource::Timestamp;

/// Pulls that ended, on their way to the loop.
const ENDED_QUEUE: usize = 16;

/// The first word about a pull that takes long; each further one takes twice as long to come.
const FIRST_WORD: Duration = Duration::from_secs(30);

/// A pull that ended.
pub(crate) struct Ended {
    reference: ContainerRef,
    image: String,
    outcome: Result<(), (String, bool)>,
}

struct Pull {
    state: PullState,
    attempts: u32,
    /// Ends the task when the pull is forgotten.
    _alive: Option<DropGuard>,
}

/// All pulls of this device, by the start that waits for each.
pub(crate) struct Pulls {
    puller: Arc<Puller>,
    reports: Arc<Reports>,
    tasks: Tasks,
    by_start: BTreeMap<ContainerRef, Pull>,
    ended: mpsc::Sender<Ended>,
    arrivals: mpsc::Receiver<Ended>,
}

impl Pulls {
    pub(crate) fn new(puller: Arc<Puller>, reports: Arc<Reports>, tasks: Tasks) -> Self {
        let (ended, arrivals) = mpsc::channel(ENDED_QUEUE);
        Self { puller, reports, tasks, by_start: BTreeMap::new(), ended, arrivals }
    }

    /// What the reconciler decides from.
    pub(crate) fn states(&self) -> BTreeMap<ContainerRef, PullState> {
        self.by_start.iter().map(|(reference, pull)| (reference.clone(), pull.state.clone())).collect()
    }

    /// Forgets, and ends, the pulls of pods that are not here any more and of starts that were made.
    pub(crate) fn retain(&mut self, pods: &BTreeSet<String>, started: &BTreeSet<ContainerRef>) {
        self.by_start.retain(|start, _| pods.contains(&start.pod.uid) && !started.contains(start));
    }

    /// The next pull that ended. Cancel-safe: a channel.
    pub(crate) async fn next(&mut self) -> Option<Ended> {
        self.arrivals.recv().await
    }

    /// Takes in what came of a pull; returns its image, which is to be looked at now.
    pub(crate) fn ended(&mut self, ended: Ended, now: Timestamp) -> String {
        let Some(pull) = self.by_start.get_mut(&ended.reference) else { return ended.image };
        pull.state = match ended.outcome {
            Ok(()) => PullState::Done,
            Err((message, unreachable)) => {
                pull.attempts = pull.attempts.saturating_add(1);
                let jitter = rand::random_range(0..=1000);
                PullState::Failed(PullFailure { message, unreachable, attempts: pull.attempts, at: now, jitter })
            }
        };
        ended.image
    }

    /// Begins a pull, with the credentials of its secrets where the target has them.
    pub(crate) fn begin(&mut self, pull: PullImage, target: &Target) {
        let keychain = keychain(&pull, target);
        let attempts = self.by_start.get(&pull.reference).map_or(0, |earlier| earlier.attempts);
        let alive = CancellationToken::new();
        let (puller, reports, ended, gone) =
            (self.puller.clone(), self.reports.clone(), self.ended.clone(), alive.clone());
        let state = Pull { state: PullState::Pulling, attempts, _alive: Some(alive.drop_guard()) };
        self.by_start.insert(pull.reference.clone(), state);
        self.tasks.spawn("pull an image", async move {
            // Dropping a pull is safe: what came of it lies on the disk for the next one.
            let work = Box::pin(bring(&puller, &reports, &pull, keychain));
            let Some(outcome) = gone.run_until_cancelled(work).await else {
                tracing::info!(image = pull.image, "a pull ends: its pod is gone");
                return;
            };
            let _ = ended.send(Ended { reference: pull.reference, image: pull.image, outcome }).await;
        });
    }
}

/// What the secrets of a pull hold.
fn keychain(pull: &PullImage, target: &Target) -> Result<Keychain, ImageError> {
    let mut keychain = Keychain::default();
    let namespace = &pull.reference.pod.namespace;
    for name in &pull.secrets {
        let Some(bytes) = registry_secret(target, namespace, name) else {
            tracing::warn!(namespace, name, "a pull secret is not here; the image is asked for without it");
            continue;
        };
        keychain.add_docker_config(&bytes, &format!("secret {namespace}/{name}"))?;
    }
    Ok(keychain)
}

/// The credentials of registries in a secret, as soon as this device has it.
fn registry_secret(target: &Target, namespace: &str, name: &str) -> Option<Vec<u8>> {
    match target.secrets.get(&(namespace.to_owned(), name.to_owned()))? {
        SecretState::Open(values) => values.get(".dockerconfigjson").map(|value| value.0.clone()),
        SecretState::Sealed(_) => None,
    }
}

/// Pulls, and tells of it.
async fn bring(
    puller: &Puller,
    reports: &Reports,
    pull: &PullImage,
    keychain: Result<Keychain, ImageError>,
) -> Result<(), (String, bool)> {
    let begun = tokio::time::Instant::now();
    let progress = Progress::default();
    let outcome = async {
        let name = ImageName::parse(&pull.image)?;
        let keychain = keychain?;
        let work = puller.pull(&name, &keychain, &progress);
        told_while(work, reports, pull, &progress).await
    };
    match outcome.await {
        Ok(pulled) => {
            counted::PULLS.one();
            counted::PULLED_BYTES.add(pulled.brought);
            tracing::info!(image = pull.image, digest = %pulled.image.digest, bytes = pulled.brought, "pulled");
            reports.event(pull.pulled(pulled.image.size, begun.elapsed()));
            Ok(())
        }
        Err(error) => {
            let message = chain(&error);
            counted::FAILED_PULLS.one();
            tracing::warn!(image = pull.image, error = message, "a pull failed");
            reports.event(pull.failed(&message));
            Err((message, error.is_unreachable()))
        }
    }
}

/// Waits for a pull, and says now and then how far it is.
async fn told_while(
    work: impl Future<Output = Result<Pulled, ImageError>>,
    reports: &Reports,
    pull: &PullImage,
    progress: &Progress,
) -> Result<Pulled, ImageError> {
    let mut work = std::pin::pin!(work);
    let mut pause = FIRST_WORD;
    loop {
        match tokio::time::timeout(pause, &mut work).await {
            Ok(done) => return done,
            Err(_) if progress.total() > 0 => reports.event(pull.progress(progress.done(), progress.total())),
            Err(_) => {}
        }
        pause = pause.saturating_mul(2);
    }
}

/// An error with its causes, each once.
fn chain(error: &ImageError) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(source) = next {
        let cause = source.to_string();
        if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
        next = source.source();
    }
    text
}
