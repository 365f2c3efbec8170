//! `agent.toml`: every setting of the agent, its unit and its default. Parsed whole and checked
//! whole: all mistakes are reported at once, and an unknown key is a mistake.

mod layers;
mod mistakes;
mod profiles;
mod range;
mod registries;
mod workloads;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use layers::{Layers, Origin, Setting, Settled};
pub use mistakes::Mistake;
pub use profiles::{DeviceProfile, StorageConfig};
pub use range::Range;
pub use registries::{ImagesConfig, RegistryConfig};
pub use workloads::{DeviceRule, Eviction, Security, UserIds};

/// Fewer leave nobody to take a lost voter's place; more cost the leader what mirrors save it.
const STANDBYS: std::ops::RangeInclusive<usize> = 1..=64;

/// More share one address range of 254.
const MAX_PODS: u32 = 250;

/// More at once take turns at the disk and the memory.
const PODS_AT_ONCE: std::ops::RangeInclusive<usize> = 1..=64;

/// Fewer lock out kubectl's own few; more are more than a small device can hold.
const API_CONNECTIONS: std::ops::RangeInclusive<usize> = 16..=4096;

/// The settings of one agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// This device's name in the fleet; empty takes the host name.
    pub name: String,
    /// Replicated state, identity, images.
    pub data_dir: PathBuf,
    /// Socket, shims, pod state: a folder that a reboot empties.
    pub run_dir: PathBuf,
    /// Container logs.
    pub log_dir: PathBuf,
    /// UDP address for other devices (QUIC).
    pub peer_listen: SocketAddr,
    /// TCP address of the HTTPS API.
    pub api_listen: SocketAddr,
    /// `ADDRESS:PORT` at which other devices reach this one; empty takes the addresses of its interfaces.
    pub advertise: Vec<SocketAddr>,
    /// Labels that this device sets on its own node.
    pub labels: BTreeMap<String, String>,
    /// Cgroup under which containers live, from the root of each hierarchy.
    pub cgroup: String,
    /// Addresses of pods. Each device takes the part that follows from its member id: a /24.
    pub pod_network: Range,
    /// Timing of heartbeats and elections.
    pub profile: Profile,
    /// What kind of device this is: what it wants instead of the defaults. The later ones win.
    pub device_profiles: Vec<DeviceProfile>,
    /// Devices beside the voters that follow the leader closely and can vote at once; in a larger
    /// fleet the others are mirrors, which cost the leader nothing. The same on every device.
    pub standbys: usize,
    /// How long a device may be silent before its pods are replaced, in seconds.
    pub lost_after_seconds: u64,
    /// Bytes that one log file of a container may have before it is rotated.
    pub log_max_bytes: u64,
    /// Log files kept for a container, the current one included.
    pub log_max_files: u32,
    /// Processes and threads that one container may have.
    pub pids_limit: u64,
    /// Pods that this device takes.
    pub max_pods: u32,
    /// Pods that are started, stopped or changed at the same time.
    pub pods_at_once: usize,
    /// Connections to the API at the same time, all clients together.
    pub api_connections: usize,
    /// Group whose members may use the agent's socket, and with it everything; empty: root alone.
    pub socket_group: String,
    /// Paths of this device that pods may mount (`hostPath`), with all below them; `:ro` at the end
    /// allows reading only.
    pub host_paths: Vec<String>,
    /// Folder with the manifests of static pods: they run on this device without asking anybody, with or
    /// without a fleet. Empty: none.
    pub manifests_dir: PathBuf,
    /// Memory kept back from pods, in bytes.
    pub reserved_memory: u64,
    /// Thousandths of a core kept back from pods.
    pub reserved_cpu: u64,
    /// What pods may ask for beyond the restricted profile.
    pub security: Security,
    /// Ids of this device that stand for the users of pods with `hostUsers: false`.
    pub user_ids: UserIds,
    /// When this device is short of memory or disk.
    pub eviction: Eviction,
    /// How the state of the fleet is kept.
    pub storage: StorageConfig,
    /// Devices that pods can ask for.
    pub devices: Vec<DeviceRule>,
    /// Pulling images and clearing them away.
    pub images: ImagesConfig,
    /// How registries are reached, by `HOST[:PORT]`.
    pub registries: BTreeMap<String, RegistryConfig>,
}

