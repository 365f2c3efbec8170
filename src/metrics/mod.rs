//! Numbers about this agent, for Prometheus: what each one means, what is counted while the agent
//! works, and the text in which all are shown. It never looks anywhere by itself: whoever has a number
//! counts it here, or hands it in when somebody asks, so that an idle agent does nothing for it.
//!
//! The text is written by hand: the known crates keep a registry of their own in memory, or write
//! another format in which counters have other names, and this is a page of code.

mod count;
pub mod counted;
pub mod family;
mod page;

pub use count::{BOUNDS, Counter, Gauge, Held, Histogram};
pub use family::{Family, Kind};
pub use page::{CONTENT_TYPE, Page, real};
