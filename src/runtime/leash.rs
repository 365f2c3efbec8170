//! The leash of a container that must not outlive the contact of its device with a quorum: the last resort,
//! for when no agent is there to end it. The agent notes contact in the run folder; the container's waiter
//! reads that, and ends what runs for longer.

#![expect(clippy::disallowed_methods, reason = "small files of the run folder, and the boot clock")]

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use super::folder::Folder;
use crate::reconciler::container::ContainerSpec;

/// The file in the run folder that the agent writes.
pub const CONTACT: &str = "contact";

/// The file in a container's folder that has the length of its leash, in milliseconds.
const LENGTH: &str = "leash";

/// Between two tries to end what does not end.
const AGAIN: Duration = Duration::from_secs(2);

/// Notes contact at a moment of the boot clock.
pub fn note(file: &Path, boot: &str, at: Duration) -> io::Result<()> {
    let draft = file.with_extension("new");
    fs::write(&draft, format!("{boot} {}\n", at.as_millis()))?;
    fs::rename(&draft, file)
}

/// The moment of the last contact, if it was since this boot.
pub fn last(file: &Path, boot: &str) -> Option<Duration> {
    let known = parse(&fs::read_to_string(file).ok()?, boot);
    // Ahead of now: the file is of nobody who can be believed.
    known.filter(|at| *at <= since_boot())
}

fn parse(text: &str, boot: &str) -> Option<Duration> {
    let (of, millis) = text.trim().split_once(' ')?;
    let millis = millis.parse().ok()?;
    (!boot.is_empty() && of == boot).then(|| Duration::from_millis(millis))
}

/// Names this boot of the device.
pub fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// Time since the device booted, also while it slept.
pub fn since_boot() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default()
}

/// Ties a container to its leash, if it has one.
pub(super) fn tie(folder: &Folder, spec: &ContainerSpec) -> io::Result<()> {
    let Some(length) = spec.leash_ms else { return Ok(()) };
    fs::write(folder.path().join(LENGTH), length.to_string())
}

/// What a waiter holds.
pub(super) struct Leash {
    length: Duration,
    contact: PathBuf,
    boot: String,
    /// When this waiter began, for a device that never noted any contact.
    begun: Duration,
    pulled: Option<Duration>,
}

impl Leash {
    /// The leash of a container; most have none.
    pub(super) fn of(folder: &Folder) -> Option<Self> {
        let length = fs::read_to_string(folder.path().join(LENGTH)).ok()?.trim().parse().ok()?;
        let contact = folder.path().parent()?.parent()?.join(CONTACT);
        let length = Duration::from_millis(length);
        Some(Self { length, contact, boot: boot(), begun: since_boot(), pulled: None })
    }

    /// Time until the container has to end, or until that is tried again; calls `pull` when it has to.
    pub(super) fn hold(&mut self, pull: impl FnOnce()) -> Duration {
        let now = since_boot();
        let since = last(&self.contact, &self.boot).unwrap_or(self.begun);
        let left = (since + self.length).saturating_sub(now);
        if !left.is_zero() {
            return left;
        }
        if self.pulled.is_none_or(|pulled| pulled + AGAIN <= now) {
            self.pulled = Some(now);
            pull();
        }
        AGAIN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contact_is_of_this_boot_or_none() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(CONTACT);
        assert_eq!(last(&file, &boot()), None);
        let now = since_boot();
        note(&file, &boot(), now).unwrap();
        assert_eq!(last(&file, &boot()), Some(Duration::from_millis(u64::try_from(now.as_millis()).unwrap())));
        assert_eq!(last(&file, "another"), None);
        note(&file, &boot(), now + Duration::from_hours(1)).unwrap();
        assert_eq!(last(&file, &boot()), None, "a moment that has not come");
        for bad in ["", "1500", "b soon", "b -1", " 1500"] {
            assert_eq!(parse(bad, "b"), None, "{bad:?}");
        }
        assert_eq!(parse(" 1500", ""), None);
        assert_eq!(parse("b 1500\n", "b"), Some(Duration::from_millis(1500)));
    }

    #[test]
    fn a_leash_is_pulled_when_contact_is_too_old_and_again_while_that_is_so() {
        let dir = tempfile::tempdir().unwrap();
        let contact = dir.path().join(CONTACT);
        let length = Duration::from_mins(1);
        let mut leash = Leash { length, contact: contact.clone(), boot: boot(), begun: since_boot(), pulled: None };
        let pulled = std::cell::Cell::new(0);
        let pull = || pulled.set(pulled.get() + 1);
        assert!(leash.hold(pull) <= length, "from its own beginning, where nothing is noted");
        note(&contact, &boot(), since_boot()).unwrap();
        assert!(leash.hold(pull) > Duration::from_secs(50));
        assert_eq!(pulled.get(), 0);
        leash.length = Duration::ZERO;
        assert_eq!((leash.hold(pull), leash.hold(pull), pulled.get()), (AGAIN, AGAIN, 1));
        leash.pulled = leash.pulled.map(|at| at.saturating_sub(AGAIN));
        leash.hold(pull);
        assert_eq!(pulled.get(), 2);
    }
}
