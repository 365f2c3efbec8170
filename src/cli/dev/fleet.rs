//! Where everything of a development fleet is: folders, namespaces, addresses, cgroups. All of it
//! follows from the fleet's name and folder, so that a half-made fleet can be found and removed.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use crate::cli::failure::{Doing, Failure};
use crate::cli::output::say;
use crate::cli::socket_in;
use crate::config::Config;
use crate::network::netns;

/// Folder of all fleets that name no other.
const FLEETS: &str = "/var/lib/kith-dev";
/// The file by which a folder is known to be a fleet's, and may be removed.
const MARKER: &str = "kith-dev-fleet";
/// The longest name of a fleet, in letters: namespaces and cgroups carry it.
const NAME_LIMIT: usize = 32;
/// The most devices of one fleet: the addresses of a /24.
pub(super) const DEVICE_LIMIT: u32 = 200;
/// Bits of the network in an address.
pub(super) const PREFIX: u8 = 24;

/// A development fleet, made or not.
#[derive(Clone, Debug)]
pub(super) struct Fleet {
    pub(super) name: String,
    pub(super) dir: PathBuf,
}

/// One device of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Device {
    /// Counts from 1.
    pub(super) number: u32,
    pub(super) dir: PathBuf,
    fleet: String,
}

impl Fleet {
    /// The fleet of this name, in `dir` or where fleets are by default.
    pub(super) fn new(name: String, dir: Option<PathBuf>) -> Result<Self, Failure> {
        let letters = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        if name.is_empty() || name.len() > NAME_LIMIT || !letters || name.starts_with('-') {
            return Err(Failure::usage(format!(
                "{name:?} can not name a fleet: it takes 1 to {NAME_LIMIT} of a-z, 0-9 and -"
            )));
        }
        let dir = dir.unwrap_or_else(|| Path::new(FLEETS).join(&name));
        let dir = std::path::absolute(&dir).doing(|| format!("find {}", dir.display()))?;
        Ok(Self { name, dir })
    }

    /// Takes the folder for this fleet; refuses one that has something else in it.
    pub(super) fn claim(&self) -> Result<(), Failure> {
        let path = self.dir.join(MARKER);
        if path.exists() {
            return Err(Failure::failed(format!("fleet {} exists already in {}", self.name, self.dir.display()))
                .hint("kith dev status shows it, kith dev add joins one more device, kith dev down ends it"));
        }
        let step = || format!("make the folder {}", self.dir.display());
        fs::create_dir_all(&self.dir).doing(step)?;
        // Mounts are listed under real paths.
        if self.dir.canonicalize().doing(step)? != self.dir {
            return Err(Failure::usage(format!(
                "{} leads through a symbolic link: name the folder itself",
                self.dir.display()
            )));
        }
        if fs::read_dir(&self.dir).doing(step)?.next().is_some() {
            return Err(Failure::failed(format!("{} has something else in it", self.dir.display()))
                .hint("choose an empty folder: --dir DIR"));
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).open(&path).doing(step)?;
        io::Write::write_all(&mut file, format!("{}\n", self.name).as_bytes()).doing(step)
    }

    /// Whether the folder is this fleet's.
    pub(super) fn is_claimed(&self) -> bool {
        fs::read_to_string(self.dir.join(MARKER)).is_ok_and(|text| text.trim() == self.name)
    }

    /// This fleet, which must have been made.
    pub(super) fn opened(&self) -> Result<&Self, Failure> {
        if self.is_claimed() {
            return Ok(self);
        }
        Err(Failure::failed(format!("there is no fleet {} in {}", self.name, self.dir.display()))
            .hint("kith dev up makes one; --fleet and --dir name another"))
    }

    /// Its devices, by number.
    pub(super) fn devices(&self) -> Vec<Device> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let number = |name: String| name.strip_prefix('d')?.parse().ok();
        let numbers = entries.filter_map(|entry| number(entry.file_name().into_string().ok()?));
        let mut devices: Vec<_> = numbers.map(|number| self.numbered(number)).collect();
        devices.sort();
        devices
    }

    /// The device of a number, made or not.
    pub(super) fn numbered(&self, number: u32) -> Device {
        Device { number, dir: self.dir.join(format!("d{number}")), fleet: self.name.clone() }
    }

    /// A device by its name.
    pub(super) fn device(&self, name: &str) -> Result<Device, Failure> {
        let devices = self.opened()?.devices();
        let names: Vec<_> = devices.iter().map(Device::name).collect();
        devices.into_iter().find(|device| device.name() == name).ok_or_else(|| {
            Failure::usage(format!("fleet {} has no device {name}", self.name))
                .hint(format!("its devices: {}", names.join(", ")))
        })
    }

    /// The namespace that holds the bridge.
    pub(super) fn switch_namespace(&self) -> String {
        format!("kith-{}-switch", self.name)
    }

    /// All namespaces of this fleet that exist, also of devices without a folder.
    pub(super) fn namespaces(&self) -> Vec<String> {
        let prefix = format!("kith-{}-", self.name);
        let is_ours = |name: &String| {
            name.strip_prefix(&prefix).is_some_and(|rest| {
                let digits = rest.strip_prefix('d').unwrap_or_default();
                rest == "switch" || (!digits.is_empty() && digits.chars().all(|c| c.is_ascii_digit()))
            })
        };
        netns::names().into_iter().filter(is_ours).collect()
    }

    /// The cgroup of all its containers, from the root of each hierarchy.
    pub(super) fn cgroup(&self) -> String {
        format!("/kith/dev/{}", self.name)
    }
}

