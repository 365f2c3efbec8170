//! Profiles of devices: what a kind of board wants instead of the defaults. What a file, the
//! environment or a flag says counts before them.

use serde::{Deserialize, Serialize};

/// A kind of board.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceProfile {
    /// Storage that wears out and dislikes several writers at once.
    SdCard,
    /// 256 MiB of memory, or little more.
    Tiny,
}

impl DeviceProfile {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::SdCard, Self::Tiny];

    /// As settings have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::SdCard => "sd-card",
            Self::Tiny => "tiny",
        }
    }

    /// The settings that it changes, each with its value.
    pub fn overrides(self) -> &'static [(&'static str, i64)] {
        match self {
            Self::SdCard => &[
                // More changes in one transaction share a page of the card.
                ("storage.gather_bytes", 8 << 20),
                ("storage.gather_entries", 8192),
                // One stream of writes at a time, one after the other.
                ("images.pulls_at_once", 1),
                ("images.layers_at_once", 1),
                // A card levels its wear over what is free.
                ("images.clear_above_percent", 70),
                ("images.clear_to_percent", 60),
                ("eviction.disk_available_percent", 15),
                ("log_max_bytes", 2 << 20),
                ("log_max_files", 2),
            ],
            Self::Tiny => &[
                ("storage.cache_bytes", 1 << 20),
                ("storage.gather_bytes", 512 << 10),
                ("storage.gather_entries", 1024),
                ("storage.events_bytes", 256 << 10),
                ("api_connections", 64),
                ("max_pods", 16),
                ("pods_at_once", 2),
                ("pids_limit", 256),
                ("images.pulls_at_once", 1),
                ("images.layers_at_once", 1),
                ("reserved_memory", 48 << 20),
                ("eviction.memory_available", 16 << 20),
                ("log_max_bytes", 1 << 20),
                ("log_max_files", 2),
            ],
        }
    }
}

/// How the state of the fleet is kept on this device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StorageConfig {
    /// Bytes of the state's pages that are kept in memory.
    pub cache_bytes: u64,
    /// Bytes of changes that gather in memory before they are written to the state's file at once.
    pub gather_bytes: u64,
    /// Changes after which they are, however small.
    pub gather_entries: u64,
    /// Bytes of the latest changes that are kept in memory for those who watch.
    pub events_bytes: u64,
}

impl Default for StorageConfig {
    fn default() -> Self {
        Self { cache_bytes: 4 << 20, gather_bytes: 2 << 20, gather_entries: 4096, events_bytes: 1 << 20 }
    }
}

impl StorageConfig {
    pub(super) fn mistakes(&self, found: &mut Vec<String>) {
        let mut bound = |key: &str, value: u64, least: u64, most: u64| {
            if !(least..=most).contains(&value) {
                found.push(format!("storage.{key} is {value}, but must be from {least} to {most}"));
            }
        };
        bound("cache_bytes", self.cache_bytes, 256 << 10, 256 << 20);
        bound("gather_bytes", self.gather_bytes, 64 << 10, 64 << 20);
        // After 8192 the state is made durable anyhow.
        bound("gather_entries", self.gather_entries, 64, 8192);
        bound("events_bytes", self.events_bytes, 64 << 10, 64 << 20);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Layers;

    fn settle(text: &str) -> crate::config::Settled {
        Layers::of_file(Path::new("agent.toml"), text).settle().unwrap()
    }

    #[test]
    fn every_override_changes_a_setting_that_there_is() {
        for profile in DeviceProfile::ALL {
            let settled = settle(&format!("device_profiles = [\"{}\"]", profile.name()));
            let listed = settled.list();
            for (key, value) in profile.overrides() {
                let shown = listed.iter().find(|setting| setting.key == *key).unwrap();
                assert_eq!((&shown.value, &shown.origin), (&value.to_string(), &format!("profile {}", profile.name())));
                let default = settle("").list().into_iter().find(|setting| setting.key == *key).unwrap();
                assert_ne!(default.value, shown.value, "{key} is the default");
            }
        }
    }

    #[test]
    fn the_page_for_users_lists_every_override() {
        let page = include_str!("../../docs/configuration.md");
        let defaults = settle("").list();
        for (key, _) in DeviceProfile::ALL.into_iter().flat_map(DeviceProfile::overrides) {
            let value = |profile: DeviceProfile| {
                let mut all = profile.overrides().iter();
                all.find(|(known, _)| known == key).map_or(String::new(), |(_, value)| format!("{value} "))
            };
            let default = &defaults.iter().find(|setting| setting.key == *key).unwrap().value;
            let [card, tiny] = DeviceProfile::ALL.map(value);
            let row = format!("| `{key}` | {default} | {card}| {tiny}|");
            assert!(page.contains(&row), "docs/configuration.md has no row {row}");
        }
    }

    #[test]
    fn a_later_profile_wins_and_the_file_wins_over_both() {
        let config = settle("device_profiles = [\"tiny\", \"sd-card\"]\nlog_max_files = 5\n").config;
        assert_eq!((config.log_max_bytes, config.log_max_files, config.max_pods), (2 << 20, 5, 16));
        let config = settle("device_profiles = [\"sd-card\", \"tiny\"]\n").config;
        assert_eq!((config.log_max_bytes, config.images.clear_above_percent), (1 << 20, 70));
    }
}
