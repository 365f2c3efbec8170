//! One watch for each container: what becomes of its shims, one after the other.

use std::process::Child;
use std::sync::Weak;
use std::time::Duration;

use super::folder::{Folder, Standing};
use super::pidfd;
use super::shims::Inner;

/// Pause before looking again at a shim that could not be watched.
const BLIND_PAUSE: Duration = Duration::from_secs(1);

/// Follows the shims of one container, one after the other, until nobody attends to it.
pub(super) async fn follow(inner: &Weak<Inner>, folder: Folder, mut child: Option<Child>) {
    loop {
        let fd = match &child {
            Some(child) => pidfd::open(child.id().cast_signed()).ok(),
            None => folder.progress().ok().flatten().and_then(|progress| progress.shim.open()),
        };
        let blind = fd.is_none();
        if let Some(fd) = fd {
            pidfd::ended(fd).await;
        }
        if let Some(mut child) = child.take() {
            // It has ended: this reaps it and does not block.
            let _ = child.wait();
        }
        let Some(inner) = inner.upgrade() else { return };
        let (standing, next) = inner.settle_off_thread(&folder).await;
        match (standing, next) {
            (_, Some(next)) => child = Some(next),
            // A shim that has not noted its pid yet, or one that could not be watched: looks again later.
            (Some(Standing::Attended(_)), None) if blind => tokio::time::sleep(BLIND_PAUSE).await,
            (Some(Standing::Attended(_)), None) => {}
            _ => return,
        }
    }
}
