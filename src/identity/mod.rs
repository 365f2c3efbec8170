//! Device keys, the fleet's certificate authority, join tokens, trust decisions. Private keys are
//! made on the device and never leave it.

pub mod member;

pub use member::{DeviceKey, Member};
