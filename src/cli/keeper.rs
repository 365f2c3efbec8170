//! Who starts the agent of this device: systemd, where the unit is installed, or whoever types. Advice
//! that names the wrong one makes a second agent, or none that comes back after a reboot.

use std::path::Path;

/// Where systemd has units, the first that has a name counts.
const UNITS: [&str; 5] = [
    "etc/systemd/system",
    "run/systemd/system",
    "usr/local/lib/systemd/system",
    "usr/lib/systemd/system",
    "lib/systemd/system",
];

/// Who starts an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keeper {
    /// systemd, by the unit `kith`.
    Systemd,
    /// Whoever types `kith agent`.
    Hand,
}

impl Keeper {
    /// That of this device's own agent.
    pub(crate) fn here() -> Self {
        Self::on(Path::new("/"))
    }

    /// That of a system whose root is this folder.
    fn on(root: &Path) -> Self {
        let unit = UNITS.iter().map(|folder| root.join(folder).join("kith.service"));
        let unit = unit.into_iter().find(|unit| unit.symlink_metadata().is_ok());
        // A unit that is masked leads to a device, and is started by nobody.
        let startable = unit.is_some_and(|unit| unit.is_file());
        if startable && root.join("run/systemd/system").is_dir() { Self::Systemd } else { Self::Hand }
    }

    /// The command that starts the agent.
    pub(crate) fn start(self) -> &'static str {
        match self {
            Self::Systemd => "systemctl start kith",
            Self::Hand => "kith agent",
        }
    }

    /// Where its log is.
    pub(crate) fn log(self) -> &'static str {
        match self {
            Self::Systemd => "its log (journalctl -u kith)",
            Self::Hand => "its log",
        }
    }

    /// What has it read its settings anew.
    pub(crate) fn reload(self) -> &'static str {
        match self {
            Self::Systemd => "systemctl reload kith",
            Self::Hand => "a SIGHUP to the agent",
        }
    }

    /// What to do after it stopped, while something was done.
    pub(crate) fn stopped(self, during: &str) -> String {
        format!("the agent stopped{during}: see {}, start it with {}, then try again", self.log(), self.start())
    }

    /// What to do once this device is of a fleet: an agent that runs takes that up by itself.
    pub(crate) fn after_enrolment(self) -> String {
        match self {
            Self::Systemd => format!("Its agent goes on from here; if it does not run: {}.", self.start()),
            Self::Hand => format!("Start its agent, if it does not run: {}.", self.start()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn systemd_keeps_the_agent_where_it_runs_and_has_a_unit_to_start() {
        let root = tempfile::tempdir().unwrap();
        let folder = |path: &str| {
            fs::create_dir_all(root.path().join(path)).unwrap();
            root.path().join(path)
        };
        assert_eq!(Keeper::on(root.path()), Keeper::Hand);
        let vendor = folder("usr/lib/systemd/system").join("kith.service");
        fs::write(&vendor, "[Service]\n").unwrap();
        assert_eq!(Keeper::on(root.path()), Keeper::Hand, "a chroot, or a container that systemd did not start");
        folder("run/systemd/system");
        assert_eq!(Keeper::on(root.path()), Keeper::Systemd);
        let own = folder("etc/systemd/system").join("kith.service");
        std::os::unix::fs::symlink("/dev/null", &own).unwrap();
        assert_eq!(Keeper::on(root.path()), Keeper::Hand, "it is masked");
        fs::remove_file(&own).unwrap();
        fs::remove_file(&vendor).unwrap();
        assert_eq!(Keeper::on(root.path()), Keeper::Hand, "there is no unit");
        fs::write(&own, "[Service]\n").unwrap();
        assert_eq!(Keeper::on(root.path()), Keeper::Systemd, "as install.sh has it");
    }
}
