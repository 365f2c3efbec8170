//! openraft wiring: the engine that carries batches through the log to every replica.

pub mod replica;

pub use replica::{Freshness, Listing, ProposeError, ReadError, Replica};
