//! Network namespaces and links, and what the containers of a pod share, by netlink and system calls
//! alone: no program of the host is run.
//! It does what it is told to the namespace that it is told; it never decides who talks to whom,
//! and never touches a link or a route outside the namespace that the caller named.

#![expect(clippy::disallowed_methods, reason = "namespaces are files")]

mod conntrack;
pub mod link;
mod netfilter;
pub mod netns;
mod pods;
mod rules;
pub mod sandbox;
pub mod trial;

use std::path::PathBuf;

/// A namespace or a link could not be made, changed or removed.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// A step on a namespace failed.
    #[error("{step} network namespace {name}")]
    Namespace {
        /// What was tried, such as `make`.
        step: &'static str,
        /// The namespace.
        name: String,
        /// Why.
        source: std::io::Error,
    },
    /// A namespace of that name exists.
    #[error("network namespace {name} exists already ({})", path.display())]
    Exists {
        /// The namespace.
        name: String,
        /// The file that holds it.
        path: PathBuf,
    },
    /// The kernel refused a change of a link.
    #[error("{step} {link}: {reason}")]
    Link {
        /// What was tried, such as `add address 10.0.0.1/24 to link`.
        step: String,
        /// The link.
        link: String,
        /// The kernel's answer.
        reason: String,
    },
    /// There is no link of that name.
    #[error("there is no link {link} in this network namespace")]
    NoLink {
        /// The link.
        link: String,
    },
    /// A step on what the containers of a pod share failed.
    #[error("{step}: {reason}")]
    Sandbox {
        /// What was tried, such as `make the namespaces`.
        step: String,
        /// The whole chain of causes.
        reason: String,
    },
    /// The netlink socket could not be opened.
    #[error("open a netlink socket")]
    Netlink(#[source] std::io::Error),
}

fn failed(step: impl Into<String>, error: &dyn std::fmt::Display) -> NetworkError {
    NetworkError::Sandbox { step: step.into(), reason: error.to_string() }
}
