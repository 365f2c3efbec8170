//! When this device last surely spoke with a quorum of its fleet, by the boot clock: pods that must not
//! outlive a partition (`kith.dev/on-partition: stop-after=...`) run only so long after that. Nobody is
//! asked while no such pod is bound here. It decides nothing: the reconciler does.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::consensus::{Engine, Freshness, Replica};
use crate::runtime::leash::{self, since_boot};

/// Questions in the shortest time that a pod of this device puts up with.
const QUESTIONS: u32 = 8;

/// The shortest pause between two questions.
const SHORTEST: Duration = Duration::from_millis(250);

/// The longest.
const LONGEST: Duration = Duration::from_mins(5);

/// The pause while no quorum answers.
const AGAIN: Duration = Duration::from_secs(1);

/// An answer that takes longer is none.
const TIMEOUT: Duration = Duration::from_secs(3);

/// The last contact with a quorum.
#[derive(Debug)]
pub(crate) struct Contact {
    /// Where it is noted for the next agent, and for the shims of containers.
    file: PathBuf,
    boot: String,
    /// The boot clock when a question was asked that a quorum answered.
    last: Mutex<Option<Duration>>,
    /// The shortest time without contact that a pod of this device puts up with.
    wanted: watch::Sender<Option<Duration>>,
    /// Moves when contact comes after so long that pods may wait for it.
    regained: watch::Sender<u64>,
}

impl Contact {
    /// What an earlier agent knew, if it was since this boot.
    pub(crate) fn open(run_dir: &Path) -> Self {
        let (file, boot) = (run_dir.join(leash::CONTACT), leash::boot());
        let last = Mutex::new(leash::last(&file, &boot));
        Self { file, boot, last, wanted: watch::Sender::new(None), regained: watch::Sender::new(0) }
    }

    /// Time since the last contact; `None` when there was none since the device booted.
    pub(crate) fn age(&self) -> Option<Duration> {
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.map(|at| since_boot().saturating_sub(at))
    }

    /// Says for how long a pod of this device puts up with no contact; `None` asks nobody any more.
    pub(crate) fn want(&self, shortest: Option<Duration>) {
        self.wanted.send_if_modified(|wanted| std::mem::replace(wanted, shortest) != shortest);
    }

    /// Moves when pods may begin again.
    pub(crate) fn regained(&self) -> watch::Receiver<u64> {
        self.regained.subscribe()
    }

    /// Keeps contact while it is wanted, for ever. Dropping it at any await only loses an answer.
    pub(crate) async fn keep(self: Arc<Self>, engine: Engine) {
        let mut wanted = self.wanted.subscribe();
        let mut lost = true;
        loop {
            let Some(limit) = *wanted.borrow_and_update() else {
                lost = true;
                if wanted.changed().await.is_err() {
                    return;
                }
                continue;
            };
            // A leader waits for everyone who asks it: one that can not catch up does not, and is replaced.
            let current = !lost || engine.barrier().await == Freshness::Current;
            let begun = since_boot();
            let spoke = current && engine.speak(TIMEOUT).await;
            if spoke {
                self.note(begun, limit);
            }
            if spoke == lost {
                lost = !spoke;
                let age = self.age();
                tracing::info!(spoke, ?age, ?limit, "contact with a quorum, for pods that must not run without");
            }
            let pause = if spoke { (limit / QUESTIONS).clamp(SHORTEST, LONGEST) } else { AGAIN.min(limit / 4) };
            // Cancel-safe: a watch and a timer.
            tokio::select! {
                changed = wanted.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    fn note(&self, begun: Duration, limit: Duration) {
        let before = self.last.lock().unwrap_or_else(PoisonError::into_inner).replace(begun);
        if let Err(error) = leash::note(&self.file, &self.boot, begun) {
            // The next agent takes this one's last word for older than it is.
            tracing::warn!(%error, file = %self.file.display(), "the contact with the fleet can not be noted");
        }
        if before.is_none_or(|before| begun.saturating_sub(before) >= limit) {
            self.regained.send_modify(|times| *times += 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contact_outlives_the_agent_and_tells_when_pods_may_have_waited_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let contact = Contact::open(folder.path());
        let mut regained = contact.regained();
        assert_eq!(contact.age(), None);
        let limit = Duration::from_secs(9);
        contact.note(since_boot(), limit);
        assert!(regained.has_changed().unwrap());
        regained.mark_unchanged();
        contact.note(since_boot(), limit);
        assert!(!regained.has_changed().unwrap(), "nothing waited for it");
        contact.note(since_boot() + limit * 2, limit);
        assert!(regained.has_changed().unwrap());
        contact.note(since_boot(), limit);
        assert!(Contact::open(folder.path()).age().is_some());
    }
}
