//! One start of a device's agent, and the hardware that its identity lives on. Every message
//! carries them, so that a copy of a device, an older image of its disk, and the time before a
//! recovery are told from the device as the fleet last knew it. It decides nothing about a peer.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{IdentityError, files, random};

const FILE: &str = "run.json";
const REMEDY: &str = "remove it: the fleet then looks at this device before it takes part again";

/// A life of the fleet: it begins when the fleet is founded, restored or recovered. The upper half
/// counts, the lower half is drawn at random: two recoveries from one epoch are two epochs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch of a new fleet.
    pub const FIRST: Self = Self(1 << 32);

    /// Counts the recoveries and restores, from 1.
    pub fn number(self) -> u64 {
        self.0 >> 32
    }

    /// A new epoch after this one, that no other device comes to.
    pub fn next(self) -> Result<Self, IdentityError> {
        let tag = u64::from(u32::from_le_bytes(random()?));
        Ok(Self((self.number() + 1) << 32 | tag))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.number())
    }
}

/// One start of an agent. The counter is on the disk with the keys, so an older image of the disk
/// has an older one; the nonce is drawn at each start, so two copies differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// How often the agent was started with these keys; 0 is a run that nobody counts.
    pub starts: u64,
    /// No two runs have the same one.
    pub nonce: u64,
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "start {} ({:08x})", self.starts, self.nonce >> 32)
    }
}

/// What every message of a device says of its sender.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// The epoch that it lives in.
    pub epoch: Epoch,
    /// The run that it is.
    pub run: Run,
}

/// What a device can tell of the machine that it runs on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Serial number of the board or of the machine; empty when it has none.
    pub serial: String,
    /// Hardware addresses of its network interfaces.
    pub links: BTreeSet<String>,
}

impl Fingerprint {
    /// Whether this may be the machine that `other` was taken on: no serial number speaks against
    /// it, and at least one network interface is still there. What is not known speaks for nothing.
    pub fn may_be(&self, other: &Self) -> bool {
        let serial = self.serial.is_empty() || other.serial.is_empty() || self.serial == other.serial;
        let links = self.links.is_empty() || other.links.is_empty() || !self.links.is_disjoint(&other.links);
        serial && links
    }
}

/// What is kept beside the keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Stored {
    starts: u64,
    hardware: Fingerprint,
}

/// A run that has begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Begun {
    /// It.
    pub run: Run,
    /// The data folder was last used on other hardware: it was moved, or copied.
    pub moved: bool,
}

impl Run {
    fn path(data_dir: &Path) -> PathBuf {
        files::dir(data_dir).join(FILE)
    }

    /// Counts a start of the agent, on the disk before it is used. The hardware of a device that
    /// was moved is not kept before [`Run::settle`].
    pub fn begin(data_dir: &Path, hardware: &Fingerprint) -> Result<Begun, IdentityError> {
        let known = Self::load(data_dir)?;
        let moved = known.as_ref().is_some_and(|known| !hardware.may_be(&known.hardware));
        let mut stored = known.unwrap_or_default();
        stored.starts += 1;
        if !moved && !hardware.links.is_empty() {
            stored.hardware = hardware.clone();
        }
        let run = Self { starts: stored.starts, nonce: u64::from_le_bytes(random()?) };
        Self::store(data_dir, &stored)?;
        Ok(Begun { run, moved })
    }

    /// The fleet has looked at a device that was moved: this is its hardware from now on.
    pub fn settle(data_dir: &Path, hardware: &Fingerprint) -> Result<(), IdentityError> {
        let mut stored = Self::load(data_dir)?.unwrap_or_default();
        if hardware.links.is_empty() || stored.hardware == *hardware {
            return Ok(());
        }
        stored.hardware = hardware.clone();
        Self::store(data_dir, &stored)
    }

    fn load(data_dir: &Path) -> Result<Option<Stored>, IdentityError> {
        let path = Self::path(data_dir);
        let Some(bytes) = files::read(&path)? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| IdentityError::Corrupt {
            path,
            reason: error.to_string(),
            remedy: REMEDY,
        })
    }

    fn store(data_dir: &Path, stored: &Stored) -> Result<(), IdentityError> {
        let text = serde_json::to_vec_pretty(stored)
            .map_err(|error| IdentityError::crypto("write the run's record", error))?;
        let path = Self::path(data_dir);
        match files::write(&path, &text, true) {
            // A device must be able to start on a full disk: what runs there is to be looked after.
            Err(error) if files::is_full(&error) => files::overwrite(&path, &text),
            written => written,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hardware(serial: &str, links: &[&str]) -> Fingerprint {
        Fingerprint { serial: serial.into(), links: links.iter().map(ToString::to_string).collect() }
    }

    #[test]
    fn starts_are_counted_and_runs_differ() {
        let dir = tempfile::tempdir().unwrap();
        let here = hardware("s", &["aa"]);
        let first = Run::begin(dir.path(), &here).unwrap();
        let second = Run::begin(dir.path(), &here).unwrap();
        assert_eq!((first.run.starts, second.run.starts), (1, 2));
        assert_ne!(first.run.nonce, second.run.nonce);
        assert!(!first.moved && !second.moved);
    }

    #[test]
    fn other_hardware_is_noticed_until_it_is_settled() {
        let dir = tempfile::tempdir().unwrap();
        let (here, there) = (hardware("", &["aa", "bb"]), hardware("", &["cc"]));
        Run::begin(dir.path(), &here).unwrap();
        assert!(Run::begin(dir.path(), &there).unwrap().moved);
        assert!(Run::begin(dir.path(), &there).unwrap().moved, "a start alone settles nothing");
        Run::settle(dir.path(), &there).unwrap();
        assert!(!Run::begin(dir.path(), &there).unwrap().moved);
        assert!(Run::begin(dir.path(), &here).unwrap().moved);
    }

    #[test]
    fn a_fingerprint_forgives_what_is_not_known_and_a_new_interface() {
        let known = hardware("s1", &["aa", "bb"]);
        for same in [hardware("s1", &["aa"]), hardware("", &["bb", "cc"]), hardware("s1", &[])] {
            assert!(same.may_be(&known) && known.may_be(&same), "{same:?}");
        }
        for other in [hardware("s2", &["aa", "bb"]), hardware("s1", &["cc"]), hardware("", &["cc"])] {
            assert!(!other.may_be(&known) && !known.may_be(&other), "{other:?}");
        }
    }

    #[test]
    fn epochs_count_and_never_meet() {
        let (one, two) = (Epoch::FIRST.next().unwrap(), Epoch::FIRST.next().unwrap());
        assert_eq!((Epoch::FIRST.number(), one.number(), two.number()), (1, 2, 2));
        assert_ne!(one, two);
    }
}