/// Timing profiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// One site, good cables or Wi-Fi: failover in under a second.
    Lan,
    /// Several sites over the internet.
    Wan,
    /// Links that cost money for each byte.
    Metered,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: String::new(),
            data_dir: PathBuf::from("/var/lib/kith"),
            run_dir: PathBuf::from("/run/kith"),
            log_dir: PathBuf::from("/var/log/kith/pods"),
            peer_listen: SocketAddr::from(([0, 0, 0, 0], 7443)),
            api_listen: SocketAddr::from(([0, 0, 0, 0], 6443)),
            advertise: Vec::new(),
            labels: BTreeMap::new(),
            cgroup: "/kith".into(),
            pod_network: Range::DEFAULT,
            profile: Profile::Lan,
            device_profiles: Vec::new(),
            standbys: 16,
            lost_after_seconds: 10,
            log_max_bytes: 10 << 20,
            log_max_files: 3,
            pids_limit: 1024,
            max_pods: 110,
            pods_at_once: 8,
            api_connections: 512,
            socket_group: String::new(),
            host_paths: Vec::new(),
            manifests_dir: PathBuf::from("/etc/kith/manifests"),
            reserved_memory: 64 << 20,
            reserved_cpu: 100,
            security: Security::default(),
            user_ids: UserIds::default(),
            eviction: Eviction::default(),
            storage: StorageConfig::default(),
            devices: Vec::new(),
            images: ImagesConfig::default(),
            registries: BTreeMap::new(),
        }
    }
}

impl Profile {
    /// Time between a leader's heartbeats.
    pub fn heartbeat(self) -> Duration {
        Duration::from_millis(match self {
            Self::Lan => 150,
            Self::Wan => 500,
            Self::Metered => 15_000,
        })
    }

    /// Time between the words that a leader sends to a device that does not vote and has all that
    /// there is; `None`: it hears every heartbeat. A word and its answer are about 300 bytes. The
    /// address translation of a mobile network is to keep a quiet mapping for so long (RFC 4787).
    pub fn beacon(self) -> Option<Duration> {
        match self {
            Self::Lan | Self::Wan => None,
            Self::Metered => Some(Duration::from_mins(5)),
        }
    }

    /// The longest time between two signs of life of a device that is well and does nothing.
    pub fn sign_of_life(self) -> Duration {
        self.beacon().unwrap_or_else(|| self.heartbeat())
    }

    /// Shortest and longest silence after which a voter stands for election.
    pub fn election(self) -> (Duration, Duration) {
        let (low, high) = match self {
            Self::Lan => (200, 400),
            Self::Wan => (2_000, 4_000),
            Self::Metered => (60_000, 120_000),
        };
        (Duration::from_millis(low), Duration::from_millis(high))
    }
}

/// Why the settings can not be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can not be read.
    #[error("read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Keys and values that can not work, all of them.
    #[error("{}", mistakes::listed(mistakes))]
    Invalid {
        /// One for each.
        mistakes: Vec<Mistake>,
    },
}

impl Config {
    /// Where the agent looks when no file is named.
    pub const DEFAULT_PATH: &'static str = "/etc/kith/agent.toml";

    /// The settings for a command: as [`Config::settle`], but a variable that is no setting is not its concern.
    pub fn load(named: Option<&Path>) -> Result<Self, ConfigError> {
        Self::settled(named, &[], false).map(|settled| settled.config)
    }

