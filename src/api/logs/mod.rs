//! `pods/log`: what a container wrote, from the files of the device that runs it.

mod files;
mod reader;

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use serde_json::Value;

use super::Api;
use super::answer::{self, Answer};
use super::ask::Ask;
use super::failure::Failure;
use super::read::{key, object};
use super::route::Target;
use crate::reconciler::container::{ContainerRef, PodRef, log_path};
use crate::resource::{Timestamp, meta};
use crate::store::Key;

use reader::Reader;

/// What a client wants of a log.
#[derive(Clone, Debug)]
struct Wanted {
    follow: bool,
    previous: bool,
    timestamps: bool,
    /// Lines from the end; all when absent.
    tail: Option<u64>,
    /// Nothing before this moment.
    since: Option<jiff::Timestamp>,
    /// Bytes of output.
    limit: Option<u64>,
    /// Only what was written to this stream.
    only: Option<&'static str>,
}

impl Wanted {
    fn of(ask: &Ask, now: Timestamp) -> Result<Self, Failure> {
        let positive = |name: &str, least: i64| match ask.query.number(name)? {
            Some(number) if number < least => {
                Err(Failure::new(422, "Invalid", format!("{name}: Invalid value: {number}: must be at least {least}")))
            }
            other => Ok(other.map(i64::unsigned_abs)),
        };
        let since = match (positive("sinceSeconds", 1)?, ask.query.get("sinceTime")) {
            (Some(_), time) if !time.is_empty() => {
                return Err(Failure::bad_request("at most one of `sinceTime` or `sinceSeconds` may be specified"));
            }
            (Some(seconds), _) => {
                let span = Duration::from_secs(seconds).as_millis();
                let then = now.0.saturating_sub(u64::try_from(span).unwrap_or(u64::MAX));
                Some(Timestamp(then).to_kubernetes().0)
            }
            (None, "") => None,
            (None, time) => {
                let wrong = |_| Failure::bad_request(format!("sinceTime: {time:?} is not a time in RFC 3339"));
                Some(time.parse().map_err(wrong)?)
            }
        };
        Ok(Self {
            follow: ask.query.flag("follow"),
            previous: ask.query.flag("previous"),
            timestamps: ask.query.flag("timestamps"),
            tail: positive("tailLines", 0)?,
            since,
            limit: positive("limitBytes", 1)?,
            only: None,
        })
    }
}

impl Api {
    /// `GET` of a pod's log.
    pub(super) async fn logs(&self, target: &Target, ask: &Ask) -> Result<Answer, Failure> {
        let wanted = Wanted::of(ask, self.now())?;
        let pod = self.pod(target).await?;
        let container = container_of(&pod, ask.query.get("container"))?;
        if let Some(node) = self.elsewhere(&pod, "a log", ask.forwarded_by.as_deref())? {
            return self.forward(node, ask).await;
        }
        let folder = self.log_folder(&pod, &container);
        // A container that waits to run again has no run yet: its last run is the one before.
        let status = status_of(&pod, &container);
        let waits = status.is_some_and(|status| {
            meta::at(status, "state.waiting").is_some() && meta::at(status, "lastState.terminated").is_some()
        });
        let Some(attempt) = files::attempt(&folder, wanted.previous && !waits).await else {
            return Err(Failure::bad_request(missing(&pod, &container, wanted.previous)));
        };
        let life = Life { api: self.clone(), key: key(target), uid: meta::uid(&pod).to_owned(), container, attempt };
        let reader = Reader::open(folder, wanted, life)
            .await
            .map_err(|error| Failure::internal(format!("read the log of pod {}: {error}", target.name)))?;
        Ok(answer::stream("text/plain", reader.into_chunks()))
    }

