//! Settings about what pods may do to this device: what lifts the restricted profile, whose ids they
//! get, which devices they may open, and when they have to go.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Ids that one pod gets: all that programs expect, `nobody` (65534) included.
const IDS_OF_A_POD: u32 = 65_536;

/// What pods may ask for beyond the restricted profile; nothing by default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Security {
    /// Containers with all powers over the device; allows all below as well.
    pub allow_privileged: bool,
    /// Programs that gain privileges, such as `sudo`.
    pub allow_privilege_escalation: bool,
    /// Containers without a filter of system calls.
    pub allow_unconfined: bool,
    /// Pods that see the device's processes.
    pub allow_host_pid: bool,
    /// Pods that share the device's memory segments and queues.
    pub allow_host_ipc: bool,
    /// Capabilities beyond the safe ones, such as `NET_ADMIN`; `ALL` is every one.
    pub allow_capabilities: Vec<String>,
    /// Kernel settings of a pod beyond the safe ones; `net.core.*` is all that begin so.
    pub allow_sysctls: Vec<String>,
    /// Folder of the profiles that `seccompProfile` of type `Localhost` names.
    pub seccomp_profiles: PathBuf,
}

impl Default for Security {
    fn default() -> Self {
        Self {
            allow_privileged: false,
            allow_privilege_escalation: false,
            allow_unconfined: false,
            allow_host_pid: false,
            allow_host_ipc: false,
            allow_capabilities: Vec::new(),
            allow_sysctls: Vec::new(),
            seccomp_profiles: PathBuf::from("/etc/kith/seccomp"),
        }
    }
}

impl Security {
    pub(super) fn mistakes(&self, found: &mut Vec<String>) {
        if !self.seccomp_profiles.is_absolute() {
            let folder = self.seccomp_profiles.display();
            found.push(format!("security.seccomp_profiles is {folder}, but must be an absolute path"));
        }
        for name in &self.allow_capabilities {
            if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
                found.push(format!("security.allow_capabilities has {name:?}, but must have names such as NET_ADMIN"));
            }
        }
    }
}

/// Ids of this device that stand for those of pods. Nobody else may have them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UserIds {
    /// The lowest.
    pub first: u32,
    /// How many; each pod with `hostUsers: false` gets 65536.
    pub count: u32,
}

impl Default for UserIds {
    /// Room for 110 pods, above what distributions give to people and services.
    fn default() -> Self {
        Self { first: 0x4000_0000, count: 110 * IDS_OF_A_POD }
    }
}

impl UserIds {
    pub(super) fn mistakes(self, found: &mut Vec<String>) {
        if self.first < IDS_OF_A_POD {
            let first = self.first;
            found.push(format!("user_ids.first is {first}, but ids below {IDS_OF_A_POD} are the device's own"));
        }
        if self.count < IDS_OF_A_POD {
            let count = self.count;
            found.push(format!("user_ids.count is {count}, but one pod alone needs {IDS_OF_A_POD}"));
        }
        if self.first.checked_add(self.count).is_none_or(|end| end > i32::MAX.unsigned_abs()) {
            found.push(format!("user_ids ends at {}, over 2147483647", u64::from(self.first) + u64::from(self.count)));
        }
    }
}

/// When this device is short of memory or disk, and pods have to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Eviction {
    /// Bytes of memory that must be available; 0 never evicts for memory.
    pub memory_available: u64,
    /// Hundredths of the disk under `data_dir` that must be free; 0 never evicts for disk.
    pub disk_available_percent: u8,
    /// Hundredths of its inodes that must be free; 0 never evicts for inodes.
    pub inodes_free_percent: u8,
    /// Seconds that a shortage counts as one after it was last seen.
    pub pressure_seconds: u64,
}

impl Default for Eviction {
    fn default() -> Self {
        Self { memory_available: 32 << 20, disk_available_percent: 10, inodes_free_percent: 5, pressure_seconds: 300 }
    }
}

impl Eviction {
    pub(super) fn mistakes(&self, found: &mut Vec<String>) {
        let shares = [
            ("disk_available_percent", self.disk_available_percent),
            ("inodes_free_percent", self.inodes_free_percent),
        ];
        for (key, percent) in shares {
            if percent >= 100 {
                found.push(format!("eviction.{key} is {percent}, but must be below 100"));
            }
        }
    }
}

/// Devices that pods can ask for by a name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DeviceRule {
    /// The resource: `kith.dev/ttyUSB`.
    pub resource: String,
    /// Device nodes, `*`, `?` and `[...]` as in a shell: `/dev/ttyUSB*`.
    pub paths: Vec<String>,
    /// USB or PCI vendor id, `0403`; empty is any.
    pub vendor: String,
    /// USB or PCI product id; empty is any.
    pub product: String,
    /// Serial number; empty is any.
    pub serial: String,
    /// Whether several containers may have one at once.
    pub shared: bool,
    /// Of `r`, `w`, what a container may do.
    pub access: Option<String>,
}

impl DeviceRule {
    pub(super) fn mistakes(&self, index: usize, found: &mut Vec<String>) {
        let named = self.resource.strip_prefix("kith.dev/").filter(|name| {
            let fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
            !name.is_empty() && name.len() <= 63 && name.bytes().all(fine)
        });
        if named.is_none() {
            let resource = &self.resource;
            found.push(format!("devices[{index}].resource is {resource:?}, but must be such as \"kith.dev/ttyUSB\""));
        }
        if self.paths.is_empty() {
            found.push(format!("devices[{index}].paths is empty, but must name device nodes such as \"/dev/ttyUSB*\""));
        }
        for path in &self.paths {
            if !path.starts_with("/dev/") || path.split('/').any(|part| part == "..") {
                found.push(format!("devices[{index}].paths has {path:?}, but must be below /dev"));
            }
        }
        let letters: BTreeSet<char> = self.access.iter().flat_map(|access| access.chars()).collect();
        if self.access.as_deref() == Some("") || letters.iter().any(|letter| !matches!(letter, 'r' | 'w')) {
            let access = self.access.as_deref().unwrap_or_default();
            found.push(format!("devices[{index}].access is {access:?}, but must be \"r\", \"w\" or \"rw\""));
        }
    }
}
