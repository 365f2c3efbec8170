//! Whom this device trusts to be a registry: the system's authorities, and those of `ca_file`.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, RootCertStore};

use super::Wall;
use crate::images::ImageError;

/// Dates of certificates are compared with the device's own clock, which has a floor: one that shows
/// 1970 would trust nobody.
struct Dates(Wall);

impl std::fmt::Debug for Dates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Dates")
    }
}

impl TimeProvider for Dates {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(std::time::Duration::from_millis((self.0)().0)))
    }
}

/// Reads the authorities anew each time: they are needed while something is pulled, and then take
/// no memory. Blocks on the disk.
pub(super) fn config(ca_file: Option<&Path>, wall: &Wall) -> Result<Arc<ClientConfig>, ImageError> {
    let mut roots = RootCertStore::empty();
    for certificate in rustls_native_certs::load_native_certs().certs {
        // The system may have authorities that are too odd to be read: they sign nothing for us.
        let _ = roots.add(certificate);
    }
    if let Some(path) = ca_file {
        let what = format!("ca_file {}", path.display());
        let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let certificates = read.map_err(|error| ImageError::damaged(&*what, error))?;
        if certificates.is_empty() {
            return Err(ImageError::damaged(what, "it holds no certificate in PEM"));
        }
        for certificate in certificates {
            roots.add(certificate).map_err(|error| ImageError::damaged(&*what, error))?;
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let dates = Arc::new(Dates(wall.clone()));
    let builder = ClientConfig::builder_with_details(provider, dates).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| ImageError::damaged("the TLS settings", error))?;
    Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
}
