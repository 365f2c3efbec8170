//! `kith agent --cleanup`: leaves a device as it was before Kith ran there, but for its data and its
//! logs. It decides nothing about the fleet: to others, this device has just gone silent.

use std::path::Path;

use super::lock::Lock;
use super::{AgentError, file};
use crate::config::Config;
use crate::network::sandbox::{SandboxesConfig, remove_everything};

/// What an agent keeps in its run folder. Only these are removed: the folder may be somebody else's too.
const RUN_FILES: [&str; 10] = [
    "containers",
    "containers.wake",
    "pods",
    "kith.sock",
    "boot_id",
    "resolv.conf",
    "forwarded-before",
    "user-ids.json",
    crate::runtime::leash::CONTACT,
    "agent.lock",
];

/// Removes everything of Kith on this device outside of its data and logs. Says what there was.
pub(crate) async fn clean_up(config: &Config) -> Result<Vec<String>, AgentError> {
    let mut locks = Vec::new();
    for (folder, key) in [(&config.data_dir, "data_dir"), (&config.run_dir, "run_dir")] {
        if folder.exists() {
            locks.push(Lock::take(folder, key).await?);
        }
    }
    let mut removed = Vec::new();
    let containers = entries(&config.run_dir.join("containers"));
    let ended = crate::runtime::kill_everything(&config.cgroup)?;
    if containers > 0 || ended {
        removed.push(format!("{containers} containers, their shims, and the cgroup {}", config.cgroup));
    }
    // Which part of the range was this device's does not matter any more.
    let sandboxes = SandboxesConfig { run_dir: config.run_dir.clone(), range: config.pod_network };
    removed.extend(remove_everything(&sandboxes)?);
    let scratch = config.data_dir.join("scratch");
    if entries(&scratch) > 0 {
        remove(&scratch)?;
        removed.push(format!("what containers wrote to their roots, in {}", scratch.display()));
    }
    if config.run_dir.exists() {
        for name in RUN_FILES {
            remove(&config.run_dir.join(name))?;
        }
        // A folder that holds something else stays.
        if std::fs::remove_dir(&config.run_dir).is_ok() {
            removed.push(format!("the folder {}", config.run_dir.display()));
        }
    }
    Ok(removed)
}

fn entries(folder: &Path) -> usize {
    std::fs::read_dir(folder).map_or(0, Iterator::count)
}

fn remove(path: &Path) -> Result<(), AgentError> {
    let removed = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(file(format!("remove {}", path.display()))(error))
        }
        _ => Ok(()),
    }
}
