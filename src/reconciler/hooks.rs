//! What is done right after a container starts and before it is asked to stop: its hooks, as data.
//! The device loop executes them and tells what came of it.

use std::time::Duration;

use k8s_openapi::api::core::v1::Container;

use super::container::ContainerRef;
use super::handler::{Handler, Reached};
use crate::resource::Timestamp;

/// The longest that a `postStart` hook may take: until then the container does not count as started.
pub(super) const POST_START_LIMIT: Duration = Duration::from_mins(10);

/// When a hook is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HookKind {
    /// Right after the start.
    PostStart,
    /// Before the container is asked to stop, inside its grace.
    PreStop,
}

/// A hook that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// Of which container.
    pub reference: ContainerRef,
    /// Which hook.
    pub kind: HookKind,
    /// What it does.
    pub handler: Handler,
    /// When it is given up.
    pub limit: Duration,
}

/// A hook that was begun. The device loop keeps it; losing it with a restart of the agent means that
/// a hook whose effect was not reported yet is executed again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookRun {
    /// When.
    pub begun: Timestamp,
    /// What came of it; `None` while it goes on.
    pub outcome: Option<Result<(), String>>,
}

/// The hook of a container, if it has one.
pub(super) fn hook(
    reference: &ContainerRef,
    kind: HookKind,
    container: &Container,
    address: &str,
    limit: Duration,
) -> Option<Hook> {
    let lifecycle = container.lifecycle.as_ref()?;
    let handler = match kind {
        HookKind::PostStart => lifecycle.post_start.as_ref(),
        HookKind::PreStop => lifecycle.pre_stop.as_ref(),
    }?;
    let handler = Handler::of_hook(handler, Reached { address, container });
    Some(Hook { reference: reference.clone(), kind, handler, limit })
}
