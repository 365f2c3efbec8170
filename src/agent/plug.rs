//! Devices of this device that pods may ask for: found by the rules of agent.toml, again whenever the
//! kernel says that something was plugged in or pulled out. No udev is needed: the kernel makes the
//! nodes, and what they are stands in sysfs.

#![expect(clippy::disallowed_methods, reason = "reads /dev and /sys")]

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::libc;
use nix::sys::stat::{major, minor};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use super::local::{self, Local};
use crate::config::DeviceRule;
use crate::reconciler::container::DeviceNode;
use crate::reconciler::devices::HostDevice;

/// How long the kernel is left to finish: one plug is a dozen messages.
const SETTLE: Duration = Duration::from_millis(200);

/// When it is looked again though the kernel said nothing: nodes can be made by hand.
const LOOK_AGAIN: Duration = Duration::from_mins(1);

/// Devices of all rules together.
const MAX_DEVICES: usize = 256;

/// Entries of one folder that are compared with a pattern.
const MAX_ENTRIES: usize = 4096;

/// Bytes of one message of the kernel.
const MESSAGE: usize = 8192;

/// Where the kernel shows nodes and devices.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    pub(crate) dev: PathBuf,
    pub(crate) sys: PathBuf,
}

impl Default for Places {
    fn default() -> Self {
        Self { dev: "/dev".into(), sys: "/sys".into() }
    }
}

/// Keeps the list of devices true, for ever.
pub(crate) async fn follow(rules: Vec<DeviceRule>, local: Arc<watch::Sender<Local>>) {
    let events = match listen() {
        Ok(events) => Some(events),
        Err(error) => {
            tracing::warn!(%error, "the kernel does not tell of devices; they are looked for every minute");
            None
        }
    };
    loop {
        let asked = rules.clone();
        let found = tokio::task::spawn_blocking(move || find(&asked, &Places::default())).await.unwrap_or_default();
        local::change(&local, |local| local.devices = found);
        // Cancel-safe: a timer, and a socket that is emptied before the next look.
        tokio::select! {
            () = told(events.as_ref()) => tokio::time::sleep(SETTLE).await,
            () = tokio::time::sleep(LOOK_AGAIN) => {}
        }
        if let Some(events) = &events {
            drain(events);
        }
    }
}

async fn told(events: Option<&AsyncFd<OwnedFd>>) {
    match events {
        Some(events) => match events.readable().await {
            Ok(mut ready) => ready.clear_ready(),
            Err(_) => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

/// A socket on which the kernel tells of devices.
#[expect(unsafe_code, reason = "no library has this kind of netlink socket")]
fn listen() -> io::Result<AsyncFd<OwnedFd>> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: plain numbers; the result is checked before it becomes an owned descriptor.
    let fd = unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_KOBJECT_UEVENT) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just handed this descriptor to us alone.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: all zero is a valid address of this kind.
    let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
    address.nl_family = libc::AF_NETLINK.unsigned_abs().try_into().unwrap_or_default();
    address.nl_groups = 1;
    let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_nl>()).unwrap_or_default();
    // SAFETY: an open socket, and an address of the length that is passed.
    if unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the socket is owned here, and nothing replaces or closes it before the watch is dropped.
    Ok(unsafe { AsyncFd::register(socket) }?)
}

/// Takes what is waiting: what matters is that something changed.
fn drain(events: &AsyncFd<OwnedFd>) {
    let mut bytes = [0; MESSAGE];
    while nix::unistd::read(events.get_ref(), &mut bytes).is_ok_and(|count| count > 0) {}
}

/// The devices that match the rules. The first rule that matches a node decides.
pub(crate) fn find(rules: &[DeviceRule], places: &Places) -> Vec<HostDevice> {
    let mut found: Vec<HostDevice> = Vec::new();
    for rule in rules {
        for path in rule.paths.iter().flat_map(|pattern| matching(pattern, places)) {
            let known = found.iter().any(|device| device.node.path == path.inside);
            if !known && found.len() < MAX_DEVICES {
                found.extend(device(rule, &path, places));
            }
        }
    }
    found.sort_by(|a, b| (&a.resource, &a.node.path).cmp(&(&b.resource, &b.node.path)));
    found
}

/// A node, where it is and as it is called.
struct Node {
    real: PathBuf,
    inside: PathBuf,
}

