//! Why a registry did not give what was asked of it: which host, what it said, and what to do.

use hyper::StatusCode;

/// A registry that could not be used.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum RegistryError {
    /// Nobody there, or nobody who can be trusted: nothing was learned about the image.
    #[error("registry {host}: {step}: {reason}{}", after(hint))]
    Unreachable {
        /// `HOST[:PORT]`.
        host: String,
        /// What was tried: `connect`, `TLS handshake`...
        step: &'static str,
        /// What came of it.
        reason: String,
        /// What to do; may be empty.
        hint: String,
    },
    /// It answered, and the answer was no.
    #[error("registry {host} answered {status} to {asked}{}{}", said(detail), after(hint))]
    Refused {
        /// `HOST[:PORT]`.
        host: String,
        /// The HTTP status.
        status: StatusCode,
        /// What it was asked: `manifest app:1`.
        asked: String,
        /// What it said, cut short; may be empty.
        detail: String,
        /// What to do; may be empty.
        hint: String,
    },
    /// It answered something that is no answer.
    #[error("registry {host}: {asked}: {reason}")]
    Malformed {
        /// `HOST[:PORT]`.
        host: String,
        /// What it was asked.
        asked: String,
        /// What is wrong with the answer.
        reason: String,
    },
}

impl RegistryError {
    /// Whether nothing was learned about the image: the registry may be asked again, or another one.
    pub fn is_unreachable(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            // Too many requests, or a fault of its own: it may know the image all the same.
            Self::Refused { status, .. } => *status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error(),
            Self::Malformed { .. } => false,
        }
    }
}

fn said(detail: &str) -> String {
    if detail.is_empty() { String::new() } else { format!(" ({detail})") }
}

fn after(hint: &str) -> String {
    if hint.is_empty() { String::new() } else { format!("; {hint}") }
}
