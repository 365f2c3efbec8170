//! Containers on this device: a `Runtime` starts, watches and ends them. It decides nothing.
//!
//! Each container has one shim: this same binary, executed again from a sealed mount, single-threaded,
//! the only one that calls libcontainer. Once the container runs the shim executes itself again as a
//! tiny waiter, which holds the log pipes, reaps, and leaves an exit record. For a container that is over
//! in the time that this would take, the shim does that work as it is.
//!
//! ```text
//! agent --spec.json--> kith shim create --libcontainer--> program
//!                         | exec                             |
//!                      kith shim wait <--pipes, exit status--+
//!                         |--> log files, exit.json
//! ```
//!
//! The agent owns nothing that a container needs to live: it may be killed at any instant, and the
//! next one reads everything back from `<run_dir>/containers`.

mod attach;
mod cgroup;
mod consumption;
mod dial;
mod exec;
mod folder;
mod follow;
mod holders;
mod last_words;
pub mod leash;
mod orphan;
mod pages;
mod pidfd;
mod seal;
mod settle;
pub mod shim;
mod shims;
mod signal;
pub mod trial;
mod usage;

pub use attach::{Attached, Written};
pub use consumption::{OnDisk, on_disk};
pub use exec::{Captured, ExecSession, ExecSpec, Input, Output, Running, Terminal, TerminalSize};
pub use folder::is_in_memory;
pub use orphan::kill_everything;
pub use pages::forget_program;
pub use shims::{Shims, ShimsConfig};
pub use usage::{Amount, Usage};

use std::path::PathBuf;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::watch;

use crate::reconciler::container::{ContainerRef, ContainerSpec, ObservedContainer, StopSignal};

/// A container that does not exist could not be acted on, or an act failed.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The named container is not known here.
    #[error("container {0} is not known to the runtime")]
    Unknown(String),
    /// The runtime itself could not be set up.
    #[error("{step}: {reason}")]
    Setup {
        /// What was tried, such as `create /run/kith/containers`.
        step: String,
        /// The whole chain of causes.
        reason: String,
    },
    /// A step failed.
    #[error("{step} of container {id}: {reason}")]
    Failed {
        /// What was tried, such as `mount the root`.
        step: &'static str,
        /// The container.
        id: String,
        /// The whole chain of causes.
        reason: String,
    },
}

/// Something that runs containers. All calls may be repeated: a second start of a container that
/// exists is refused, a second stop or removal changes nothing.
pub trait Runtime: Send + Sync + 'static {
    /// Starts a container on a root made of `layers` (unpacked folders, lowest first). Returns once
    /// its program runs or failed to begin; the failure is also observed as an exit.
    fn start(&self, spec: ContainerSpec, layers: Vec<PathBuf>) -> BoxFuture<'_, Result<(), RuntimeError>>;

    /// Sends a signal; `Kill` ends every process in the container.
    fn stop<'a>(&'a self, reference: &'a ContainerRef, signal: StopSignal) -> BoxFuture<'a, Result<(), RuntimeError>>;

    /// Removes what is left of an exited container: mounts, cgroup, state. Its log stays.
    fn remove<'a>(&'a self, reference: &'a ContainerRef) -> BoxFuture<'a, Result<(), RuntimeError>>;

    /// Runs one more program in a running container: in its namespaces, its cgroup and its filter, as
    /// its user. Dropping the session kills the program.
    fn exec<'a>(
        &'a self,
        reference: &'a ContainerRef,
        spec: ExecSpec,
    ) -> BoxFuture<'a, Result<ExecSession, RuntimeError>>;

    /// The same to its end, without input: its exit code, and the first `limit` bytes that it wrote.
    /// It is killed after `timeout`, with what it started. An error means that it could not begin.
    fn exec_capture<'a>(
        &'a self,
        reference: &'a ContainerRef,
        args: Vec<String>,
        timeout: Duration,
        limit: usize,
    ) -> BoxFuture<'a, Result<Captured, RuntimeError>>;

    /// Attaches to a running container: what it writes from now on, and its input. `writes` says that the
    /// input is used: one that ends with its first user then ends with this one. `None` for a container
    /// that has neither input nor terminal.
    fn attach<'a>(
        &'a self,
        reference: &'a ContainerRef,
        writes: bool,
    ) -> BoxFuture<'a, Result<Option<Attached>, RuntimeError>>;

    /// Connects to a TCP port of the network that a running container is in.
    fn connect<'a>(
        &'a self,
        reference: &'a ContainerRef,
        port: u16,
    ) -> BoxFuture<'a, Result<tokio::net::TcpStream, RuntimeError>>;

    /// What this device and its running containers have used until now.
    fn usage(&self) -> BoxFuture<'_, Result<Usage, RuntimeError>>;

    /// Every container of this device, of this agent's life or of an earlier one's.
    fn list(&self) -> BoxFuture<'_, Result<Vec<ObservedContainer>, RuntimeError>>;

    /// Moves when a container changed by itself: started, exited.
    fn changed(&self) -> watch::Receiver<u64>;
}
