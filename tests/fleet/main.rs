//! Real agents in network namespaces, with real containers. Needs root.
#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a test ends at the first thing that is wrong"
)]

mod apart;
mod attach;
mod blobs;
mod clients;
mod disks;
mod doctor;
mod evictions;
mod examples;
mod faults;
mod harness;
mod identity;
mod ledger;
mod life;
mod limits;
mod links;
mod membership;
mod metrics;
mod mirrors;
mod network;
mod page;
mod pods;
mod pulls;
mod reads;
mod releases;
mod security;
mod stage;
mod streams;
mod torture;
mod tour;
mod typed;
mod typed_notes;
mod typed_rough;
mod upgrade;
mod volumes;
