//! When a container's image is asked for at its registry, and what is said meanwhile. A pull that
//! failed is tried again after a wait that doubles; its length follows from what is handed in.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, ObjectReference, Pod};

use super::container::ContainerRef;
use super::lifecycle::Case;
use super::standing::Face;
use super::status;
use super::target::{ImageState, PullFailure, PullState, Settings};
use super::{Action, COMPONENT, Decision};
use crate::resource::occurrence::{Occurrence, reference_to};
use crate::resource::{ImageConfig, Timestamp};

/// What waits for an image that could not be pulled.
const ERR_IMAGE_PULL: &str = "ErrImagePull";
const BACK_OFF: &str = "ImagePullBackOff";

/// When a container's image is asked for at its registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Policy {
    /// Before each start.
    Always,
    /// When it is not on this device.
    IfNotPresent,
    /// Not at all.
    Never,
}

impl Policy {
    fn of(container: &Container) -> Self {
        match container.image_pull_policy.as_deref() {
            Some("Always") => Self::Always,
            Some("Never") => Self::Never,
            _ => Self::IfNotPresent,
        }
    }
}

/// Names of the secrets that a pod's images are pulled with, in their order.
pub fn pull_secrets(pod: &Pod) -> Vec<String> {
    let listed = pod.spec.iter().flat_map(|spec| spec.image_pull_secrets.iter().flatten());
    listed.map(|secret| secret.name.clone()).filter(|name| !name.is_empty()).collect()
}

impl<'a> Case<'a> {
    /// The image of a container that is about to start, or what the start waits for.
    pub(super) fn image(
        &self,
        decision: &mut Decision,
        container: &Container,
        reference: &ContainerRef,
    ) -> Result<&'a ImageConfig, Face<'static>> {
        let image = container.image.clone().unwrap_or_default();
        let waiting = |reason, message: String| Err(Face::Waiting { reason, message });
        let creating = || waiting("ContainerCreating", String::new());
        let policy = Policy::of(container);
        let pull = self.target.pulls.get(reference);
        let here = match self.target.images.get(&image) {
            None => {
                decision.push(Action::PrepareImage { image });
                return self.still(container);
            }
            Some(ImageState::Preparing) => return self.still(container),
            Some(ImageState::Invalid(why)) => return waiting("InvalidImageName", why.clone()),
            Some(ImageState::Ready { config, .. }) => Ok(config),
            Some(ImageState::Absent) => {
                let text = format!(
                    "image {image} is not on this device, and imagePullPolicy is Never; bring it with: kith image load|import|pull"
                );
                Err(("ErrImageNeverPull", text))
            }
            Some(ImageState::Failed(why)) => Err(("ImageUnusable", format!("image {image}: {why}"))),
        };
        match (policy, here, pull) {
            (Policy::Never | Policy::IfNotPresent, Ok(config), _)
            | (Policy::Always, Ok(config), Some(PullState::Done)) => Ok(config),
            // The registry is out of reach: the image that is here is better than none.
            (Policy::Always, Ok(config), Some(PullState::Failed(failure))) if failure.unreachable => Ok(config),
            (Policy::Never, Err((reason, text)), _)
            | (_, Err((reason @ "ImageUnusable", text)), Some(PullState::Done)) => waiting(reason, text),
            (_, _, Some(PullState::Pulling)) => self.still(container),
            (_, _, Some(PullState::Failed(failure))) => self.after(decision, container, reference, failure),
            (_, _, None | Some(PullState::Done)) => {
                self.pull(decision, container, reference);
                if self.waited(container).is_some() { self.still(container) } else { creating() }
            }
        }
    }

    fn pull(&self, decision: &mut Decision, container: &Container, reference: &ContainerRef) {
        let image = container.image.clone().unwrap_or_default();
        let involved = ObjectReference {
            field_path: Some(format!("spec.containers{{{}}}", container.name)),
            ..reference_to(&self.pod.pod)
        };
        let host = self.target.node.name.clone();
        let message = format!("Pulling image {image:?}");
        let told = Occurrence { involved, warning: false, reason: "Pulling", message, component: COMPONENT, host };
        decision.push(Action::Event(told.clone()));
        let secrets = pull_secrets(&self.pod.pod);
        decision.push(Action::PullImage(Box::new(PullImage { image, reference: reference.clone(), secrets, told })));
    }

