//! The nouns of the fleet: objects and their names, kinds, labels and selectors, quantities,
//! defaults, validation. Pure: no async, clock, randomness, file or network.

pub mod image;
pub mod time;

pub use image::{ImageConfig, ImageUser};
pub use time::Timestamp;
