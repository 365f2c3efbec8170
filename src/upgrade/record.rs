//! What runs, what ran before, and what is on trial: one small file that is replaced whole. Its form
//! is kept for good, because the installed program, which may be years older than what it starts, has
//! to understand it. What a start does with it is decided here, and executed elsewhere.
#![expect(clippy::disallowed_methods, reason = "the record is a file")]

use std::io::Write;
use std::path::{Path, PathBuf};

use semver::Version;
use serde::{Deserialize, Serialize};

use super::{UpgradeError, io, sync};

/// Starts of a new program before the old one comes back for good.
pub const ATTEMPTS: u32 = 3;

const FILE: &str = "record.json";

/// A program that was taken in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    /// Its digest, SHA-256, hexadecimal.
    pub digest: String,
    /// Its release.
    pub version: String,
    /// The release of the installed program when it was taken in. A package that brings a newer one
    /// than the slot takes over.
    pub base: String,
}

impl Slot {
    /// Where its program lies.
    pub fn program(&self, dir: &Path) -> PathBuf {
        folder(dir, &self.digest).join("kith")
    }
}

/// The folder of a program that was taken in.
pub fn folder(dir: &Path, digest: &str) -> PathBuf {
    dir.join("slots").join(digest)
}

/// A program that has still to show that it is well. `None` stands for the installed program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Trial {
    /// The new one.
    pub to: Option<Slot>,
    /// Its release.
    pub version: String,
    /// The one that ran before.
    pub from: Option<Slot>,
    /// Its release.
    pub from_version: String,
    /// Starts of the new one so far.
    pub attempts: u32,
    /// Whether the quorum of the fleet was heard before: then the new one has to hear it too.
    pub quorum: bool,
    /// The rollout of the fleet that it belongs to; empty for one by hand.
    pub rollout: String,
    /// When it began.
    pub at: String,
}

/// What came of the last trial.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Outcome {
    /// The release that was tried.
    pub version: String,
    /// Its digest; empty for the installed program.
    pub digest: String,
    /// Whether it stays.
    pub well: bool,
    /// Why it does not.
    pub why: String,
    /// The rollout that it belonged to.
    pub rollout: String,
}

/// The record. `current: None` is the installed program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// What runs.
    pub current: Option<Slot>,
    /// What ran before, to go back to.
    pub previous: Option<Slot>,
    /// What is on trial.
    pub trial: Option<Trial>,
    /// What came of the last trial.
    pub last: Option<Outcome>,
}

/// Who starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Starter {
    /// The digest of the slot whose program this is; `None` for the installed one.
    pub slot: Option<String>,
    /// Its release.
    pub version: Version,
    /// The trial that this start was counted for already, by its digest.
    pub counted: Option<String>,
}

/// What a start goes on as: this very program, or another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Go {
    /// This one.
    Here,
    /// The program of a slot.
    Slot(Slot),
    /// The installed one.
    Installed,
}

impl Record {
    /// Reads the record; one that is not there is empty.
    pub fn load(dir: &Path) -> Result<Self, UpgradeError> {
        let path = dir.join(FILE);
        match std::fs::read(&path) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map_err(|error| UpgradeError::Record { path, reason: error.to_string() })
            }
            Err(missing) if missing.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(source) => Err(io(format!("read {}", path.display()))(source)),
        }
    }

    /// Replaces the record: after a power cut there is the old one or this one.
    pub fn store(&self, dir: &Path) -> Result<(), UpgradeError> {
        let path = dir.join(FILE);
        let write = || -> std::io::Result<()> {
            std::fs::create_dir_all(dir)?;
            let mut temporary = tempfile::NamedTempFile::new_in(dir)?;
            temporary.write_all(&serde_json::to_vec_pretty(self)?)?;
            temporary.as_file().sync_all()?;
            temporary.persist(&path)?;
            Ok(())
        };
        write().map_err(io(format!("write {}", path.display())))?;
        sync(dir)
    }

    /// Decides what a start goes on as. What changes has to be stored before anything is done.
    /// `there` says whether the program of a slot can be started.
    pub fn start(&mut self, starter: &Starter, there: impl Fn(&Slot) -> bool) -> Go {
        if let Some(trial) = self.trial.clone() {
            let digest = trial.to.as_ref().map(|slot| slot.digest.clone()).unwrap_or_default();
            let counted = starter.counted.as_deref() == Some(&*digest);
            let is_it = starter.slot.clone().unwrap_or_default() == digest;
            if trial.to.as_ref().is_some_and(|slot| !there(slot)) {
                self.failed("its program is not there any more");
            } else if counted && is_it {
                return Go::Here;
            } else if trial.attempts >= ATTEMPTS {
                self.failed(&format!("it was started {ATTEMPTS} times and ended each time before it was well"));
            } else {
                self.trial = Some(Trial { attempts: trial.attempts + 1, ..trial.clone() });
                return Self::go(starter, trial.to);
            }
        }
        if let Some(slot) = &self.current {
            let base = Version::parse(&slot.base).ok();
            let own = Version::parse(&slot.version).ok();
            let installed_anew = starter.slot.is_none()
                && base.is_some_and(|base| base != starter.version)
                && own.is_some_and(|own| own < starter.version);
            if installed_anew {
                self.previous = self.current.take();
            } else if !there(slot) {
                let why = "its program is not there any more".into();
                let (version, digest) = (slot.version.clone(), slot.digest.clone());
                self.last = Some(Outcome { version, digest, why, ..Outcome::default() });
                self.current = self.previous.take().filter(|slot| there(slot));
            }
        }
        Self::go(starter, self.current.clone())
    }

    fn go(starter: &Starter, to: Option<Slot>) -> Go {
        match to {
            Some(slot) if starter.slot.as_ref() == Some(&slot.digest) => Go::Here,
            Some(slot) => Go::Slot(slot),
            None if starter.slot.is_none() => Go::Here,
            None => Go::Installed,
        }
    }

    /// The program on trial is not well: what ran before comes back.
    pub fn failed(&mut self, why: &str) {
        let Some(trial) = self.trial.take() else { return };
        let digest = trial.to.map(|slot| slot.digest).unwrap_or_default();
        self.last =
            Some(Outcome { version: trial.version, digest, well: false, why: why.into(), rollout: trial.rollout });
        self.current = trial.from;
    }

    /// The program on trial is well: it stays.
    pub fn well(&mut self) {
        let Some(trial) = self.trial.take() else { return };
        let digest = trial.to.as_ref().map(|slot| slot.digest.clone()).unwrap_or_default();
        let (version, rollout) = (trial.version, trial.rollout);
        self.last = Some(Outcome { version, digest, well: true, why: String::new(), rollout });
        (self.current, self.previous) = (trial.to, trial.from);
    }

    /// Digests of the programs that are of use.
    pub fn used(&self) -> Vec<&str> {
        let trial = self.trial.iter().flat_map(|trial| [&trial.to, &trial.from]);
        let slots = [&self.current, &self.previous].into_iter().chain(trial);
        slots.flatten().map(|slot| slot.digest.as_str()).collect()
    }
}

#[cfg(test)]
mod tests;
