//! The device's decisions: what should run here against what does run, and what to do about it.

pub mod container;
