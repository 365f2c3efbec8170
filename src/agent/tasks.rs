//! The one place where the agent spawns: a task has a name, a span, the agent's cancellation token,
//! and is joined before the process ends. A task that panics ends the process; systemd starts it
//! again and the containers live on.

use std::future::Future;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

/// The agent's tasks.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl Tasks {
    /// No task yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Spawns a task that runs until it is done or the agent stops. Being dropped at any await
    /// must be safe for it.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        let ends_the_agent = EndOnPanic(name);
        let named = async move {
            stop.run_until_cancelled(task).await;
            std::mem::forget(ends_the_agent);
        };
        self.tracker.spawn(named.instrument(tracing::info_span!("task", name)));
    }

    /// Resolves when the agent stops.
    pub fn stopping(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Tells every task to stop and waits for them.
    pub async fn finish(&self) {
        self.stop.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}

/// Ends the process when it is dropped by an unwinding task. Where panics abort, nothing unwinds
/// and the process has ended already.
struct EndOnPanic(&'static str);

impl Drop for EndOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(task = self.0, "a task panicked: the agent ends, its containers live on");
            std::process::abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn finish_stops_and_joins_every_task() {
        let tasks = Tasks::new();
        let (send, receive) = tokio::sync::oneshot::channel::<()>();
        tasks.spawn("waits for ever", async move {
            let _held = send;
            std::future::pending::<()>().await;
        });
        tasks.finish().await;
        assert!(receive.await.is_err(), "the task was not dropped");
    }
}
