//! The HTTP API over a replica in memory: driven over loopback by a plain client and by kubectl.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test is an edge, and may fail"
)]

#[path = "api/evictions.rs"]
mod evictions;
#[path = "api/fleet.rs"]
mod fleet;
#[path = "api/kubectl.rs"]
mod kubectl;
#[path = "api/logs.rs"]
mod logs;
#[path = "api/memory.rs"]
mod memory;
#[path = "api/objects.rs"]
mod objects;
#[path = "api/secrets.rs"]
mod secrets;
#[path = "api/server.rs"]
mod server;
#[path = "api/watch.rs"]
mod watch;
