//! One cgroup for everything that is measured. Linux shares the processor between sessions first:
//! agents that are daemons, each its own session, would wait for each other and for whatever else
//! runs on the machine, and three members of etcd in one session would not.

use std::path::{Path, PathBuf};

/// The cgroup, until the end of the run.
pub struct OneGroup(PathBuf);

impl OneGroup {
    /// Moves this process, and so all that it starts, into it. Where there is no cgroup for the
    /// processor, everything stays where it is.
    pub fn enter() -> Option<Self> {
        let mut roots = ["/sys/fs/cgroup/cpu", "/sys/fs/cgroup"].into_iter().map(Path::new);
        let root = roots.find(|root| root.join("cpu.shares").exists() || root.join("cpu.stat").exists())?;
        let group = Self(root.join("kith-bench"));
        std::fs::create_dir_all(&group.0).ok()?;
        std::fs::write(group.0.join("cgroup.procs"), std::process::id().to_string()).ok()?;
        Some(group)
    }
}

impl Drop for OneGroup {
    fn drop(&mut self) {
        let parent = self.0.parent().unwrap_or(Path::new("/"));
        // Best effort: an empty cgroup is in nobody's way.
        let _ = std::fs::write(parent.join("cgroup.procs"), std::process::id().to_string());
        let _ = std::fs::remove_dir(&self.0);
    }
}