    /// What a running container of this device writes to one of its streams, from now on.
    pub(super) async fn follow_log(
        &self,
        reference: &ContainerRef,
        key: Key,
        only: &'static str,
    ) -> std::io::Result<impl Stream<Item = std::io::Result<Bytes>> + Send + 'static> {
        let mut folder = log_path(&self.inner.config.log_dir, reference);
        folder.pop();
        let wanted = Wanted {
            follow: true,
            previous: false,
            timestamps: false,
            tail: Some(0),
            since: None,
            limit: None,
            only: Some(only),
        };
        let (uid, container) = (reference.pod.uid.clone(), reference.container.clone());
        let life = Life { api: self.clone(), key, uid, container, attempt: reference.attempt };
        Ok(Reader::open(folder, wanted, life).await?.into_chunks())
    }

    fn log_folder(&self, pod: &Value, container: &str) -> PathBuf {
        let owner = PodRef {
            namespace: meta::namespace(pod).to_owned(),
            name: meta::name(pod).to_owned(),
            uid: meta::uid(pod).to_owned(),
        };
        let reference = ContainerRef { pod: owner, container: container.to_owned(), attempt: 0 };
        let mut path = log_path(&self.inner.config.log_dir, &reference);
        path.pop();
        path
    }
}

/// The container that is meant: the named one, or the only one.
pub(super) fn container_of(pod: &Value, named: &str) -> Result<String, Failure> {
    let name = meta::name(pod);
    let listed = |list: &str| meta::list_at(pod, list).iter().map(|container| meta::text_at(container, "name"));
    let all: Vec<&str> = listed("spec.containers").collect();
    let mut others = listed("spec.initContainers").chain(listed("spec.ephemeralContainers"));
    match (named, all.as_slice()) {
        ("", [only]) => Ok((*only).to_owned()),
        ("", _) => Err(Failure::bad_request(format!(
            "a container name must be specified for pod {name}, choose one of: [{}]",
            all.join(" ")
        ))),
        (named, all) if all.contains(&named) || others.any(|other| other == named) => Ok(named.to_owned()),
        (named, _) => Err(Failure::bad_request(format!("container {named} is not valid for pod {name}"))),
    }
}

fn missing(pod: &Value, container: &str, previous: bool) -> String {
    let name = meta::name(pod);
    if previous {
        return format!("previous terminated container \"{container}\" in pod \"{name}\" not found");
    }
    let status = status_of(pod, container);
    let ran = ["state.running", "state.terminated"];
    if status.is_some_and(|status| ran.iter().any(|state| meta::at(status, state).is_some())) {
        return format!(
            "no log of container \"{container}\" in pod \"{name}\" is on its device: there is no room for one, \
             which kith doctor tells there, or it was lost"
        );
    }
    let reason = status.map_or("", |status| meta::text_at(status, "state.waiting.reason"));
    let reason = if reason.is_empty() { "ContainerCreating" } else { reason };
    format!("container \"{container}\" in pod \"{name}\" is waiting to start: {reason}")
}

fn status_of<'a>(pod: &'a Value, container: &str) -> Option<&'a Value> {
    meta::list_at(pod, "status.containerStatuses").iter().find(|status| status["name"] == container)
}

/// Tells a follower whether the container may still write.
struct Life {
    api: Api,
    key: Key,
    uid: String,
    container: String,
    attempt: u32,
}

impl Life {
    /// Whether the fleet still shows this run of the container as going on.
    fn goes_on(&self) -> bool {
        let Ok(Some(document)) = self.api.replica().get(&self.key) else { return false };
        let Ok(pod) = object(&document) else { return false };
        if meta::uid(&pod) != self.uid || matches!(meta::text_at(&pod, "status.phase"), "Succeeded" | "Failed") {
            return false;
        }
        let Some(status) = status_of(&pod, &self.container) else { return true };
        let restarts = meta::integer_at(status, "restartCount").unwrap_or(0);
        let ours = i64::from(self.attempt);
        restarts < ours || (restarts == ours && meta::at(status, "state.terminated").is_none())
    }

    fn stopping(&self) -> tokio_util::sync::CancellationToken {
        self.api.inner.config.shutdown.clone()
    }
}