    /// The settings of an agent: the file, the environment and flags (`KEY=VALUE`). Without a named file,
    /// a missing one at the default place means the defaults.
    pub fn settle(named: Option<&Path>, flags: &[String]) -> Result<Settled, ConfigError> {
        Self::settled(named, flags, true)
    }

    fn settled(named: Option<&Path>, flags: &[String], strict: bool) -> Result<Settled, ConfigError> {
        let path = named.unwrap_or(Path::new(Self::DEFAULT_PATH));
        let text = match Self::text(path) {
            Ok(text) => Some(text),
            Err(ConfigError::Read { source, .. })
                if named.is_none() && source.kind() == std::io::ErrorKind::NotFound =>
            {
                None
            }
            Err(error) => return Err(error),
        };
        let file = text.as_deref().map(|text| (path, text));
        // What is no text can not be the name or the value of a setting.
        let text = |word: std::ffi::OsString| word.to_string_lossy().into_owned();
        let environment = std::env::vars_os().map(|(name, value)| (text(name), text(value))).collect();
        Layers { file, environment, strict, flags }.settle()
    }

    #[expect(clippy::disallowed_methods, reason = "the settings are a file")]
    fn text(path: &Path) -> Result<String, ConfigError> {
        std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })
    }

    /// What a file alone says.
    pub fn load_file(path: &Path) -> Result<Self, ConfigError> {
        Self::parse(path, &Self::text(path)?)
    }

    /// Parses and checks the text of a file.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        Layers::of_file(path, text).settle().map(|settled| settled.config)
    }

    /// Values that can not work. Each begins with its key, by which its line is found.
    fn mistakes(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (key, dir) in [("data_dir", &self.data_dir), ("run_dir", &self.run_dir), ("log_dir", &self.log_dir)] {
            if !dir.is_absolute() {
                found.push(format!("{key} is {}, but must be an absolute path", dir.display()));
            }
        }
        if !self.manifests_dir.as_os_str().is_empty() && !self.manifests_dir.is_absolute() {
            let dir = self.manifests_dir.display();
            found.push(format!("manifests_dir is {dir}, but must be an absolute path, or empty for no static pods"));
        }
        if !self.cgroup.starts_with('/') || self.cgroup.len() < 2 || self.cgroup.contains("..") {
            found.push(format!("cgroup is {:?}, but must be a path such as \"/kith\"", self.cgroup));
        }
        if self.lost_after_seconds == 0 {
            found.push("lost_after_seconds is 0, but a device needs at least 1 second to answer".into());
        }
        // Silence is measured by answers to the leader: one that is late must not look like a loss.
        let least = self.profile.sign_of_life().as_secs() * 2;
        if self.lost_after_seconds > 0 && self.lost_after_seconds < least {
            found.push(format!(
                "lost_after_seconds is {}, but must be at least {least} with this profile, in which a quiet device is heard every {} seconds",
                self.lost_after_seconds,
                self.profile.sign_of_life().as_secs()
            ));
        }
        if !STANDBYS.contains(&self.standbys) {
            let (least, most) = (STANDBYS.start(), STANDBYS.end());
            found.push(format!("standbys is {}, but must be from {least} to {most}", self.standbys));
        }
        if self.log_max_bytes < 4096 {
            found.push(format!("log_max_bytes is {}, but a log needs at least 4096", self.log_max_bytes));
        }
        if self.log_max_files == 0 {
            found.push("log_max_files is 0, but at least the current file is kept: 1".into());
        }
        if self.pids_limit == 0 {
            found.push("pids_limit is 0, but a container needs at least 1 process".into());
        }
        if self.max_pods == 0 || self.max_pods > MAX_PODS {
            found.push(format!("max_pods is {}, but must be from 1 to {MAX_PODS}", self.max_pods));
        }
        if !PODS_AT_ONCE.contains(&self.pods_at_once) {
            let (least, most) = (PODS_AT_ONCE.start(), PODS_AT_ONCE.end());
            found.push(format!("pods_at_once is {}, but must be from {least} to {most}", self.pods_at_once));
        }
        if !API_CONNECTIONS.contains(&self.api_connections) {
            let (least, most) = (API_CONNECTIONS.start(), API_CONNECTIONS.end());
            found.push(format!("api_connections is {}, but must be from {least} to {most}", self.api_connections));
        }
        self.security.mistakes(&mut found);
        self.storage.mistakes(&mut found);
        self.user_ids.mistakes(&mut found);
        self.eviction.mistakes(&mut found);
        for (index, rule) in self.devices.iter().enumerate() {
            rule.mistakes(index, &mut found);
        }
        self.images.mistakes(&mut found);
        for (name, registry) in &self.registries {
            registry.mistakes(name, &mut found);
        }
        for path in &self.host_paths {
            let (folder, _) = split_host_path(path);
            let plain = folder.components().all(|part| !matches!(part, std::path::Component::ParentDir));
            if !folder.is_absolute() || !plain {
                found.push(format!("host_paths has {path:?}, but needs absolute paths without .., such as \"/srv/data\" or \"/etc/localtime:ro\""));
            }
        }
        if let Some(voter) = self.labels.get("kith.dev/voter")
            && !["auto", "prefer", "never"].contains(&voter.as_str())
        {
            found.push(format!("labels.\"kith.dev/voter\" is {voter:?}, but must be auto, prefer or never"));
        }
        found
    }
}