impl Device {
    /// `d1`.
    pub(super) fn name(&self) -> String {
        format!("d{}", self.number)
    }

    /// Its network namespace.
    pub(super) fn namespace(&self) -> String {
        format!("kith-{}-d{}", self.fleet, self.number)
    }

    /// Its address on the bridge.
    pub(super) fn address(&self) -> IpAddr {
        let last = u8::try_from(10 + self.number.min(DEVICE_LIMIT)).unwrap_or(u8::MAX);
        IpAddr::V4(Ipv4Addr::new(10, 77, 0, last))
    }

    /// Its agent's settings file.
    pub(super) fn config_file(&self) -> PathBuf {
        self.dir.join("agent.toml")
    }

    /// Its agent's settings.
    pub(super) fn config(&self) -> Result<Config, Failure> {
        Ok(Config::load_file(&self.config_file())?)
    }

    /// Its agent's socket.
    pub(super) fn socket(&self) -> PathBuf {
        socket_in(&self.dir.join("run"))
    }

    /// Its cgroup.
    pub(super) fn cgroup(&self) -> String {
        format!("/kith/dev/{}/d{}", self.fleet, self.number)
    }

    /// Makes its folders and writes its settings.
    pub(super) fn make(&self, settings: &[String]) -> Result<(), Failure> {
        let text = self.settings(settings)?;
        for dir in ["data", "run", "log"] {
            fs::create_dir_all(self.dir.join(dir)).doing(|| format!("make the folder {}", self.dir.display()))?;
        }
        let file = self.config_file();
        fs::write(&file, text).doing(|| format!("write {}", file.display()))
    }

    /// What a device of such a fleet needs, and what was asked for: only that, so that profiles count.
    fn settings(&self, settings: &[String]) -> Result<String, Failure> {
        let path = |name: &str| toml::Value::String(self.dir.join(name).display().to_string());
        let advertise = SocketAddr::new(self.address(), Config::default().peer_listen.port());
        // Memory and disk are this whole machine's: what others do must not evict pods or clear images here.
        let eviction = ["memory_available", "disk_available_percent", "inodes_free_percent"];
        let eviction: toml::Table = eviction.into_iter().map(|key| (key.to_owned(), 0.into())).collect();
        let images = ["clear_above_percent", "clear_to_percent"];
        let images: toml::Table = images.into_iter().map(|key| (key.to_owned(), 0.into())).collect();
        let own: [(&str, toml::Value); 9] = [
            ("name", self.name().into()),
            ("data_dir", path("data")),
            ("run_dir", path("run")),
            ("log_dir", path("log")),
            ("manifests_dir", path("manifests")),
            ("cgroup", self.cgroup().into()),
            ("advertise", vec![advertise.to_string()].into()),
            ("eviction", eviction.into()),
            ("images", images.into()),
        ];
        let mut table: toml::Table = own.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        let given = toml::from_str::<toml::Table>(&settings.join("\n"))
            .map_err(|e| Failure::usage(format!("--set takes KEY=VALUE as in agent.toml: {}", e.message())))?;
        table.extend(given);
        let text = table.to_string();
        Config::parse(Path::new("--set"), &text).map_err(|e| Failure::usage(e.to_string()))?;
        Ok(text)
    }
}

/// What a command did, and when: a line with the seconds since it began.
#[derive(Debug)]
pub(super) struct Steps(std::time::Instant);

impl Steps {
    pub(super) fn begin() -> Self {
        Self(std::time::Instant::now())
    }

    pub(super) fn done(&self, what: &str) -> Result<(), Failure> {
        say!("{:6.2}s  {what}", self.0.elapsed().as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fleet(dir: &Path) -> Fleet {
        Fleet::new("t".into(), Some(dir.to_owned())).unwrap()
    }

    #[test]
    fn a_folder_with_something_else_in_it_is_never_taken() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("thesis.tex"), "three years of work").unwrap();
        assert!(fleet(dir.path()).claim().unwrap_err().text().contains("--dir"));
        assert!(!fleet(dir.path()).is_claimed());
    }

    #[test]
    fn a_fleet_is_claimed_once_under_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap();
        fleet(&path).claim().unwrap();
        assert!(fleet(&path).is_claimed());
        assert!(fleet(&path).claim().unwrap_err().text().contains("kith dev down"));
        assert!(!Fleet::new("other".into(), Some(path)).unwrap().is_claimed());
        for wrong in ["", "A", "a/b", "-a", "a b"] {
            assert!(Fleet::new(wrong.into(), None).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn settings_are_those_of_the_device_and_what_is_set() {
        let dir = tempfile::tempdir().unwrap();
        let device = fleet(dir.path()).numbered(2);
        device.make(&["lost_after_seconds=3".into(), "labels = { zone = \"a\" }".into()]).unwrap();
        let config = device.config().unwrap();
        assert_eq!((&config.name[..], config.lost_after_seconds, &config.labels["zone"][..]), ("d2", 3, "a"));
        assert_eq!(config.advertise, ["10.77.0.12:7443".parse().unwrap()]);
        assert_eq!(config.cgroup, "/kith/dev/t/d2");
        assert!(device.make(&["nonsense=3".into()]).unwrap_err().text().contains("nonsense"));
        assert!(device.make(&["nonsense".into()]).is_err());
        assert_eq!(fleet(dir.path()).devices(), [device]);
    }
}
