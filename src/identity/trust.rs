//! Which device keys this device accepts: those of the fleet's current members, whatever the time
//! is. The replicated membership fills it; nothing else adds a key.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::{DeviceKey, Member};

/// The trusted keys, shared by everything that checks one.
#[derive(Clone, Debug)]
pub struct Trust(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    keys: ArcSwap<BTreeMap<DeviceKey, String>>,
    changed: watch::Sender<()>,
}

impl Default for Trust {
    fn default() -> Self {
        Self(Arc::new(Shared { keys: ArcSwap::default(), changed: watch::Sender::new(()) }))
    }
}

impl Trust {
    /// Trust in these members.
    pub fn in_members<'a>(members: impl IntoIterator<Item = &'a Member>) -> Self {
        let trust = Self::default();
        trust.replace_members(members);
        trust
    }

    /// Replaces the trusted keys, each with the name of its device. Connections of keys that are
    /// gone are closed.
    pub fn replace(&self, keys: BTreeMap<DeviceKey, String>) {
        self.0.keys.store(Arc::new(keys));
        self.0.changed.send_replace(());
    }

    /// Adds keys, each with the name of its device, until the next replacement.
    pub fn extend(&self, more: BTreeMap<DeviceKey, String>) {
        if more.keys().all(|key| self.contains(key)) {
            return;
        }
        let mut keys = (**self.0.keys.load()).clone();
        keys.extend(more);
        self.replace(keys);
    }

    /// Replaces the trusted keys by those of these members.
    pub fn replace_members<'a>(&self, members: impl IntoIterator<Item = &'a Member>) {
        self.replace(members.into_iter().map(|member| (member.key, member.name.clone())).collect());
    }

    /// Whether a key is trusted now.
    pub fn contains(&self, key: &DeviceKey) -> bool {
        self.0.keys.load().contains_key(key)
    }

    /// The name of the device with a trusted key.
    pub fn name(&self, key: &DeviceKey) -> Option<String> {
        self.0.keys.load().get(key).cloned()
    }

    /// Wakes whenever the keys were replaced.
    pub(crate) fn changed(&self) -> watch::Receiver<()> {
        self.0.changed.subscribe()
    }
}
