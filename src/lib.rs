//! Kith: a fleet agent for small Linux devices.
//!
//! The rooms, in reading order. A manifest travels through them like this:
//!
//! ```text
//! manifest --parse/admit--> api --propose--> consensus --apply--> store --watch--> planner (leader) --propose--> ...
//!                                                                    \--watch--> reconciler (each device) --execute--> runtime
//! runtime --observe--> reconciler --report--> (status goes back through propose, on change only)
//! ```
//!
//! The pure half (`resource`, `store`, `planner`, `reconciler`) has no async, clock, randomness,
//! file or network: whatever it needs is handed in. The edges do the I/O. Imports point only up
//! this list; `tests/tidy.rs` holds the table.

pub mod resource;
pub mod store;

pub mod planner;
pub mod reconciler;

pub mod storage;

pub mod identity;
pub mod transport;

pub mod consensus;

pub mod images;
pub mod volumes;

pub mod runtime;

pub mod probing;

pub mod network;

pub mod api;

pub mod doctor;

pub mod agent;
pub mod config;
#[doc(hidden)]
pub mod kill_point;

pub mod cli;

#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