    /// Waits for the next try, or begins it.
    fn after(
        &self,
        decision: &mut Decision,
        container: &Container,
        reference: &ContainerRef,
        failure: &PullFailure,
    ) -> Result<&'a ImageConfig, Face<'static>> {
        let again = failure.next(&self.target.settings);
        if again <= self.now {
            self.pull(decision, container, reference);
            return self.still(container);
        }
        decision.wake(again);
        let image = container.image.as_deref().unwrap_or_default();
        let (reason, message) = match self.waited(container) {
            None => (ERR_IMAGE_PULL, failure.message.clone()),
            Some(_) => (BACK_OFF, format!("Back-off pulling image {image:?}: {}", failure.message)),
        };
        Err(Face::Waiting { reason, message })
    }

    /// Says again what is stored of a wait for this image: trying again is no news.
    fn still(&self, container: &Container) -> Result<&'a ImageConfig, Face<'static>> {
        let (reason, message) = self.waited(container).unwrap_or(("ContainerCreating", String::new()));
        Err(Face::Waiting { reason, message })
    }

    /// The stored wait for an image that could not be pulled.
    fn waited(&self, container: &Container) -> Option<(&'static str, String)> {
        let stored = status::stored(&self.pod.pod, &container.name)?;
        let waiting = stored.state.as_ref()?.waiting.as_ref()?;
        let reason = [ERR_IMAGE_PULL, BACK_OFF].into_iter().find(|reason| waiting.reason.as_deref() == Some(reason))?;
        Some((reason, waiting.message.clone().unwrap_or_default()))
    }
}

/// A pull that is to be begun.
#[derive(Clone, Debug, PartialEq)]
pub struct PullImage {
    /// As the pod names it.
    pub image: String,
    /// The start that waits for it.
    pub reference: ContainerRef,
    /// Names of the secrets of the pod's namespace to pull it with.
    pub secrets: Vec<String>,
    /// What was said when it began: what is said later is of the same object.
    told: Occurrence,
}

impl PullImage {
    /// It is here: `size` bytes, after so long.
    pub fn pulled(&self, size: u64, took: Duration) -> Occurrence {
        let seconds = took.as_secs_f64();
        let message = format!("Successfully pulled image {:?} in {seconds:.1}s. Image size: {size} bytes.", self.image);
        Occurrence { reason: "Pulled", message, ..self.told.clone() }
    }

    /// It could not be pulled.
    pub fn failed(&self, why: &str) -> Occurrence {
        let message = format!("Failed to pull image {:?}: {why}", self.image);
        Occurrence { reason: "Failed", warning: true, message, ..self.told.clone() }
    }

    /// It is on its way, which takes long: so many of so many bytes are here.
    pub fn progress(&self, done: u64, total: u64) -> Occurrence {
        let (mib, percent) = (total.div_ceil(1 << 20), done.saturating_mul(100).checked_div(total).unwrap_or(0));
        let message = format!("Pulling image {:?}: {percent} % of {mib} MiB", self.image);
        Occurrence { reason: "Pulling", message, ..self.told.clone() }
    }
}

impl PullFailure {
    /// When it is tried again: after the back-off of restarts, and up to a quarter more by chance, so
    /// that not all devices of a fleet ask at once.
    fn next(&self, settings: &Settings) -> Timestamp {
        let doubled = settings.backoff_base.saturating_mul(1 << self.attempts.saturating_sub(1).min(16));
        let wait = doubled.min(settings.backoff_cap);
        self.at.plus(wait + wait * u32::from(self.jitter.min(1000)) / 4000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_to_five_minutes_and_chance_adds_a_quarter_at_most() {
        let settings = Settings::default();
        let wait = |attempts, jitter| {
            let failure =
                PullFailure { message: String::new(), unreachable: false, attempts, at: Timestamp(0), jitter };
            failure.next(&settings).0 / 1000
        };
        assert_eq!([1, 2, 3, 4, 5, 6, 99].map(|attempts| wait(attempts, 0)), [10, 20, 40, 80, 160, 300, 300]);
        assert_eq!((wait(1, 1000), wait(99, 500), wait(99, u16::MAX)), (12, 337, 375));
    }
}
