//! Device keys, the fleet's certificate authority, join tokens, trust decisions. Private keys are
//! made on the device and never leave it; no decision here depends on a clock being right.

pub mod authority;
pub mod enrolment;
mod files;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
pub mod keys;
pub mod member;
pub mod run;
pub mod serving;
pub mod token;
pub mod trust;
pub mod vault;

use std::path::PathBuf;

pub use authority::{Authority, Credentials, Seal};
pub use enrolment::{Bootstrap, Enrolment, Revival, Switch};
pub use keys::Identity;
pub use member::{DeviceKey, Member, Preference};
pub use run::{Begun, Epoch, Fingerprint, Run, Stamp};
pub use serving::{User, client_user, tls_server_config};
pub use token::{Admission, JoinRefusal, Role, Token, TokenError, TokenRecord, TokenTerms, TokenUse};
pub use trust::Trust;
pub use vault::{Vault, VaultSeal};

/// Keys, certificates or the enrolment can not be made or used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The device has no keys yet.
    #[error("{path} does not exist: run `kith init` or `kith join TOKEN` on this device")]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// Keys are never overwritten.
    #[error("{path} exists already, and keys are never overwritten: this device has an identity")]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// Others on this device could read or change a secret.
    #[error("{path} has mode {mode:04o}, so that others can get at its secrets: run `chmod {want:04o} {path}`")]
    Permissions {
        /// The file or folder.
        path: PathBuf,
        /// The mode found.
        mode: u32,
        /// The mode that it must have.
        want: u32,
    },
    /// The file does not hold what it must.
    #[error("{path} is damaged ({reason}): {remedy}")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The disk refused.
    #[error("{action} {path}")]
    Disk {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A key or certificate can not be made, read or used.
    #[error("{action}: {reason}")]
    Crypto {
        /// What was tried.
        action: &'static str,
        /// Why not.
        reason: String,
    },
    /// The authority's key is not sealed to this device.
    #[error("the fleet's authority is not sealed to member {member}: only voters hold it")]
    NotSealed {
        /// The member that asked.
        member: u64,
    },
}

impl IdentityError {
    fn crypto(action: &'static str, reason: impl std::fmt::Display) -> Self {
        Self::Crypto { action, reason: reason.to_string() }
    }
}

/// Bytes from the kernel's generator.
fn random<const N: usize>() -> Result<[u8; N], IdentityError> {
    let mut bytes = [0; N];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes)
        .map_err(|error| IdentityError::crypto("draw random bytes", error))?;
    Ok(bytes)
}
