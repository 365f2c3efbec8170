//! A corpus of images that mean harm: made here, loaded, unpacked, and refused or harmless within byte, entry and time budgets. Canaries beside
//! the store stay as they were. Needs root (owners, device nodes, mounts).
#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::format_push_string,
    clippy::items_after_statements,
    clippy::match_bool,
    clippy::needless_pass_by_value,
    clippy::too_many_lines,
    clippy::type_complexity,
    reason = "a test ends at the first thing that is wrong"
)]

mod archive;
mod cases;
mod documents;
mod judge;
