//! Where metrics are served beside the API.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// Metrics for Prometheus.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsConfig {
    /// TCP address at which anybody may read them, without TLS; empty: only the API serves them.
    pub listen: String,
}

impl MetricsConfig {
    /// The address, if there is one.
    pub fn address(&self) -> Option<SocketAddr> {
        self.listen.parse().ok()
    }

    pub(super) fn mistakes(&self, found: &mut Vec<String>) {
        if !self.listen.is_empty() && self.address().is_none() {
            let listen = &self.listen;
            found.push(format!("metrics.listen is {listen:?}, but must be such as \"127.0.0.1:9643\", or empty"));
        }
    }
}
