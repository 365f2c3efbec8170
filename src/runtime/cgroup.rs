//! Ends and removes cgroups by path, in every hierarchy of version 1, 2 or both, whoever made them
//! and however far they got.

#![expect(clippy::disallowed_methods, reason = "cgroups are files")]

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Looks at a dying cgroup before giving up, and the longest pause between two: about 5 s.
const ATTEMPTS: u32 = 260;
const PAUSE: Duration = Duration::from_millis(20);

/// What limits containers.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

/// The hierarchies of this device.
#[derive(Clone, Debug)]
pub(super) struct Hierarchies {
    roots: Vec<PathBuf>,
    memory: PathBuf,
    unified: bool,
    controllers: BTreeSet<String>,
}

impl Hierarchies {
    /// Finds them among the mounts.
    pub(super) fn discover() -> io::Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let mut roots = Vec::new();
        let mut memory = None;
        let mut legacy = false;
        let mut found = BTreeSet::new();
        for line in mounts.lines() {
            let Some((place, kind)) = line.split_once(" - ") else { continue };
            let mut place = place.split(' ').skip(3);
            let (Some("/"), Some(point)) = (place.next(), place.next()) else { continue };
            let mut kind = kind.split(' ');
            let fstype = kind.next().unwrap_or_default();
            let options = kind.nth(1).unwrap_or_default();
            if !matches!(fstype, "cgroup" | "cgroup2") {
                continue;
            }
            let point = PathBuf::from(point);
            let controllers: Vec<&str> = options.split(',').collect();
            if fstype == "cgroup" {
                legacy |= controllers.iter().any(|name| matches!(*name, "memory" | "pids" | "cpu"));
                found.extend(controllers.iter().map(|name| (*name).to_owned()));
                if controllers.contains(&"memory") {
                    memory = Some(point.clone());
                }
            }
            roots.push(point);
        }
        // A later mount may hide an earlier one at the same place; looking twice does no harm.
        roots.dedup();
        let root = PathBuf::from("/sys/fs/cgroup");
        if !legacy {
            let names = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
            found = names.split_whitespace().map(str::to_owned).collect();
        }
        Ok(Self { memory: memory.unwrap_or(root), roots, unified: !legacy, controllers: found })
    }

    /// Whether version 2 alone holds the controllers.
    pub(super) fn is_unified(&self) -> bool {
        self.unified
    }

    /// Refuses where the kernel can not keep a limit that a container must have.
    pub(super) fn require(&self, controller: &str) -> Result<(), String> {
        if self.controllers.contains(controller) {
            return Ok(());
        }
        let hint = match controller {
            "memory" => "; boot with cgroup_enable=memory on the kernel's command line",
            _ => "",
        };
        Err(format!("this kernel has no {controller} controller, so the limit could not be kept{hint}"))
    }

    /// The folder of a cgroup in the hierarchy of version 1 that has a controller, or in that of
    /// version 2 where this is the only one.
    pub(super) fn folder(&self, controller: &str, cgroup: &str) -> Option<PathBuf> {
        if self.unified {
            return Some(inside(Path::new("/sys/fs/cgroup"), cgroup));
        }
        let has = |root: &&PathBuf| {
            let name = root.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            name.split(',').any(|one| one == controller)
        };
        self.roots.iter().find(has).map(|root| inside(root, cgroup))
    }

    /// The file in which the kernel counts what it killed for lack of memory.
    pub(super) fn oom_file(&self, cgroup: &str) -> PathBuf {
        let file = if self.unified { "memory.events" } else { "memory.oom_control" };
        inside(&self.memory, cgroup).join(file)
    }

    /// Bounds the memory of everything under a cgroup, making it if needed.
    pub(super) fn limit_memory(&self, cgroup: &str, bytes: u64) -> io::Result<()> {
        let folder = inside(&self.memory, cgroup);
        fs::create_dir_all(&folder)?;
        if self.unified {
            self.delegate(cgroup);
        }
        let file = if self.unified { "memory.max" } else { "memory.limit_in_bytes" };
        fs::write(folder.join(file), bytes.to_string())
    }

    /// In version 2 a cgroup has the files of a controller once all above it pass that on, and whoever
    /// began this system need not have told the root to. What can not be passed on is missed by whoever
    /// sets the limit.
    fn delegate(&self, cgroup: &str) {
        let mut folder = self.memory.clone();
        for part in std::iter::once("").chain(cgroup.split('/').filter(|part| !part.is_empty())) {
            folder.push(part);
            for controller in CONTROLLERS.iter().filter(|name| self.controllers.contains(**name)) {
                let _ = fs::write(folder.join("cgroup.subtree_control"), format!("+{controller}"));
            }
        }
    }

    /// Whether there is such a cgroup.
    pub(super) fn exists(&self, cgroup: &str) -> bool {
        self.roots.iter().any(|root| inside(root, cgroup).exists())
    }

    /// The names of the cgroups right below one.
    pub(super) fn children(&self, cgroup: &str) -> BTreeSet<String> {
        let folders = self.roots.iter().map(|root| inside(root, cgroup));
        folders
            .flat_map(|folder| subfolders(&folder))
            .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
            .collect()
    }

    /// Every process in a cgroup and below.
    pub(super) fn pids(&self, cgroup: &str) -> BTreeSet<i32> {
        let mut found = BTreeSet::new();
        for root in &self.roots {
            collect_pids(&inside(root, cgroup), &mut found);
        }
        // Pid 0 stands for a process of another pid namespace: nothing that could be signalled.
        found.remove(&0);
        found
    }

    /// The folders of a cgroup, in each hierarchy that has it.
    pub(super) fn folders<'a>(&'a self, cgroup: &'a str) -> impl Iterator<Item = PathBuf> + 'a {
        self.roots.iter().map(|root| inside(root, cgroup)).filter(|folder| folder.exists())
    }

    /// What a process of one thread writes `0` to in order to join a cgroup, in each hierarchy that has it.
    pub(super) fn entrances(&self, cgroup: &str) -> io::Result<Vec<fs::File>> {
        // A thread that moves itself needs no other to stand still. To move a whole process the kernel
        // first waits until no processor looks at an earlier state: some 10 ms. Version 2 knows no
        // thread apart from its process.
        let open = |folder: &Path, name| fs::OpenOptions::new().write(true).open(folder.join(name));
        self.folders(cgroup)
            .map(|folder| match open(&folder, "tasks") {
                Err(missing) if missing.kind() == io::ErrorKind::NotFound => open(&folder, "cgroup.procs"),
                opened => opened,
            })
            .collect()
    }

    /// Kills every process in a cgroup and below, and waits until none is left.
    pub(super) fn kill(&self, cgroup: &str) -> io::Result<()> {
        for attempt in 0..ATTEMPTS {
            let pids = self.pids(cgroup);
            if pids.is_empty() {
                return Ok(());
            }
            // Frozen, a fork bomb can not outrun the list; a frozen process dies once thawed.
            self.freeze(cgroup, true);
            for pid in self.pids(cgroup) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            self.freeze(cgroup, false);
            if attempt > 0 || !self.pids(cgroup).is_empty() {
                std::thread::sleep(PAUSE.min(Duration::from_millis(1 << attempt.min(6))));
            }
        }
        Err(io::Error::other(format!("processes {:?} of cgroup {cgroup} do not die", self.pids(cgroup))))
    }

    fn freeze(&self, cgroup: &str, frozen: bool) {
        for root in &self.roots {
            let folder = inside(root, cgroup);
            // Best effort: only one hierarchy has a freezer, and killing works without.
            let _ = fs::write(folder.join("freezer.state"), if frozen { "FROZEN" } else { "THAWED" });
            let _ = fs::write(folder.join("cgroup.freeze"), if frozen { "1" } else { "0" });
        }
    }

    /// Kills what is in a cgroup and removes it with everything below.
    pub(super) fn remove(&self, cgroup: &str) -> io::Result<()> {
        for root in &self.roots {
            let folder = inside(root, cgroup);
            for attempt in 0..ATTEMPTS {
                match remove_tree(&folder) {
                    Ok(()) => break,
                    Err(error) if attempt + 1 == ATTEMPTS => {
                        return Err(io::Error::new(error.kind(), format!("remove {}: {error}", folder.display())));
                    }
                    Err(_) => {
                        self.kill(cgroup)?;
                        std::thread::sleep(PAUSE.min(Duration::from_millis(1 << attempt.min(6))));
                    }
                }
            }
        }
        Ok(())
    }
}

fn inside(root: &Path, cgroup: &str) -> PathBuf {
    root.join(cgroup.trim_start_matches('/'))
}

fn subfolders(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

fn collect_pids(folder: &Path, found: &mut BTreeSet<i32>) {
    let procs = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    found.extend(procs.lines().filter_map(|line| line.parse::<i32>().ok()));
    for below in subfolders(folder) {
        collect_pids(&below, found);
    }
}

/// Removes a cgroup and those below it. Most have none: these are looked for once it is in the way.
fn remove_tree(folder: &Path) -> io::Result<()> {
    let gone = |removed: io::Result<()>| match removed {
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    };
    gone(fs::remove_dir(folder)).or_else(|_| {
        for below in subfolders(folder) {
            remove_tree(&below)?;
        }
        gone(fs::remove_dir(folder))
    })
}
