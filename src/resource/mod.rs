//! The nouns of the fleet: objects and their names, kinds, labels and selectors, quantities,
//! defaults, validation. Pure: no async, clock, randomness, file or network.

pub mod capability;
mod cause;
pub mod claim;
pub mod defaults;
pub mod fields;
pub mod footprint;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
pub mod image;
pub mod kind;
pub mod manifest;
pub mod meta;
pub mod names;
pub mod occurrence;
pub mod partition;
pub mod patch;
pub mod priority;
pub mod quantity;
pub mod selector;
pub mod table;
pub mod time;
pub mod validate;
mod volume;

pub use cause::chain;
pub use image::{ImageConfig, ImageUser};
pub use kind::Kind;
pub use quantity::Quantity;
pub use time::Timestamp;