/// A setting of `host_paths`: the path, and whether it is for reading only.
pub fn split_host_path(text: &str) -> (PathBuf, bool) {
    match text.strip_suffix(":ro") {
        Some(path) => (PathBuf::from(path), true),
        None => (PathBuf::from(text), false),
    }
}

/// The number of a group, which a setting names by it or by its name in the text of `/etc/group`.
pub fn group_number(groups: &str, group: &str) -> Option<u32> {
    let mut lines = groups.lines().map(|line| line.split(':'));
    let named = lines.find_map(|mut fields| (fields.next() == Some(group)).then(|| fields.nth(1)?.parse().ok())?);
    named.or_else(|| group.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_mistakes_are_named_at_once() {
        let text = "data_dir = \"x\"\npids_limit = 0\nhost_paths = [\"srv\", \"/a/../b:ro\"]\nlost_after_seconds = 0\n[labels]\n\"kith.dev/voter\" = \"often\"\n";
        let error = Config::parse(Path::new("agent.toml"), text).unwrap_err().to_string();
        for part in ["data_dir", "\"srv\"", "/a/../b:ro", "pids_limit", "lost_after_seconds", "kith.dev/voter"] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_device_is_not_lost_between_two_heartbeats() {
        let parse = |text| Config::parse(Path::new("agent.toml"), text);
        let error = parse("profile = \"metered\"\n").unwrap_err().to_string();
        assert!(error.contains("lost_after_seconds") && error.contains("at least 600"), "{error}");
        assert!(parse("profile = \"metered\"\nlost_after_seconds = 600\n").is_ok());
        assert!(parse("profile = \"wan\"\nlost_after_seconds = 1\n").is_ok());
    }

    #[test]
    fn the_example_holds_every_key_with_its_default() {
        let text = include_str!("../configs/agent.toml");
        assert_eq!(Config::parse(Path::new("configs/agent.toml"), text).unwrap(), Config::default());
        let keys = |table: &toml::Table| table.keys().cloned().collect::<std::collections::BTreeSet<_>>();
        let example: toml::Table = toml::from_str(text).unwrap();
        assert_eq!(keys(&example), keys(&toml::Table::try_from(Config::default()).unwrap()));
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line() {
        let error = Config::parse(Path::new("agent.toml"), "nmae = \"x\"\n").unwrap_err().to_string();
        assert!(error.contains("nmae") && error.contains("agent.toml:1:"), "{error}");
    }
}
