//! One agent for each folder: a second one would sweep away what the first is starting, and take
//! over its socket. The kernel lets go of the lock when the agent ends, however it ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use super::{AgentError, file};

/// How long an agent that was killed may take to let go: its last thread may wait for a slow disk.
const DYING: Duration = Duration::from_secs(20);
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// Held as long as the agent runs.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "held, not read")] File);

impl Lock {
    /// Takes a folder, which the setting `key` names, or says who has it. Waits for one that was
    /// killed and is not gone yet.
    pub(super) async fn take(folder: &Path, key: &'static str) -> Result<Self, AgentError> {
        let path = folder.join("agent.lock");
        let failed = || file(format!("lock {}", path.display()));
        let mut open = OpenOptions::new();
        let mut held = open.read(true).write(true).create(true).truncate(false).open(&path).map_err(failed())?;
        let since = Instant::now();
        loop {
            match held.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) => {
                    // A hint and no more: who holds it is known to the kernel, not to this file.
                    let mut pid = String::new();
                    let known = held.rewind().and_then(|()| held.read_to_string(&mut pid)).is_ok();
                    let pid = pid.trim();
                    if since.elapsed() < DYING && is_dying(pid) {
                        tokio::time::sleep(LOOK).await;
                        continue;
                    }
                    let pid = if known && !pid.is_empty() { format!(" (pid {pid})") } else { String::new() };
                    return Err(AgentError::Taken { key, folder: folder.to_owned(), pid });
                }
                Err(TryLockError::Error(error)) => return Err(failed()(error)),
            }
        }
        held.rewind().map_err(failed())?;
        // On a full disk the lock holds without a pid in it.
        if held.set_len(0).is_ok() {
            let _ = write!(held, "{}", std::process::id());
        }
        Ok(Self(held))
    }
}

/// Whether a program was killed and has not gone yet, or has gone meanwhile.
fn is_dying(pid: &str) -> bool {
    let Ok(pid) = pid.parse::<u32>() else { return false };
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_ascii_whitespace().next());
    matches!(state, None | Some("Z" | "X"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_folder_has_one_agent_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let first = Lock::take(folder.path(), "data_dir").await.unwrap();
        let refused = Lock::take(folder.path(), "data_dir").await.unwrap_err().to_string();
        assert!(refused.contains("data_dir") && refused.contains(&std::process::id().to_string()), "{refused}");
        drop(first);
        Lock::take(folder.path(), "data_dir").await.unwrap();
    }
}
