//! Who may give this device another program, and how it comes.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Exchanging the program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UpgradeConfig {
    /// Public keys, as minisign prints them, of those whose programs this device takes. Empty: none.
    pub keys: Vec<String>,
    /// Where programs lie; empty: `upgrade` in `data_dir`.
    pub dir: PathBuf,
    /// Seconds that a new program may take until it is well.
    pub well_within_seconds: u64,
    /// Bytes a second at which a program is fetched from another device; 0 is without bound.
    pub bytes_per_second: u64,
}

impl Default for UpgradeConfig {
    fn default() -> Self {
        Self { keys: Vec::new(), dir: PathBuf::new(), well_within_seconds: 300, bytes_per_second: 1 << 20 }
    }
}

impl UpgradeConfig {
    pub(super) fn mistakes(&self, found: &mut Vec<String>) {
        for key in &self.keys {
            if minisign_verify::PublicKey::from_base64(key).is_err() {
                found.push(format!(
                    "upgrade.keys has {key:?}, but needs public keys of minisign: the second line of minisign.pub"
                ));
            }
        }
        if !self.dir.as_os_str().is_empty() && !self.dir.is_absolute() {
            let dir = self.dir.display();
            found.push(format!("upgrade.dir is {dir}, but must be an absolute path, or empty for upgrade in data_dir"));
        }
        if self.well_within_seconds < 10 {
            let seconds = self.well_within_seconds;
            found.push(format!("upgrade.well_within_seconds is {seconds}, but a start takes up to 10"));
        }
    }
}