/// The nodes whose paths match a pattern, part by part.
fn matching(pattern: &str, places: &Places) -> Vec<Node> {
    let mut here = vec![Node { real: places.dev.clone(), inside: "/dev".into() }];
    for part in pattern.trim_start_matches("/dev/").split('/').filter(|part| !part.is_empty()) {
        let below = here.iter().flat_map(|folder| {
            let names = fs::read_dir(&folder.real).into_iter().flatten().flatten().take(MAX_ENTRIES);
            let names = names.filter_map(|entry| entry.file_name().into_string().ok());
            let fitting = names.filter(|name| fits(part.as_bytes(), name.as_bytes())).collect::<Vec<_>>();
            fitting.into_iter().map(|name| Node { real: folder.real.join(&name), inside: folder.inside.join(&name) })
        });
        here = below.collect();
    }
    here
}

/// Whether a name fits a pattern with `*`, `?` and `[...]`.
fn fits(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern.first(), name.first()) {
        (None, None) => true,
        (Some(b'*'), _) => fits(&pattern[1..], name) || (!name.is_empty() && fits(pattern, &name[1..])),
        (Some(b'?'), Some(_)) => fits(&pattern[1..], &name[1..]),
        (Some(b'['), Some(letter)) => match pattern.iter().position(|byte| *byte == b']') {
            Some(end) => in_class(&pattern[1..end], *letter) && fits(&pattern[end + 1..], &name[1..]),
            None => *letter == b'[' && fits(&pattern[1..], &name[1..]),
        },
        (Some(byte), Some(letter)) => byte == letter && fits(&pattern[1..], &name[1..]),
        _ => false,
    }
}

fn in_class(class: &[u8], letter: u8) -> bool {
    let (negated, mut class) = match class.first() {
        Some(b'!' | b'^') => (true, &class[1..]),
        _ => (false, class),
    };
    let mut found = false;
    while let Some(first) = class.first() {
        if let [low, b'-', high, ..] = class {
            found |= (*low..=*high).contains(&letter);
            class = &class[3..];
        } else {
            found |= *first == letter;
            class = &class[1..];
        }
    }
    found != negated
}

/// The device behind a node, if the rule means it.
fn device(rule: &DeviceRule, path: &Node, places: &Places) -> Option<HostDevice> {
    // Links as udev makes them (/dev/serial/by-id/...) lead to the node; the name is kept.
    let found = fs::metadata(&path.real).ok()?;
    let block = found.file_type().is_block_device();
    if !block && !found.file_type().is_char_device() {
        return None;
    }
    let (major, minor) = (u32::try_from(major(found.rdev())).ok()?, u32::try_from(minor(found.rdev())).ok()?);
    let kind = if block { "block" } else { "char" };
    let entry = places.sys.join("dev").join(kind).join(format!("{major}:{minor}"));
    let wanted = [(&rule.vendor, VENDOR), (&rule.product, PRODUCT), (&rule.serial, SERIAL)];
    let meant = wanted.into_iter().all(|(wanted, names)| {
        wanted.is_empty() || attribute(&entry, names, &places.sys).is_some_and(|is| is.eq_ignore_ascii_case(wanted))
    });
    meant.then(|| HostDevice {
        resource: rule.resource.clone(),
        node: DeviceNode {
            path: path.inside.clone(),
            block,
            major,
            minor,
            access: rule.access.clone().unwrap_or_else(|| "rw".to_owned()),
        },
        shared: rule.shared,
    })
}

/// Names under which sysfs has them: of USB, then of PCI.
const VENDOR: [&str; 2] = ["idVendor", "vendor"];
const PRODUCT: [&str; 2] = ["idProduct", "device"];
const SERIAL: [&str; 2] = ["serial", "serial_number"];

