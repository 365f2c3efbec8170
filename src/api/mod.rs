//! The HTTP API over the store.

pub mod fleet;
