//! Images from real registries and from broken ones, over loopback. Needs root (owners of unpacked
//! files) and Debian's `docker-registry`, `skopeo` and `umoci`.
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
    clippy::must_use_candidate,
    clippy::missing_panics_doc,
    reason = "a test ends at the first thing that is wrong"
)]

mod debian;
mod place;
mod real;
mod room;
mod rough;
mod scripted;
