//! The nouns of the fleet: objects and their names, kinds, labels and selectors, quantities,
//! defaults, validation. Pure: no async, clock, randomness, file or network.

pub mod footprint;
pub mod image;
pub mod kind;
pub mod names;
pub mod occurrence;
pub mod quantity;
pub mod time;

pub use image::{ImageConfig, ImageUser};
pub use kind::Kind;
pub use quantity::Quantity;
pub use time::Timestamp;
