//! The file for a container's termination message: made by the agent before the start, read by the
//! waiter at the end.

#![expect(clippy::disallowed_methods, reason = "it is a file")]

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::folder::make_private;
use crate::reconciler::container::{ContainerSpec, Mount, Propagation};

/// Its name in the folder of a container's writable files. On the disk, so that one that writes much
/// fills no memory.
pub(super) const FILE: &str = "termination-log";

/// Makes it, if the container may leave a message, and has it mounted where the container looks. Every
/// user of the container may write to it; only root gets to the folder.
pub(super) fn prepare(spec: &mut ContainerSpec, scratch: &Path) -> io::Result<()> {
    let Some(words) = &spec.last_words else { return Ok(()) };
    make_private(scratch)?;
    let source = scratch.join(FILE);
    fs::File::create(&source)?.set_permissions(fs::Permissions::from_mode(0o666))?;
    let destination = words.path.clone();
    let propagation = Propagation::Private;
    spec.mounts.push(Mount { source, below: Vec::new(), destination, read_only: false, propagation });
    Ok(())
}
