//! How large the parts of what a device stores are. A test makes them small, so that a short life
//! has many of each.

use super::{recent, wal};

/// Of the log and the state.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sizes {
    pub(crate) wal: wal::Sizes,
    pub(crate) recent: recent::Sizes,
}