/// The nearest value among a device and those that it hangs on.
fn attribute(entry: &Path, names: [&str; 2], sys: &Path) -> Option<String> {
    let mut here = fs::canonicalize(entry).ok()?;
    let top = fs::canonicalize(sys).ok()?;
    while here.starts_with(&top) && here != top {
        for name in names {
            let file = here.join(name);
            if file.is_file()
                && let Ok(text) = fs::read_to_string(file)
            {
                let text = text.trim();
                return Some(text.strip_prefix("0x").unwrap_or(text).to_owned());
            }
        }
        here.pop();
    }
    None
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use nix::sys::stat::{Mode, SFlag, makedev, mknod};

    use super::*;

    /// A machine with two serial adapters, one with a name of its own, and a camera.
    fn machine() -> (tempfile::TempDir, Places) {
        let folder = tempfile::tempdir().unwrap();
        let places = Places { dev: folder.path().join("dev"), sys: folder.path().join("sys") };
        fs::create_dir_all(places.dev.join("serial/by-id")).unwrap();
        fs::create_dir_all(places.sys.join("dev/char")).unwrap();
        let nodes =
            [("ttyUSB0", 188, 0, "0403", "A1"), ("ttyUSB1", 188, 1, "0403", "B2"), ("video0", 81, 0, "046d", "C3")];
        for (name, major, minor, vendor, serial) in nodes {
            let mode = Mode::from_bits_truncate(0o600);
            mknod(&places.dev.join(name), SFlag::S_IFCHR, mode, makedev(major, minor)).unwrap();
            let usb = places.sys.join(format!("devices/usb1/{name}"));
            fs::create_dir_all(usb.join("port/tty")).unwrap();
            fs::write(usb.join("idVendor"), format!("{vendor}\n")).unwrap();
            fs::write(usb.join("idProduct"), "6001\n").unwrap();
            fs::write(usb.join("serial"), format!("{serial}\n")).unwrap();
            symlink(usb.join("port/tty"), places.sys.join(format!("dev/char/{major}:{minor}"))).unwrap();
        }
        symlink("../../ttyUSB1", places.dev.join("serial/by-id/usb-B2")).unwrap();
        fs::write(places.dev.join("ttyUSB9"), "a file").unwrap();
        (folder, places)
    }

    fn rule(paths: &[&str], change: impl FnOnce(&mut DeviceRule)) -> DeviceRule {
        let paths = paths.iter().map(|path| (*path).to_owned()).collect();
        let mut rule = DeviceRule { resource: "kith.dev/x".into(), paths, ..DeviceRule::default() };
        change(&mut rule);
        rule
    }

    fn names(rules: &[DeviceRule], places: &Places) -> Vec<String> {
        find(rules, places).iter().map(|device| device.node.path.display().to_string()).collect()
    }

    #[test]
    fn rules_find_devices_by_path_and_by_what_sysfs_says() {
        let (_folder, places) = machine();
        let all = rule(&["/dev/ttyUSB*"], |_| {});
        assert_eq!(names(&[all], &places), ["/dev/ttyUSB0", "/dev/ttyUSB1"]);
        let one = rule(&["/dev/ttyUSB*"], |rule| rule.serial = "b2".into());
        assert_eq!(names(&[one], &places), ["/dev/ttyUSB1"]);
        let vendor = rule(&["/dev/*"], |rule| rule.vendor = "046D".into());
        let found = find(&[vendor], &places);
        assert_eq!((found[0].node.major, found[0].node.access.as_str()), (81, "rw"));
        let by_id = rule(&["/dev/serial/by-id/usb-*"], |rule| rule.product = "6001".into());
        assert_eq!(names(&[by_id], &places), ["/dev/serial/by-id/usb-B2"]);
        assert!(names(&[rule(&["/dev/ttyUSB*"], |rule| rule.product = "7777".into())], &places).is_empty());
        // What is pulled out is not found any more.
        fs::remove_file(places.dev.join("ttyUSB0")).unwrap();
        assert_eq!(names(&[rule(&["/dev/ttyUSB[0-8]"], |_| {})], &places), ["/dev/ttyUSB1"]);
    }

    #[test]
    fn patterns_are_those_of_a_shell() {
        let fit = |pattern: &str, name: &str| fits(pattern.as_bytes(), name.as_bytes());
        assert!(
            fit("tty*", "ttyUSB0") && fit("*", "x") && fit("a?c", "abc") && fit("v[0-9]", "v7") && fit("v[!0]", "v1")
        );
        assert!(!fit("tty", "ttyUSB0") && !fit("a?c", "ac") && !fit("v[0-9]", "vx") && !fit("v[!0]", "v0"));
        assert!(fit("a*b*c", "axxbyyc") && !fit("a*b*c", "axxbyy"));
    }

    #[tokio::test]
    async fn the_kernel_can_be_heard() {
        let events = listen().expect("a netlink socket for device events");
        drain(&events);
    }
}
