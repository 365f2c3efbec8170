//! How the fleet knows a device: what the replicated membership says of it.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// A device's Ed25519 public key: what its peers trust.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DeviceKey(pub [u8; 32]);

impl fmt::Display for DeviceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for DeviceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceKey({}..)", hex::encode(&self.0[..4]))
    }
}

/// A member of the fleet, under its member id in openraft's membership. Ids are never used again.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Member {
    /// The device's name, and the name of its node.
    pub name: String,
    /// The key that it proves on every connection.
    pub key: DeviceKey,
    /// Public X25519 key to which secrets for this device are sealed.
    pub sealing_key: [u8; 32],
    /// Where its peer endpoint may be reached (QUIC): hints, best first.
    pub addresses: Vec<SocketAddr>,
    /// TCP port of its HTTPS API, at the same addresses.
    pub api_port: u16,
}
