//! What Kith has on the disk: keys, log, state, images, and what was left behind.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use x509_parser::prelude::{FromDer, X509Certificate};

use super::super::facts::{Certificate, Fleet, Identity, Private, Store};
use super::names;
use crate::config::Config;
use crate::identity::{Enrolment, IdentityError};
use crate::{identity, images, resource};

/// Files that are counted in one folder; more are many, however many.
const FILES: usize = 100_000;

pub(super) fn identity(data_dir: &Path, root: bool) -> Identity {
    let folder = data_dir.join("identity");
    if !root && folder.exists() {
        return Identity::default();
    }
    let mut paths = vec![folder.clone()];
    paths.extend(names(&folder).iter().map(|name| folder.join(name)));
    let private = |path: &std::path::PathBuf| {
        let found = std::fs::symlink_metadata(path).ok()?;
        Some(Private { path: path.display().to_string(), mode: found.mode() & 0o7777, owner: found.uid() })
    };
    let keys = match identity::Identity::load(data_dir) {
        Ok(keys) => Ok(Some(keys)),
        Err(IdentityError::Missing { .. }) => Ok(None),
        Err(error) => Err(resource::chain(&error)),
    };
    let loaded = keys.as_ref().ok().and_then(Option::as_ref);
    let fleet = Enrolment::load(data_dir).map_err(|error| resource::chain(&error)).map(|enrolment| {
        enrolment.map(|enrolment| Fleet {
            members: enrolment.members.len(),
            key_matches: loaded
                .map(|keys| enrolment.members.get(&enrolment.member_id).is_some_and(|member| member.key == keys.key())),
            outcast: enrolment.outcast,
            id: enrolment.fleet,
            name: enrolment.name,
        })
    });
    Identity {
        files: Some(paths.iter().filter_map(private).collect()),
        certificate: certificate(&folder, loaded),
        keys: Some(keys.map(|keys| keys.is_some())),
        fleet: Some(fleet),
    }
}

/// The certificate of the HTTPS API, if a voter has signed one.
fn certificate(folder: &Path, keys: Option<&identity::Identity>) -> Option<Result<Certificate, String>> {
    let text = std::fs::read(folder.join("serving.json")).ok()?;
    let parse = || {
        let value: serde_json::Value = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
        let pem = value["certificate"].as_str().ok_or("there is no certificate in it")?;
        let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).map_err(|error| error.to_string())?;
        let (_, parsed) = X509Certificate::from_der(&pem.contents).map_err(|error| error.to_string())?;
        let validity = parsed.validity();
        Ok(Certificate {
            from: validity.not_before.timestamp().saturating_mul(1000),
            until: validity.not_after.timestamp().saturating_mul(1000),
            ours: keys.is_none_or(|keys| keys.serving_public_key() == parsed.public_key().raw),
        })
    };
    Some(parse().map_err(|why: String| format!("identity/serving.json: {why}")))
}

pub(super) fn look(config: &Config, root: bool) -> Store {
    let data = &config.data_dir;
    if !root && data.exists() && std::fs::read_dir(data).is_err() {
        return Store::default();
    }
    let (log, state) = (data.join("log"), data.join("state.redb"));
    let all = names(data);
    let damaged = all.iter().filter(|name| name.starts_with("damaged-"));
    let images = data.join("images");
    Store {
        log: Some(!names(&log).is_empty()),
        state: Some(state.exists()),
        state_bytes: std::fs::metadata(&state).map_or(0, |found| found.len()),
        log_bytes: bytes_in(&log),
        suspect: data.join("state.suspect").exists(),
        damaged: damaged.map(|name| data.join(name).display().to_string()).collect(),
        images: if images.exists() {
            images::unsound(&images).map_or_else(|error| Some((0, vec![error.to_string()])), Some)
        } else {
            Some((0, Vec::new()))
        },
        leftovers: Some(leftovers(data, &all)),
    }
}

/// What nobody needs any more: half downloads, old evidence, what a leave could not remove.
fn leftovers(data: &Path, all: &[String]) -> Vec<(String, u64)> {
    let mut found = Vec::new();
    let mut note = |path: std::path::PathBuf| found.push((path.display().to_string(), bytes_in(&path)));
    for name in all {
        let old = name == "identity.leaving" || name == "staged" || name.starts_with(".kith-doctor-");
        if old || Path::new(name).extension().is_some_and(|ending| ending == "new") {
            note(data.join(name));
        }
    }
    for folder in ["images/ingest", "aside"] {
        for name in names(&data.join(folder)) {
            note(data.join(folder).join(name));
        }
    }
    found
}

/// Bytes of a file, or of all files below a folder.
fn bytes_in(path: &Path) -> u64 {
    let mut left = vec![path.to_owned()];
    let (mut bytes, mut seen) = (0, 0);
    while let Some(path) = left.pop() {
        seen += 1;
        let Ok(found) = std::fs::symlink_metadata(&path) else { continue };
        if found.is_dir() && seen < FILES {
            left.extend(names(&path).into_iter().map(|name| path.join(name)));
        } else {
            bytes += found.len();
        }
    }
    bytes
}
