//! The secrets that pods of this device refer to: asked for once, kept sealed to this device's own
//! key so that it starts in the dark after a reboot, and forgotten when no pod refers to them.

#![expect(clippy::disallowed_methods, reason = "keeps sealed files")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use super::keyring::{Keyring, Opened};
use super::tasks::Tasks;
use crate::identity::{Identity, keys};
use crate::reconciler::SecretState;
use crate::reconciler::volume::Bytes;
use crate::store::codec;

/// Pause before a voter is asked again.
const PAUSE: Duration = Duration::from_secs(2);

/// How the files are named, after a hash of what they hold.
const ENDING: &str = "sealed";

/// Namespace and name of a secret.
type Name = (String, String);

/// One secret at rest.
#[derive(Serialize, Deserialize)]
struct Kept {
    name: Name,
    opened: Opened,
}

/// The secrets of this device's pods.
pub(crate) struct Secrets {
    keyring: Keyring,
    folder: PathBuf,
    tasks: Tasks,
    inner: Mutex<Inner>,
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct Inner {
    held: BTreeMap<Name, Opened>,
    asking: BTreeSet<Name>,
    failures: BTreeMap<Name, String>,
}

impl Secrets {
    /// Reads what an earlier agent kept. What can not be opened is removed: it is asked for again.
    pub(crate) fn open(folder: PathBuf, keyring: Keyring, tasks: Tasks) -> io::Result<Arc<Self>> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        let mut held = BTreeMap::new();
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if let Some(kept) = read(&path, &keyring.identity) {
                held.insert(kept.name, kept.opened);
                continue;
            }
            tracing::warn!(file = %path.display(), "a kept secret can not be opened; a voter is asked again");
            fs::remove_file(&path)?;
        }
        let inner = Mutex::new(Inner { held, ..Inner::default() });
        Ok(Arc::new(Self { keyring, folder, tasks, inner, changed: watch::Sender::new(0) }))
    }

    /// Moves when a secret came, or could not be had.
    pub(crate) fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// What is known of a secret that was last changed at this revision. Asks for it where this device
    /// has none, or an older one; the older one serves until then.
    pub(crate) fn state(self: &Arc<Self>, name: &Name, revision: u64) -> SecretState {
        let mut inner = self.inner();
        let held = inner.held.get(name);
        let fresh = held.is_some_and(|held| held.revision >= revision);
        let state = if let Some(held) = held {
            let values = held.values.iter().map(|(key, value)| (key.clone(), Bytes(value.clone())));
            SecretState::Open(values.collect())
        } else {
            let why = inner.failures.get(name).cloned();
            SecretState::Sealed(why.unwrap_or_else(|| "a voter is being asked".into()))
        };
        if !fresh && inner.asking.insert(name.clone()) {
            let (this, name) = (self.clone(), name.clone());
            self.tasks.spawn("ask for a secret", async move { this.fetch(name, revision).await });
        }
        state
    }

    async fn fetch(&self, name: Name, wanted: u64) {
        let found = self.keyring.for_pod(&name.0, &name.1).await;
        let again = match found {
            Ok(opened) => {
                if let Err(error) = self.keep(&name, &opened) {
                    tracing::warn!(secret = name.1, %error, "a secret is not kept: this device needs a voter for it after a reboot");
                }
                let mut inner = self.inner();
                inner.failures.remove(&name);
                // The voter may know less than this device: it is asked again.
                let behind = opened.revision < wanted;
                inner.held.insert(name.clone(), opened);
                behind
            }
            Err(why) => {
                tracing::debug!(secret = name.1, why, "a secret is not here yet");
                let told = self.inner().failures.insert(name.clone(), why.clone());
                if told.as_ref() != Some(&why) {
                    self.changed.send_modify(|count| *count += 1);
                }
                true
            }
        };
        if again {
            tokio::time::sleep(PAUSE).await;
        }
        self.inner().asking.remove(&name);
        self.changed.send_modify(|count| *count += 1);
    }

    /// Forgets every secret but these.
    pub(crate) fn keep_only(&self, needed: &BTreeSet<Name>) {
        let mut inner = self.inner();
        inner.failures.retain(|name, _| needed.contains(name));
        let gone: Vec<Name> = inner.held.keys().filter(|name| !needed.contains(*name)).cloned().collect();
        for name in gone {
            match fs::remove_file(self.path(&name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(secret = name.1, %error, "a secret that no pod needs is still on the disk");
                }
                _ => drop(inner.held.remove(&name)),
            }
        }
    }

    fn path(&self, name: &Name) -> PathBuf {
        let hash = Sha256::digest(format!("{}/{}", name.0, name.1));
        self.folder.join(format!("{}.{ENDING}", hex::encode(&hash[..16])))
    }

    /// Old or new, never half.
    fn keep(&self, name: &Name, opened: &Opened) -> io::Result<()> {
        let kept = Kept { name: name.clone(), opened: opened.clone() };
        let bytes = zeroize::Zeroizing::new(codec::encode(&kept).map_err(io::Error::other)?);
        let sealed = keys::seal_to(&self.keyring.identity.sealing_key(), &bytes).map_err(io::Error::other)?;
        let mut temporary = tempfile::NamedTempFile::new_in(&self.folder)?;
        temporary.write_all(&sealed)?;
        temporary.as_file().sync_all()?;
        temporary.persist(self.path(name))?;
        fs::File::open(&self.folder)?.sync_all()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(path: &Path, identity: &Identity) -> Option<Kept> {
    let sealed = fs::read(path).ok()?;
    codec::decode(&identity.unseal(&sealed).ok()?).ok()
}
