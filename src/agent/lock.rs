//! One agent for each folder: a second one would sweep away what the first is starting, and take
//! over its socket. The kernel lets go of the lock when the agent ends, however it ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::Path;

use super::{AgentError, file};

/// Held as long as the agent runs.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "held, not read")] File);

impl Lock {
    /// Takes a folder, which the setting `key` names, or says who has it.
    pub(super) fn take(folder: &Path, key: &'static str) -> Result<Self, AgentError> {
        let path = folder.join("agent.lock");
        let failed = || file(format!("lock {}", path.display()));
        let mut open = OpenOptions::new();
        let mut held = open.read(true).write(true).create(true).truncate(false).open(&path).map_err(failed())?;
        match held.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                // Only for the message: who holds it is known to the kernel, not to this file.
                let known = held.read_to_string(&mut pid).is_ok() && !pid.trim().is_empty();
                let pid = if known { format!(" (pid {})", pid.trim()) } else { String::new() };
                return Err(AgentError::Taken { key, folder: folder.to_owned(), pid });
            }
            Err(TryLockError::Error(error)) => return Err(failed()(error)),
        }
        // On a full disk the lock holds without a pid in it.
        if held.set_len(0).is_ok() {
            let _ = write!(held, "{}", std::process::id());
        }
        Ok(Self(held))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_agent_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let first = Lock::take(folder.path(), "data_dir").unwrap();
        let refused = Lock::take(folder.path(), "data_dir").unwrap_err().to_string();
        assert!(refused.contains("data_dir") && refused.contains(&std::process::id().to_string()), "{refused}");
        drop(first);
        Lock::take(folder.path(), "data_dir").unwrap();
    }
}
