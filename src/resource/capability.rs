//! The names of Linux capabilities. A name's place in the list is its number in the kernel.

/// Every capability, without `CAP_`, by number.
pub const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Capabilities that a container has when it says nothing.
pub const DEFAULT: [&str; 9] =
    ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE", "SETGID", "SETPCAP", "SETUID"];

/// Capabilities that a container may ask for on top, on every device.
pub const SAFE: [&str; 4] = ["AUDIT_WRITE", "NET_RAW", "SETFCAP", "SYS_CHROOT"];

/// A name as it is listed here, however it is written: `cap_net_raw`, `NET_RAW`.
pub fn short(name: &str) -> String {
    let name = name.to_ascii_uppercase();
    name.strip_prefix("CAP_").map(str::to_owned).unwrap_or(name)
}

/// The kernel's number of a capability, with or without `CAP_`.
pub fn number(name: &str) -> Option<usize> {
    let short = short(name);
    CAPABILITIES.iter().position(|known| *known == short)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_the_kernels_numbers() {
        for (name, expected) in [("CHOWN", 0), ("cap_net_admin", 12), ("CAP_SYS_ADMIN", 21), ("CHECKPOINT_RESTORE", 40)]
        {
            assert_eq!(number(name), Some(expected), "{name}");
        }
        assert_eq!(number("FLY"), None);
        assert!(DEFAULT.iter().chain(&SAFE).all(|name| number(name).is_some()));
    }
}
