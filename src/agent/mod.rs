//! Composition: it starts the rooms, feeds the leader's loop and the device's loop, and ends them
//! in order. It decides nothing about the fleet.
#![expect(clippy::disallowed_methods, reason = "the agent is where clock, files and chance come from")]

pub mod clock;
pub mod hardware;
pub mod node;
pub mod tasks;
