//! Finds the facts. It reads, asks and tries, and changes nothing: what it makes for a trial is gone
//! with it. Everything may be missing: it never fails, and it waits for nothing longer than seconds.

#![expect(clippy::disallowed_methods, reason = "looks at files, clocks and programs")]

mod agent;
mod disk;
mod host;
mod kernel;
mod network;
mod peers;
mod store;

use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::Facts;
use super::facts::{Answer, Try};
use crate::config::Config;

pub use peers::Target;

/// What is known before anything is looked at.
#[derive(Debug)]
pub struct Given<'a> {
    /// The settings, or the defaults where those can not be used.
    pub config: &'a Config,
    /// Which file they are from, or what is wrong with them.
    pub settings: Result<String, String>,
    /// What the agent answered, or why it did not.
    pub answer: Result<Answer, String>,
    /// Other devices, as the agent knows them; without an agent, those of the enrolment are asked.
    pub peers: Option<Vec<Target>>,
    /// No device of this release lives before it: milliseconds since 1970.
    pub floor: i64,
}

/// Where the kernel and the system keep their files: a test has them elsewhere.
#[derive(Debug)]
struct System(PathBuf);

impl System {
    fn path(&self, path: &str) -> PathBuf {
        self.0.join(path.trim_start_matches('/'))
    }

    /// A small file's text without the white space around it.
    fn text(&self, path: &str) -> Option<String> {
        let bytes = std::fs::read(self.path(path)).ok()?;
        Some(String::from_utf8_lossy(&bytes).trim_matches(|c: char| c.is_whitespace() || c == '\0').to_owned())
    }

    fn number<T: FromStr>(&self, path: &str) -> Option<T> {
        self.text(path)?.split_whitespace().next()?.parse().ok()
    }

    /// Names in a folder, sorted.
    fn names(&self, path: &str) -> Vec<String> {
        names(&self.path(path))
    }
}

/// Names in a folder, sorted; none where it can not be read.
fn names(path: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Looks at this device. Blocks for seconds.
pub fn facts(given: &Given<'_>) -> Facts {
    let system = System(PathBuf::from("/"));
    let root = nix::unistd::geteuid().is_root();
    std::thread::scope(|scope| {
        // What waits for others waits at the same time.
        let network = scope.spawn(|| network::look(&system, given, root));
        let asked = scope.spawn(|| agent::look(&system, given));
        let disk = disk::look(&system, given.config);
        let identity = store::identity(&given.config.data_dir, root);
        let mut facts = Facts {
            root,
            container: host::container(&system),
            model: host::model(&system),
            version: env!("CARGO_PKG_VERSION").into(),
            kernel: kernel::look(&system, Path::new(&disk.folder), root),
            cgroups: host::cgroups(&system),
            clock: host::clock(&system, given),
            store: store::look(given.config, root),
            memory: host::memory(&system),
            power: host::power(&system),
            disk,
            identity,
            ..Facts::default()
        };
        let joined = |thread: std::thread::ScopedJoinHandle<'_, _>| thread.join();
        facts.network = network.join().unwrap_or_default();
        facts.agent = joined(asked).unwrap_or_default();
        facts.rights = host::rights(&system, given.config, facts.agent.pid);
        facts.limits = host::limits(&system, facts.agent.pid);
        let pid = facts.agent.pid;
        network::own(&mut facts.network, pid);
        if let Some(Ok(Some(fleet))) = &facts.identity.fleet {
            facts.network.name.clone_from(&fleet.name);
        }
        facts
    })
}

/// What came of a trial that only root can make.
fn tried<E: std::fmt::Display>(root: bool, attempt: impl FnOnce() -> Result<(), E>) -> Try {
    if !root {
        return Try::Untried("only root can try it".into());
    }
    match attempt() {
        Ok(()) => Try::Works,
        Err(error) => Try::Fails(error.to_string()),
    }
}

#[cfg(test)]
mod tests;
