//! Executes the hooks of containers beside the device loop, each once, and remembers what came of them.

use std::collections::BTreeMap;

use tokio::sync::mpsc;

use super::tasks::Tasks;
use crate::probing::Asker;
use crate::reconciler::container::{ContainerRef, ObservedContainer};
use crate::reconciler::{Hook, HookKind, HookRun, Outcome};
use crate::resource::Timestamp;

/// Ends of hooks on their way to the loop.
const QUEUE: usize = 16;

type Key = (ContainerRef, HookKind);

/// The hooks of this device's containers. The loop bounds them: one for each container that begins or ends.
pub(crate) struct Hooks {
    asker: Asker,
    tasks: Tasks,
    runs: BTreeMap<Key, HookRun>,
    ends: mpsc::Sender<(Key, Result<(), String>)>,
    ended: mpsc::Receiver<(Key, Result<(), String>)>,
}

impl Hooks {
    pub(crate) fn new(asker: Asker, tasks: Tasks) -> Self {
        let (ends, ended) = mpsc::channel(QUEUE);
        Self { asker, tasks, runs: BTreeMap::new(), ends, ended }
    }

    /// Begins a hook, unless it was begun.
    pub(crate) fn begin(&mut self, hook: Hook, now: Timestamp) {
        let key = (hook.reference.clone(), hook.kind);
        if self.runs.contains_key(&key) {
            return;
        }
        self.runs.insert(key.clone(), HookRun { begun: now, outcome: None });
        let (asker, ends) = (self.asker.clone(), self.ends.clone());
        self.tasks.spawn("run a hook", async move {
            let outcome = match asker.ask(&hook.reference, &hook.handler, hook.limit).await {
                Outcome::Success => Ok(()),
                Outcome::Failure(why) | Outcome::Unknown(why) => Err(why),
            };
            let _ = ends.send((key, outcome)).await;
        });
    }

    /// Hooks of containers that are there; others are forgotten.
    pub(crate) fn of(&mut self, containers: &[ObservedContainer]) -> BTreeMap<Key, HookRun> {
        self.runs.retain(|(container, _), _| containers.iter().any(|own| own.reference == *container));
        self.runs.clone()
    }

    /// Returns when a hook has ended. Cancel-safe: what is not taken stays in the channel.
    pub(crate) async fn moved(&mut self) {
        match self.ended.recv().await {
            Some((key, outcome)) => {
                if let Some(run) = self.runs.get_mut(&key) {
                    run.outcome = Some(outcome);
                }
            }
            None => std::future::pending().await,
        }
    }
}
