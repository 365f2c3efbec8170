//! The nouns of the fleet: objects and their names, kinds, labels and selectors, quantities,
//! defaults, validation. Pure: no async, clock, randomness, file or network.

pub mod image;
pub mod kind;
pub mod manifest;
pub mod time;

pub use image::{ImageConfig, ImageUser};
pub use kind::Kind;
pub use time::Timestamp;
